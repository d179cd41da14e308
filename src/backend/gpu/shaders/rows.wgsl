// Segments of rows, normalized, put through an activation, and stored or added; a workgroup for each.

struct Params {
    outputs: u32,
    n_segments: u32,
    len: u32,
    in_stride: u32,
    in_from: u32,
    in_segment: u32,
    out_stride: u32,
    out_from: u32,
    out_segment: u32,
    // 1: rows of the result lie one behind the other, whatever their tokens' numbers.
    compact_rows: u32,
    // Columns behind `len` that become zeros.
    padding: u32,
    // 0: none, 1: root mean square, 2: mean and variance.
    norm: u32,
    weight: u32,
    bias: u32,
    // From one segment's weights to the next one's; 0: all have the same.
    weight_segment: u32,
    act: u32,
    adds: u32,
    eps: f32,
    scale: f32,
    // Bound of the inputs; 0: none.
    bound: f32,
}

fn bounded(x: f32) -> f32 {
    if (p.bound > 0.0) {
        return clamp(x, -p.bound, p.bound);
    }
    return x;
}

//? separate
@group(0) @binding(3) var<storage, read> input: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn load(i: u32) -> f32 {
    return bounded(input[i]);
}
//? in_place
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn load(i: u32) -> f32 {
    return bounded(out[i]);
}
//? all

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, invocation: Invocation) {
    let at = place_of(invocation);
    let tid = at.tid;
    let row = wg.y;
    let segment = wg.x;
    let token = token_of(row, p.outputs);
    let first = token * p.in_stride + p.in_from + segment * p.in_segment;
    var center = 0.0;
    var factor = 1.0;
    if (p.norm == 2u) {
        var sum = 0.0;
        for (var i = tid; i < p.len; i += 64u) {
            sum += load(first + i);
        }
        center = sum_of_all(at, sum) / f32(p.len);
    }
    if (p.norm != 0u) {
        var sum = 0.0;
        for (var i = tid; i < p.len; i += 64u) {
            let x = load(first + i) - center;
            sum += x * x;
        }
        factor = 1.0 / sqrt(sum_of_all(at, sum) / f32(p.len) + p.eps);
    }
    let of_segment = segment * p.weight_segment;
    let out_row = select(token, row, p.compact_rows == 1u);
    let to = out_row * p.out_stride + p.out_from + segment * p.out_segment;
    for (var i = tid; i < p.len; i += 64u) {
        var y = (load(first + i) - center) * factor;
        if (p.weight != NONE) {
            y *= consts[p.weight + of_segment + i];
        }
        if (p.bias != NONE) {
            y += consts[p.bias + of_segment + i];
        }
        y = activate(p.act, y);
        if (p.adds == 1u) {
            y = out[to + i] + p.scale * y;
        }
        out[to + i] = y;
    }
    for (var i = tid; i < p.padding; i += 64u) {
        out[to + p.len + i] = 0.0;
    }
}
