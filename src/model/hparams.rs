//! Typed access to the metadata of an architecture, which remembers what was read: a key that
//! nobody asked for may change the mathematics, and then loading fails.

use super::harmless;
use super::{ModelError, ModelSpec, Pooling};
use gguf_rs_lite::{GgufFile, Value};
use std::cell::RefCell;
use std::collections::HashSet;

/// Layers that a model may have; more than any model has.
const LAYERS_MAX: usize = 1024;
/// Length of a dimension; ten times what any model has. The decoder asserts that buffers can have
/// rows of the product of two.
pub(crate) const LENGTH_MAX: usize = 1 << 19;

/// The keys `<architecture>.*` of a file.
pub struct Hparams<'a> {
    file: &'a GgufFile,
    arch: &'a str,
    asked: RefCell<HashSet<String>>,
    hidden: RefCell<HashSet<String>>,
    /// Keys that [`Hparams::finish`] did not know.
    unknown: RefCell<Vec<String>>,
    /// Number of layers.
    pub n_layers: usize,
    /// Layers behind them that predict further tokens (multi-token prediction, arXiv:2404.19737).
    pub n_draft_layers: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Context in tokens that the model was trained for.
    pub n_ctx_train: usize,
}

impl<'a> Hparams<'a> {
    /// Reads the architecture and the sizes that every model has.
    ///
    /// # Errors
    /// The architecture or a size is missing, of a wrong type or out of range; or the file is an
    /// adapter.
    pub fn new(file: &'a GgufFile) -> Result<Hparams<'a>, ModelError> {
        const KEY: &str = "general.architecture";
        let arch = file.get(KEY).ok_or_else(|| ModelError::MissingKey(KEY.into()))?;
        let arch = arch.as_str().ok_or_else(|| ModelError::bad_key(KEY, "is not a string"))?;
        const TYPE: &str = "general.type";
        if file.get(TYPE).and_then(|value| value.as_str()) == Some("adapter") {
            return Err(ModelError::IsAdapter);
        }
        let (asked, hidden, unknown) = Default::default();
        let mut h = Hparams {
            file,
            arch,
            asked,
            hidden,
            unknown,
            n_layers: 0,
            n_draft_layers: 0,
            n_embd: 0,
            n_ctx_train: 0,
        };
        h.n_layers = h.length("block_count")?;
        if h.n_layers > LAYERS_MAX {
            return Err(ModelError::bad_key(
                h.key("block_count"),
                format!("is {}, more than {LAYERS_MAX}", h.n_layers),
            ));
        }
        h.n_draft_layers = h.u64("nextn_predict_layers")?.unwrap_or(0) as usize;
        if h.n_draft_layers >= h.n_layers {
            return Err(h.bad("nextn_predict_layers", "leaves no layer"));
        }
        h.n_layers -= h.n_draft_layers;
        h.n_embd = h.length("embedding_length")?;
        h.n_ctx_train = match h.u64("context_length")? {
            Some(0) => return Err(h.bad("context_length", "is 0: no token has a place")),
            n_ctx => n_ctx.unwrap_or(2048).min(u64::from(u32::MAX)) as usize,
        };
        Ok(h)
    }

    /// The architecture's name in the file.
    pub fn arch(&self) -> &'a str {
        self.arch
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn get(&self, name: &str) -> Option<Value<'a>> {
        let key = self.key(name);
        let value = self.file.get(&key).filter(|_| !self.hidden.borrow().contains(&key));
        self.asked.borrow_mut().insert(key);
        value
    }

    /// Hides a key, as if the file did not have it, which says nothing in this architecture.
    pub fn hide(&self, name: &str) {
        let key = self.key(name);
        self.hidden.borrow_mut().insert(key.clone());
        self.asked.borrow_mut().insert(key);
    }

    fn typed<T>(
        &self,
        name: &str,
        convert: impl Fn(&Value<'a>) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let problem = || format!("is {}, not {wanted}", value.type_name());
        convert(&value).map(Some).ok_or_else(|| ModelError::bad_key(self.key(name), problem()))
    }

    /// A non-negative integer, if the key is there.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn u64(&self, name: &str) -> Result<Option<u64>, ModelError> {
        self.typed(name, Value::as_u64, "a non-negative integer")
    }

