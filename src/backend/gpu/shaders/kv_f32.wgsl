// Pairs of elements of pages.

fn load_pair(i: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(pages[2u * i]), bitcast<f32>(pages[2u * i + 1u]));
}
