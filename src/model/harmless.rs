//! Keys of a model's metadata that a description does not read and that change nothing, so that
//! they need not keep a file from running. Three kinds: keys about other things than the
//! computation, keys whose value asks for nothing, and keys that say again what the description
//! already does. Whatever is in none of these lists may change the mathematics.

use super::{
    AttentionSpec, Ffn, KeyHeads, LayerSpec, Mixer, ModelSpec, MoeSpec, QkNorm, RopePairing,
};
use gguf_rs_lite::Value;

/// Beginnings of names, behind the architecture's, of keys about other things, and what they are
/// about.
const PREFIXES: &[(&str, &str)] = &[
    ("vision", "the part of the model that sees"),
    ("audio", "the part that hears"),
    ("video", "the part that sees"),
    ("mm", "the projection from those to the text part"),
    ("image", "how pictures are prepared, and which tokens stand for them"),
    ("projector", "the projection to the text part"),
    ("clip.", "the part that sees"),
    ("spatial_merge_size", "how the patches of a picture are joined"),
    ("mrope_", "sections of rotation: text has the same position in all"),
    ("rope.mrope_", "sections of rotation: text has the same position in all"),
    ("mtp.", "layers that draft tokens, which are not run"),
    ("mtp_", "layers that draft tokens, which are not run"),
    ("classifier.", "the head of a reranker"),
    ("dense_2_feat_", "the shapes of matrices, which the tensors have"),
    ("dense_3_feat_", "the shapes of matrices, which the tensors have"),
    ("training.", "how the model was trained"),
    ("quantization", "how the file was made"),
];

/// Last parts of such names.
const SUFFIXES: &[(&str, &str)] = &[
    ("comment", "words for people"),
    ("description", "words for people"),
    ("author", "words for people"),
    ("license", "words for people"),
    ("url", "words for people"),
    ("name", "words for people"),
    ("note", "words for people"),
    ("notes", "words for people"),
    ("transformers_version", "what the file was made with"),
    ("torch_dtype", "the type that the tensors had before"),
    ("dtype", "the type that the tensors had before"),
    ("vocab_size", "the shape of the embeddings, which the tensor has"),
    ("tensor_data_layout", "the order of rows in tensors, which converters settle"),
    ("tie_word_embeddings", "whether a head has a tensor, which the file shows"),
    ("initializer_range", "how training began"),
    ("dropout", "what training left out"),
    ("use_cache", "whether a program keeps keys and values"),
    ("gradient_checkpointing", "how training saved memory"),
];

/// Ends of names that stand for tokens: which one ends a text is for the vocabulary to say.
const TOKENS: &[&str] = &["_token_id", "_token_ids", "_token_index"];

/// Keys that scale something: with the value 1 they ask for nothing.
const SCALES: &[&str] = &[
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.output_scale",
    "attention.temperature_scale",
    "expert_weights_scale",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
];

/// Keys that ask for something by a value other than 0.
const OFF_AT_ZERO: &[&str] = &[
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "router_logit_softcapping",
    "attention.max_alibi_bias",
    "attention.clamp_kqv",
    "attention.sliding_window",
    "attention.chunk_size",
    "attention.kv_shared_layers",
    "attention.shared_kv_layers",
    "expert_shared_count",
    "expert_group_count",
    "expert_group_used_count",
    "leading_dense_block_count",
];

/// A key and whether the description does what its value says.
type Echo = (&'static str, fn(&Value<'_>, &ModelSpec) -> bool);

/// Keys that say again what descriptions take from elsewhere.
const ECHOES: &[Echo] = &[
    ("attention.head_dim", |value, spec| {
        value.as_u64().is_some_and(|n| all_attentions(spec, |a| is_width(a, n)))
    }),
    ("attention.key_length_swa", |value, spec| {
        value.as_u64().is_some_and(|n| windowed(spec, |a| a.k_dim as u64 == n))
    }),
    ("attention.value_length_swa", |value, spec| {
        value.as_u64().is_some_and(|n| windowed(spec, |a| a.v_dim as u64 == n))
    }),
    ("attention.scale", |value, spec| {
        value.as_f32().is_some_and(|x| all_attentions(spec, |a| is_near(a.scale, x)))
    }),
    ("attention.causal", |value, spec| value.as_bool() == Some(!spec.bidirectional)),
    ("rope.local.freq_base", is_window_base),
    ("rope.freq_base_swa", is_window_base),
    ("rope.local_freq_base", is_window_base),
    ("use_qk_norm", |value, spec| {
        // A model norms heads where it rotates them.
        let norms = |a: &AttentionSpec| a.qk_norm != QkNorm::None;
        value
            .as_bool()
            .is_some_and(|on| all_attentions(spec, |a| a.rope.is_none() || norms(a) == on))
    }),
    ("norm_top_k_prob", is_normalized),
    ("expert_weights_norm", is_normalized),
    ("ssm.v_head_reordered", |value, spec| {
        let tiled = |layer: &LayerSpec| match &layer.mixer {
            Mixer::Delta(delta) => {
                delta.n_heads == delta.n_key_heads
                    || Some(delta.key_heads == KeyHeads::Tiled) == value.as_bool()
            }
            _ => true,
        };
        spec.layers.iter().all(tiled)
    }),
    ("rope.dimension_sections", |_, spec| {
        // Text has the same position in all sections, so they say no more than which dimensions
        // pair.
        let distant = |a: &AttentionSpec| {
            a.rope.as_ref().is_none_or(|rope| rope.pairing == RopePairing::Neox)
        };
        all_attentions(spec, distant)
    }),
];

