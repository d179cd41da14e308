var<workgroup> sums: array<f32, 64>;

// The sum over all 64 invocations of a workgroup, known to each.
fn sum_of_all(tid: u32, x: f32) -> f32 {
    sums[tid] = x;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (tid < half) {
            sums[tid] += sums[tid + half];
        }
        workgroupBarrier();
    }
    let sum = sums[0];
    workgroupBarrier();
    return sum;
}
