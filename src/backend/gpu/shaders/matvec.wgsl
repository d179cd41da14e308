// A few tokens: LANES threads share a row, chunk by chunk, for TOKENS tokens at a time.

const LANES: u32 = 8u;
const ROWS: u32 = 64u / LANES;

var<workgroup> sums: array<f32, 64u * TOKENS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let lane = tid % LANES;
    let row = (wg.x + wg.y * p.grid_x) * ROWS + tid / LANES;
    let first = wg.z * TOKENS;
    let n = min(TOKENS, n_tokens(p.outputs) - first);
    var acc: array<f32, TOKENS>;
    var at: array<u32, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) { // unrolled
        // Places behind the last token repeat it: their sums are dropped.
        at[t] = token_of(first + min(t, n - 1u), p.outputs) * p.x_stride;
    }
    if (row < p.n_rows) {
        let start = row * p.row_bytes;
        for (var chunk = lane; chunk < p.chunks; chunk += LANES) {
            let w = unpack32(start + (chunk / CHUNKS) * BLOCK_BYTES, chunk % CHUNKS, p.cols - 32u * chunk);
            for (var t = 0u; t < TOKENS; t++) { // unrolled
                acc[t] += product_of_chunk(w, at[t] + 8u * chunk);
            }
        }
    }
    for (var t = 0u; t < TOKENS; t++) { // unrolled
        sums[tid * TOKENS + t] = acc[t];
    }
    workgroupBarrier();
    if (row < p.n_rows && lane < n) {
        var sum = 0.0;
        for (var i = 0u; i < LANES; i++) {
            sum += sums[(tid - lane + i) * TOKENS + lane];
        }
        store(first + lane, row, sum);
    }
}
