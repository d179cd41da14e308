const BLOCK_BYTES: u32 = 22u;
const CHUNKS: u32 = 1u;

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let d = half_at(at);
    let fifth = word_at(at + 2u);
    let codes = words4(at + 6u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = codes[i];
        let low = (w & 0x0f0f0f0fu) | (bits_to_bytes(fifth >> (4u * i)) << 4u);
        let high = ((w >> 4u) & 0x0f0f0f0fu) | (bits_to_bytes(fifth >> (16u + 4u * i)) << 4u);
        y[i] = d * (vec4<f32>(unpack4xU8(low)) - 16.0);
        y[i + 4u] = d * (vec4<f32>(unpack4xU8(high)) - 16.0);
    }
    return y;
}
