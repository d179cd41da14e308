//! Metadata of the result: what all architectures have, then what the family's rules say.

use super::ConvertError;
use super::config::{Config, whole};
use crate::model::ModelError;
use crate::model::checkpoint::Checkpoint;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::Value;
use std::path::Path;

/// Entries in the order in which they were first set.
#[derive(Default)]
pub(super) struct Keys {
    /// Keys and values.
    pub entries: Vec<(String, OwnedValue)>,
}

impl Keys {
    /// Sets an entry, or changes the one that is there.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<OwnedValue>) {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&OwnedValue> {
        self.entries.iter().find(|entry| entry.0 == key).map(|entry| &entry.1)
    }

    /// Takes an entry away.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.0 != key);
    }
}

/// Writes keys of one architecture.
pub(super) struct Writer<'a> {
    pub keys: &'a mut Keys,
    pub config: &'a Config,
    arch: &'static str,
    pub folder: &'a Path,
}

/// Adds the hyperparameters.
///
/// # Errors
/// An entry of `config.json` is missing or not what it should be.
pub(super) fn hyperparameters(
    keys: &mut Keys,
    config: &Config,
    checkpoint: &Checkpoint,
    folder: &Path,
) -> Result<(), ConvertError> {
    let mut writer = Writer { keys, config, arch: checkpoint.arch, folder };
    writer.common()?;
    writer.rope()?;
    checkpoint.keys.iter().flat_map(|keys| keys.iter()).try_for_each(|key| writer.rule(key))
}

/// Integers that all architectures take from these entries: key, entries.
const INTS: &[(&str, &[&str])] = &[
    (
        "context_length",
        &[
            "max_position_embeddings",
            "n_ctx",
            "n_positions",
            "max_seq_len",
            "max_sequence_length",
            "model_max_length",
        ],
    ),
    ("embedding_length", &["hidden_size", "n_embd", "d_model", "model_dim", "dim"]),
    ("feed_forward_length", &["intermediate_size", "n_inner", "ffn_hidden_size", "hidden_dim"]),
    ("attention.head_count", &["num_attention_heads", "n_head", "n_heads", "num_heads"]),
    ("expert_count", super::plan::EXPERT_COUNTS),
    ("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
];
/// Epsilons of norms likewise.
const EPSILONS: &[(&str, &[&str])] = &[
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"]),
    ("attention.layer_norm_epsilon", &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]),
];

/// The error of a model whose key is missing, as that of the entry that all architectures take it
/// from.
pub(super) fn as_entry(error: ModelError) -> ConvertError {
    let ModelError::MissingKey(key) = &error else { return ConvertError::Model(error) };
    let is_of = |name: &str| key.strip_suffix(name).is_some_and(|arch| arch.ends_with('.'));
    match INTS.iter().chain(EPSILONS).find(|row| is_of(row.0)) {
        Some((_, entries)) => ConvertError::MissingEntry(entries[0].into()),
        None => ConvertError::Model(error),
    }
}

