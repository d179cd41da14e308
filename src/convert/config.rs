//! `config.json` in both of its forms: as transformers wrote it before version 5 and since.
//!
//! Entries of `text_config` (checkpoints that also see or hear) come before those beside it. Rotation
//! is described by `rope_theta` and `rope_scaling` in the old form, by `rope_parameters` in the new
//! one, which may be one for each type of layers.

use super::ConvertError;
use super::files::{json, text};
use super::packed::said;
use crate::model::arch::text_parts;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of the entry with the text part's configuration.
const TEXT_PARTS: &[&str] =
    &["text_config", "llm_config", "language_config", "thinker_config.text_config"];
/// Lists with a word, or a letter, for each layer.
pub const LAYER_LISTS: &[&str] = &["hybrid_override_pattern", "layers_block_type", "layer_types"];
/// Layers that a model may have; as the loader's limit.
const LAYERS_MAX: u64 = 1024;
/// Largest whole number: a hundred times the longest context, and no product of two of them overflows.
const INT_MAX: u64 = 1 << 30;

/// The configuration of a checkpoint.
pub struct Config {
    folder: PathBuf,
    root: Map<String, Value>,
    text: Map<String, Value>,
    /// Class of the checkpoint.
    pub class: String,
    /// Whether that class is the one of a part of the checkpoint.
    pub is_wrapped: bool,
    /// Number of layers.
    pub n_layers: usize,
    /// Rotation of layers that see everything, in the new form.
    pub rope: Map<String, Value>,
    /// Rotation of layers with a window, where it is another.
    pub rope_local: Map<String, Value>,
}

impl Config {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// It is missing or malformed, or lacks what every model has.
    pub fn open(folder: &Path) -> Result<Config, ConvertError> {
        let path = folder.join("config.json");
        let value = json(&path)?;
        let missing = || ConvertError::Malformed { path, problem: "missing".into() };
        let Value::Object(mut root) = value.ok_or_else(missing)? else {
            unreachable!("`json` gives objects only")
        };
        said::find(&mut root, folder)?;
        let mut config = Config::new(root)?;
        config.folder = folder.to_owned();
        Ok(config)
    }

    fn new(root: Map<String, Value>) -> Result<Config, ConvertError> {
        let part = |path: &str| {
            let mut words = path.split('.');
            let first = root.get(words.next()?)?;
            words.try_fold(first, |value, word| value.get(word))?.as_object()
        };
        let text = TEXT_PARTS.iter().find_map(|path| part(path));
        let text = text.cloned().unwrap_or_default();
        let class = root.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
        let class = class.ok_or_else(|| ConvertError::MissingEntry("architectures".into()))?;
        let is_wrapped = text_parts::CLASSES.contains(&class);
        let class = if is_wrapped { text_class(&text, class)? } else { class.to_owned() };
        let (folder, rope, rope_local) = Default::default();
        let mut config =
            Config { folder, root, text, class, is_wrapped, n_layers: 0, rope, rope_local };
        let names =
            ["num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_transformer_layers"];
        let of_list = || config.words(LAYER_LISTS).map(|list| list.len() as u64);
        let n_layers = config.int(&names)?.or_else(of_list).ok_or_else(|| missing(&names))?;
        if !(1..=LAYERS_MAX).contains(&n_layers) {
            let problem = format!("is {n_layers}, not within 1..={LAYERS_MAX}");
            return Err(ConvertError::BadEntry { entry: names[0].into(), problem });
        }
        config.n_layers = n_layers as usize;
        config.read_rope()?;
        Ok(config)
    }

