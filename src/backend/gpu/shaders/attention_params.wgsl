// Attention over pages, in the two forms of `attention.wgsl` and `head_groups.wgsl`.

struct Params {
    outputs: u32,
    n_heads: u32,
    // Query heads that share keys and values.
    n_sharing: u32,
    n_kv_heads: u32,
    k_dim: u32,
    v_dim: u32,
    width: u32,
    group: u32,
    page_words: u32,
    // One for each head.
    slopes: u32,
    sinks: u32,
    scale: f32,
    // Bound of scores; 0: none.
    softcap: f32,
}

@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> qkv: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

const SCORE_MIN: f32 = -3.0e38;

// The score of a key for a head's query, of their product.
fn score_of(head: u32, key: u32, position: u32, product: f32) -> f32 {
    var score = p.scale * product;
    if (p.softcap != 0.0) {
        score = p.softcap * tanh_of(score / p.softcap);
    }
    if (p.slopes != NONE) {
        let distance = max(key, position) - min(key, position);
        score -= consts[p.slopes + head] * f32(distance);
    }
    return score;
}
