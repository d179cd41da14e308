// Products on a program on the CPU, to which every number that is read costs more than all that is computed
// with it. A workgroup is a subgroup of LANES lanes, a lane has ROWS rows of the weight, and of a token's
// columns each lane fetches some, for all. TOKENS tokens are computed with what was unpacked.

const ROWS: u32 = 4u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = (wg.x + wg.y * p.grid_x) * (ROWS * LANES) + lane;
    let first = wg.z * TOKENS;
    let n = min(TOKENS, n_tokens(p.outputs) - first);
    var acc: array<f32, ROWS * TOKENS>;
    var at: array<u32, TOKENS>;
    for (var t = 0u; t < n; t++) {
        at[t] = token_of(first + t, p.outputs) * p.x_stride + lane % 8u;
    }
    // Rows behind the last repeat it: their sums are dropped.
    var start: array<u32, ROWS>;
    for (var r = 0u; r < 4u; r++) { // unrolled
        start[r] = min(first_row + LANES * r, p.n_rows - 1u) * p.row_bytes;
    }
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        var w: array<array<vec4<f32>, 8>, ROWS>;
        for (var r = 0u; r < 4u; r++) { // unrolled
            w[r] = unpack32(start[r] + (chunk / CHUNKS) * BLOCK_BYTES, chunk % CHUNKS, p.cols - 32u * chunk);
        }
        for (var t = 0u; t < n; t++) {
            let mine = x[at[t] + 8u * chunk];
            var sum = vec4<f32>(0.0);
            for (var i = 0u; i < 8u; i++) { // unrolled
                let a = subgroupShuffle(mine.x, i);
                let b = subgroupShuffle(mine.y, i);
                let c = subgroupShuffle(mine.z, i);
                let d = subgroupShuffle(mine.w, i);
                for (var r = 0u; r < 4u; r++) { // unrolled
                    sum[r] = fma(w[r][i].x, a, fma(w[r][i].y, b, fma(w[r][i].z, c, fma(w[r][i].w, d, sum[r]))));
                }
            }
            for (var r = 0u; r < 4u; r++) { // unrolled
                acc[ROWS * t + r] += sum[r];
            }
        }
    }
    for (var r = 0u; r < 4u; r++) { // unrolled
        let row = first_row + LANES * r;
        if (row < p.n_rows) {
            for (var t = 0u; t < n; t++) {
                store(first + t, row, acc[ROWS * t + r]);
            }
        }
    }
}
