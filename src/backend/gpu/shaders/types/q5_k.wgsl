const BLOCK_BYTES: u32 = 176u;
const CHUNKS: u32 = 8u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 176 bytes are aligned.
    let first = at >> 2u;
    let dm = unpack2x16float(weights[first]) * scale_and_min(at + 4u, c);
    let codes = first + 12u + 8u * (c / 2u);
    let shift = 4u * (c % 2u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let low = (weights[codes + i] >> shift) & 0x0f0f0f0fu;
        let fifth = bits_of_bytes(weights[first + 4u + i], c);
        y[i] = dm.x * vec4<f32>(unpack4xU8(low | (fifth << 4u))) - dm.y;
    }
    return y;
}
