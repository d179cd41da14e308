// Gate and up projections made one: `f(gate) * up`, in rows `[gate | up]`; without a gate `f(up)`.

struct Params {
    outputs: u32,
    // Rows for each token.
    per_token: u32,
    len: u32,
    in_stride: u32,
    out_stride: u32,
    has_gate: u32,
    act: u32,
    adds: u32,
    // Columns behind `len` that become zeros.
    padding: u32,
    out_scale: f32,
    gate_max: f32,
    up_max: f32,
    up_plus: f32,
    // 1: there are bounds.
    bounds: u32,
}

@group(0) @binding(3) var<storage, read> input: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if (i >= p.len + p.padding) {
        return;
    }
    let row = token_of(id.y / p.per_token, p.outputs) * p.per_token + id.y % p.per_token;
    let to = row * p.out_stride + i;
    if (i >= p.len) {
        out[to] = 0.0;
        return;
    }
    let begin = row * p.in_stride + i;
    var y: f32;
    if (p.has_gate == 1u) {
        var gate = input[begin];
        var up = input[begin + p.len];
        if (p.bounds == 1u) {
            gate = min(gate, p.gate_max);
            up = clamp(up, -p.up_max, p.up_max) + p.up_plus;
        }
        y = activate(p.act, gate) * up;
    } else {
        y = input[begin];
        if (p.bounds == 1u) {
            y = clamp(y, -p.up_max, p.up_max) + p.up_plus;
        }
        y = activate(p.act, y);
    }
    if (p.adds == 1u) {
        y = out[to] + p.out_scale * y;
    }
    out[to] = y;
}
