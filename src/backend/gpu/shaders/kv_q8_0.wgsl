// Rows of pages in blocks of 32 elements, codes of eight bits with a scale: the scales, two in a word, then the
// codes.

fn n_blocks(dim: u32) -> u32 {
    return (dim + 31u) / 32u;
}

// Words of a row's scales.
fn scale_words(dim: u32) -> u32 {
    return (n_blocks(dim) + 1u) / 2u;
}

fn row_words(dim: u32) -> u32 {
    return scale_words(dim) + 8u * n_blocks(dim);
}

fn load_pair(row: u32, i: u32, dim: u32) -> vec2<f32> {
    let block = i / 16u;
    let scale = unpack2x16float(pages[row + block / 2u])[block % 2u];
    let codes = bitcast<i32>(pages[row + scale_words(dim) + i / 2u]);
    let at = 16u * (i % 2u);
    return scale * vec2<f32>(f32(extractBits(codes, at, 8u)), f32(extractBits(codes, at + 8u, 8u)));
}