    /// Brings both forms of the description of rotation into the new one.
    fn read_rope(&mut self) -> Result<(), ConvertError> {
        let object = |name: &str| self.get(name).and_then(Value::as_object).cloned();
        let (new, old) = (object("rope_parameters"), object("rope_scaling"));
        if let (Some(new), Some(old)) = (&new, &old) {
            let same = |(key, value): (&String, &Value)| match key.as_str() {
                "type" => new.get("rope_type") == Some(value),
                key => new.get(key) == Some(value),
            };
            if !old.iter().all(same) {
                let problem = "says something else than `rope_parameters`".to_owned();
                return Err(ConvertError::BadEntry { entry: "rope_scaling".into(), problem });
            }
        }
        let all = new.or(old).unwrap_or_default();
        let part = |name: &str| all.get(name).and_then(Value::as_object).cloned();
        let mut rope = part("full_attention").unwrap_or_else(|| match part("sliding_attention") {
            Some(_) => Map::new(),
            None => all.clone(),
        });
        let mut local = part("sliding_attention").unwrap_or_default();
        let fill = |map: &mut Map<String, Value>, key: &str, names: &[&str]| {
            if map.get(key).is_none_or(Value::is_null)
                && let Some(value) = names.iter().find_map(|name| self.get(name))
            {
                map.insert(key.to_owned(), value.clone());
            }
        };
        let global =
            ["global_rope_theta", "rope_theta", "rotary_emb_base", "attn_config.rope_theta"];
        fill(&mut rope, "rope_theta", &global);
        fill(&mut rope, "partial_rotary_factor", &["partial_rotary_factor", "rope_pct"]);
        const ORIGINAL: &str = "original_max_position_embeddings";
        fill(&mut rope, ORIGINAL, &[ORIGINAL]);
        fill(
            &mut local,
            "rope_theta",
            &["rope_local_base_freq", "local_rope_theta", "swa_rope_theta"],
        );
        if !rope.contains_key("rope_type")
            && let Some(ty) = rope.get("type").cloned()
        {
            rope.insert("rope_type".into(), ty);
        }
        (self.rope, self.rope_local) = (rope, local);
        Ok(())
    }

    /// Whether the folder, the name that the checkpoint was saved under, or the title of its README
    /// has this in it, in whatever letters.
    pub fn is_named(&self, name: &str) -> bool {
        let folder = fs::canonicalize(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let folder = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = self.text("_name_or_path").map(str::to_owned);
        let readme = text(&self.folder.join("README.md")).ok().flatten().unwrap_or_default();
        let title = readme.lines().find(|line| line.starts_with("# ")).map(str::to_owned);
        let all = [folder, own, title];
        all.iter().flatten().any(|text| text.to_ascii_lowercase().contains(name))
    }

    /// The id of a token, by `tokenizer.json`.
    ///
    /// # Errors
    /// The file is missing or malformed, or has no such token.
    pub fn token_id(&self, token: &str) -> Result<u32, ConvertError> {
        let tokenizer = json(&self.folder.join("tokenizer.json"))?;
        let vocab = tokenizer.as_ref().and_then(|tokenizer| tokenizer.pointer("/model/vocab"));
        let id = vocab.and_then(|vocab| vocab.get(token)).and_then(Value::as_u64);
        let id = id.and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| ConvertError::Vocabulary(format!("tokenizer.json has no token `{token}`")))
    }

