//! `teff inspect`: what a file holds, what it is in words, and what it needs to run. All of it
//! comes from [`Report`]; here it is printed, as text or as JSON.

mod json;

use super::engine_args::{ContextArgs, kernels};
use super::error::{CliError, hint};
use super::gpu_args::GpuPlanArgs;
use super::options::ModelArgs;
use super::{offload, threads};
use crate::backend::pages::KvType;
use crate::engine::report::{MemoryUse, Problem, Report, ReportOptions, TypeKernel};
use crate::model::Pooling;
use crate::model::describe::bytes;
use crate::quantize::zeros_of;
use gguf_rs_lite::{TensorInfo, Value};
use std::io::Write;
use std::path::Path;

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
    /// Count the weights that are zero, for which all of them are read
    #[arg(long)]
    sparsity: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// Type of cached keys and values that memory is computed for: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16)]
    kv_type: KvType,
    #[command(flatten)]
    gpu: GpuPlanArgs,
}

/// Prints a report. A file that cannot run is reported as such; that is not an error.
///
/// # Errors
/// The file cannot be found or read, or `out` cannot be written.
pub fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let (file, path) = args.model.file()?;
    let kernels = kernels()?;
    let n_ctx = args.context.ctx.map(|n| n as usize);
    let options = ReportOptions { n_ctx, kv_type: args.kv_type, kernels };
    let report = Report::new(file, &options);
    let zeros = match args.sparsity {
        true => {
            let found = zeros_of(&report.file, kernels, threads::number(None));
            Some(found.map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?)
        }
        false => None,
    };
    let offload = args.gpu.placement().and_then(|placement| report.offload(&options, &placement));
    if args.json {
        let mut object = json::object(&report, &path, args.tensors);
        zeros.iter().for_each(|zeros| json::add_zeros(&mut object, &report, zeros));
        match &offload {
            None => {}
            Some(Ok(offload)) => object["gpu"] = offload::object(offload),
            Some(Err(error)) => object["gpu"] = serde_json::json!({"error": error.to_string()}),
        }
        return Ok(writeln!(out, "{object}")?);
    }
    write(&report, &path, args.tensors, out)?;
    zeros.iter().try_for_each(|zeros| write_zeros(&report, zeros, args.tensors, out))?;
    if let Some(offload) = offload {
        writeln!(out, "\nLayers on a GPU")?;
        let lines = offload.map_or_else(|e| vec![e.to_string()], |o| offload::lines(&o));
        lines.iter().try_for_each(|line| writeln!(out, "  {}", one_line(line)))?;
    }
    Ok(())
}

fn write(report: &Report, path: &Path, tensors: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let file = &report.file;
    let shards = file.shard_count();
    let parts = if shards > 1 { format!(" in {shards} files") } else { String::new() };
    let (version, order, size) = (file.version(), file.byte_order(), bytes(file.total_bytes()));
    writeln!(out, "{}: GGUF v{version}, {order}, {size}{parts}", path.display())?;
    writeln!(out, "\nMetadata")?;
    for (key, value) in file.entries() {
        writeln!(out, "  {} = {}", one_line(key), shown(value))?;
    }
    writeln!(out, "\nTensors")?;
    write_tensors(report, tensors, out)?;
    writeln!(out, "\nArchitecture")?;
    for line in architecture_lines(report) {
        writeln!(out, "  {}", one_line(&line))?;
    }
    if report.adapter.is_none() {
        writeln!(out, "\nTokenizer")?;
        for line in report.tokenizer_lines() {
            writeln!(out, "  {}", one_line(&line))?;
        }
    }
    if let Some(memory) = &report.memory {
        write_memory(memory, out)?;
    }
    if !report.problems.is_empty() {
        writeln!(out, "\nUnsupported: this file cannot be run as it is")?;
        for problem in &report.problems {
            writeln!(out, "  {}", problem_line(problem))?;
        }
    }
    Ok(())
}