impl Writer<'_> {
    /// The whole key.
    pub fn key(&self, name: &str) -> String {
        let is_whole = name.starts_with("general.") || name.starts_with("tokenizer.");
        if is_whole { name.to_owned() } else { format!("{}.{name}", self.arch) }
    }

    /// Sets an entry.
    pub fn set(&mut self, name: &str, value: impl Into<OwnedValue>) {
        let key = self.key(name);
        self.keys.set(key, value);
    }

    /// Sets an integer.
    ///
    /// # Errors
    /// It is larger than any model's.
    pub fn set_int(&mut self, name: &str, n: u64) -> Result<(), ConvertError> {
        let problem = || format!("is {n}, which no model has");
        let small = u32::try_from(n)
            .map_err(|_| ConvertError::BadEntry { entry: name.into(), problem: problem() })?;
        self.set(name, small);
        Ok(())
    }

    fn common(&mut self) -> Result<(), ConvertError> {
        self.set("block_count", self.config.n_layers as u32);
        for (key, names) in INTS {
            self.int_or_list(key, names)?;
        }
        if self.config.int(INTS[3].1)?.is_some() {
            self.set_int("attention.head_count_kv", self.config.kv_heads()?)?;
        }
        for (key, names) in EPSILONS {
            if let Some(x) = self.config.epsilon(names)? {
                self.set(key, x);
            }
        }
        if let Some(n) = self.config.int(&["head_dim"])? {
            self.set_int("attention.key_length", n)?;
            self.set_int("attention.value_length", n)?;
        }
        if self.config.flag(&["is_causal"])? == Some(false) {
            self.set("attention.causal", false);
        }
        let gating = ["score_function", "scoring_func", "score_func", "moe_router_activation"];
        match self.config.first(&gating).and_then(|(_, value)| value.as_str()) {
            Some("softmax") => self.set("expert_gating_func", 1u32),
            Some("sigmoid") => self.set("expert_gating_func", 2u32),
            Some(other) => {
                let problem = format!("is `{other}`, which is not known");
                return Err(ConvertError::BadEntry { entry: "scoring_func".into(), problem });
            }
            None => {}
        }
        Ok(())
    }

    /// Rotation: its base, and how it is stretched for longer contexts.
    fn rope(&mut self) -> Result<(), ConvertError> {
        let rope = &self.config.rope;
        let ty = rope.get("rope_type").and_then(Value::as_str).unwrap_or("default").to_owned();
        let float = |name: &str| self.config.rope_float(name);
        let factor = float("factor");
        let (mut floats, original) = (Vec::new(), rope.get("original_max_position_embeddings"));
        let original = original.and_then(whole);
        let problem = |problem: &str| ConvertError::BadEntry {
            entry: "rope_scaling".into(),
            problem: problem.to_owned(),
        };
        let scaling = match &*ty {
            "default" | "llama3" | "dynamic" | "xdrope" | "mrope" | "proportional" => None,
            "linear" => {
                let factor = factor.ok_or_else(|| problem("has no `factor`"))?;
                floats.push(("rope.scaling.factor", factor));
                Some("linear")
            }
            "yarn" => {
                let factor = factor.ok_or_else(|| problem("has no `factor`"))?;
                floats.push(("rope.scaling.factor", factor));
                // GGUF has the factor beyond the one that follows from the stretching.
                let usual = 0.1 * factor.ln() + 1.0;
                let attention = float("attention_factor").or_else(|| float("attn_factor"));
                let attention = attention.map(|x| x / usual).filter(|x| (x - 1.0).abs() > 1e-6);
                let optional = [
                    ("rope.scaling.yarn_ext_factor", float("extrapolation_factor")),
                    ("rope.scaling.attn_factor", attention),
                    ("rope.scaling.yarn_beta_fast", float("beta_fast")),
                    ("rope.scaling.yarn_beta_slow", float("beta_slow")),
                ];
                floats.extend(optional.into_iter().filter_map(|(key, x)| Some((key, x?))));
                Some("yarn")
            }
            "su" | "longrope" => Some("longrope"),
            other => return Err(problem(&format!("is of type `{other}`, which is not known"))),
        };
        let mut base = float("rope_theta");
        // HunYuan stretches once and for all.
        if let (Some(alpha), Some(x), "dynamic" | "xdrope") = (float("alpha"), base, &*ty) {
            let d = self.config.head_dim()? as f64;
            base = Some(x * alpha.powf(d / (d - 2.0)));
        }
        let local = self.config.rope_local.get("rope_theta").and_then(Value::as_f64);
        let sections = rope.get("mrope_section").and_then(Value::as_array);
        let sections = sections.map(|s| s.iter().filter_map(Value::as_i64).collect::<Vec<_>>());
        if let Some(name) = scaling {
            self.set("rope.scaling.type", name);
        }
        for (key, x) in floats {
            self.set(key, x as f32);
        }
        if scaling == Some("yarn") {
            let n = original.map_or_else(|| self.config.need(INTS[0].1), Ok)?;
            self.set_int("rope.scaling.original_context_length", n)?;
        }
        if let Some(mut sections) = sections {
            sections.resize(4, 0);
            let sections = sections.into_iter().map(|n| n as i32).collect();
            self.set("rope.dimension_sections", OwnedValue::Array(OwnedArray::I32(sections)));
        }
        if let Some(x) = base {
            self.set("rope.freq_base", x as f32);
        }
        if let Some(x) = local {
            self.set("rope.freq_base_swa", x as f32);
        }
        Ok(())
    }
}

/// Dimensions of a head that are rotated, at most: many times those of any model.
const ROTATED_MAX: u64 = 1 << 16;

/// Dimensions to rotate, if they are no more than [`ROTATED_MAX`]: no list is as long as a file merely
/// says.
fn rotated(dim: u64) -> Result<u64, ConvertError> {
    if dim <= ROTATED_MAX {
        return Ok(dim);
    }
    let problem = format!("gives {dim} dimensions that are rotated, more than {ROTATED_MAX}");
    Err(ConvertError::BadEntry { entry: "rope_scaling".into(), problem })
}

