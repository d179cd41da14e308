const BLOCK_BYTES: u32 = 136u;
const CHUNKS: u32 = 8u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 136 bytes are aligned.
    let first = at >> 2u;
    let low = (weights[first + 1u] >> (4u * c)) & 15u;
    let high = (weights[first] >> (16u + 2u * c)) & 3u;
    let d = unpack2x16float(weights[first]).x * f32(i32(low | (high << 4u)) - 32);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = weights[first + 2u + 4u * c + i];
        y[i] = d * points(w);
        y[i + 4u] = d * points(w >> 4u);
    }
    return y;
}
