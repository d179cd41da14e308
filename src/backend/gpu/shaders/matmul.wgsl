// Many tokens: a workgroup has 64 rows of the weight and 32 tokens, 32 columns at a time, which are unpacked
// into its memory; a thread has 8 rows and 4 tokens of them.

const PITCH: u32 = 9u;

var<workgroup> ws: array<vec4<f32>, 64u * PITCH>;
var<workgroup> xs: array<vec4<f32>, 32u * PITCH>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let first_row = (wg.x + wg.y * p.grid_x) * 64u;
    let first_token = wg.z * 32u;
    let n = n_tokens(p.outputs) - first_token;
    // Each thread fetches a row of the weight, and half a token's columns.
    let my_row = min(first_row + tid, p.n_rows - 1u) * p.row_bytes;
    let my_token = token_of(first_token + min(tid / 2u, n - 1u), p.outputs) * p.x_stride + 4u * (tid % 2u);
    let row = tid / 8u;
    let column = tid % 8u;
    var acc: array<array<f32, 4>, 8>;
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        let w = unpack32(my_row + (chunk / CHUNKS) * BLOCK_BYTES, chunk % CHUNKS, p.cols - 32u * chunk);
        for (var i = 0u; i < 8u; i++) { // unrolled
            ws[tid * PITCH + i] = w[i];
        }
        for (var i = 0u; i < 4u; i++) { // unrolled
            xs[(tid / 2u) * PITCH + 4u * (tid % 2u) + i] = x[my_token + 8u * chunk + i];
        }
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            var xk: array<vec4<f32>, 4>;
            for (var j = 0u; j < 4u; j++) { // unrolled
                xk[j] = xs[(column + 8u * j) * PITCH + k];
            }
            for (var i = 0u; i < 8u; i++) { // unrolled
                let wk = ws[(row + 8u * i) * PITCH + k];
                for (var j = 0u; j < 4u; j++) { // unrolled
                    acc[i][j] += dot(wk, xk[j]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 8u; i++) { // unrolled
        for (var j = 0u; j < 4u; j++) { // unrolled
            let r = first_row + row + 8u * i;
            let t = column + 8u * j;
            if (r < p.n_rows && t < n) {
                store(first_token + t, r, acc[i][j]);
            }
        }
    }
}
