// A few tokens: a subgroup has a row at a time, its lanes chunks of it, for TOKENS tokens at a time.

const ROWS: u32 = 8u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, invocation: Invocation) {
    let at = place_of(invocation);
    let first_row = (wg.x + wg.y * p.grid_x) * ROWS + at.subgroup;
    let first = wg.z * TOKENS;
    let n = min(TOKENS, n_tokens(p.outputs) - first);
    var inputs: array<u32, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) { // unrolled
        // Places behind the last token repeat it: their sums are dropped.
        inputs[t] = token_of(first + min(t, n - 1u), p.outputs) * p.x_stride;
    }
    for (var i = 0u; i < ROWS; i += n_subgroups(at)) {
        let row = first_row + i;
        // Rows behind the last repeat it.
        let start = min(row, p.n_rows - 1u) * p.row_bytes;
        var acc: array<f32, TOKENS>;
        for (var t = 0u; t < TOKENS; t++) { // unrolled
            acc[t] = 0.0;
        }
        for (var chunk = at.lane; chunk < p.chunks; chunk += at.lanes) {
            let w = unpack32(start + (chunk / CHUNKS) * BLOCK_BYTES, chunk % CHUNKS, p.cols - 32u * chunk);
            for (var t = 0u; t < TOKENS; t++) { // unrolled
                acc[t] += product_of_chunk(w, inputs[t] + 8u * chunk);
            }
        }
        for (var t = 0u; t < TOKENS; t++) { // unrolled
            let sum = sum_of_subgroup(at, acc[t]);
            if (row < p.n_rows && t < n && at.lane == t) {
                store(first + t, row, sum);
            }
        }
    }
}
