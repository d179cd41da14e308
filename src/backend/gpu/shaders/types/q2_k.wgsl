const BLOCK_BYTES: u32 = 84u;
const CHUNKS: u32 = 8u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    // Blocks of 84 bytes are aligned.
    let dm = unpack2x16float(weights[(at >> 2u) + 20u]);
    let codes = (at >> 2u) + 4u + 8u * (c / 4u);
    let shift = 2u * (c % 4u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let s = byte_at(at + 2u * c + i / 4u);
        let code = vec4<f32>(unpack4xU8((weights[codes + i] >> shift) & 0x03030303u));
        y[i] = (dm.x * f32(s & 15u)) * code - dm.y * f32(s >> 4u);
    }
    return y;
}
