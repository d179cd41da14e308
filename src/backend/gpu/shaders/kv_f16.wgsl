// Pairs of elements of pages as halves.

fn load_pair(i: u32) -> vec2<f32> {
    return unpack2x16float(pages[i]);
}
