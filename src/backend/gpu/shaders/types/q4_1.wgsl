const BLOCK_BYTES: u32 = 20u;
const CHUNKS: u32 = 1u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 20 bytes are aligned.
    let dm = unpack2x16float(weights[at >> 2u]);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = weights[(at >> 2u) + 1u + i];
        y[i] = dm.x * nibbles(w) + dm.y;
        y[i + 4u] = dm.x * nibbles(w >> 4u) + dm.y;
    }
    return y;
}
