// Products with the matrices of chosen experts, in a stack: a row of results for each token's each expert.

struct Params {
    outputs: u32,
    // Rows of one matrix.
    n_rows: u32,
    // Rows of the stack from this one on lie in the window that is bound.
    first_row: u32,
    window_rows: u32,
    row_bytes: u32,
    cols: u32,
    chunks: u32,
    grid_x: u32,
    x_stride: u32,
    out_stride: u32,
    out_from: u32,
    bias: u32,
    // One factor for each expert.
    scales: u32,
    n_used: u32,
    // 1: an input for each place, 0: for each token.
    input_per_place: u32,
    // 1: products are multiplied by the expert's weight.
    weighs: u32,
}

@group(0) @binding(3) var<storage, read> weights: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
// Of each place the expert and the bits of its weight.
@group(0) @binding(5) var<storage, read> chosen: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Rows of a workgroup.
const ROWS: u32 = 8u;

// A row of the matrix of a place's expert.
struct Row {
    place: u32,
    row: u32,
    expert: u32,
    // The bits of the expert's weight.
    share: u32,
    // Row of the window.
    of_window: u32,
    is_here: bool,
}

fn row_of(wg: vec3<u32>, number: u32) -> Row {
    let row = (wg.x + wg.y * p.grid_x) * ROWS + number;
    let place = token_of(wg.z / p.n_used, p.outputs) * p.n_used + wg.z % p.n_used;
    let choice = chosen[place];
    // Below the window it wraps around.
    let of_window = choice.x * p.n_rows + row - p.first_row;
    return Row(place, row, choice.x, choice.y, of_window, row < p.n_rows && of_window < p.window_rows);
}

// The part of a row's product that is one of `lanes` lanes'.
fn part_of(r: Row, lane: u32, lanes: u32) -> f32 {
    var acc = 0.0;
    if (r.is_here) {
        let from_row = select(r.place / p.n_used, r.place, p.input_per_place == 1u) * p.x_stride;
        let start = r.of_window * p.row_bytes;
        for (var chunk = lane; chunk < p.chunks; chunk += lanes) {
            let w = unpack32(start + (chunk / CHUNKS) * BLOCK_BYTES, chunk % CHUNKS, p.cols - 32u * chunk);
            acc += product_of_chunk(w, from_row + 8u * chunk);
        }
    }
    return acc;
}

fn store(r: Row, product: f32) {
    var y = product;
    if (p.weighs == 1u) {
        y *= bitcast<f32>(r.share);
    }
    if (p.scales != NONE) {
        y *= consts[p.scales + r.expert];
    }
    if (p.bias != NONE) {
        y += consts[p.bias + r.expert * p.n_rows + r.row];
    }
    out[r.place * p.out_stride + p.out_from + r.row] = y;
}

//? memory
const LANES: u32 = 64u / ROWS;

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let lane = tid % LANES;
    let r = row_of(wg, tid / LANES);
    sums[tid] = part_of(r, lane, LANES);
    workgroupBarrier();
    if (r.is_here && lane == 0u) {
        var sum = 0.0;
        for (var i = 0u; i < LANES; i++) {
            sum += sums[tid + i];
        }
        store(r, sum);
    }
}
//? subgroups
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, invocation: Invocation) {
    let at = place_of(invocation);
    for (var i = 0u; i < ROWS; i += n_subgroups(at)) {
        let r = row_of(wg, i + at.subgroup);
        let sum = sum_of_subgroup(at, part_of(r, at.lane, at.lanes));
        if (r.is_here && at.lane == 0u) {
            store(r, sum);
        }
    }
}
