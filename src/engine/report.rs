//! A file as data: what it holds, which model it describes, what that needs to run, and what is in
//! the way. `inspect`, a server's properties and bindings show it; nothing here prints.
//!
//! A report is made of any readable GGUF file: what cannot run is no error but a [`Problem`]. The
//! weights are bound and not read, so it costs milliseconds whatever the size of the file.

use super::{BATCH_DEFAULT, N_CTX_DEFAULT};
use crate::backend::available_bytes;
use crate::backend::pages::KvType;
use crate::backend::program::Program;
use crate::decoder::lower;
use crate::model::describe::{self, bytes};
use crate::model::{
    Adapter, Hparams, LayerSpec, ModelError, ModelSpec, UnusedPart, arch, plain_number,
    unused_parts,
};
use crate::tensor::memory;
use crate::text::{TextError, Tokenizer};
use gguf_rs_lite::{GgmlType, GgufFile};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use teff_kernels::{KernelTable, Level};

/// Choices that a report depends on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReportOptions {
    /// Tokens in the context; `None`: the model's, at most [`N_CTX_DEFAULT`], as far as the memory
    /// goes.
    pub n_ctx: Option<usize>,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Kernels that the model would run with.
    pub kernels: &'static KernelTable,
}

impl Default for ReportOptions {
    fn default() -> ReportOptions {
        ReportOptions { n_ctx: None, kv_type: KvType::F16, kernels: KernelTable::detect() }
    }
}

/// Tensors of one type.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TypeUse {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub weights: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Kernels that the type is computed with.
    pub kernel: TypeKernel,
}

/// Kernels that tensors of a type are computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TypeKernel {
    /// Kernels of this instruction set.
    Level(Level),
    /// Elements are plain numbers, which are converted to F32 at load.
    Converted,
    /// No kernel.
    #[default]
    None,
}

/// Bytes that a model takes while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Tokens in the context.
    pub n_ctx: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Weights in the file.
    pub file_weights: u64,
    /// Weights while the model decodes, repacked: codebook types grow.
    pub weights: u64,
    /// Keys, values and recurrent states of a whole context, for each of [`KvType::ALL`].
    pub kv: [(KvType, u64); KvType::ALL.len()],
    /// Whether recurrent states, which are f32, are part of `kv`.
    pub has_states: bool,
    /// Buffers of a step.
    pub activations: u64,
}

impl MemoryUse {
    /// Keys, values and states in [`MemoryUse::kv_type`].
    pub fn kv_bytes(&self) -> u64 {
        self.kv.iter().find(|(kind, _)| *kind == self.kv_type).map_or(0, |(_, bytes)| *bytes)
    }

    /// Sum of weights, keys and values, and activations.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_bytes() + self.activations
    }
}

/// Keys and values of a context for which the memory has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextMemory {
    /// Tokens in the context.
    pub n_ctx: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Bytes of keys, values and states.
    pub needed: u64,
    /// Bytes that are available.
    pub available: u64,
}

impl ContextMemory {
    /// The shortage if a context of `n_ctx` tokens does not fit the memory that is available now;
    /// `None` too where the system does not tell that.
    pub fn shortage(spec: &ModelSpec, n_ctx: usize, kv_type: KvType) -> Option<ContextMemory> {
        let (needed, available) = (kv_bytes(spec, kv_type, n_ctx), available_bytes()? as u64);
        (needed > available).then_some(ContextMemory { n_ctx, kv_type, needed, available })
    }
}

impl fmt::Display for ContextMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContextMemory { n_ctx, kv_type, needed, available } = *self;
        write!(
            f,
            "the keys and values of a context of {n_ctx} tokens would take {} in {kv_type}, and {} \
             of memory are available",
            bytes(needed),
            bytes(available)
        )
    }
}

impl std::error::Error for ContextMemory {}

/// A vocabulary with more tokens than the model has embeddings for. Fewer are padding, no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabularyMismatch {
    /// Tokens in the vocabulary.
    pub n_tokens: u64,
    /// Rows of the embedding.
    pub n_rows: u64,
}

impl VocabularyMismatch {
    /// The mismatch of a file and its vocabulary, if there is one.
    pub fn find(file: &GgufFile, tokenizer: &Tokenizer) -> Option<VocabularyMismatch> {
        let n_tokens = tokenizer.vocab_size() as u64;
        let n_rows = file.tensor("token_embd.weight")?.dims.get(1).copied()?;
        (n_tokens > n_rows).then_some(VocabularyMismatch { n_tokens, n_rows })
    }
}