/// Whether a key of the architecture, which the description `spec` is made without, changes
/// nothing. `name` is what follows the architecture's name.
pub(super) fn is_harmless(name: &str, value: &Value<'_>, spec: &ModelSpec) -> bool {
    let last = name.rsplit(['.', '/']).next().unwrap_or(name);
    let is_last = |suffix: &str| last == suffix || last.ends_with(&format!("_{suffix}"));
    PREFIXES.iter().any(|row| begins(name, row.0))
        || SUFFIXES.iter().any(|row| is_last(row.0))
        || TOKENS.iter().any(|end| last.ends_with(end))
        || (SCALES.contains(&name) && is_number(value, |x| x == 1.0))
        || (OFF_AT_ZERO.contains(&name) && is_number(value, |x| x == 0.0))
        || ECHOES.iter().any(|(key, says)| *key == name && says(value, spec))
}

/// Whether the name is the prefix, or goes on behind it with another part.
fn begins(name: &str, prefix: &str) -> bool {
    let goes_on = |rest: &str| rest.is_empty() || rest.starts_with(['.', '_']);
    name.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with(['.', '_']) || goes_on(rest))
}

/// Whether a value is a number, or all of them in an array are, for which `holds` is true; a
/// boolean counts as 0 or 1.
fn is_number(value: &Value<'_>, holds: impl Fn(f64) -> bool + Copy) -> bool {
    match value {
        Value::Array(array) => array.iter().all(|value| is_number(&value, holds)),
        Value::Bool(on) => holds(f64::from(u8::from(*on))),
        other => {
            let number = other.as_i64().map(|n| n as f64).or(other.as_f32().map(f64::from));
            number.is_some_and(holds)
        }
    }
}

/// Whether the numbers are one, but for how they were rounded.
fn is_near(a: f32, b: f32) -> bool {
    (a - b).abs() <= a.abs() * 2.0 * f32::EPSILON
}

/// Whether the width is that of all heads.
fn is_width(attention: &AttentionSpec, n: u64) -> bool {
    attention.k_dim as u64 == n && attention.v_dim as u64 == n
}

fn all_attentions(spec: &ModelSpec, holds: impl Fn(&AttentionSpec) -> bool) -> bool {
    spec.layers.iter().all(|layer| match &layer.mixer {
        Mixer::Attention(a) | Mixer::AttentionAndStateSpace(a, _) => holds(a),
        // What the key says of latents is not known.
        Mixer::Mla(_) => false,
        _ => true,
    })
}

/// Whether it holds for all attention with a window.
fn windowed(spec: &ModelSpec, holds: impl Fn(&AttentionSpec) -> bool) -> bool {
    all_attentions(spec, |a| a.window.is_none() || holds(a))
}

fn is_window_base(value: &Value<'_>, spec: &ModelSpec) -> bool {
    let base =
        |a: &AttentionSpec, base: f32| a.rope.as_ref().is_none_or(|rope| rope.freq_base == base);
    value.as_f32().is_some_and(|x| windowed(spec, |a| base(a, x)))
}

fn is_normalized(value: &Value<'_>, spec: &ModelSpec) -> bool {
    let Some(on) = value.as_bool() else { return false };
    let says = |moe: &MoeSpec| moe.normalize_weights == on;
    spec.layers.iter().all(|layer| match &layer.ffn {
        Ffn::Moe(moe) | Ffn::DenseAndMoe(_, moe) | Ffn::DenseBesideMoe(_, moe) => says(moe),
        Ffn::None | Ffn::Dense(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_whole() {
        for (name, prefix, is) in [
            ("vision.block_count", "vision", true),
            ("vision", "vision", true),
            ("visionary", "vision", false),
            ("mm.tokens", "mm", true),
            ("mmproj", "mm", false),
            ("mtp_layers", "mtp_", true),
        ] {
            assert_eq!(begins(name, prefix), is, "{name}");
        }
    }

    #[test]
    fn no_value_of_another_kind_is_neutral() {
        assert!(is_number(&Value::U32(0), |x| x == 0.0));
        assert!(is_number(&Value::Bool(false), |x| x == 0.0));
        assert!(!is_number(&Value::F32(f32::NAN), |x| x == 0.0 || x == 1.0));
        assert!(!is_number(&Value::Str("0"), |x| x == 0.0));
    }
}
