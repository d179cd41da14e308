// A workgroup without subgroups: 64 invocations and their memory.

struct Invocation {
    @builtin(local_invocation_index) tid: u32,
}

// Which of a workgroup's invocations one is.
struct Place {
    tid: u32,
}

fn place_of(invocation: Invocation) -> Place {
    return Place(invocation.tid);
}

var<workgroup> sums: array<f32, 64>;

// The sum over all invocations, known to each.
fn sum_of_all(at: Place, x: f32) -> f32 {
    sums[at.tid] = x;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (at.tid < half) {
            sums[at.tid] += sums[at.tid + half];
        }
        workgroupBarrier();
    }
    let sum = sums[0];
    workgroupBarrier();
    return sum;
}