impl fmt::Display for VocabularyMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VocabularyMismatch { n_tokens, n_rows } = self;
        write!(
            f,
            "key `tokenizer.ggml.tokens` has {n_tokens} tokens, and the model has embeddings for \
             {n_rows} (tensor `token_embd.weight`)"
        )
    }
}

impl std::error::Error for VocabularyMismatch {}

/// A reason why a file does not run, or not as it should. Each names the key, tensor or type.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The file's bytes.
    File(gguf_rs_lite::Error),
    /// The description, or the tensors that it needs.
    Model(ModelError),
    /// Tensors of a type without a kernel.
    Type {
        /// The type.
        ty: GgmlType,
        /// Number of tensors.
        n_tensors: usize,
    },
    /// A context that was asked for and does not fit the memory.
    Context(ContextMemory),
    /// The vocabulary or the chat template.
    Text(TextError),
    /// A vocabulary that is not the model's.
    Vocabulary(VocabularyMismatch),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::File(error) => error.fmt(f),
            Problem::Model(error) => error.fmt(f),
            Problem::Type { ty, n_tensors } => {
                write!(f, "type {ty} of {n_tensors} tensors cannot be computed with")
            }
            Problem::Context(shortage) => shortage.fmt(f),
            Problem::Text(error) => error.fmt(f),
            Problem::Vocabulary(mismatch) => mismatch.fmt(f),
        }
    }
}

impl std::error::Error for Problem {}

impl From<ModelError> for Problem {
    fn from(error: ModelError) -> Problem {
        Problem::Model(error)
    }
}

impl From<TextError> for Problem {
    fn from(error: TextError) -> Problem {
        Problem::Text(error)
    }
}

/// Everything known of a file.
///
/// ```no_run
/// use std::path::Path;
/// use teff::engine::report::{Report, ReportOptions};
///
/// let report = Report::open(Path::new("model.gguf"), &ReportOptions::default())?;
/// println!("{}", report.architecture_lines().join("\n"));
/// if let Some(memory) = &report.memory {
///     println!("{} bytes for a context of {} tokens", memory.total(), memory.n_ctx);
/// }
/// for problem in &report.problems {
///     println!("it does not run: {problem}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Report {
    /// The file: metadata and tensors.
    pub file: Arc<GgufFile>,
    /// Tensors by type.
    pub types: BTreeMap<GgmlType, TypeUse>,
    /// Parts of the model that are not run.
    pub unused: Vec<UnusedPart>,
    /// Sizes that every architecture names, in words; known without a description too.
    pub sizes: Option<String>,
    /// The description, if the architecture is known.
    pub spec: Option<ModelSpec>,
    /// The vocabulary, if it can be used.
    pub tokenizer: Option<Tokenizer>,
    /// The adapter, if the file is one.
    pub adapter: Option<Adapter>,
    /// Memory that the model takes, if it has a description.
    pub memory: Option<MemoryUse>,
    /// Reasons why the file does not run, or not as it should.
    pub problems: Vec<Problem>,
}

impl Report {
    /// The report of the file at a path.
    ///
    /// # Errors
    /// The file cannot be read, or is no GGUF file.
    pub fn open(path: &Path, options: &ReportOptions) -> Result<Report, gguf_rs_lite::Error> {
        Ok(Report::new(GgufFile::open(path)?, options))
    }

    /// The report of a file, whose tensors are made little-endian.
    pub fn new(mut file: GgufFile, options: &ReportOptions) -> Report {
        let types = types_of(&file, options.kernels);
        let mut problems = Vec::new();
        problems.extend(memory::ask(|| file.make_little_endian()).err().map(Problem::File));
        let mut report = Report {
            unused: unused_parts(&file),
            file: Arc::new(file),
            types,
            sizes: None,
            spec: None,
            tokenizer: None,
            adapter: None,
            memory: None,
            problems,
        };
        match report.text("general.type") {
            Some("adapter") => report.read_adapter(),
            _ => {
                report.read_description();
                report.bind(options);
                report.read_vocabulary();
            }
        }
        report
    }

    /// Number of elements in all tensors.
    pub fn n_weights(&self) -> u64 {
        self.types.values().map(|of_type| of_type.weights).sum()
    }

