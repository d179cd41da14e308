// Rows of a table by token id or position, a thread for each 32 elements: `out (+)= scale * row + addend`.

struct Params {
    chunks: u32,
    cols: u32,
    row_bytes: u32,
    // Rows of the table from this one on lie in the window.
    first_row: u32,
    n_rows: u32,
    by_position: u32,
    adds: u32,
    addend: u32,
    scale: f32,
}

@group(0) @binding(3) var<storage, read> weights: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.y;
    let chunk = id.x;
    if (chunk >= p.chunks || token >= n_tokens(0u)) {
        return;
    }
    let row = step[step[3u + p.by_position] + token] - p.first_row;
    // Below the window it wraps around.
    if (row >= p.n_rows) {
        return;
    }
    let n = min(32u, p.cols - 32u * chunk);
    let at = row * p.row_bytes + (chunk / CHUNKS) * BLOCK_BYTES;
    let y = unpack32(at, chunk % CHUNKS, n);
    let first = token * p.cols + 32u * chunk;
    for (var i = 0u; i < n; i++) {
        var x = p.scale * y[i / 4u][i % 4u];
        if (p.addend != NONE) {
            x += consts[p.addend + 32u * chunk + i];
        }
        if (p.adds == 1u) {
            x += out[first + i];
        }
        out[first + i] = x;
    }
}
