// Attention of one head of a token over the pages of its sequence, 32 keys at a time; a workgroup for each head.
// Softmax is taken on the way: what was summed before is scaled whenever a larger score comes.

var<workgroup> query: array<vec2<f32>, HEAD_MAX / 2u>;
// Two threads have a key.
var<workgroup> halves: array<f32, 64>;
var<workgroup> weights: array<f32, 32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let token = token_of(wg.y, p.outputs);
    let head = wg.x;
    let kv_head = head / p.n_sharing;
    let of_token = step[p.group] + 4u * token;
    let table = step[of_token];
    let first = step[of_token + 1u];
    let end = step[of_token + 2u];
    let position = step[step[4] + token];
    let k_pairs = (p.k_dim + 1u) / 2u;
    let v_pairs = (p.v_dim + 1u) / 2u;
    let begin = token * p.width + head * p.k_dim;
    for (var i = tid; i < k_pairs; i += 64u) {
        let second = select(0.0, qkv[begin + min(2u * i + 1u, p.k_dim - 1u)], 2u * i + 1u < p.k_dim);
        query[i] = vec2<f32>(qkv[begin + 2u * i], second);
    }
    workgroupBarrier();
    var acc: array<vec2<f32>, PLACES>;
    var largest = SCORE_MIN;
    var total = 0.0;
    if (p.sinks != NONE) {
        largest = consts[p.sinks + head];
        total = 1.0;
    }
    let slot = tid / 2u;
    for (var page = first / 32u; page * 32u < end; page++) {
        let at = step[table + page] * p.page_words;
        let keys = at + (kv_head * 32u + slot) * row_words(p.k_dim);
        let key = page * 32u + slot;
        let is_seen = key >= first && key < end;
        var sum = vec2<f32>();
        if (is_seen) {
            for (var i = tid % 2u; i < k_pairs; i += 2u) {
                sum = fma(query[i], load_pair(keys, i, p.k_dim), sum);
            }
        }
        halves[tid] = sum.x + sum.y;
        workgroupBarrier();
        if (tid % 2u == 0u) {
            let score = score_of(head, key, position, halves[tid] + halves[tid + 1u]);
            weights[slot] = select(SCORE_MIN, score, is_seen);
        }
        workgroupBarrier();
        var largest_here = largest;
        for (var i = 0u; i < 32u; i++) {
            largest_here = max(largest_here, weights[i]);
        }
        workgroupBarrier();
        if (tid < 32u) {
            let seen = page * 32u + tid >= first && page * 32u + tid < end;
            weights[tid] = select(0.0, exp(weights[tid] - largest_here), seen);
        }
        workgroupBarrier();
        let shrink = exp(largest - largest_here);
        total *= shrink;
        for (var i = 0u; i < 32u; i++) {
            total += weights[i];
        }
        // Keys that are not seen may lie in memory that holds anything.
        let low = max(first, page * 32u) - page * 32u;
        let high = min(end - page * 32u, 32u);
        let values = at + p.n_kv_heads * 32u * row_words(p.k_dim) + kv_head * 32u * row_words(p.v_dim);
        for (var place = 0u; place < PLACES; place++) { // unrolled
            let d = tid + 64u * place;
            if (d < v_pairs) {
                var value = acc[place] * shrink;
                for (var i = low; i < high; i++) {
                    let pair = load_pair(values + i * row_words(p.v_dim), d, p.v_dim);
                    value = fma(vec2<f32>(weights[i]), pair, value);
                }
                acc[place] = value;
            }
        }
        largest = largest_here;
        workgroupBarrier();
    }
    let to = token * p.n_heads * p.v_dim + head * p.v_dim;
    for (var place = 0u; place < PLACES; place++) { // unrolled
        let d = tid + 64u * place;
        if (d < v_pairs) {
            let y = acc[place] / total;
            out[to + 2u * d] = y.x;
            if (2u * d + 1u < p.v_dim) {
                out[to + 2u * d + 1u] = y.y;
            }
        }
    }
}
