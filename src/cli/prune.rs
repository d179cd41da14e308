//! `teff prune`: a model's file with weights that are zero.

use super::imatrix::add_imatrix;
use super::layerwise::Texts;
use super::model_file::{self, Written};
use super::options::{TOKENS_MAX, whole_number};
use super::quantize::parse_type;
use super::source::Source;
use super::{CliError, receipt};
use crate::backend::MAX_THREADS;
use crate::cache::ModelRef;
use crate::grid::Qat;
use crate::model::describe::bytes;
use crate::quantize::prune::{PRUNE_METHODS, PruneMethod, Pruning, Sparsity};
use crate::quantize::{Options, Plan, Planned, QuantizeError};
use crate::receipt::Request;
use gguf_rs_lite::{GgmlType, GgufFile};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// `teff prune`
#[derive(clap::Args, Debug)]
pub struct PruneArgs {
    /// The model: a GGUF file (the first of a split one), an alias or hf:owner/repo[:file]; or a
    /// Hugging Face folder, which is converted first, into a file beside OUT that goes away again
    #[arg(value_name = "IN")]
    input: ModelRef,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Which weights go, always the same number in each row (or group): magnitude (the smallest), wanda
    /// (the smallest times the norm of their column's inputs: --imatrix, or --calibrate TEXT, which sees
    /// pruned layers before each), sparsegpt (about 128 columns at a time, those that cost least once the
    /// columns behind have made up for them: --calibrate TEXT). By a text it goes layer after layer, which
    /// are kept in the folder OUT.layers until all is written, so that the same command goes on; of experts
    /// that it never chose the smallest weights go
    #[arg(long, value_name = "NAME", value_parser = parse_method)]
    method: &'static PruneMethod,
    /// How many go: a part of each row (0.5: round(0.5 * columns) of them), or N:M (2:4): N of every M
    /// neighbours stay
    #[arg(long, value_name = "PART|N:M")]
    sparsity: Sparsity,
    /// Importances of columns, a file by `teff imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    imatrix: Option<PathBuf>,
    /// The text whose inputs of products count
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// Chunks of 512 tokens of that text that are used [default: 64]
    #[arg(long, value_name = "N", requires = "calibrate",
          value_parser = whole_number(1..=TOKENS_MAX))]
    calibrate_chunks: Option<u32>,
    /// Prune only tensors whose name the pattern finds, of those that can be: matrices that layers
    /// multiply by, without routers. May be given several times
    #[arg(long, value_name = "REGEX")]
    tensor: Vec<String>,
    /// Type of the pruned tensors, which needs a code for zero [default: that of each; where it has blocks,
    /// they stay but for the zeros, unless the method changes other weights]
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    ty: Option<GgmlType>,
    /// As many files as the input has
    #[arg(long)]
    keep_split: bool,
    /// Threads [default: as many as there are CPUs]
    #[arg(short, long, value_name = "N", value_parser = whole_number(1..=MAX_THREADS as u16))]
    threads: Option<u16>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn parse_method(text: &str) -> Result<&'static PruneMethod, String> {
    let names = || PRUNE_METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ");
    PruneMethod::from_name(text).ok_or_else(|| format!("none of {}", names()))
}

/// Prunes a file.
///
/// # Errors
/// Options do not go together, the input cannot be read or pruned, the output not written.
pub fn prune(args: &PruneArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.check()?;
    let mut options = args.options()?;
    let source = Source::open(&args.input)?;
    let (path, at) = (source.path().to_owned(), args.at(source.path()));
    if !args.dry_run {
        let beside = args.imatrix.iter().chain(&args.calibrate).map(PathBuf::as_path);
        model_file::check_outputs(&args.output, args.keep_split, &source, beside)?;
    }
    let opened = source.checked(&args.output, !args.dry_run, |preview| {
        Plan::new(preview, &options).map(drop).map_err(&at)
    })?;
    let file = opened.file.clone();
    options.receipt = Some(args.receipt(&file)?);
    let mut plan = Plan::new(&file, &options).map_err(&at)?;
    for warning in &plan.warnings {
        super::note(format_args!("warning: {warning}"));
    }
    if args.dry_run {
        return Ok(tell(args, &plan, None, out)?);
    }
    let texts = args.calibrate.as_deref().map(|text| {
        let chunks = args.calibrate_chunks;
        Texts { text, chunks, file: &file, path: &path }
    });
    let written = model_file::write(&mut plan, &args.output, texts.as_ref(), "pruned", &at)?;
    tell(args, &plan, Some(&written), out)?;
    drop(plan);
    written.finish()
}

impl PruneArgs {
    /// Refuses a method without what it has to see, and what a method does not look at.
    fn check(&self) -> Result<(), CliError> {
        let PruneMethod { name, sees_inputs, feeds_back, .. } = *self.method;
        let has_text = self.calibrate.is_some();
        let fault = match (sees_inputs, feeds_back) {
            (false, _) if has_text => {
                format!("--calibrate is for methods that see a text: --method {name} does not")
            }
            (_, true) if !has_text => format!("--method {name} needs --calibrate TEXT"),
            (true, _) if !has_text && self.imatrix.is_none() => format!(
                "--method {name} needs the inputs of columns: --imatrix FILE or --calibrate TEXT"
            ),
            _ => return Ok(()),
        };
        Err(CliError::usage(fault))
    }

