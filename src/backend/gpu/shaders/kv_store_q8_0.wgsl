// The scale of a block of `head`: the largest magnitude becomes 127.
fn block_scale(block: u32, len: u32) -> f32 {
    var largest = 0.0;
    for (var i = 32u * block; i < min(32u * block + 32u, len); i++) {
        largest = max(largest, abs(head[i]));
    }
    return largest / 127.0;
}

fn code_of(i: u32, len: u32, by: f32) -> u32 {
    if (i >= len) {
        return 0u;
    }
    let x = clamp(head[i] * by, -127.0, 127.0);
    // Halves go away from zero.
    return u32(i32(x + select(-0.5, 0.5, x >= 0.0))) & 255u;
}

// Stores `head` as a row.
fn store_row(tid: u32, row: u32, len: u32) {
    for (var i = tid; i < scale_words(len); i += 64u) {
        // A block behind the last has no elements.
        let scales = vec2<f32>(block_scale(2u * i, len), block_scale(2u * i + 1u, len));
        pages[row + i] = pack2x16float(scales);
    }
    for (var i = tid; i < 8u * n_blocks(len); i += 64u) {
        let scale = block_scale(i / 8u, len);
        // Smaller scales are zeros as halves.
        let by = select(0.0, 1.0 / scale, scale > 1.0e-9);
        var codes = 0u;
        for (var k = 0u; k < 4u; k++) { // unrolled
            codes |= code_of(4u * i + k, len, by) << (8u * k);
        }
        pages[row + scale_words(len) + i] = codes;
    }
}
