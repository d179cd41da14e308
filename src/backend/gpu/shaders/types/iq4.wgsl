// The points of IQ4_NL and IQ4_XS, sixteen signed bytes.
fn point(q: u32) -> f32 {
    let low = select(0xbfad9881u, 0xf6eaddcfu, (q & 4u) != 0u);
    let high = select(0x26190d01u, 0x71594535u, (q & 4u) != 0u);
    let four = select(low, high, (q & 8u) != 0u);
    return f32(i32(four << (24u - 8u * (q & 3u))) >> 24u);
}

// The points of the low nibbles of four bytes.
fn points(w: u32) -> vec4<f32> {
    let q = unpack4xU8(w & 0x0f0f0f0fu);
    return vec4<f32>(point(q.x), point(q.y), point(q.z), point(q.w));
}
