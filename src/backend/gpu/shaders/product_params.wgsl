// Products of rows of a weight with rows of inputs, in the two forms of `matvec.wgsl` and `matmul.wgsl`.

struct Params {
    outputs: u32,
    // Rows of the weight, of the window of it that is bound.
    n_rows: u32,
    row_bytes: u32,
    cols: u32,
    // Chunks of 32 columns, the last of which may have fewer.
    chunks: u32,
    // Workgroups in the first dimension of the grid.
    grid_x: u32,
    // Four columns of the input are one element.
    x_stride: u32,
    out_stride: u32,
    // Column of the first row's result.
    out_from: u32,
    bias: u32,
    addend_stride: u32,
    act: u32,
    // 0: stores, 1: adds, 2: logits, one row behind the other.
    mode: u32,
    scale: f32,
    // Factor of what is added, or of logits.
    out_scale: f32,
    // Bound of logits; 0: none.
    softcap: f32,
}

@group(0) @binding(3) var<storage, read> weights: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> addend: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Stores a product: of the weight's row with the token at place `i`.
fn store(i: u32, row: u32, product: f32) {
    let token = token_of(i, p.outputs);
    let column = p.out_from + row;
    var y = p.scale * product;
    if (p.bias != NONE) {
        y += consts[p.bias + row];
    }
    if (p.addend_stride != 0u) {
        y += addend[token * p.addend_stride + column];
    }
    y = activate(p.act, y);
    if (p.mode == 0u) {
        out[token * p.out_stride + column] = y;
    } else if (p.mode == 1u) {
        out[token * p.out_stride + column] += p.out_scale * y;
    } else {
        y *= p.out_scale;
        if (p.softcap != 0.0) {
            y = p.softcap * tanh_of(y / p.softcap);
        }
        out[i * p.out_stride + column] = y;
    }
}
