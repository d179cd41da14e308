const BLOCK_BYTES: u32 = 18u;
const CHUNKS: u32 = 1u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let d = half_at(at);
    let codes = words4(at + 2u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = codes[i];
        y[i] = d * points(w);
        y[i + 4u] = d * points(w >> 4u);
    }
    return y;
}
