//! What `config.json` says of the model, held against what the result is: a description fixes its
//! activation and windows, a tensor that is there is used, and neither looks at the configuration.

use super::ConvertError;
use super::config::Config;
use super::plan::Output;
use crate::model::{Activation, Ffn, LayerSpec, Mixer, ModelSpec};
use std::collections::HashSet;

/// Flags that say whether matrices have biases, and the matrices.
const BIASES: &[(&str, &[&str])] = &[
    ("attention_bias", QKV),
    ("qkv_bias", QKV),
    ("use_qkv_bias", QKV),
    ("mlp_bias", &["ffn_gate", "ffn_up", "ffn_down"]),
];
const QKV: &[&str] = &["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_a", "attn_kv_a_mqa"];

/// Entries with the activation of feed-forward parts: the first that is there counts.
const ACTIVATION_ENTRIES: &[&str] =
    &["mlp_hidden_act", "hidden_activation", "hidden_act", "activation_function", "activation"];
/// Names of activations, and what is computed for them; gates are the description's affair.
const ACTIVATIONS: &[(&[&str], &[Activation])] = &[
    (&["silu", "swish", "swiglu"], &[Activation::Silu]),
    (&["swigluoai"], &[Activation::Silu, Activation::GeluQuick]),
    (
        &[
            "gelu",
            "gelu_10",
            "gelu_accurate",
            "gelu_fast",
            "gelu_new",
            "gelu_python",
            "gelu_python_tanh",
            "gelu_pytorch_tanh",
            "geglu",
        ],
        &[Activation::Gelu, Activation::GeluErf],
    ),
    (&["quick_gelu"], &[Activation::GeluQuick]),
    (&["relu", "reglu"], &[Activation::Relu]),
    (&["relu2"], &[Activation::ReluSqr]),
    (&["tanh"], &[Activation::Tanh]),
    (&["sigmoid"], &[Activation::Sigmoid]),
    (&["softplus"], &[Activation::Softplus]),
];

/// Checks the size of the vocabulary and which matrices have biases.
///
/// # Errors
/// An entry says something else than the tensors.
pub(super) fn with_tensors(
    config: &Config,
    outputs: &[Output],
    n_rows: u64,
) -> Result<(), ConvertError> {
    vocabulary(config, n_rows)?;
    BIASES.iter().try_for_each(|(entry, parts)| biases(config, outputs, entry, parts))
}

fn vocabulary(config: &Config, n_rows: u64) -> Result<(), ConvertError> {
    const ENTRY: &str = "vocab_size";
    let Some(n) = config.int(&["padded_vocab_size", ENTRY])? else { return Ok(()) };
    let multiple = config.int(&["pad_vocab_size_multiple"])?.unwrap_or(1).max(1);
    match n_rows == n || n_rows == n.next_multiple_of(multiple) {
        true => Ok(()),
        false => Err(bad(ENTRY, format!("is {n}, and the embedding has {n_rows} rows"))),
    }
}

fn biases(
    config: &Config,
    outputs: &[Output],
    entry: &'static str,
    parts: &[&str],
) -> Result<(), ConvertError> {
    let Some(wanted) = config.flag(&[entry])? else { return Ok(()) };
    let names: HashSet<&str> = outputs.iter().map(|output| &output.name[..]).collect();
    for Output { name, .. } in outputs {
        let matrix = name.strip_suffix(".weight").unwrap_or_default();
        let part = matrix.rsplit_once('.').map_or("", |(_, part)| part);
        let bias = format!("{matrix}.bias");
        let has_bias = names.contains(&bias[..]);
        if parts.contains(&part) && has_bias != wanted {
            let is = if has_bias { "is" } else { "is not" };
            return Err(bad(entry, format!("is {wanted}, but tensor `{bias}` {is} there")));
        }
    }
    Ok(())
}

/// Checks what the description of the result computes.
///
/// # Errors
/// An entry says something else.
pub(super) fn with_spec(config: &Config, spec: &ModelSpec) -> Result<(), ConvertError> {
    activation(config, &spec.layers)?;
    windows(config, &spec.layers)
}