    /// Names the input in front of errors that do not name a file themselves, and the flags that help.
    fn at(&self, path: &Path) -> impl Fn(QuantizeError) -> CliError + use<> {
        let path = path.to_owned();
        move |error| {
            let hint = match &error {
                QuantizeError::NothingToPrune { pattern: Some(_) } => " (--tensor)",
                QuantizeError::NoZero { .. } => " (--type gives pruned tensors another type)",
                QuantizeError::PruneGroups { .. } => " (--sparsity)",
                QuantizeError::NoInputs { .. } => " (--tensor chooses others)",
                _ => "",
            };
            model_file::failed(&path, &error, hint)
        }
    }

    fn options(&self) -> Result<Options, CliError> {
        let mut pruning = Pruning::new(self.method, self.sparsity, &self.tensor)?;
        pruning.sees_text = self.calibrate.is_some();
        pruning.ty = self.ty;
        let mut options = model_file::options(self.threads)?;
        (options.pruning, options.keep_split, options.qat) =
            (Some(pruning), self.keep_split, Qat::Off);
        add_imatrix(&mut options, self.imatrix.as_deref())?;
        Ok(options)
    }

    /// The receipt's entries: whatever the bytes depend on.
    fn receipt(&self, file: &GgufFile) -> Result<Request, CliError> {
        let mut request = receipt::request(file, self.method.name);
        request.add("sparsity", self.sparsity.to_string());
        let mut parameters: Vec<String> = Vec::new();
        parameters.extend(self.calibrate_chunks.map(|n| format!("calibrate-chunks={n}")));
        parameters.extend(self.ty.map(|ty| format!("type={ty}")));
        parameters.extend(self.tensor.iter().map(|pattern| format!("tensor={pattern}")));
        request.add("parameters", parameters.join(" "));
        let (imatrix, text) = (self.imatrix.as_deref(), self.calibrate.as_deref());
        receipt::add_files(&mut request, [("imatrix", imatrix), ("calibration", text)])?;
        Ok(request)
    }
}

/// Zeros that a tensor gets.
fn zeros(tensor: &Planned<'_>) -> Option<u64> {
    tensor.pruning.map(|pruning| pruning.zeros(tensor.info))
}

/// What is known of each tensor.
fn tensors_of(plan: &Plan<'_>, written: Option<&Written>) -> Vec<Value> {
    let tensor = |(number, tensor): (usize, &Planned<'_>)| {
        let mut value = model_file::tensor_as_json(tensor);
        let (Some(zeros), loss) = (zeros(tensor), written.map(|written| written.losses[number]))
        else {
            return value;
        };
        value["zeros"] = json!(zeros);
        if let Some(loss) = loss {
            model_file::add_loss(&mut value, loss);
        }
        if let Some([magnitude, own]) = written.and_then(|written| written.outputs(tensor)) {
            value["output_error"] = json!({"magnitude": magnitude, "written": own});
        }
        value
    };
    plan.tensors.iter().enumerate().map(tensor).collect()
}

/// Tells what was written, with its losses and the time that it took, or what would be.
fn tell(
    args: &PruneArgs,
    plan: &Plan<'_>,
    written: Option<&Written>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let matrices = plan.tensors.iter().filter(|t| t.info.dims.len() > 1);
    let weights: u64 = matrices.map(|t| t.info.dims.iter().product::<u64>()).sum();
    let all_zeros: u64 = plan.tensors.iter().filter_map(zeros).sum();
    let (before, after) = (plan.tensors.iter().map(|t| t.info.bytes).sum(), plan.data_bytes());
    if args.json {
        let mut value = json!({
            "method": args.method.name,
            "sparsity": args.sparsity.to_string(),
            "tensors": tensors_of(plan, written),
            "weights": weights,
            "zeros": all_zeros,
            "bytes_before": before,
            "bytes": after,
            "file_bytes": plan.file_bytes().ok(),
            "dry_run": args.dry_run,
        });
        if let Some(written) = written {
            value["seconds"] = json!(written.time.as_secs_f64());
        }
        return writeln!(out, "{value}");
    }
    let width = plan.tensors.iter().map(|t| t.info.name.len()).max().unwrap_or(0);
    for (number, tensor) in plan.tensors.iter().enumerate() {
        let (name, from, to) = (&tensor.info.name, tensor.info.ty.name(), tensor.ty.name());
        let Some(zeros) = zeros(tensor) else {
            writeln!(out, "{name:width$}  {from:>7}")?;
            continue;
        };
        let part = 100.0 * zeros as f64 / (tensor.info.rows() * tensor.info.cols()) as f64;
        write!(out, "{name:width$}  {from:>7} -> {to:7} {part:6.2} % zero")?;
        if let Some(written) = written {
            write!(out, ", weights {:.2} %", 100.0 * written.losses[number].relative())?;
            if let Some([magnitude, own]) = written.outputs(tensor).map(|o| o.map(|x| 100.0 * x)) {
                write!(out, ", output {own:.2} % (magnitude {magnitude:.2} %)")?;
            }
        }
        writeln!(out)?;
    }
    let part = 100.0 * all_zeros as f64 / weights.max(1) as f64;
    let time = written.map(|written| format!(", {:.1} s", written.time.as_secs_f64()));
    writeln!(
        out,
        "{all_zeros} of {weights} weights of matrices pruned to zero ({part:.2} %), {} -> {}{}",
        bytes(before),
        bytes(after),
        time.unwrap_or_default()
    )
}
