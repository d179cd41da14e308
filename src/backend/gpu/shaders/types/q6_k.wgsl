const BLOCK_BYTES: u32 = 210u;
const CHUNKS: u32 = 8u;

fn scale_q6(at: u32) -> f32 {
    return f32(i32(byte_at(at) << 24u) >> 24u);
}

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let d = half_at(at + 208u);
    let half = c / 4u;
    let j = c % 4u;
    let lows = words8(at + 64u * half + 32u * (j % 2u));
    let highs = words8(at + 128u + 32u * half);
    let scales = d * vec2<f32>(scale_q6(at + 192u + 2u * c), scale_q6(at + 193u + 2u * c));
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let low = (lows[i] >> (4u * (j / 2u))) & 0x0f0f0f0fu;
        let high = (highs[i] >> (2u * j)) & 0x03030303u;
        let code = vec4<f32>(unpack4xU8(low | (high << 4u))) - 32.0;
        y[i] = select(scales.x, scales.y, i >= 4u) * code;
    }
    return y;
}
