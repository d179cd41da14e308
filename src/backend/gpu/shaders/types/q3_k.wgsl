const BLOCK_BYTES: u32 = 110u;
const CHUNKS: u32 = 8u;

// The scale of 16 elements: low four bits in the first eight bytes, two more in the last four.
fn scale_q3(at: u32, g: u32) -> f32 {
    let low = (byte_at(at + 96u + g % 8u) >> (4u * (g / 8u))) & 15u;
    let high = (byte_at(at + 104u + g % 4u) >> (2u * (g / 4u))) & 3u;
    return f32(i32(low | (high << 4u)) - 32);
}

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let d = half_at(at + 108u);
    let lows = words8(at + 32u + 32u * (c / 4u));
    let highs = words8(at);
    let shift = 2u * (c % 4u);
    let scales = d * vec2<f32>(scale_q3(at, 2u * c), scale_q3(at, 2u * c + 1u));
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let low = (lows[i] >> shift) & 0x03030303u;
        let high = bits_of_bytes(highs[i], c);
        let code = vec4<f32>(unpack4xU8(low | (high << 2u))) - 4.0;
        y[i] = select(scales.x, scales.y, i >= 4u) * code;
    }
    return y;
}