    /// An entry that is not null; a dot leads to an entry, or a place, within one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let mut words = name.split('.');
        let first = words.next()?;
        let value = self.text.get(first).filter(|value| !value.is_null());
        let value = value.or_else(|| self.root.get(first))?;
        let inner = words.try_fold(value, |value, word| match word.parse::<usize>() {
            Ok(place) => value.get(place),
            Err(_) => value.get(word),
        });
        inner.filter(|value| !value.is_null())
    }

    /// The words of a list, or the letters of a string: the first of these entries.
    pub fn words(&self, names: &[&str]) -> Option<Vec<String>> {
        match self.first(names)?.1 {
            Value::String(text) => Some(text.chars().map(String::from).collect()),
            Value::Array(list) => {
                Some(list.iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        }
    }

    /// The first of these entries that is there.
    pub fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Value)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    fn typed<T>(
        &self,
        names: &[&str],
        convert: impl Fn(&Value) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<T>, ConvertError> {
        let Some((entry, value)) = self.first(names) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| ConvertError::BadEntry {
            entry: entry.into(),
            problem: format!("is not {wanted}"),
        })
    }

    /// A non-negative integer, the first of these entries.
    ///
    /// # Errors
    /// It is something else, or larger than in any model.
    pub fn int(&self, names: &[&str]) -> Result<Option<u64>, ConvertError> {
        let n = self.typed(names, whole, "a non-negative integer")?;
        match n.filter(|&n| n > INT_MAX).zip(self.first(names)) {
            Some((n, (entry, _))) => {
                let problem = format!("is {n}, more than {INT_MAX}");
                Err(ConvertError::BadEntry { entry: entry.into(), problem })
            }
            None => Ok(n),
        }
    }

    /// A non-negative integer, the first of these entries, that has to be there.
    ///
    /// # Errors
    /// It is missing or something else.
    pub fn need(&self, names: &[&str]) -> Result<u64, ConvertError> {
        self.int(names)?.ok_or_else(|| missing(names))
    }

    /// A number, the first of these entries.
    ///
    /// # Errors
    /// It is something else.
    pub fn float(&self, names: &[&str]) -> Result<Option<f64>, ConvertError> {
        self.typed(names, Value::as_f64, "a number")
    }

    /// A number that is added before a root is taken, the first of these entries: above 0, in 32
    /// bits, too.
    ///
    /// # Errors
    /// It is something else.
    pub fn epsilon(&self, names: &[&str]) -> Result<Option<f32>, ConvertError> {
        let x = self.typed(names, |value| value.as_f64().map(|x| x as f32), "a number")?;
        match x.filter(|x| !(x.is_finite() && *x > 0.0)).zip(self.first(names)) {
            Some((_, (entry, value))) => {
                let problem = format!("is {value}, not above 0");
                Err(ConvertError::BadEntry { entry: entry.into(), problem })
            }
            None => Ok(x),
        }
    }

    /// A boolean, the first of these entries.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, names: &[&str]) -> Result<Option<bool>, ConvertError> {
        self.typed(names, Value::as_bool, "true or false")
    }

    /// A string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A list.
    pub fn list(&self, name: &str) -> Option<&Vec<Value>> {
        self.get(name)?.as_array()
    }

    /// Width of the residual stream.
    ///
    /// # Errors
    /// It is missing or no integer.
    pub fn width(&self) -> Result<u64, ConvertError> {
        self.need(&["hidden_size", "n_embd", "d_model", "model_dim", "dim"])
    }

    /// Number of attention's heads.
    ///
    /// # Errors
    /// It is missing or no integer.
    pub fn heads(&self) -> Result<u64, ConvertError> {
        self.need(&["num_attention_heads", "n_head", "n_heads", "num_heads"])
    }

    /// Number of heads that keys and values have.
    ///
    /// # Errors
    /// It is no integer.
    pub fn kv_heads(&self) -> Result<u64, ConvertError> {
        // Falcon and StarCoder say so: one head for all queries, but in Falcon's later form.
        let is_one = self.flag(&["multi_query"])? == Some(true);
        if is_one && self.flag(&["new_decoder_architecture"])? != Some(true) {
            return Ok(1);
        }
        let kv = self.int(&["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"])?;
        kv.map_or_else(|| self.heads(), Ok)
    }

    /// Dimensions of a head.
    ///
    /// # Errors
    /// What gives it is missing.
    pub fn head_dim(&self) -> Result<u64, ConvertError> {
        match self.int(&["head_dim", "attention_head_dim", "kv_channels"])? {
            Some(n) => Ok(n),
            None => Ok(self.width()? / self.heads()?.max(1)),
        }
    }

    /// An integer of layers that see everything: an entry of its own, or else one that
    /// `per_layer_config` has for the first of them.
    ///
    /// # Errors
    /// It is no integer.
    pub fn of_full_layers(&self, own: &str, entry: &str) -> Result<Option<u64>, ConvertError> {
        if let Some(n) = self.int(&[own])? {
            return Ok(Some(n));
        }
        let types = self.list("layer_types").map_or(&[][..], Vec::as_slice);
        let Some(layer) = types.iter().position(|ty| ty.as_str() == Some("full_attention")) else {
            return Ok(None);
        };
        let Some(layers) = self.get("per_layer_config") else { return Ok(None) };
        let value = layers.get(layer.to_string()).and_then(|layer| layer.get(entry));
        Ok(value.and_then(whole))
    }

    /// Whether a layer is the last of a group of as many as an entry says, or behind the last whole one.
    ///
    /// # Errors
    /// The entry is missing or no integer.
    pub fn ends_group(&self, layer: usize, entry: &str) -> Result<bool, ConvertError> {
        let size = self.need(&[entry])?.max(1) as usize;
        Ok((layer + 1).is_multiple_of(size) || layer >= self.n_layers / size * size)
    }

    /// A number of the description of rotation.
    pub fn rope_float(&self, name: &str) -> Option<f64> {
        self.rope.get(name).and_then(Value::as_f64)
    }
}

