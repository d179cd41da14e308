//! `teff inspect`: what a file holds, what it is in words, and what it needs to run.

use super::CliError;
use super::options::{ContextArgs, ModelArgs, context_problem, vocabulary_problem};
use super::progress::bytes;
use crate::backend::pages::KvType;
use crate::backend::program::Program;
use crate::decoder::lower;
use crate::engine::{BATCH_DEFAULT, N_CTX_DEFAULT};
use crate::model::Adapter;
use crate::model::{
    AttentionGate, AttentionSpec, DenseGate, DenseSpec, Ffn, Hparams, KvSource, LatentSpec,
    LayerSpec, Mixer, ModelError, ModelSpec, MoeSpec, NormPlacement, Pooling, QkNorm, Residual,
    RopeScaling, RopeSpec, StateSpaceGeneration, StateSpaceSpec, UnusedPart, arch, plain_number,
    unused_parts,
};
use crate::text::{ChatTemplate, Tokenizer};
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Longest text of a metadata value that is shown in full.
const TEXT_CHARS_MAX: usize = 72;
/// Most elements of an array that are shown.
const ELEMENTS_MAX: usize = 6;

/// `teff inspect`
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// How keys and values would be cached: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16)]
    kv_type: KvType,
}

/// Bytes and weights by type.
#[derive(Default)]
struct TypeSum {
    tensors: usize,
    weights: u64,
    bytes: u64,
}

/// All that is known of a file.
struct Report<'a> {
    args: &'a InspectArgs,
    path: PathBuf,
    file: Arc<GgufFile>,
    kernels: &'static KernelTable,
    types: BTreeMap<GgmlType, TypeSum>,
    /// The sizes that every architecture names, for those without a description: in words.
    sizes: Option<String>,
    spec: Option<ModelSpec>,
    program: Option<Program>,
    tokenizer: Option<Tokenizer>,
    adapter: Option<Adapter>,
    /// Why it does not run, or not as it should: each names the key, tensor or type.
    problems: Vec<String>,
}

/// Explains the file. What cannot be run is told, and no error.
pub fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let (file, path) = args.model.file()?;
    let kernels = KernelTable::from_env().map_err(|e| CliError::usage(e.to_string()))?;
    let report = Report::new(args, file, path, kernels);
    match args.json {
        true => Ok(writeln!(out, "{}", report.to_json()?)?),
        false => report.write(out),
    }
}