/// Divisors of the pairs' frequencies: as Llama 3 stretches rotation, or where not all pairs
/// turn.
pub(super) fn rope_factors(config: &Config) -> Result<Option<Vec<f32>>, ConvertError> {
    match config.rope.get("rope_type").and_then(Value::as_str) {
        Some("llama3") => {}
        Some("proportional") => return proportional(config).map(Some),
        _ => return Ok(None),
    }
    let float = |name: &str, default: f64| config.rope_float(name).unwrap_or(default);
    let base = float("rope_theta", 10_000.0) as f32;
    let dim = (config.head_dim()? as f64 * float("partial_rotary_factor", 1.0)) as u64;
    let dim = rotated(dim)?;
    let (factor, low) = (float("factor", 8.0), float("low_freq_factor", 1.0));
    let (high, old) =
        (float("high_freq_factor", 4.0), float("original_max_position_embeddings", 8192.0));
    let of_pair = |i: u64| {
        let frequency = 1.0 / base.powf(i as f32 / dim as f32);
        let wave = 2.0 * std::f64::consts::PI / f64::from(frequency);
        if wave < old / high {
            1.0
        } else if wave > old / low {
            factor as f32
        } else {
            let smooth = (old / wave - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        }
    };
    Ok(Some((0..dim).step_by(2).map(of_pair).collect()))
}

/// Divisors of a rotation of whole heads that turns the first share of all pairs only.
fn proportional(config: &Config) -> Result<Vec<f32>, ConvertError> {
    /// What divides a frequency until nothing turns.
    const STILL: f32 = 1e30;
    let dim = config.of_full_layers("global_head_dim", "head_dim")?;
    let dim = rotated(dim.map_or_else(|| config.head_dim(), Ok)?)?;
    let share = config.rope_float("partial_rotary_factor").unwrap_or(1.0);
    let turned = (dim as f64 * share / 2.0) as u64;
    Ok((0..dim / 2).map(|pair| if pair < turned { 1.0 } else { STILL }).collect())
}

/// Factors of LongRoPE for long and for short contexts, and that of cosine and sine.
pub(super) type LongRope = (Vec<f32>, Vec<f32>, Option<f32>);

/// Divisors of frequencies by LongRoPE.
///
/// # Errors
/// The lists are missing or of other lengths than there are pairs.
pub(super) fn long_rope(config: &Config) -> Result<Option<LongRope>, ConvertError> {
    let ty = config.rope.get("rope_type").and_then(Value::as_str);
    if !matches!(ty, Some("su" | "longrope")) {
        return Ok(None);
    }
    let list = |name: &str| -> Result<Vec<f32>, ConvertError> {
        let list = config.rope.get(name).and_then(Value::as_array);
        let numbers: Option<Vec<f32>> =
            list.and_then(|list| list.iter().map(|v| v.as_f64().map(|x| x as f32)).collect());
        let problem = || format!("has no list of numbers `{name}`");
        numbers.ok_or_else(|| ConvertError::BadEntry {
            entry: "rope_scaling".into(),
            problem: problem(),
        })
    };
    let (long, short) = (list("long_factor")?, list("short_factor")?);
    let most = config.need(INTS[0].1)? as f64;
    let original = config.rope_float("original_max_position_embeddings").unwrap_or(most);
    let scale = most / original;
    let own = config.rope_float("attention_factor");
    let computed = match scale > 1.0 {
        true => (1.0 + scale.ln() / original.ln()).sqrt(),
        false => 1.0,
    };
    Ok(Some((long, short, Some(own.unwrap_or(computed) as f32))))
}

/// Defaults of sampling, from `generation_config.json`: key, entries, whether it is a whole number.
const SAMPLING: &[(&str, &[&str], bool)] = &[
    ("top_k", &["top_k"], true),
    ("top_p", &["top_p"], false),
    ("min_p", &["min_p"], false),
    ("xtc_probability", &["xtc_probability"], false),
    ("xtc_threshold", &["xtc_threshold"], false),
    ("temp", &["temperature"], false),
    ("penalty_last_n", &["penalty_last_n"], true),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], false),
    ("mirostat", &["mirostat"], true),
    ("mirostat_tau", &["mirostat_tau"], false),
    ("mirostat_eta", &["mirostat_eta"], false),
];

/// Adds the defaults of sampling that the checkpoint comes with.
///
/// # Errors
/// The file is malformed.
pub(super) fn sampling(keys: &mut Keys, folder: &Path) -> Result<(), ConvertError> {
    let Some(value) = super::files::json(&folder.join("generation_config.json"))? else {
        return Ok(());
    };
    for (key, names, is_whole) in SAMPLING {
        let Some(x) = names.iter().find_map(|name| value.get(*name)?.as_f64()) else { continue };
        let key = format!("general.sampling.{key}");
        match is_whole {
            true => keys.set(key, x as i32),
            false => keys.set(key, x as f32),
        }
    }
    Ok(())
}
