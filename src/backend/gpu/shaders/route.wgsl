// The choice of experts, a thread for each token. Scores become probabilities where they are.

struct Params {
    outputs: u32,
    n_experts: u32,
    n_used: u32,
    // From one token's scores to the next one's.
    stride: u32,
    // 0: softmax over all, 1: softmax over the chosen, 2: sigmoid of each.
    gating: u32,
    choice_bias: u32,
    normalizes: u32,
    weight_scale: f32,
}

// The least normal half: sums of weights are not less.
const WEIGHT_SUM_MIN: f32 = 6.103515625e-5;

@group(0) @binding(3) var<storage, read_write> scores: array<f32>;
@group(0) @binding(4) var<storage, read_write> chosen: array<vec2<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= n_tokens(p.outputs)) {
        return;
    }
    let token = token_of(id.x, p.outputs);
    let first = token * p.stride;
    let places = token * p.n_used;
    if (p.gating == 0u) {
        var largest = scores[first];
        for (var i = 1u; i < p.n_experts; i++) {
            largest = max(largest, scores[first + i]);
        }
        var sum = 0.0;
        for (var i = 0u; i < p.n_experts; i++) {
            let e = exp(scores[first + i] - largest);
            scores[first + i] = e;
            sum += e;
        }
        for (var i = 0u; i < p.n_experts; i++) {
            scores[first + i] /= sum;
        }
    } else if (p.gating == 2u) {
        for (var i = 0u; i < p.n_experts; i++) {
            scores[first + i] = sigmoid(scores[first + i]);
        }
    }
    // The best that is behind the one before, in the order of value, then number.
    var last = 0.0;
    var last_i = NONE;
    for (var k = 0u; k < p.n_used; k++) {
        var best = 0.0;
        var best_i = NONE;
        for (var i = 0u; i < p.n_experts; i++) {
            var x = scores[first + i];
            if (p.choice_bias != NONE) {
                x += consts[p.choice_bias + i];
            }
            let is_behind = last_i == NONE || x < last || (x == last && i > last_i);
            if (is_behind && (best_i == NONE || x > best)) {
                best = x;
                best_i = i;
            }
        }
        // Scores that are no numbers are behind nothing.
        let i = select(best_i, k, best_i == NONE);
        chosen[places + k] = vec2<u32>(i, bitcast<u32>(scores[first + i]));
        last = best;
        last_i = i;
    }
    if (p.gating == 1u) {
        let largest = bitcast<f32>(chosen[places].y);
        var top = largest;
        for (var k = 1u; k < p.n_used; k++) {
            top = max(top, bitcast<f32>(chosen[places + k].y));
        }
        var sum = 0.0;
        for (var k = 0u; k < p.n_used; k++) {
            let e = exp(bitcast<f32>(chosen[places + k].y) - top);
            chosen[places + k].y = bitcast<u32>(e);
            sum += e;
        }
        for (var k = 0u; k < p.n_used; k++) {
            chosen[places + k].y = bitcast<u32>(bitcast<f32>(chosen[places + k].y) / sum);
        }
    }
    var divisor = 1.0;
    if (p.normalizes == 1u) {
        var sum = 0.0;
        for (var k = 0u; k < p.n_used; k++) {
            sum += bitcast<f32>(chosen[places + k].y);
        }
        divisor = max(sum, WEIGHT_SUM_MIN);
    }
    for (var k = 0u; k < p.n_used; k++) {
        let weight = bitcast<f32>(chosen[places + k].y) * p.weight_scale / divisor;
        chosen[places + k].y = bitcast<u32>(weight);
    }
}