fn activation(config: &Config, layers: &[LayerSpec]) -> Result<(), ConvertError> {
    let Some((entry, value)) = config.first(ACTIVATION_ENTRIES) else { return Ok(()) };
    let Some(name) = value.as_str().map(str::to_ascii_lowercase) else { return Ok(()) };
    let name = &name[..];
    let known = ACTIVATIONS.iter().find(|(names, _)| names.contains(&name));
    let of_name = known.map_or(&[][..], |(_, all)| all);
    let mut all = layers.iter().flat_map(activations);
    // A model without feed-forward parts has it in its state spaces, which know one.
    let first = all.next().unwrap_or(Computed { act: Some(Activation::Silu), is_scaled: false });
    let other = std::iter::once(first).chain(all).find(|computed| !computed.is(name, of_name));
    match other {
        None => Ok(()),
        Some(other) => {
            Err(bad(entry, format!("is {name}, and this architecture computes {}", other.name())))
        }
    }
}

/// An activation of a feed-forward part.
struct Computed {
    /// `None` is xIELU.
    act: Option<Activation>,
    /// GPT-OSS has a factor within its SiLU, which it does not say there.
    is_scaled: bool,
}

impl Computed {
    fn is(&self, name: &str, of_name: &[Activation]) -> bool {
        match self.act {
            None => name == "xielu",
            Some(Activation::GeluQuick) if self.is_scaled && name == "silu" => true,
            Some(act) => of_name.contains(&act),
        }
    }

    fn name(&self) -> &'static str {
        let Some(act) = self.act else { return "xielu" };
        let known = ACTIVATIONS.iter().find(|(_, all)| all[0] == act);
        known.map_or("gelu", |(names, _)| names[0])
    }
}

fn activations(layer: &LayerSpec) -> Vec<Computed> {
    let (dense, moe) = match &layer.ffn {
        Ffn::None => (None, None),
        Ffn::Dense(dense) => (Some(dense), None),
        Ffn::Moe(moe) => (None, Some(moe)),
        Ffn::DenseAndMoe(dense, moe) | Ffn::DenseBesideMoe(dense, moe) => (Some(dense), Some(moe)),
    };
    let of_dense = dense.map(|dense| Computed {
        act: dense.xielu.is_none().then_some(dense.act),
        is_scaled: dense.clamp.is_some(),
    });
    let of_moe = moe.map(|moe| Computed { act: Some(moe.act), is_scaled: moe.clamp.is_some() });
    of_dense.into_iter().chain(of_moe).collect()
}

fn windows(config: &Config, layers: &[LayerSpec]) -> Result<(), ConvertError> {
    const ENTRY: &str = "use_sliding_window";
    let (mut entry, mut sliding) = (
        "layer_types",
        config.words(&["layer_types"]).map(|words| {
            words.iter().map(|word| word == "sliding_attention").collect::<Vec<bool>>()
        }),
    );
    if sliding.is_none() && config.flag(&[ENTRY])? == Some(true) {
        let first = config.int(&["max_window_layers"])?.unwrap_or(0) as usize;
        (entry, sliding) = (ENTRY, Some((0..layers.len()).map(|i| i >= first).collect()));
    }
    let Some(sliding) = sliding else { return Ok(()) };
    let n_ctx = config.int(&["max_position_embeddings"])?.unwrap_or(u64::MAX);
    // A window that a whole context fits is none.
    let Some(window) = config.int(&["sliding_window"])?.filter(|&n| n < n_ctx) else {
        return Ok(());
    };
    for (i, (layer, sliding)) in layers.iter().zip(sliding).enumerate() {
        let attention = match &layer.mixer {
            Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) => attention,
            _ => continue,
        };
        if sliding && attention.window.is_none() {
            return Err(bad(
                entry,
                format!(
                    "gives layer {i} a window of {window} tokens, which this architecture does not \
                     know"
                ),
            ));
        }
    }
    Ok(())
}

fn bad(entry: &str, problem: String) -> ConvertError {
    ConvertError::BadEntry { entry: entry.into(), problem }
}