impl<'a> Report<'a> {
    fn new(
        args: &'a InspectArgs,
        mut file: GgufFile,
        path: PathBuf,
        kernels: &'static KernelTable,
    ) -> Report<'a> {
        let mut types: BTreeMap<GgmlType, TypeSum> = BTreeMap::new();
        for tensor in file.tensors() {
            let sum = types.entry(tensor.ty).or_default();
            sum.tensors += 1;
            sum.weights += tensor.dims.iter().product::<u64>();
            sum.bytes += tensor.bytes;
        }
        let mut problems = Vec::new();
        if let Err(error) = file.make_little_endian() {
            problems.push(error.to_string());
        }
        let file = Arc::new(file);
        let (sizes, spec, program, tokenizer, adapter) = (None, None, None, None, None);
        let mut report = Report {
            args,
            path,
            file,
            kernels,
            types,
            sizes,
            spec,
            program,
            tokenizer,
            adapter,
            problems,
        };
        match report.text("general.type") {
            Some("adapter") => report.find_adapter(),
            _ => report.find_model(),
        }
        report
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.file.get(key).and_then(|value| value.as_str())
    }

    fn find_adapter(&mut self) {
        let architecture = self.text("general.architecture").unwrap_or_default().to_string();
        let adapter = Adapter::new(self.file.clone(), &architecture, 1.0);
        self.adapter = self.keep(adapter);
    }

    fn find_model(&mut self) {
        let file = self.file.clone();
        if let Some(h) = self.keep(Hparams::new(&file)) {
            let Hparams { n_layers, n_embd, n_ctx_train, .. } = h;
            self.sizes = Some(format!(
                "{n_layers} layers, {n_embd} wide, trained for a context of {n_ctx_train} tokens"
            ));
            match arch::spec(&h) {
                Err(ModelError::UnknownKey(_)) => {
                    let errors = h.unknown_keys().into_iter().map(ModelError::UnknownKey);
                    self.problems.extend(errors.map(|error| error.to_string()));
                }
                spec => self.spec = self.keep(spec),
            }
        }
        for (ty, sum) in &self.types {
            if self.kernels.types(*ty).is_none() && plain_number(*ty).is_none() {
                let n = sum.tensors;
                self.problems.push(format!("type {ty} of {n} tensors cannot be computed with"));
            }
        }
        if let Some(spec) = &self.spec {
            let n_ctx = n_ctx(spec, self.args);
            let program = lower(&file, spec, self.kernels, n_ctx);
            // As with `run`, which computes with the default context as far as the memory goes.
            let wanted = self.args.context.ctx.is_some();
            let problem = wanted.then(|| context_problem(spec, n_ctx, self.args.kv_type)).flatten();
            self.problems.extend(problem);
            // Types were told already.
            if !matches!(program, Err(ModelError::TensorType { .. })) {
                self.program = self.keep(program);
            }
        }
        self.tokenizer = self.keep(Tokenizer::from_gguf(&file));
        let vocabulary = self.tokenizer.as_ref().and_then(|t| vocabulary_problem(&file, t));
        self.problems.extend(vocabulary);
        let template = self.tokenizer.as_ref().and_then(|t| t.chat_template());
        let template = template.map(|source| ChatTemplate::new(source).map(drop));
        if let Some(template) = template {
            self.keep(template);
        }
    }

    /// The value, or a problem.
    fn keep<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(one_line(&error.to_string()))).ok()
    }

    fn n_weights(&self) -> u64 {
        self.types.values().map(|sum| sum.weights).sum()
    }

    fn tensor_bytes(&self) -> u64 {
        self.types.values().map(|sum| sum.bytes).sum()
    }

    /// What the weights may take once a model answers: codebook types are written out for that.
    fn answering_bytes(&self) -> u64 {
        let answering = |(ty, sum): (&GgmlType, &TypeSum)| {
            let kernels = self.kernels.types(*ty).filter(|kernels| kernels.lanes().is_some());
            kernels.map_or(sum.bytes, |k| k.interleaved_row_bytes(sum.bytes as usize) as u64)
        };
        self.types.iter().map(answering).sum()
    }

    fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / self.n_weights().max(1) as f64
    }

    /// Buffers of a step, in bytes.
    fn scratch_bytes(&self, n_ctx: usize) -> u64 {
        let program = self.program.as_ref();
        program.map_or(0, |p| {
            let batch = if p.bidirectional { n_ctx } else { BATCH_DEFAULT.min(n_ctx) };
            let n_outputs = if p.gives_logits() { 1 } else { batch };
            (p.bytes_per_token() * batch + p.n_out * n_outputs * size_of::<f32>()) as u64
        })
    }

    /// One line for each thing to know of the architecture.
    fn words(&self) -> Result<Vec<String>, CliError> {
        let architecture = self.text("general.architecture").unwrap_or("unknown");
        if let Some(adapter) = &self.adapter {
            let n = adapter.targets().count();
            return Ok(vec![format!("LoRA adapter of {n} tensors for {architecture} models")]);
        }
        let mut lines = vec![architecture.to_string()];
        match &self.spec {
            Some(spec) => {
                let mut words = Vec::new();
                in_words(spec, &mut words)?;
                lines.extend(String::from_utf8_lossy(&words).lines().map(|l| l.trim().to_string()));
            }
            None => lines.extend(self.sizes.clone()),
        }
        Ok(lines)
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), CliError> {
        let Report { file, .. } = self;
        let shards = file.shard_count();
        let parts = if shards > 1 { format!(" in {shards} files") } else { String::new() };
        let (version, order, size) = (file.version(), file.byte_order(), bytes(file.total_bytes()));
        writeln!(out, "{}: GGUF v{version}, {order}, {size}{parts}", self.path.display())?;
        writeln!(out, "\nMetadata")?;
        for (key, value) in file.entries() {
            writeln!(out, "  {} = {}", one_line(key), shown(value))?;
        }
        writeln!(out, "\nTensors")?;
        if self.args.tensors {
            for TensorInfo { name, ty, dims, bytes: n, .. } in file.tensors() {
                let (name, ty, n) = (one_line(name), ty.name(), bytes(*n));
                let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
                writeln!(out, "  {name:40} {ty:8} {:>18} {n:>10}", dims.join(" x "))?;
            }
        }
        for (ty, sum) in &self.types {
            let kernel = kernel_of(self.kernels, *ty);
            let (n, w, b) = (sum.tensors, millions(sum.weights), bytes(sum.bytes));
            let ty = ty.name();
            writeln!(out, "  {ty:8} {n:5} tensors {w:>9} weights {b:>10}  kernel: {kernel}")?;
        }
        for part in unused_parts(file) {
            writeln!(out, "  {}", part_in_words(&part))?;
        }
        let bits = self.bits_per_weight();
        match self.n_weights() {
            0 => writeln!(out, "  none")?,
            n => writeln!(out, "  {} weights at {bits:.2} bits each", millions(n))?,
        }
        writeln!(out, "\nArchitecture")?;
        for line in self.words()? {
            writeln!(out, "  {}", one_line(&line))?;
        }
        if self.adapter.is_none() {
            writeln!(out, "\nTokenizer")?;
            for line in self.tokenizer_in_words() {
                writeln!(out, "  {}", one_line(&line))?;
            }
        }
        if let Some(spec) = &self.spec {
            self.write_memory(spec, out)?;
        }
        if !self.problems.is_empty() {
            writeln!(out, "\nUnsupported: this file cannot be run as it is")?;
            for problem in &self.problems {
                writeln!(out, "  {problem}")?;
            }
        }
        Ok(())
    }

    fn write_memory(&self, spec: &ModelSpec, out: &mut dyn Write) -> Result<(), CliError> {
        let n_ctx = n_ctx(spec, self.args);
        let (weights, kind) = (self.answering_bytes(), self.args.kv_type);
        let scratch = self.scratch_bytes(n_ctx);
        let kv = |kind| bytes(kv_bytes(spec, kind, n_ctx));
        let from_file = match self.tensor_bytes() {
            same if same == weights => String::new(),
            file => format!(" written out to answer, {} with --no-repack", bytes(file)),
        };
        let kinds: Vec<_> = KvType::ALL.iter().map(|&k| format!("{} in {k}", kv(k))).collect();
        let all = bytes(weights + kv_bytes(spec, kind, n_ctx) + scratch);
        writeln!(out, "\nMemory for a context of {n_ctx} tokens")?;
        writeln!(out, "  weights          {}{from_file}", bytes(weights))?;
        let has_states = spec.layers.iter().any(|layer| {
            !matches!(layer.mixer, Mixer::None | Mixer::Attention(_) | Mixer::Latent(_))
        });
        let states = if has_states { ", states in f32 included" } else { "" };
        writeln!(out, "  keys and values  {}{states}", kinds.join(", "))?;
        writeln!(out, "  activations      {}", bytes(scratch))?;
        writeln!(out, "  in all           {all} with keys and values in {kind}")?;
        Ok(())
    }

    /// One line for each thing to know of the vocabulary.
    fn tokenizer_in_words(&self) -> Vec<String> {
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

    fn to_json(&self) -> Result<Json, CliError> {
        let Report { file, .. } = self;
        let metadata: Map<String, Json> =
            file.entries().map(|(key, value)| (key.to_string(), value_json(value))).collect();
        let of_type = |(ty, sum): (&GgmlType, &TypeSum)| {
            let TypeSum { tensors, weights, bytes } = sum;
            let kernel = self.kernels.types(*ty).map(|k| k.level.to_string());
            let row = json!({
                "tensors": tensors, "weights": weights, "bytes": bytes, "kernel": kernel
            });
            (ty.name().to_string(), row)
        };
        let types: Map<String, Json> = self.types.iter().map(of_type).collect();
        let mut object = json!({
            "path": self.path.to_string_lossy(), "version": file.version(),
            "byte_order": file.byte_order().to_string(), "bytes": file.total_bytes(),
            "shards": file.shard_count(), "metadata": metadata, "types": types,
            "weights": self.n_weights(), "bits_per_weight": self.bits_per_weight(),
            "architecture": self.words()?, "unsupported": self.problems,
        });
        if let Some(spec) = &self.spec {
            let (n_ctx, kind) = (n_ctx(spec, self.args), self.args.kv_type);
            let kv = |kind: KvType| (kind.name().to_string(), json!(kv_bytes(spec, kind, n_ctx)));
            let (weights, scratch) = (self.answering_bytes(), self.scratch_bytes(n_ctx));
            let kv_bytes = kv_bytes(spec, kind, n_ctx);
            object["layers"] = json!(spec.layers.len());
            object["n_embd"] = json!(spec.n_embd);
            object["n_ctx_train"] = json!(spec.n_ctx_train);
            object["n_ctx"] = json!(n_ctx);
            object["kv_type"] = json!(kind.name());
            object["kv_bytes"] = json!(kv_bytes);
            object["memory"] = json!({
                "weights": weights, "kv": KvType::ALL.map(kv).into_iter().collect::<Map<_, _>>(),
                "activations": scratch, "total": weights + kv_bytes + scratch,
            });
        }
        if self.adapter.is_none() {
            object["tokenizer"] = json!(self.tokenizer_in_words());
        }
        if self.args.tensors {
            let row = |t: &TensorInfo| {
                let TensorInfo { name, ty, dims, bytes, .. } = t;
                json!({"name": name, "type": ty.name(), "dims": dims, "bytes": bytes})
            };
            object["tensors"] = file.tensors().iter().map(row).collect();
        }
        Ok(object)
    }
}