    /// Bytes of all tensors in the file.
    pub fn tensor_bytes(&self) -> u64 {
        self.types.values().map(|of_type| of_type.bytes).sum()
    }

    /// Average of the bits that a weight takes in the file.
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / self.n_weights().max(1) as f64
    }

    /// A line for each thing to know of the architecture, in words.
    pub fn architecture_lines(&self) -> Vec<String> {
        let architecture = self.text("general.architecture").unwrap_or("unknown");
        if let Some(adapter) = &self.adapter {
            let tensors = describe::counted(adapter.targets().count(), "tensor");
            return vec![format!("LoRA adapter of {tensors} for {architecture} models")];
        }
        let mut lines = vec![architecture.to_string()];
        match &self.spec {
            Some(spec) => lines.extend(describe::lines(spec)),
            None => lines.extend(self.sizes.clone()),
        }
        lines
    }

    /// A line for each thing to know of the vocabulary, in words.
    pub fn tokenizer_lines(&self) -> Vec<String> {
        let Some(tokenizer) = &self.tokenizer else {
            let kind = self.text("tokenizer.ggml.model");
            return vec![kind.map_or("none".into(), |kind| format!("of kind `{kind}`"))];
        };
        let pre = self.text("tokenizer.ggml.pre").filter(|_| tokenizer.pre_tokenizes());
        let pre = pre.map_or(String::new(), |pre| format!(", pre-tokenizer {pre}"));
        let mut lines =
            vec![format!("{}{pre}, {} tokens", tokenizer.kind(), tokenizer.vocab_size())];
        let named = |id: u32| format!("{id} {:?}", tokenizer.token_str(id).unwrap_or_default());
        let mut special = |what: &str, id: Option<u32>, added: bool| {
            let added = if added { ", added to texts" } else { "" };
            lines.extend(id.map(|id| format!("{what} {}{added}", named(id))));
        };
        special("begins with", tokenizer.bos(), tokenizer.adds_bos());
        special("ends with", tokenizer.eos(), tokenizer.adds_eos());
        let ends: Vec<_> = tokenizer.end_of_generation().iter().map(|&id| named(id)).collect();
        if !ends.is_empty() {
            lines.push(format!("answers end with {}", ends.join(", ")));
        }
        lines.push(match tokenizer.chat_template() {
            Some(template) => format!("chat template of {} characters", template.chars().count()),
            None => "no chat template".into(),
        });
        lines.extend(tokenizer.warnings().iter().map(|warning| format!("warning: {warning}")));
        lines
    }

    /// The text that a metadata key has.
    fn text(&self, key: &str) -> Option<&str> {
        self.file.get(key).and_then(|value| value.as_str())
    }

    /// The value, or `None` and one problem more.
    fn keep<T>(&mut self, result: Result<T, impl Into<Problem>>) -> Option<T> {
        result.map_err(|error| self.problems.push(error.into())).ok()
    }

    fn read_adapter(&mut self) {
        let architecture = self.text("general.architecture").unwrap_or_default().to_string();
        let adapter = Adapter::new(self.file.clone(), &architecture, 1.0);
        self.adapter = self.keep(adapter);
    }

    fn read_description(&mut self) {
        let file = self.file.clone();
        if let Some(h) = self.keep(Hparams::new(&file)) {
            self.sizes = Some(describe::sizes(h.n_layers, h.n_embd, h.n_ctx_train));
            match arch::spec(&h) {
                // All of them, not just the first.
                Err(ModelError::UnknownKey(_)) => {
                    let keys = h.unknown_keys().into_iter();
                    self.problems.extend(keys.map(|key| ModelError::UnknownKey(key).into()));
                }
                spec => self.spec = self.keep(spec),
            }
        }
        let without_kernel = |(ty, of_type): (&GgmlType, &TypeUse)| {
            let problem = Problem::Type { ty: *ty, n_tensors: of_type.tensors };
            (of_type.kernel == TypeKernel::None).then_some(problem)
        };
        self.problems.extend(self.types.iter().filter_map(without_kernel));
    }

    /// Lowers the description, for the problems that only that finds and the size of buffers.
    fn bind(&mut self, options: &ReportOptions) {
        let Some(spec) = &self.spec else { return };
        let n_ctx = options.n_ctx.unwrap_or(spec.n_ctx_train.min(N_CTX_DEFAULT));
        let program = lower(&self.file, spec, options.kernels, n_ctx);
        let memory = MemoryUse {
            n_ctx,
            kv_type: options.kv_type,
            file_weights: self.tensor_bytes(),
            weights: repacked_bytes(&self.types, options.kernels),
            kv: KvType::ALL.map(|kind| (kind, kv_bytes(spec, kind, n_ctx))),
            has_states: spec.layers.iter().any(|layer| layer.mixer.state_len(spec.n_embd) > 0),
            activations: program.as_ref().map_or(0, |program| scratch_bytes(program, n_ctx)),
        };
        // The default context is computed with as far as the memory goes.
        if options.n_ctx.is_some() {
            let shortage = ContextMemory::shortage(spec, n_ctx, options.kv_type);
            self.problems.extend(shortage.map(Problem::Context));
        }
        self.memory = Some(memory);
        // Types were told already.
        if !matches!(program, Err(ModelError::TensorType { .. })) {
            self.keep(program);
        }
    }

    fn read_vocabulary(&mut self) {
        self.tokenizer = self.keep(Tokenizer::from_gguf(&self.file));
        let Some(tokenizer) = &self.tokenizer else { return };
        let mismatch = VocabularyMismatch::find(&self.file, tokenizer);
        self.problems.extend(mismatch.map(Problem::Vocabulary));
        #[cfg(feature = "chat-template")]
        if let Some(source) = tokenizer.chat_template() {
            let error = crate::text::ChatTemplate::new(source).err();
            self.problems.extend(error.map(Problem::Text));
        }
    }
}

