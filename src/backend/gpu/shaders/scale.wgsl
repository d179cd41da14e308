// `out[i] *= factors[i]`.

struct Params {
    outputs: u32,
    len: u32,
    factors: u32,
}

@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.len) {
        return;
    }
    out[token_of(id.y, p.outputs) * p.len + id.x] *= consts[p.factors + id.x];
}