/// A part of a model that is not run.
pub fn part_in_words(part: &UnusedPart) -> String {
    let UnusedPart { prefix, does, n_tensors, bytes: n } = *part;
    format!(
        "unused: {} `{prefix}*` of the part that {does} ({})",
        counted(n_tensors, "tensor"),
        bytes(n)
    )
}

/// A text of the file without line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn kernel_of(kernels: &KernelTable, ty: GgmlType) -> String {
    match kernels.types(ty) {
        Some(kernels) => kernels.level.to_string(),
        None if plain_number(ty).is_some() => "converted to F32".into(),
        None => "none yet".into(),
    }
}

fn millions(n: u64) -> String {
    format!("{:.1} M", n as f64 / 1e6)
}

/// A metadata value on one line.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::Str(text) => {
            let line: String = text.chars().take(TEXT_CHARS_MAX).collect();
            let more = if line.len() < text.len() { " ..." } else { "" };
            format!("{line:?}{more}")
        }
        Value::Bytes(bytes) => shown(Value::Str(&String::from_utf8_lossy(bytes))),
        Value::Array(array) => {
            let first: Vec<String> = array.iter().take(ELEMENTS_MAX).map(shown).collect();
            let more = if array.len() > ELEMENTS_MAX { ", ..." } else { "" };
            format!(
                "[{}{more}] ({} x {})",
                first.join(", "),
                array.len(),
                array.element_type().name()
            )
        }
        Value::Bool(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        other => other.as_i64().map_or_else(|| "?".into(), |x| x.to_string()),
    }
}

