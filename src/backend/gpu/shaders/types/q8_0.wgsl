const BLOCK_BYTES: u32 = 34u;
const CHUNKS: u32 = 1u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let d = half_at(at);
    let codes = words8(at + 2u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        y[i] = d * vec4<f32>(unpack4xI8(codes[i]));
    }
    return y;
}
