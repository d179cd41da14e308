// Stores `head` as a row.
fn store_row(tid: u32, row: u32, len: u32) {
    for (var i = tid; i < row_words(len); i += 64u) {
        pages[row + i] = bitcast<u32>(select(0.0, head[min(i, len - 1u)], i < len));
    }
}
