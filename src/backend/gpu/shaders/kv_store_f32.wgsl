fn store_pair(i: u32, x: vec2<f32>) {
    pages[2u * i] = bitcast<u32>(x.x);
    pages[2u * i + 1u] = bitcast<u32>(x.y);
}
