// Norms and rotation of one head of queries or keys of a token, and a key's and a value's way to their page; a
// workgroup for each head. Pages hold `[kv heads][slots]` rows of keys, then as many of values.

struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    k_dim: u32,
    v_dim: u32,
    width: u32,
    // Place of the layers' group in `step`.
    group: u32,
    page_words: u32,
    stores: u32,
    // 0: none, 1: root mean square, 2: mean and variance; before or behind the rotation.
    q_norm: u32,
    q_weight: u32,
    q_bias: u32,
    q_segment: u32,
    k_norm: u32,
    k_weight: u32,
    k_bias: u32,
    k_segment: u32,
    v_norm: u32,
    v_weight: u32,
    v_bias: u32,
    v_segment: u32,
    norm_after: u32,
    // Pairs of elements that turn; 0: none.
    n_pairs: u32,
    rope_from: u32,
    // 1: element `i` with `i + n_pairs`, 0: neighbours.
    neox: u32,
    // Where cosines and sines begin in `angles`, of each position.
    angles_from: u32,
    // Tokens between steps of the queries' factor; 0: none.
    period: u32,
    temperature: f32,
    // Of all elements, before anything else; 0: none.
    bound: f32,
    q_eps: f32,
    k_eps: f32,
    v_eps: f32,
}

@group(0) @binding(3) var<storage, read> angles: array<f32>;
@group(0) @binding(4) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(5) var<storage, read_write> pages: array<u32>;

var<workgroup> head: array<f32, HEAD_MAX>;

fn normalize_head(at: Place, len: u32, norm: u32, weight: u32, bias: u32, eps: f32) {
    if (norm == 0u) {
        return;
    }
    let tid = at.tid;
    var center = 0.0;
    if (norm == 2u) {
        var sum = 0.0;
        for (var i = tid; i < len; i += 64u) {
            sum += head[i];
        }
        center = sum_of_all(at, sum) / f32(len);
    }
    var squares = 0.0;
    for (var i = tid; i < len; i += 64u) {
        let x = head[i] - center;
        squares += x * x;
    }
    let factor = 1.0 / sqrt(sum_of_all(at, squares) / f32(len) + eps);
    for (var i = tid; i < len; i += 64u) {
        var y = (head[i] - center) * factor;
        if (weight != NONE) {
            y *= consts[weight + i];
        }
        if (bias != NONE) {
            y += consts[bias + i];
        }
        head[i] = y;
    }
    workgroupBarrier();
}

fn rotate(tid: u32, token: u32) {
    let cosines = p.angles_from + token * 2u * p.n_pairs;
    for (var i = tid; i < p.n_pairs; i += 64u) {
        let a = p.rope_from + select(2u * i, i, p.neox == 1u);
        let b = a + select(1u, p.n_pairs, p.neox == 1u);
        let cos = angles[cosines + i];
        let sin = angles[cosines + p.n_pairs + i];
        let x = head[a];
        let y = head[b];
        head[a] = x * cos - y * sin;
        head[b] = y * cos + x * sin;
    }
    workgroupBarrier();
}

// Parameters at `first` of a segment, where there are any.
fn of_segment(first: u32, segment: u32) -> u32 {
    return select(first + segment, NONE, first == NONE);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, invocation: Invocation) {
    let at = place_of(invocation);
    let tid = at.tid;
    let token = wg.y;
    let index = wg.x;
    let is_q = index < p.n_heads;
    let is_v = index >= p.n_heads + p.n_kv_heads;
    let len = select(p.k_dim, p.v_dim, is_v);
    let kv_head = index - select(p.n_heads, p.n_heads + p.n_kv_heads, is_v);
    let before = (p.n_heads + p.n_kv_heads) * p.k_dim;
    let first = token * p.width + select(index * p.k_dim, before + kv_head * p.v_dim, is_v);
    for (var i = tid; i < len; i += 64u) {
        var x = qkv[first + i];
        if (p.bound > 0.0) {
            x = clamp(x, -p.bound, p.bound);
        }
        head[i] = x;
    }
    workgroupBarrier();
    if (is_v) {
        let segment = kv_head * p.v_segment;
        let weight = of_segment(p.v_weight, segment);
        normalize_head(at, len, p.v_norm, weight, of_segment(p.v_bias, segment), p.v_eps);
    } else {
        let norm = select(p.k_norm, p.q_norm, is_q);
        let eps = select(p.k_eps, p.q_eps, is_q);
        let segment = select(kv_head * p.k_segment, index * p.q_segment, is_q);
        let weight = of_segment(select(p.k_weight, p.q_weight, is_q), segment);
        let bias = of_segment(select(p.k_bias, p.q_bias, is_q), segment);
        if (p.norm_after == 0u) {
            normalize_head(at, len, norm, weight, bias, eps);
        }
        if (p.n_pairs > 0u) {
            rotate(tid, token);
        }
        if (p.norm_after == 1u) {
            normalize_head(at, len, norm, weight, bias, eps);
        }
    }
    var factor = 1.0;
    if (is_q && p.period > 0u) {
        let position = step[step[4] + token];
        factor = 1.0 + p.temperature * log(f32(1u + position / p.period));
    }
    for (var i = tid; i < len; i += 64u) {
        qkv[first + i] = head[i] * factor;
    }
    if (!is_q && p.stores == 1u) {
        let slot = step[step[p.group] + 4u * token + 3u];
        let values = select(0u, p.n_kv_heads * 32u * row_words(p.k_dim), is_v);
        let of_slot = (kv_head * 32u + slot % 32u) * row_words(len);
        store_row(tid, (slot / 32u) * p.page_words + values + of_slot, len);
    }
}