    /// A finite float, if the key is there.
    ///
    /// # Errors
    /// The value is of another type, infinite or NaN.
    pub fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let value = self.typed(name, Value::as_f32, "a float")?;
        match value {
            Some(x) if !x.is_finite() => {
                Err(ModelError::bad_key(self.key(name), format!("is {x}, not a finite number")))
            }
            value => Ok(value),
        }
    }

    /// A string, if the key is there.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(name, Value::as_str, "a string")
    }

    /// A boolean, if the key is there.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        self.typed(name, Value::as_bool, "a boolean")
    }

    /// A required length: at least 1 and within reason.
    ///
    /// # Errors
    /// The key is missing, of another type or out of range.
    pub fn length(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_length(name)?.ok_or_else(|| self.missing(name))
    }

    /// A length, if the key is there.
    ///
    /// # Errors
    /// The value is of another type or out of range.
    pub fn optional_length(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.u64(name)?.map(|n| self.check_length(name, n)).transpose()
    }

    fn check_length(&self, name: &str, n: u64) -> Result<usize, ModelError> {
        match usize::try_from(n) {
            Ok(n) if (1..=LENGTH_MAX).contains(&n) => Ok(n),
            _ => Err(ModelError::bad_key(
                self.key(name),
                format!("is {n}, not within 1..={LENGTH_MAX}"),
            )),
        }
    }

    /// Whether the file has a tensor of this name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// Whether a norm of the stream has a bias, as only layer norms do.
    pub fn has_norm_bias(&self) -> bool {
        let names = ["output_norm", "token_embd_norm", "blk.0.attn_norm", "blk.0.attn_output_norm"];
        names.iter().any(|name| self.has_tensor(&format!("{name}.bias")))
    }

    /// Rows of a matrix of this name, if the file has it.
    pub fn tensor_rows(&self, name: &str) -> Option<u64> {
        self.file.tensor(name).map(|info| info.dims.get(1).copied().unwrap_or(1))
    }

    /// Hidden width of a layer's shared expert as its tensor has it: what the metadata says about
    /// it has changed its meaning from one architecture to the next.
    pub fn shared_width(&self, layer: usize) -> Option<usize> {
        let rows = self.tensor_rows(&format!("blk.{layer}.ffn_up_shexp.weight"));
        rows.and_then(|rows| usize::try_from(rows).ok())
    }

    /// Reads the sections of multi-dimensional rotation: text has the same position in all, so they
    /// say no more than that the pairs are of distant dimensions.
    pub fn rope_sections(&self) -> bool {
        let sections = self.get("rope.dimension_sections").and_then(|value| value.as_array());
        let sections = sections.and_then(|array| array.to_i64s());
        sections.is_some_and(|sections| sections.iter().any(|&n| n != 0))
    }

    /// A number for each layer: one for all, or an array.
    ///
    /// # Errors
    /// The value is neither, has too few elements, or one that is not finite.
    pub fn f32s(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Some(array) = value.as_array() else {
            return Ok(self.f32(name)?.map(|x| vec![x; self.n_layers]));
        };
        let numbers = array.to_f32s().filter(|v| v.len() >= self.n_layers);
        let numbers = numbers.filter(|v| v.iter().all(|x| x.is_finite()));
        let problem = || self.bad(name, "is not an array of a number for each layer");
        numbers.ok_or_else(problem).map(Some)
    }

    /// Pooling of a text's embeddings, if the file says.
    ///
    /// # Errors
    /// The number names no pooling.
    pub fn pooling(&self) -> Result<Option<Pooling>, ModelError> {
        const KEY: &str = "pooling_type";
        match self.u64(KEY)? {
            None => Ok(None),
            Some(0) => Ok(Some(Pooling::None)),
            Some(1) => Ok(Some(Pooling::Mean)),
            Some(2) => Ok(Some(Pooling::Cls)),
            Some(3) => Ok(Some(Pooling::Last)),
            Some(4) => Ok(Some(Pooling::Rank)),
            Some(n) => Err(self.bad(KEY, format!("is {n}, not within 0..=4"))),
        }
    }

    /// A number for each layer from a key that does not begin with the architecture's name: one for
    /// all, or an array.
    ///
    /// # Errors
    /// The key is missing, or its value is no such thing.
    pub fn global_f32s(&self, key: &str) -> Result<Vec<f32>, ModelError> {
        let value = self.file.get(key).ok_or_else(|| ModelError::MissingKey(key.into()))?;
        let numbers = match value.as_array() {
            Some(array) => array.to_f32s().filter(|v| v.len() >= self.n_layers),
            None => value.as_f32().map(|x| vec![x; self.n_layers]),
        };
        let numbers = numbers.filter(|v| v.iter().all(|x| x.is_finite()));
        let problem = || ModelError::bad_key(key, "is not a number for each layer");
        numbers.ok_or_else(problem)
    }

    /// A length or 0 for each layer: one number for all, or an array.
    ///
    /// # Errors
    /// The value is neither, has too few elements, or one out of range.
    pub fn counts(&self, name: &str) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let check = |n: u64| if n == 0 { Ok(0) } else { self.check_length(name, n) };
        let Some(array) = value.as_array() else {
            return Ok(self.u64(name)?.map(check).transpose()?.map(|n| vec![n; self.n_layers]));
        };
        let problem = |text: &str| ModelError::bad_key(self.key(name), text);
        if array.len() < self.n_layers {
            return Err(problem("has fewer elements than there are layers"));
        }
        let lengths = array.to_u64s().ok_or_else(|| problem("is not an array of integers"))?;
        let lengths = lengths.into_iter().take(self.n_layers);
        lengths.map(check).collect::<Result<_, _>>().map(Some)
    }

    /// Layers that a pattern marks: an array of flags, or a period `n` that leaves every `n`-th
    /// layer unmarked.
    ///
    /// # Errors
    /// The value is neither, or has fewer flags than there are layers.
    pub fn pattern(&self, name: &str, period: u64) -> Result<Vec<bool>, ModelError> {
        self.pattern_of(name, period, |i, period| i % period + 1 < period)
    }

    /// Layers that a pattern marks: an array of flags, or a period `n` that leaves the first of
    /// every `n` layers unmarked.
    ///
    /// # Errors
    /// The value is neither, or has fewer flags than there are layers.
    pub fn pattern_from(&self, name: &str, period: u64) -> Result<Vec<bool>, ModelError> {
        self.pattern_of(name, period, |i, period| i % period != 0)
    }

    /// Whether the key has an array of a flag for each layer.
    pub fn has_pattern(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.as_array().is_some())
    }

    fn pattern_of(
        &self,
        name: &str,
        period: u64,
        marks: impl Fn(u64, u64) -> bool,
    ) -> Result<Vec<bool>, ModelError> {
        let array = self.get(name).and_then(|value| value.as_array());
        if let Some(array) = array {
            let ints = || array.to_i64s().map(|v| v.into_iter().map(|x| x != 0).collect());
            let flags: Option<Vec<bool>> = array.to_bools().or_else(ints);
            let flags = flags.filter(|flags| flags.len() >= self.n_layers);
            return flags.ok_or_else(|| {
                ModelError::bad_key(self.key(name), "is not an array of a flag for each layer")
            });
        }
        let period = self.u64(name)?.unwrap_or(period);
        Ok((0..self.n_layers as u64).map(|i| period == 0 || marks(i, period)).collect())
    }

    /// An error about one of the keys.
    pub fn bad(&self, name: &str, problem: impl Into<String>) -> ModelError {
        ModelError::bad_key(self.key(name), problem)
    }

    /// The error of a key that has to be there.
    pub fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingKey(self.key(name))
    }

    /// Keys of the architecture that may change the mathematics and that nobody asked for, as
    /// [`Hparams::finish`] found them.
    pub fn unknown_keys(&self) -> Vec<String> {
        self.unknown.borrow().clone()
    }

    /// Looks at the keys of the architecture that the description, which gave `spec`, did not read.
    ///
    /// # Errors
    /// One of them may change the mathematics: it is not known to be harmless (`harmless.rs`), and
    /// `spec` does not say the same.
    pub fn finish(&self, spec: &ModelSpec) -> Result<(), ModelError> {
        let prefix = self.key("");
        let asked = self.asked.borrow();
        let unknown = self.file.entries().filter(|(key, value)| {
            let Some(name) = key.strip_prefix(&prefix) else { return false };
            !asked.contains(*key) && !harmless::is_harmless(name, value, spec)
        });
        let unknown: Vec<String> = unknown.map(|(key, _)| key.to_string()).collect();
        let first = unknown.first().cloned();
        *self.unknown.borrow_mut() = unknown;
        first.map_or(Ok(()), |key| Err(ModelError::UnknownKey(key)))
    }
}
