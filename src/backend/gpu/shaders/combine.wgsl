// The experts' outputs of a token summed by their weights: `out (+)= scale * sum`.

struct Params {
    outputs: u32,
    len: u32,
    in_stride: u32,
    out_stride: u32,
    n_used: u32,
    // 1: by the experts' weights, 0: as they are.
    weighs: u32,
    adds: u32,
    scale: f32,
}

@group(0) @binding(3) var<storage, read> input: array<f32>;
@group(0) @binding(4) var<storage, read> chosen: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.len) {
        return;
    }
    let token = token_of(id.y, p.outputs);
    let to = token * p.out_stride + id.x;
    var sum = select(0.0, out[to], p.adds == 1u);
    for (var k = 0u; k < p.n_used; k++) {
        let place = token * p.n_used + k;
        let weight = select(1.0, bitcast<f32>(chosen[place].y), p.weighs == 1u);
        sum += p.scale * weight * input[place * p.in_stride + id.x];
    }
    out[to] = sum;
}