/// Sums of each type, after all tensors if those are wanted.
fn write_tensors(report: &Report, all: bool, out: &mut dyn Write) -> Result<(), CliError> {
    for TensorInfo { name, ty, dims, bytes: n, .. } in report.file.tensors().iter().filter(|_| all)
    {
        let (name, ty, n) = (one_line(name), ty.name(), bytes(*n));
        let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
        writeln!(out, "  {name:40} {ty:8} {:>18} {n:>10}", dims.join(" x "))?;
    }
    for (ty, of_type) in &report.types {
        let kernel = match of_type.kernel {
            TypeKernel::Level(level) => level.to_string(),
            TypeKernel::Converted => "converted to F32".into(),
            TypeKernel::None => "none yet".into(),
        };
        let (n, w, b) = (of_type.tensors, millions(of_type.weights), bytes(of_type.bytes));
        let ty = ty.name();
        writeln!(out, "  {ty:8} {n:5} tensors {w:>9} weights {b:>10}  kernel: {kernel}")?;
    }
    for part in &report.unused {
        writeln!(out, "  {part}")?;
    }
    match report.n_weights() {
        0 => writeln!(out, "  none")?,
        n => {
            let bits = report.bits_per_weight();
            writeln!(out, "  {} weights at {bits:.2} bits each", millions(n))?;
        }
    }
    Ok(())
}

/// How many weights are zero, in all, of matrices, and of each if those are wanted.
fn write_zeros(
    report: &Report,
    zeros: &[Option<u64>],
    all: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let part = |zeros: u64, weights: u64| 100.0 * zeros as f64 / weights.max(1) as f64;
    writeln!(out, "\nZeros")?;
    for (TensorInfo { name, dims, .. }, zeros) in report.file.tensors().iter().zip(zeros) {
        if let Some(zeros) = zeros.filter(|_| all) {
            let part = part(zeros, dims.iter().product());
            writeln!(out, "  {:40} {zeros:>12} {part:6.2} %", one_line(name))?;
        }
    }
    let [zeros, weights] = sparsity(report, zeros);
    writeln!(out, "  {zeros} of {weights} weights of matrices: {:.2} %", part(zeros, weights))?;
    Ok(())
}

/// Zeros and weights of the matrices of a file.
fn sparsity(report: &Report, zeros: &[Option<u64>]) -> [u64; 2] {
    let mut sums = [0, 0];
    for (info, zeros) in report.file.tensors().iter().zip(zeros) {
        if let Some(zeros) = zeros.filter(|_| info.dims.len() > 1) {
            sums[0] += zeros;
            sums[1] += info.dims.iter().product::<u64>();
        }
    }
    sums
}

fn write_memory(memory: &MemoryUse, out: &mut dyn Write) -> Result<(), CliError> {
    let MemoryUse { n_ctx, kv_type, file_weights, weights, kv, has_states, activations } = memory;
    let from_file = match file_weights {
        same if same == weights => String::new(),
        file => format!(" written out to answer, {} with --no-repack", bytes(*file)),
    };
    let kinds = kv.map(|(kind, n)| format!("{} in {kind}", bytes(n))).join(", ");
    let states = if *has_states { ", states in f32 included" } else { "" };
    writeln!(out, "\nMemory for a context of {n_ctx} tokens")?;
    writeln!(out, "  weights          {}{from_file}", bytes(*weights))?;
    writeln!(out, "  keys and values  {kinds}{states}")?;
    writeln!(out, "  activations      {}", bytes(*activations))?;
    let all = bytes(memory.total());
    writeln!(out, "  in all           {all} with keys and values in {kv_type}")?;
    Ok(())
}

/// The architecture in words, with the verb that a reranker is for.
fn architecture_lines(report: &Report) -> Vec<String> {
    let mut lines = report.architecture_lines();
    if report.spec.as_ref().is_some_and(|spec| spec.pooling == Some(Pooling::Rank)) {
        for line in lines.iter_mut().filter(|line| line.starts_with("reranker: ")) {
            *line = line.replacen("reranker: ", "reranker: `teff rerank` ", 1);
        }
    }
    lines
}

/// A problem, with the option that may help.
fn problem_line(problem: &Problem) -> String {
    one_line(&format!("{problem}{}", hint(problem).unwrap_or_default()))
}

/// A text of the file without line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
