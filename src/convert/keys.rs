//! Metadata of the result: what all architectures have, then what the family's rules say.

use super::ConvertError;
use super::config::{Config, whole};
use crate::model::checkpoint::{Checkpoint, Key};
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

    fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.0 != key);
    }
}

/// Writes keys of one architecture.
struct Writer<'a> {
    keys: &'a mut Keys,
    config: &'a Config,
    arch: &'static str,
    folder: &'a Path,
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
        &["max_position_embeddings", "n_ctx", "n_positions", "max_seq_len", "max_sequence_length"],
    ),
    ("embedding_length", &["hidden_size", "n_embd", "d_model", "model_dim", "dim"]),
    ("feed_forward_length", &["intermediate_size", "n_inner", "ffn_hidden_size", "hidden_dim"]),
    ("attention.head_count", &["num_attention_heads", "n_head", "n_heads", "num_heads"]),
    ("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"]),
    ("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
];
/// Floats likewise.
const FLOATS: &[(&str, &[&str])] = &[
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"]),
    ("attention.layer_norm_epsilon", &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]),
];

impl Writer<'_> {
    fn key(&self, name: &str) -> String {
        let is_whole = name.starts_with("general.") || name.starts_with("tokenizer.");
        if is_whole { name.to_owned() } else { format!("{}.{name}", self.arch) }
    }

    fn set(&mut self, name: &str, value: impl Into<OwnedValue>) {
        let key = self.key(name);
        self.keys.set(key, value);
    }

    fn set_int(&mut self, name: &str, n: u64) -> Result<(), ConvertError> {
        let problem = || format!("is {n}, which no model has");
        let small = u32::try_from(n)
            .map_err(|_| ConvertError::BadEntry { entry: name.into(), problem: problem() })?;
        self.set(name, small);
        Ok(())
    }

    fn common(&mut self) -> Result<(), ConvertError> {
        self.set("block_count", self.config.n_layers as u32);
        for (key, names) in INTS {
            if let Some(n) = self.config.int(names)? {
                self.set_int(key, n)?;
            }
        }
        if self.config.int(INTS[3].1)?.is_some() {
            self.set_int("attention.head_count_kv", self.config.kv_heads()?)?;
        }
        for (key, names) in FLOATS {
            if let Some(x) = self.config.float(names)? {
                self.set(key, x as f32);
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

    fn rule(&mut self, key: &Key) -> Result<(), ConvertError> {
        match *key {
            Key::Int(key, names) => self.int_or_list(key, names)?,
            Key::IntElse(key, names, n) => match self.config.first(names) {
                Some(_) => self.int_or_list(key, names)?,
                None => self.set(key, n),
            },
            Key::Float(key, names) => {
                if let Some(x) = self.config.float(names)? {
                    self.set(key, x as f32);
                }
            }
            Key::FloatElse(key, names, x) => {
                let x = self.config.float(names)?.map_or(x, |x| x as f32);
                self.set(key, x);
            }
            Key::Flag(key, names) => {
                if let Some(on) = self.config.flag(names)? {
                    self.set(key, on);
                }
            }
            Key::FlagElse(key, names, on) => {
                let on = self.config.flag(names)?.unwrap_or(on);
                self.set(key, on);
            }
            Key::IntIs(key, n) => self.set(key, n),
            Key::FloatIs(key, x) => self.set(key, x),
            Key::FlagIs(key, on) => self.set(key, on),
            Key::TextIs(key, text) => self.set(key, text),
            Key::Without(key) => {
                let key = self.key(key);
                self.keys.remove(&key);
            }
            Key::Product(key, a, b) => {
                if let (Some(a), Some(b)) = (self.config.int(a)?, self.config.int(b)?) {
                    self.set_int(key, a.saturating_mul(b))?;
                }
            }
            Key::Sum(key, a, b) => {
                if let (Some(a), Some(b)) = (self.config.int(a)?, self.config.int(b)?) {
                    self.set_int(key, a.saturating_add(b))?;
                }
            }
            Key::FlagWhen(key, entry, text) => {
                let on = self.config.text(entry) == Some(text);
                self.set(key, on);
            }
            Key::RotaryRope(default) => {
                let share = self.config.rope_float("partial_rotary_factor");
                let n = share.unwrap_or(f64::from(default)) * self.config.head_dim()? as f64;
                self.set_int("rope.dimension_count", n as u64)?;
            }
            Key::Quotient(key, a, b) => {
                if let (Some(a), Some(b)) = (self.config.int(a)?, self.config.int(b)?) {
                    self.set_int(key, a / b.max(1))?;
                }
            }
            Key::Times(key, names, n) => {
                if let Some(m) = self.config.int(names)? {
                    self.set_int(key, m.saturating_mul(n.into()))?;
                }
            }
            Key::RotaryShare(names, default) => {
                let own = self.config.float(names)?;
                let share = own.or_else(|| self.config.rope_float("partial_rotary_factor"));
                let n = share.unwrap_or(f64::from(default)) * self.config.head_dim()? as f64;
                self.set_int("rope.dimension_count", n as u64)?;
            }
            Key::Pattern(key, list, text) => {
                if let Some(list) = self.config.list(list) {
                    let flags = list.iter().map(|v| v.as_str() == Some(text)).collect();
                    self.set(key, OwnedValue::Array(OwnedArray::Bool(flags)));
                }
            }
            Key::PatternWhen(entry, key, list, text) => {
                if self.config.get(entry).is_some() {
                    self.rule(&Key::Pattern(key, list, text))?;
                }
            }
            Key::WhereIs(key, names, list, texts) => {
                if let (Some(n), Some(list)) = (self.config.int(names)?, self.config.words(list)) {
                    let each = |word: &String| {
                        if texts.contains(&word.as_str()) { n as u32 } else { 0 }
                    };
                    let each = list.iter().map(each).collect();
                    self.set(key, OwnedValue::Array(OwnedArray::U32(each)));
                }
            }
            Key::EveryNth(key, names, period, offset) => {
                let n = self.config.need(names)? as u32;
                let period = self.config.need(&[period])?.max(1) as usize;
                let offset = self.config.need(&[offset])? as usize;
                let layers = 0..self.config.n_layers;
                let is_one = |i: usize| i >= offset && (i - offset).is_multiple_of(period);
                let each = layers.map(|i| if is_one(i) { n } else { 0 }).collect();
                self.set(key, OwnedValue::Array(OwnedArray::U32(each)));
            }
            Key::IntDefault(key, n) => {
                if self.keys.get(&self.key(key)).is_none() {
                    self.set(key, n);
                }
            }
            Key::FirstInt(key, names) => {
                if let Some((_, value)) = self.config.first(names)
                    && let Some(n) = whole(value.get(0).unwrap_or(value))
                {
                    self.set_int(key, n)?;
                }
            }
            Key::FloatWhen(key, name, flag) => {
                let on = self.config.flag(&[flag])?.unwrap_or(false);
                let x = self.config.float(&[name])?.filter(|_| on).unwrap_or(0.0);
                self.set(key, x as f32);
            }
            Key::Ratio(key, a, b) => {
                if let (Some(a), Some(b)) = (self.config.float(a)?, self.config.float(b)?) {
                    self.set(key, (a / b) as f32);
                }
            }
            Key::OverRootOfLayers(key, names) => {
                if let Some(x) = self.config.float(names)? {
                    self.set(key, (x / (self.config.n_layers as f64).sqrt()) as f32);
                }
            }
            Key::InverseRoot(key, name) => {
                if let Some(x) = self.config.float(&[name])?
                    && x != self.config.head_dim()? as f64
                {
                    self.set(key, (1.0 / x.sqrt()) as f32);
                }
            }
            Key::PositionsBehindPadding(key, name) => {
                let padding = self.config.need(&["pad_token_id"])?;
                if let Some(n) = self.config.int(&[name])? {
                    self.set_int(key, n.saturating_sub(padding + 1))?;
                }
            }
            Key::MustBe(entry, wanted) => {
                if self.config.flag(&[entry])?.unwrap_or(false) != wanted {
                    let problem = format!("is not {wanted}, which is not supported");
                    return Err(ConvertError::BadEntry { entry: entry.into(), problem });
                }
            }
            Key::MustBeWhen(flag, entry, wanted) => {
                if self.config.flag(&[flag])? == Some(true) {
                    self.rule(&Key::MustBe(entry, wanted))?;
                }
            }
            Key::Text(key, name) => {
                if let Some(text) = self.config.text(name).map(str::to_owned) {
                    self.set(key, text);
                }
            }
            Key::IntWhen(key, entry, text, n) => {
                if self.config.text(entry) == Some(text) {
                    self.set(key, n);
                }
            }
            Key::Rope(key, name, factor) => {
                if let Some(x) = self.config.rope_float(name) {
                    self.set(key, (x * f64::from(factor)) as f32);
                }
            }
            Key::AdjustedWidth(names) => self.adjusted_width(names)?,
            Key::Pooling => self.pooling()?,
        }
        Ok(())
    }

    fn int_or_list(&mut self, key: &str, names: &[&str]) -> Result<(), ConvertError> {
        let Some((entry, value)) = self.config.first(names) else { return Ok(()) };
        let Some(list) = value.as_array() else {
            let n = self.config.int(names)?;
            return n.map_or(Ok(()), |n| self.set_int(key, n));
        };
        let problem = || ConvertError::BadEntry {
            entry: entry.into(),
            problem: "is not a list of non-negative integers".into(),
        };
        let small = |v: &Value| whole(v).and_then(|n| u32::try_from(n).ok());
        let list: Option<Vec<u32>> = list.iter().map(small).collect();
        self.set(key, OwnedValue::Array(OwnedArray::U32(list.ok_or_else(problem)?)));
        Ok(())
    }

    fn adjusted_width(&mut self, names: &[&str]) -> Result<(), ConvertError> {
        let mut n = self.config.need(names)?;
        if self.config.flag(&["block_auto_adjust_ff_dim"])? == Some(true) {
            n = 2 * n / 3;
            if let Some(factor) = self.config.float(&["block_ffn_dim_multiplier"])? {
                n = (factor * n as f64) as u64;
            }
            let multiple = self.config.need(&["block_multiple_of"])?.max(1);
            n = n.checked_next_multiple_of(multiple).unwrap_or(u64::MAX);
        }
        self.set_int("feed_forward_length", n)
    }

    /// Sentence-transformers say in `modules.json` where their pooling is described.
    fn pooling(&mut self) -> Result<(), ConvertError> {
        let path = self.folder.join("modules.json");
        let Some(text) = super::files::text(&path)? else { return Ok(()) };
        let modules: Value = serde_json::from_str(&text)
            .map_err(|error| super::files::malformed(&path, error.to_string()))?;
        let is_pooling = |module: &&Value| {
            module.get("type").and_then(Value::as_str).is_some_and(|ty| ty.ends_with("Pooling"))
        };
        let module = modules.as_array().and_then(|list| list.iter().find(is_pooling));
        let Some(folder) = module.and_then(|m| m.get("path")).and_then(Value::as_str) else {
            return Ok(());
        };
        let is_plain = Path::new(folder).components().count() == 1 && !folder.starts_with('.');
        if !is_plain {
            return Err(super::files::malformed(&path, "a pooling outside of this folder"));
        }
        let path = self.folder.join(folder).join("config.json");
        let Some(pooling) = super::files::json(&path)? else { return Ok(()) };
        let modes = [
            ("pooling_mode_mean_tokens", "mean", 1u32),
            ("pooling_mode_cls_token", "cls", 2),
            ("pooling_mode_lasttoken", "lasttoken", 3),
        ];
        let is_on = |flag: &str, name: &str| {
            pooling.get(flag).and_then(Value::as_bool) == Some(true)
                || pooling.get("pooling_mode").and_then(Value::as_str) == Some(name)
        };
        match modes.iter().find(|(flag, name, _)| is_on(flag, name)) {
            Some(&(_, _, n)) => self.set("pooling_type", n),
            None => return Err(super::files::malformed(&path, "a pooling that is not known")),
        }
        Ok(())
    }
}

/// Dimensions of a head that are rotated, at most: many times those of any model.
const ROTATED_MAX: u64 = 1 << 16;

/// Frequencies of rotation as Llama 3 stretches them: what each pair's frequency is divided by.
pub(super) fn rope_factors(config: &Config) -> Result<Option<Vec<f32>>, ConvertError> {
    if config.rope.get("rope_type").and_then(Value::as_str) != Some("llama3") {
        return Ok(None);
    }
    let float = |name: &str, default: f64| config.rope_float(name).unwrap_or(default);
    let (base, dim) = (float("rope_theta", 10_000.0) as f32, config.head_dim()?);
    let share = float("partial_rotary_factor", 1.0);
    let dim = (dim as f64 * share) as u64;
    if dim > ROTATED_MAX {
        let problem = format!("gives {dim} dimensions that are rotated, more than {ROTATED_MAX}");
        return Err(ConvertError::BadEntry { entry: "rope_scaling".into(), problem });
    }
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

/// Factors of LongRoPE for long and for short contexts, and that of cosine and sine.
pub(super) type LongRope = (Vec<f32>, Vec<f32>, Option<f32>);

/// What LongRoPE divides frequencies by.
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
