// Elements that have no blocks come 32 at a time; the last of a row may be fewer.
const BLOCK_BYTES: u32 = 64u;
const CHUNKS: u32 = 1u;

fn element(at: u32, i: u32, n: u32) -> f32 {
    if (i < n) {
        return bitcast<f32>(short_at(at + 2u * i) << 16u);
    }
    return 0.0;
}

fn unpack32(at: u32, c: u32, n: u32) -> array<vec4<f32>, 8> {
    var y: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { // unrolled
        let j = 4u * i;
        y[i] = vec4<f32>(element(at, j, n), element(at, j + 1u, n), element(at, j + 2u, n), element(at, j + 3u, n));
    }
    return y;
}