/// The description.
fn in_words(spec: &ModelSpec, out: &mut dyn Write) -> Result<(), CliError> {
    let (n, width, ctx) = (spec.layers.len(), spec.n_embd, spec.n_ctx_train);
    writeln!(out, "  {n} layers, {width} wide, trained for a context of {ctx} tokens")?;
    if spec.bidirectional {
        writeln!(out, "  encoder: tokens see as far behind them as before them")?;
    }
    let pooled = match spec.pooling {
        None => None,
        Some(Pooling::None) => Some("the vectors of a text's tokens are not pooled"),
        Some(Pooling::Mean) => Some("a text's vector is the mean of its tokens'"),
        Some(Pooling::Cls) => Some("a text's vector is that of its first token"),
        Some(Pooling::Last) => Some("a text's vector is that of its last token"),
        Some(Pooling::Rank) => Some("reranker: `teff rerank` scores documents by a query"),
    };
    if let Some(pooled) = pooled {
        writeln!(out, "  {pooled}")?;
    }
    if spec.embed_scale != 1.0 {
        writeln!(out, "  embeddings times {}", spec.embed_scale)?;
    }
    if spec.n_streams > 1 {
        writeln!(out, "  {} parallel streams", spec.n_streams)?;
    }
    if let Some(len) = spec.layer_embed {
        writeln!(out, "  an embedding of {len} for each layer")?;
    }
    if spec.learned_positions {
        writeln!(out, "  learned positions")?;
    }
    if let Some(cycles) = spec.cycles {
        let (n, low) = (cycles.n_layers, cycles.n_low);
        writeln!(
            out,
            "  passes through two stacks of {n} layers: {low} through the first, then one"
        )?;
    }
    // Layers that read the same are told once, at the place of the first.
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, layer) in spec.layers.iter().enumerate() {
        let words = layer_in_words(layer);
        match kinds.iter_mut().find(|kind| kind.0 == words) {
            Some(kind) => kind.1.push(i),
            None => kinds.push((words, vec![i])),
        }
    }
    for (words, layers) in kinds {
        let which = if layers.len() == 1 { "layer" } else { "layers" };
        writeln!(out, "  {which} {}: {words}", ranges(&layers))?;
    }
    if let Some(cap) = spec.head.softcap {
        writeln!(out, "  logits soft-capped at {cap}")?;
    }
    Ok(())
}