fn types_of(file: &GgufFile, kernels: &KernelTable) -> BTreeMap<GgmlType, TypeUse> {
    let mut types: BTreeMap<GgmlType, TypeUse> = BTreeMap::new();
    for tensor in file.tensors() {
        let of_type = types.entry(tensor.ty).or_default();
        of_type.tensors += 1;
        of_type.weights += tensor.dims.iter().product::<u64>();
        of_type.bytes += tensor.bytes;
    }
    for (ty, of_type) in &mut types {
        of_type.kernel = match kernels.types(*ty) {
            Some(kernels) => TypeKernel::Level(kernels.level),
            None if plain_number(*ty).is_some() => TypeKernel::Converted,
            None => TypeKernel::None,
        };
    }
    types
}

/// Bytes of the weights once a model decodes: repacking makes codebook types larger.
fn repacked_bytes(types: &BTreeMap<GgmlType, TypeUse>, kernels: &KernelTable) -> u64 {
    let of_type = |(ty, of_type): (&GgmlType, &TypeUse)| {
        let bytes = of_type.bytes;
        let kernels = kernels.types(*ty).filter(|kernels| kernels.lanes().is_some());
        kernels.map_or(bytes, |k| k.interleaved_row_bytes(bytes as usize) as u64)
    };
    types.iter().map(of_type).sum()
}

/// Bytes of the buffers of a step.
fn scratch_bytes(program: &Program, n_ctx: usize) -> u64 {
    let [batch, n_outputs] = step_sizes(program, n_ctx);
    let outputs = program.n_out * n_outputs * size_of::<f32>();
    (program.bytes_per_token() * batch + outputs) as u64
}

/// Tokens and rows of results in a step.
pub(super) fn step_sizes(program: &Program, n_ctx: usize) -> [usize; 2] {
    let batch = if program.bidirectional { n_ctx } else { BATCH_DEFAULT.min(n_ctx) };
    [batch, if program.gives_logits() { 1 } else { batch }]
}

/// Bytes of keys and values for a context of `n_ctx` tokens, and of the states beside them.
pub fn kv_bytes(spec: &ModelSpec, kv_type: KvType, n_ctx: usize) -> u64 {
    let layer = |layer: &LayerSpec| {
        let of_tokens = layer.mixer.cached().map_or(0, |cached| {
            let tokens = cached.window.map_or(n_ctx, |window| window.min(n_ctx)) as u64;
            tokens * kv_type.token_bytes(cached.n_kv_heads, cached.k_dim, cached.v_dim) as u64
        });
        of_tokens + (layer.mixer.state_len(spec.n_embd) * size_of::<f32>()) as u64
    };
    spec.layers.iter().map(layer).sum()
}
