fn store_pair(i: u32, x: vec2<f32>) {
    pages[i] = pack2x16float(x);
}