/// Ascending numbers, neighbours as ranges: `0-3, 5`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// `1 head`, `2 heads`.
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
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
        Mixer::Linear(linear) => {
            let (heads, dim) = (counted(linear.slopes.len(), "head"), linear.head_dim);
            format!("linear attention of {heads} of {dim} x {dim}")
        }
        Mixer::Latent(latent) => {
            let LatentSpec { n_heads, rank, n_content, n_position, .. } = latent;
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

/// Bytes of keys and values for a context of `n_ctx` tokens, and of the states beside them.
pub fn kv_bytes(spec: &ModelSpec, kind: KvType, n_ctx: usize) -> u64 {
    let layer = |layer: &LayerSpec| {
        let attention = |a: &AttentionSpec| match a.kv {
            KvSource::Layer(_) => (None, 0),
            _ => (a.window, kind.token_bytes(a.n_kv_heads, a.k_dim, a.v_dim)),
        };
        let (window, bytes_per_token) = match &layer.mixer {
            Mixer::Attention(a) | Mixer::AttentionAndStateSpace(a, _) => attention(a),
            Mixer::None
            | Mixer::ShortConv(_)
            | Mixer::StateSpace(_)
            | Mixer::Delta(_)
            | Mixer::Linear(_) => (None, 0),
            Mixer::Latent(a) => {
                let (n_kv_heads, k_dim, v_dim) = a.cached();
                (None, kind.token_bytes(n_kv_heads, k_dim, v_dim))
            }
        };
        let state_len = match &layer.mixer {
            Mixer::None | Mixer::Attention(_) | Mixer::Latent(_) => 0,
            Mixer::ShortConv(conv) => spec.n_embd * (conv.taps - 1),
            Mixer::StateSpace(space) | Mixer::AttentionAndStateSpace(_, space) => space.state_len(),
            Mixer::Delta(delta) => delta.state_len(),
            Mixer::Linear(linear) => linear.state_len(),
        };
        let tokens = window.map_or(n_ctx, |window| window.min(n_ctx));
        (tokens as u64) * bytes_per_token as u64 + (state_len * size_of::<f32>()) as u64
    };
    spec.layers.iter().map(layer).sum()
}

fn n_ctx(spec: &ModelSpec, args: &InspectArgs) -> usize {
    args.context.ctx.map_or(spec.n_ctx_train.min(N_CTX_DEFAULT), |n| n as usize)
}

/// A metadata value; of arrays only the first elements and the length.
fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Str(text) => json!(text),
        Value::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Bool(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::Array(array) => {
            let first: Vec<Json> = array.iter().take(ELEMENTS_MAX).map(value_json).collect();
            json!({"length": array.len(), "type": array.element_type().name(), "first": first})
        }
        other => json!(other.as_i64()),
    }
}
