const BLOCK_BYTES: u32 = 24u;
const CHUNKS: u32 = 1u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 24 bytes are aligned.
    let first = at >> 2u;
    let dm = unpack2x16float(weights[first]);
    let fifth = weights[first + 1u];
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = weights[first + 2u + i];
        let low = (w & 0x0f0f0f0fu) | (bits_to_bytes(fifth >> (4u * i)) << 4u);
        let high = ((w >> 4u) & 0x0f0f0f0fu) | (bits_to_bytes(fifth >> (16u + 4u * i)) << 4u);
        y[i] = dm.x * vec4<f32>(unpack4xU8(low)) + dm.y;
        y[i + 4u] = dm.x * vec4<f32>(unpack4xU8(high)) + dm.y;
    }
    return y;
}
