// Reading numbers out of `weights`, the bytes of rows as they lie in the file, whatever their alignment.
// A type's file has BLOCK_BYTES, CHUNKS (of 32 elements in a block) and `unpack32`, which gives the
// elements of chunk `c` of the block at byte `at`. Of them only `n` are in the row, if that is fewer.

fn word_at(at: u32) -> u32 {
    let i = at >> 2u;
    let s = (at & 3u) * 8u;
    if (s == 0u) {
        return weights[i];
    }
    return (weights[i] >> s) | (weights[i + 1u] << (32u - s));
}

fn byte_at(at: u32) -> u32 {
    return (weights[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
}

// Of an even address.
fn short_at(at: u32) -> u32 {
    return (weights[at >> 2u] >> ((at & 2u) * 8u)) & 0xffffu;
}

fn half_at(at: u32) -> f32 {
    return unpack2x16float(short_at(at)).x;
}

// The low nibbles of four bytes.
fn nibbles(w: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(w & 0x0f0f0f0fu));
}

// Bit `i` of each of four bytes, as 0 or 1 in the byte.
fn bits_of_bytes(w: u32, i: u32) -> u32 {
    return (w >> i) & 0x01010101u;
}

// Bits 0 to 3 of `w` as the lowest bits of four bytes.
fn bits_to_bytes(w: u32) -> u32 {
    return (w & 1u) | ((w & 2u) << 7u) | ((w & 4u) << 14u) | ((w & 8u) << 21u);
}

// Four bytes, of which the first `s` bits of `low` are none.
fn joined(low: u32, high: u32, s: u32) -> u32 {
    return (low >> s) | ((high << (31u - s)) << 1u);
}

// 16 bytes from any address on, and of the last word that is read perhaps nothing.
fn words4(at: u32) -> array<u32, 4> {
    let first = at >> 2u;
    let s = (at & 3u) * 8u;
    var low = weights[first];
    var w: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) { // unrolled
        let high = weights[first + i + 1u];
        w[i] = joined(low, high, s);
        low = high;
    }
    return w;
}

// 32 bytes, read as `words4` reads 16.
fn words8(at: u32) -> array<u32, 8> {
    let first = at >> 2u;
    let s = (at & 3u) * 8u;
    var low = weights[first];
    var w: array<u32, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let high = weights[first + i + 1u];
        w[i] = joined(low, high, s);
        low = high;
    }
    return w;
}