/// The class of the text part of a checkpoint that is more.
fn text_class(text: &Map<String, Value>, class: &str) -> Result<String, ConvertError> {
    let own = text.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let ty = text.get("model_type").and_then(Value::as_str);
    let of_type = text_parts::TYPES.iter().find(|row| Some(row.0) == ty).map(|row| row.1);
    own.or(of_type).map(str::to_owned).ok_or_else(|| match ty {
        Some(ty) => ConvertError::UnknownClass(format!("{class} with text of type {ty}")),
        None => ConvertError::MissingEntry("text_config.model_type".into()),
    })
}

fn missing(names: &[&str]) -> ConvertError {
    ConvertError::MissingEntry(names.first().copied().unwrap_or_default().to_owned())
}

/// An integer, which some files write as a float.
pub fn whole(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..9e15).contains(x));
    value.as_u64().or_else(|| float().map(|x| x as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> Result<Config, ConvertError> {
        Config::new(value.as_object().expect("an object").clone())
    }

    #[test]
    fn both_forms_of_rotation_read_alike() {
        let base = json!({"architectures": ["A"], "num_hidden_layers": 2});
        let with = |more: Value| {
            let mut all = base.as_object().expect("an object").clone();
            all.extend(more.as_object().expect("an object").clone());
            config(Value::Object(all)).expect("it reads")
        };
        let old = with(json!({"rope_theta": 5.0, "rope_scaling": {"type": "yarn", "factor": 4.0}}));
        let new = with(json!({
            "rope_parameters": {"rope_theta": 5.0, "rope_type": "yarn", "factor": 4.0}
        }));
        for key in ["rope_theta", "rope_type", "factor"] {
            assert_eq!(old.rope.get(key), new.rope.get(key), "{key}");
        }
        let old = with(json!({"rope_theta": 5.0, "rope_local_base_freq": 7.0}));
        let new = with(json!({"rope_parameters": {
            "full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 7.0}}}));
        assert_eq!(old.rope, new.rope);
        assert_eq!(old.rope_local, new.rope_local);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = |value| config(value).err().expect("an error").to_string();
        assert!(error(json!({"num_hidden_layers": 2})).contains("architectures"));
        let base = json!({"architectures": ["A"], "num_hidden_layers": "x"});
        assert!(error(base).contains("`num_hidden_layers` is not a non-negative integer"));
        assert!(error(json!({"architectures": ["A"], "n_layer": 5000})).contains("1..=1024"));
        let both = |new: &str, old: &str| {
            config(
                json!({"architectures": ["A"], "n_layer": 1, "rope_parameters": {"rope_type": new},
                "rope_scaling": {"type": old}}),
            )
        };
        assert!(both("yarn", "yarn").is_ok());
        let error_of =
            |result: Result<Config, ConvertError>| result.err().expect("an error").to_string();
        let error = error_of(both("default", "yarn"));
        assert!(error.contains("`rope_scaling` says something else"), "{error}");
        for bad in [json!(0), json!(-1e-5), json!(1e-60), json!("x")] {
            let all = json!({"architectures": ["A"], "n_layer": 1, "norm_eps": bad});
            let error = config(all).expect("it reads").epsilon(&["a", "norm_eps"]).unwrap_err();
            assert!(error.to_string().contains("`norm_eps` is "), "{error}");
        }
        let huge = json!({"architectures": ["A"], "n_layer": 1, "n_head": 1_u64 << 40});
        let error = config(huge).expect("it reads").heads().unwrap_err().to_string();
        assert!(error.contains("`n_head` is 1099511627776, more than"), "{error}");
    }
}
