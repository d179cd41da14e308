// Rows of pages in pairs of elements.

fn row_words(dim: u32) -> u32 {
    return 2u * ((dim + 1u) / 2u);
}

fn load_pair(row: u32, i: u32, dim: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(pages[row + 2u * i]), bitcast<f32>(pages[row + 2u * i + 1u]));
}
