// Attention of heads that share keys and values, on a program on the CPU: see `matrows.wgsl`. A workgroup is a
// subgroup of LANES lanes, which has up to SHARED heads of a token and as many keys at a time as it has lanes.
// What it reads of a key or a value serves all of its heads. Softmax is taken on the way, as in `attention.wgsl`.

const SHARED: u32 = 4u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let token = token_of(wg.y, p.outputs);
    let n_parts = (p.n_sharing + SHARED - 1u) / SHARED;
    let kv_head = wg.x / n_parts;
    let first_head = kv_head * p.n_sharing + (wg.x % n_parts) * SHARED;
    let n_heads = min(SHARED, (kv_head + 1u) * p.n_sharing - first_head);
    let of_token = step[p.group] + 4u * token;
    let table = step[of_token];
    let first = step[of_token + 1u];
    let end = step[of_token + 2u];
    let position = step[step[4] + token];
    let k_pairs = (p.k_dim + 1u) / 2u;
    let v_pairs = (p.v_dim + 1u) / 2u;
    // Pairs of elements number `lane`, `lane + LANES`, and so on, of each head.
    var query: array<array<vec2<f32>, PLACES>, SHARED>;
    var acc: array<array<vec2<f32>, PLACES>, SHARED>;
    var largest: array<f32, SHARED>;
    var total: array<f32, SHARED>;
    for (var h = 0u; h < 4u; h++) { // unrolled
        // Heads behind the last repeat it.
        let head = first_head + min(h, n_heads - 1u);
        let begin = token * p.width + head * p.k_dim;
        for (var place = 0u; place < PLACES; place++) { // unrolled
            let i = lane + LANES * place;
            if (i < k_pairs) {
                let second = select(0.0, qkv[begin + min(2u * i + 1u, p.k_dim - 1u)], 2u * i + 1u < p.k_dim);
                query[h][place] = vec2<f32>(qkv[begin + 2u * i], second);
            }
        }
        largest[h] = SCORE_MIN;
        if (p.sinks != NONE) {
            largest[h] = consts[p.sinks + head];
            total[h] = 1.0;
        }
    }
    for (var base = first - first % LANES; base < end; base += LANES) {
        let page = step[table + base / 32u] * p.page_words;
        let keys = page + (kv_head * 32u + base % 32u + lane) * row_words(p.k_dim);
        let key = base + lane;
        let is_seen = key >= first && key < end;
        var weight: array<vec2<f32>, SHARED>;
        for (var h = 0u; h < 4u; h++) { // unrolled
            weight[h] = vec2<f32>(0.0);
        }
        for (var place = 0u; place < PLACES; place++) { // unrolled
            for (var i = LANES * place; i < min(LANES * (place + 1u), k_pairs); i++) {
                let pair = load_pair(keys, i, p.k_dim);
                for (var h = 0u; h < 4u; h++) { // unrolled
                    let x = subgroupShuffle(query[h][place].x, i % LANES);
                    let y = subgroupShuffle(query[h][place].y, i % LANES);
                    weight[h] = fma(vec2<f32>(x, y), pair, weight[h]);
                }
            }
        }
        for (var h = 0u; h < 4u; h++) { // unrolled
            let head = first_head + min(h, n_heads - 1u);
            let score = select(SCORE_MIN, score_of(head, key, position, weight[h].x + weight[h].y), is_seen);
            let largest_here = max(largest[h], subgroupMax(score));
            let shrink = exp(largest[h] - largest_here);
            weight[h].x = select(0.0, exp(score - largest_here), is_seen);
            total[h] = total[h] * shrink + subgroupAdd(weight[h].x);
            largest[h] = largest_here;
            for (var place = 0u; place < PLACES; place++) { // unrolled
                acc[h][place] *= shrink;
            }
        }
        // Keys that are not seen may lie in memory that holds anything.
        let values = page + p.n_kv_heads * 32u * row_words(p.k_dim) + kv_head * 32u * row_words(p.v_dim);
        for (var seen = max(first, base); seen < min(end, base + LANES); seen++) {
            var of_head: array<f32, SHARED>;
            for (var h = 0u; h < 4u; h++) { // unrolled
                of_head[h] = subgroupShuffle(weight[h].x, seen - base);
            }
            for (var place = 0u; place < PLACES; place++) { // unrolled
                let d = lane + LANES * place;
                if (d < v_pairs) {
                    let pair = load_pair(values + (seen % 32u) * row_words(p.v_dim), d, p.v_dim);
                    for (var h = 0u; h < 4u; h++) { // unrolled
                        acc[h][place] = fma(vec2<f32>(of_head[h]), pair, acc[h][place]);
                    }
                }
            }
        }
    }
    for (var h = 0u; h < 4u; h++) { // unrolled
        let to = token * p.n_heads * p.v_dim + (first_head + h) * p.v_dim;
        for (var place = 0u; place < PLACES; place++) { // unrolled
            let d = lane + LANES * place;
            if (h < n_heads && d < v_pairs) {
                let y = acc[h][place] / total[h];
                out[to + 2u * d] = y.x;
                if (2u * d + 1u < p.v_dim) {
                    out[to + 2u * d + 1u] = y.y;
                }
            }
        }
    }
}
