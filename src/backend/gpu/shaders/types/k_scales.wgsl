// Scale and minimum of group `g` of Q4_K and Q5_K, six bits each, in the 12 bytes at `at`.
fn scale_and_min(at: u32, g: u32) -> vec2<f32> {
    let low = byte_at(at + g % 4u);
    let middle = byte_at(at + 4u + g % 4u);
    if (g < 4u) {
        return vec2<f32>(f32(low & 63u), f32(middle & 63u));
    }
    let high = byte_at(at + 4u + g);
    return vec2<f32>(f32((high & 15u) | ((low >> 6u) << 4u)), f32((high >> 4u) | ((middle >> 6u) << 4u)));
}
