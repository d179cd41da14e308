//! A description in words, one line for each thing to know: what `inspect` shows of a network.
//!
//! The words are for people and may change with any version; programs read [`ModelSpec`].

use super::*;
use std::fmt::{self, Display};

/// Lines about a network: its sizes, what differs from the common shape, its layers, its head.
pub fn lines(spec: &ModelSpec) -> Vec<String> {
    let mut lines = vec![sizes(spec.layers.len(), spec.n_embd, spec.n_ctx_train)];
    if spec.bidirectional {
        lines.push("encoder: tokens see as far behind them as before them".into());
    }
    lines.extend(spec.pooling.map(|pooling| pooling_in_words(pooling).into()));
    if spec.embed_scale != 1.0 {
        lines.push(format!("embeddings times {}", spec.embed_scale));
    }
    if spec.n_streams > 1 {
        lines.push(format!("{} parallel streams", spec.n_streams));
    }
    lines.extend(spec.layer_embed.map(|len| format!("an embedding of {len} for each layer")));
    if spec.learned_positions {
        lines.push("learned positions".into());
    }
    lines.extend(spec.cycles.map(|CycleSpec { n_layers, n_low }| {
        format!(
            "passes through two stacks of {n_layers} layers: {n_low} through the first, then one"
        )
    }));
    lines.extend(layer_lines(&spec.layers));
    lines.extend(spec.head.softcap.map(|cap| format!("logits soft-capped at {cap}")));
    lines
}

/// The sizes that every architecture names.
pub fn sizes(n_layers: usize, n_embd: usize, n_ctx_train: usize) -> String {
    let layers = counted(n_layers, "layer");
    format!("{layers}, {n_embd} wide, trained for a context of {n_ctx_train} tokens")
}

/// `93.8 MiB`
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

impl fmt::Display for UnusedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnusedPart { prefix, does, n_tensors, bytes: n } = *self;
        let (tensors, size) = (counted(n_tensors, "tensor"), bytes(n));
        write!(f, "unused: {tensors} `{prefix}*` of the part that {does} ({size})")
    }
}

fn pooling_in_words(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::None => "the vectors of a text's tokens are not pooled",
        Pooling::Mean => "a text's vector is the mean of its tokens'",
        Pooling::Cls => "a text's vector is that of its first token",
        Pooling::Last => "a text's vector is that of its last token",
        Pooling::Rank => "reranker: scores documents by a query",
    }
}

/// A line for each kind of layer, at the place of the first one, with the numbers of all of them.
fn layer_lines(layers: &[LayerSpec]) -> Vec<String> {
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let words = layer_in_words(layer);
        match kinds.iter_mut().find(|kind| kind.0 == words) {
            Some(kind) => kind.1.push(i),
            None => kinds.push((words, vec![i])),
        }
    }
    let line = |(words, layers): &(String, Vec<usize>)| {
        let which = if layers.len() == 1 { "layer" } else { "layers" };
        format!("{which} {}: {words}", ranges(layers))
    };
    kinds.iter().map(line).collect()
}

/// Ascending numbers, neighbours as ranges: `0-3, 5`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// `1 head`, `2 heads`, `2 matrices`, `2 entries`.
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    match (n == N::from(1), what.strip_suffix("ix"), what.strip_suffix("ry")) {
        (true, ..) => format!("{n} {what}"),
        (_, Some(stem), _) => format!("{n} {stem}ices"),
        (_, _, Some(stem)) => format!("{n} {stem}ries"),
        _ => format!("{n} {what}s"),
    }
}

fn layer_in_words(layer: &LayerSpec) -> String {
    let mixer = mixer_in_words(&layer.mixer);
    let ffn = match &layer.ffn {
        Ffn::None => "no feed-forward part".to_string(),
        Ffn::Dense(dense) => dense_in_words(dense),
        Ffn::Moe(moe) => moe_in_words(moe),
        Ffn::DenseAndMoe(dense, moe) | Ffn::DenseBesideMoe(dense, moe) => {
            format!("{} and {}", dense_in_words(dense), moe_in_words(moe))
        }
    };
    let norms = match layer.norms {
        NormPlacement { of_mixer_sum: Some(_), .. } => "norms of the sums",
        NormPlacement { of_mixer_input: Some(_), .. } => "norms of the stream itself",
        NormPlacement { before_ffn: Some(_), before_mixer: None, .. } => "norm before feed-forward",
        NormPlacement { before_mixer: None, .. } => "norms after",
        NormPlacement { after_mixer: None, .. } => "norms before",
        _ => "norms before and after",
    };
    let side = if layer.residual == Residual::Parallel { ", side by side" } else { "" };
    format!("{mixer}; {ffn}{side}; {norms}")
}

