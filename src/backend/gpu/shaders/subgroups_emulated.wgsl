// Subgroups of LANES lanes that are none: shaders for adapters that are not at hand can be tested so.

struct Invocation {
    @builtin(local_invocation_index) tid: u32,
}

fn place_of(invocation: Invocation) -> Place {
    let tid = invocation.tid;
    return Place(tid, tid % LANES, LANES, tid / LANES);
}

var<workgroup> of_lanes: array<f32, 64>;

// The sum over the lanes of a subgroup, known to each.
fn sum_of_subgroup(at: Place, x: f32) -> f32 {
    of_lanes[at.tid] = x;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += of_lanes[at.tid - at.lane + i];
    }
    workgroupBarrier();
    return sum;
}
