// Rows of pages in pairs of halves, each of which is a word.

fn row_words(dim: u32) -> u32 {
    return (dim + 1u) / 2u;
}

fn load_pair(row: u32, i: u32, dim: u32) -> vec2<f32> {
    return unpack2x16float(pages[row + i]);
}