fn dense_in_words(dense: &DenseSpec) -> String {
    let act = match dense.xielu {
        Some(_) => "xIELU".to_string(),
        None => format!("{:?}", dense.act),
    };
    let gated = if dense.gate == DenseGate::None { "" } else { "-gated" };
    format!("{act}{gated} feed-forward of {}", dense.n_ff)
}

fn moe_in_words(moe: &MoeSpec) -> String {
    let gated = if moe.gated { "-gated" } else { "" };
    let (n_used, n, n_ff) = (moe.n_used, moe.n_experts, moe.n_ff);
    let shared = moe.shared.map(|shared| format!(" and a shared one of {}", shared.n_ff));
    let shared = shared.unwrap_or_default();
    format!("{n_used} of {n} experts, {:?}{gated} feed-forward of {n_ff}{shared}", moe.act)
}

fn mixer_in_words(mixer: &Mixer) -> String {
    match mixer {
        Mixer::None => "no attention".to_string(),
        Mixer::Attention(attention) => attention_in_words(attention),
        Mixer::ShortConv(conv) => format!("short convolution of {} tokens", conv.taps),
        Mixer::StateSpace(space) => state_space_in_words(space),
        Mixer::AttentionAndStateSpace(attention, space) => {
            format!("{} beside {}", attention_in_words(attention), state_space_in_words(space))
        }
        Mixer::Delta(delta) => {
            format!(
                "gated delta rule of {} of {} x {}",
                counted(delta.n_heads, "head"),
                delta.v_dim,
                delta.k_dim
            )
        }
        Mixer::LightningAttention(linear) => {
            let (heads, dim) = (counted(linear.slopes.len(), "head"), linear.head_dim);
            format!("linear attention of {heads} of {dim} x {dim}")
        }
        Mixer::Mla(latent) => {
            let MlaSpec { n_heads, rank, n_content, n_position, .. } = latent;
            let k_dim = n_content + n_position;
            let heads = counted(*n_heads, "head");
            let mut text = format!("attention of {heads} of {k_dim} on latents of {rank}");
            text += &rope_in_words(latent.rope.as_ref());
            text
        }
    }
}

fn state_space_in_words(space: &StateSpaceSpec) -> String {
    let StateSpaceSpec { n_inner, state_dim, .. } = space;
    match space.generation {
        StateSpaceGeneration::One { .. } => format!("state space of {n_inner} x {state_dim}"),
        StateSpaceGeneration::Two { n_heads, .. } => {
            let head_dim = n_inner / n_heads;
            format!("state space of {} of {head_dim} x {state_dim}", counted(n_heads, "head"))
        }
    }
}

fn attention_in_words(a: &AttentionSpec) -> String {
    let heads = counted(a.n_heads, "head");
    let mut text = format!("attention of {heads} of {} on {} of keys", a.k_dim, a.n_kv_heads);
    if let KvSource::Layer(layer) = a.kv {
        text += &format!(" and values of layer {layer}");
    } else {
        text += " and values";
    }
    if let Some(window) = a.window {
        text += &format!(", window {window}");
    }
    if a.qk_norm != QkNorm::None {
        text += ", normed queries and keys";
    }
    text += &match a.alibi {
        Some(_) => ", scores that fall with distance (ALiBi)".to_string(),
        None => rope_in_words(a.rope.as_ref()),
    };
    if a.gate != AttentionGate::None {
        text += ", gated";
    }
    if a.sinks {
        text += ", sinks";
    }
    if let Some(cap) = a.softcap {
        text += &format!(", scores soft-capped at {cap}");
    }
    text
}

fn rope_in_words(rope: Option<&RopeSpec>) -> String {
    let Some(rope) = rope else { return ", no rope".to_string() };
    let text = format!(", rope {:?} base {}", rope.pairing, rope.freq_base);
    match rope.scaling {
        RopeScaling::None => text,
        RopeScaling::Linear { factor } => format!("{text} stretched {factor} times"),
        RopeScaling::Yarn { factor, .. } => format!("{text} stretched {factor} times (YaRN)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let shown = [0, 1023, 1024, 98_362_432, 5 << 40].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "93.8 MiB", "5.0 TiB"]);
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!([1, 2].map(|n| counted(n, "head")), ["1 head", "2 heads"]);
    }
}
