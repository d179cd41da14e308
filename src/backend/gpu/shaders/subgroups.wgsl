// Sums over the 64 invocations of a workgroup by its subgroups, all of which are full.

// Which of a workgroup's invocations one is: number `lane` of the `lanes` of subgroup `subgroup`.
struct Place {
    tid: u32,
    lane: u32,
    lanes: u32,
    subgroup: u32,
}

fn n_subgroups(at: Place) -> u32 {
    return 64u / at.lanes;
}

var<workgroup> sums: array<f32, 64>;

// The sum over all invocations, known to each.
fn sum_of_all(at: Place, x: f32) -> f32 {
    let of_subgroup = sum_of_subgroup(at, x);
    if (at.lane == 0u) {
        sums[at.subgroup] = of_subgroup;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < n_subgroups(at); i++) {
        sum += sums[i];
    }
    workgroupBarrier();
    return sum;
}
