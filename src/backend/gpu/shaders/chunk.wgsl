// The product of a chunk's 32 elements with the columns of `x` from element `first` on.
fn product_of_chunk(w: array<vec4<f32>, 8>, first: u32) -> f32 {
    var sum = w[0] * x[first];
    for (var i = 0u; i < 7u; i++) { // unrolled
        sum = fma(w[i + 1u], x[first + i + 1u], sum);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}
