// Stores `head` as a row.
fn store_row(tid: u32, row: u32, len: u32) {
    for (var i = tid; i < row_words(len); i += 64u) {
        let second = select(0.0, head[min(2u * i + 1u, len - 1u)], 2u * i + 1u < len);
        pages[row + i] = pack2x16float(vec2<f32>(head[2u * i], second));
    }
}
