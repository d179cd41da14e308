// `out[from..] += input`, where that is once or several times as wide.

struct Params {
    outputs: u32,
    len: u32,
    in_width: u32,
    out_width: u32,
    from_column: u32,
}

@group(0) @binding(3) var<storage, read> input: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.len) {
        return;
    }
    let token = token_of(id.y, p.outputs);
    out[token * p.out_width + p.from_column + id.x] += input[token * p.in_width + id.x % p.in_width];
}
