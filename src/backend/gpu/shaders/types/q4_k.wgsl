const BLOCK_BYTES: u32 = 144u;
const CHUNKS: u32 = 8u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 144 bytes are aligned.
    let dm = unpack2x16float(weights[at >> 2u]) * scale_and_min(at + 4u, c);
    let codes = (at >> 2u) + 4u + 8u * (c / 2u);
    let shift = 4u * (c % 2u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        y[i] = dm.x * nibbles(weights[codes + i] >> shift) - dm.y;
    }
    return y;
}
