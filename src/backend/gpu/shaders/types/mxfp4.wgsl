const BLOCK_BYTES: u32 = 17u;
const CHUNKS: u32 = 1u;

// Twice the number: sign, two bits of exponent, one of mantissa.
fn twice_e2m1(q: u32) -> f32 {
    let low = select(0x03020100u, 0x0c080604u, (q & 4u) != 0u);
    let magnitude = f32((low >> (8u * (q & 3u))) & 255u);
    return select(magnitude, -magnitude, (q & 8u) != 0u);
}

fn four(w: u32) -> vec4<f32> {
    let q = unpack4xU8(w & 0x0f0f0f0fu);
    return vec4<f32>(twice_e2m1(q.x), twice_e2m1(q.y), twice_e2m1(q.z), twice_e2m1(q.w));
}

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    let e = byte_at(at);
    // 2^(e - 128); the two smallest are subnormal.
    let d = bitcast<f32>(select(0x00200000u << (e & 1u), (max(e, 1u) - 1u) << 23u, e > 1u));
    let codes = words4(at + 1u);
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let w = codes[i];
        y[i] = d * four(w);
        y[i + 4u] = d * four(w >> 4u);
    }
    return y;
}
