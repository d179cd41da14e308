//! `teff quantize`: a model's file in other types.

use super::grids::{self, QatArgs};
use super::imatrix::open_imatrix;
use super::layerwise::{Layers, Texts, make_layers};
use super::mix_arg::{self, Named};
use super::options::whole_number;
use super::progress::{Told, WorkProgress};
use super::source::Source;
use super::target::{self, Chosen, TargetArgs};
use super::{CliError, interrupt, receipt, space};
use crate::backend::MAX_THREADS;
use crate::cache::ModelRef;
use crate::grid::Qat;
use crate::model::describe::bytes;
use crate::quantize::mix::{MixError, TensorType, Wishes};
use crate::quantize::{
    KeepZeros, Loss, METHODS, Method, Options, OutputLoss, Plan, Planned, QuantizeError, Step,
    outputs,
};
use crate::receipt::Request;
use gguf_rs_lite::{GgmlType, GgufFile, PartFile};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use teff_kernels::KernelTable;

/// `teff quantize`
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("types").required(true)))]
pub struct QuantizeArgs {
    /// The model: a GGUF file (the first of a split one), an alias or hf:owner/repo[:file]; or a
    /// Hugging Face folder, which is converted first, into a file beside OUT that goes away again
    #[arg(value_name = "IN")]
    input: ModelRef,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Types, by the common name of their mix (Q4_K_M, IQ2_XS, ...), or COPY: all as they are but
    /// for those that --tensor-type and its kin name; or AUTO: COPY, but floats that lie on a grid
    /// get the type that has its codes
    #[arg(long = "type", value_name = "NAME", value_parser = mix_arg::parse, group = "types")]
    mix: Option<Named>,
    #[command(flatten)]
    target: TargetArgs,
    /// How codes are found: search (scales of least error), rtn (rounding to nearest), hqq
    /// (half-quadratic, for types with a minimum); or at the inputs that a text gives (--calibrate
    /// TEXT): gptq (codes that make up for the errors of those before them), refit (scales that fit
    /// the codes of search best), awq (columns that see large inputs multiplied first, which the norm
    /// or product before takes back), awq+clip (and ranges of blocks shrunk where the outputs lose less
    /// by that), and gptq+refit, awq+gptq, awq+refit, awq+clip+refit, awq+gptq+refit. These go layer
    /// after layer, which are kept in the folder OUT.layers until all is written, so that the same
    /// command goes on
    #[arg(long, value_name = "NAME", default_value = METHODS[0].name, value_parser = parse_method)]
    method: &'static Method,
    /// Importances of columns, a file by `teff imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Type of the tensors whose name the pattern finds. May be given several times: the first
    /// that fits counts
    #[arg(long, value_name = "REGEX=TYPE", value_parser = parse_tensor_type)]
    tensor_type: Vec<Wish>,
    /// Type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    output_tensor_type: Option<GgmlType>,
    /// Type of token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    token_embedding_type: Option<GgmlType>,
    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Give all tensors the same type, no mix
    #[arg(long, conflicts_with_all = ["target_size", "target_bpw"])]
    pure: bool,
    /// As many files as the input has
    #[arg(long)]
    keep_split: bool,
    /// Say nothing of tensors that are quantized already
    #[arg(long)]
    allow_requantize: bool,
    /// Go on without importances where a type is of little use without them
    #[arg(long)]
    force: bool,
    /// Which weights that are exactly zero stay so: auto (those of rows of which a quarter or more is zero,
    /// as pruning leaves them, in types that have a code for zero), on (all, and types without one are
    /// refused) or off
    #[arg(long, value_name = "WHICH", default_value = "auto", value_parser = parse_keep_zeros)]
    keep_zeros: KeepZeros,
    #[command(flatten)]
    qat: QatArgs,
    /// Threads [default: as many as there are CPUs]
    #[arg(short, long, value_name = "N", value_parser = whole_number(1..=MAX_THREADS as u16))]
    threads: Option<u16>,
    /// Say what would be written, and write nothing that stays; a size is met by trials all the
    /// same, for which a Hugging Face folder is converted
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// A file besides, with what --json says of tensors, one JSON object a line: errors of weights, and of
    /// outputs before and after a method that sees a text
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    report: Option<PathBuf>,
}

/// A pattern and a type.
#[derive(Clone, Debug)]
struct Wish {
    pattern: String,
    ty: GgmlType,
}

fn parse_method(text: &str) -> Result<&'static Method, String> {
    let names = || METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ");
    let why = match text.contains("clip") && text.contains("gptq") {
        true => " (gptq finds ranges of its own, so clipping has no effect before it)",
        false => "",
    };
    Method::from_name(text).ok_or_else(|| format!("none of {}{why}", names()))
}

/// A type of tensors.
pub fn parse_type(text: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(&text.to_ascii_uppercase())
        .or_else(|| GgmlType::from_name(text))
        .ok_or_else(|| "no tensor type".to_string())
}

fn parse_keep_zeros(text: &str) -> Result<KeepZeros, String> {
    let names = || KeepZeros::ALL.map(KeepZeros::name).join(", ");
    let found = KeepZeros::ALL.into_iter().find(|own| own.name() == text);
    found.ok_or_else(|| format!("none of {}", names()))
}

fn parse_tensor_type(text: &str) -> Result<Wish, String> {
    let (pattern, ty) = text.rsplit_once('=').ok_or("must be REGEX=TYPE")?;
    let ty = parse_type(ty).map_err(|_| format!("{ty:?} is no tensor type"))?;
    TensorType::new(pattern, ty).map_err(|error| error.to_string())?;
    Ok(Wish { pattern: pattern.to_owned(), ty })
}

/// Quantizes a file.
pub fn quantize(args: &QuantizeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let mut options = args.options()?;
    args.check_text()?;
    let source = Source::open(&args.input)?;
    let (path, at) = (source.path().to_owned(), args.at(source.path()));
    let needs_weights = !args.dry_run || args.target.is_given();
    if needs_weights {
        args.check_outputs(&source)?;
    }
    let preview = source.preview()?;
    if let Some(file) = preview.as_ref().map(|opened| &*opened.file).or(source.file()) {
        options.wishes.check(file).map_err(|error| at(error.into()))?;
    }
    if let Some(preview) = preview.as_ref().filter(|_| !args.target.is_given()) {
        // What stands in the way is said before a folder is converted.
        target::plan(&preview.file, &options, &at)?;
    }
    let opened = match preview.filter(|_| !needs_weights) {
        Some(preview) => preview,
        None => source.into_file(&args.output)?,
    };
    let file = opened.file.clone();
    options.receipt = Some(args.receipt(&file)?);
    let chosen = args.target.choose(&file, &path, &options, &at)?;
    let mut plan = match &chosen {
        Some(chosen) => Plan::with_types(&file, &options, &chosen.types).map_err(&at)?,
        None => target::plan(&file, &options, &at)?,
    };
    for warning in &plan.warnings {
        let is_allowed = matches!(warning, crate::quantize::Warning::Requantized { .. });
        if !(is_allowed && args.allow_requantize) {
            super::note(format_args!("warning: {warning}"));
        }
    }
    if args.dry_run {
        return Ok(tell(args, &plan, chosen.as_ref(), None, out)?);
    }
    space::check(&args.output, plan.data_bytes())?;
    let start = Instant::now();
    let layers = match args.target.text().filter(|_| args.method.sees_text()) {
        Some(text) => {
            let texts = Texts { text, chunks: args.target.chunks(), file: &file, path: &path };
            Some(make_layers(&texts, &mut plan, &args.output)?)
        }
        None => None,
    };
    let mut progress = WorkProgress::begin();
    let losses = interrupt::orderly(|cancel: &AtomicBool| {
        let written = plan.write(&args.output, &mut |step| {
            progress.show(step.done, step.total, |told| line(&plan, &step, &told));
            !cancel.load(Ordering::Relaxed)
        });
        written.map_err(|error| match error {
            QuantizeError::Cancelled => CliError::failed("nothing was written"),
            error => at(error),
        })
    })?;
    drop(progress);
    let outputs = layers.as_ref().map(|layers| &layers.losses);
    let written = Written { losses: &losses, outputs, time: start.elapsed() };
    if let Some(path) = &args.report {
        report(path, &tensors_of(&plan, chosen.as_ref(), Some(&written)))?;
    }
    tell(args, &plan, chosen.as_ref(), Some(written), out)?;
    drop(plan);
    layers.map_or(Ok(()), Layers::remove)
}

impl QuantizeArgs {
    /// Refuses a text that nothing reads, and a method that has none.
    fn check_text(&self) -> Result<(), CliError> {
        let name = self.method.name;
        match self.target.text() {
            None if self.method.sees_text() => Err(CliError::usage(format!(
                "--method {name} needs --calibrate TEXT: the inputs of products count that come of it"
            ))),
            Some(_) if !self.method.sees_text() && !self.target.is_given() => {
                Err(CliError::usage(format!(
                    "--calibrate is for --target-size, --target-bpw and methods that see a text: \
                     --method {name} does not"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Names the input in front of errors that do not name a file themselves, and the flags that help.
    fn at(&self, path: &Path) -> impl Fn(QuantizeError) -> CliError + use<> {
        let (path, has_imatrix) = (path.to_owned(), self.imatrix.is_some());
        move |error| {
            let hint = match &error {
                QuantizeError::NeedsImportances { .. } => {
                    " (--imatrix FILE has them, --force goes on without)"
                }
                QuantizeError::ForeignImportances { .. } => {
                    " (--force goes on without importances)"
                }
                QuantizeError::Target { .. } if !has_imatrix => {
                    "; importances (--imatrix FILE) let types of fewer bits be used"
                }
                QuantizeError::Mix(MixError::NoTensor(_)) => " (--tensor-type)",
                QuantizeError::NoZero { .. } => " (--keep-zeros)",
                _ => "",
            };
            match error {
                QuantizeError::Output(_) | QuantizeError::SameFile(_) => {
                    CliError::failed(error.to_string())
                }
                error => CliError::failed(format!("{}: {error}{hint}", path.display())),
            }
        }
    }

    /// Refuses outputs that are inputs or cannot be written, before work begins.
    fn check_outputs(&self, source: &Source) -> Result<(), CliError> {
        let files = source.files();
        let models: Vec<&GgufFile> = source.file().into_iter().collect();
        let count = match models.first().filter(|_| self.keep_split) {
            Some(file) => file.shard_count(),
            None => 1,
        };
        outputs(&self.output, count).iter().try_for_each(|output| {
            let beside = self.imatrix.as_deref().into_iter().chain(self.target.text());
            space::check_output(output, beside.chain(files.iter().map(PathBuf::as_path)), &models)
        })?;
        let inputs = files.iter().map(PathBuf::as_path).chain([&*self.output]);
        self.report
            .iter()
            .try_for_each(|report| space::check_output(report, inputs.clone(), &models))
    }

    fn options(&self) -> Result<Options, CliError> {
        let wishes = Wishes {
            output: self.output_tensor_type,
            token_embedding: self.token_embedding_type,
            tensors: self
                .tensor_type
                .iter()
                .map(|wish| TensorType::new(&wish.pattern, wish.ty))
                .collect::<Result<_, _>>()?,
            pure: self.pure,
            leave_output: self.leave_output_tensor,
        };
        let imatrix = self.imatrix.as_deref().map(open_imatrix);
        let name = self.imatrix.as_ref().map(|path| path.display().to_string());
        let default_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Options {
            mix: self.mix.and_then(Named::mix),
            wishes,
            method: self.method,
            imatrix: imatrix.transpose()?,
            imatrix_name: name.unwrap_or_default(),
            force: self.force,
            pruning: None,
            keep_zeros: self.keep_zeros,
            keep_split: self.keep_split,
            threads: self.threads.map_or(default_threads.min(MAX_THREADS), usize::from),
            kernels: KernelTable::from_env().map_err(|e| CliError::usage(e.to_string()))?,
            qat: self.qat.qat,
            types_of_grids: self.mix == Some(Named::Auto),
            receipt: None,
        })
    }

    /// The receipt's entries: whatever the bytes depend on.
    fn receipt(&self, file: &GgufFile) -> Result<Request, CliError> {
        let mut request = receipt::request(file);
        request.add("method", self.method.name);
        let mut parameters = self.target.told();
        parameters.extend(self.mix.map(|named| format!("type={}", named.name())));
        for (name, ty) in [
            ("output-tensor-type", self.output_tensor_type),
            ("token-embedding-type", self.token_embedding_type),
        ] {
            parameters.extend(ty.map(|ty| format!("{name}={ty}")));
        }
        let wishes = self.tensor_type.iter();
        parameters.extend(wishes.map(|wish| format!("tensor-type={}={}", wish.pattern, wish.ty)));
        for (name, is_set) in [
            ("leave-output-tensor", self.leave_output_tensor),
            ("pure", self.pure),
            ("force", self.force),
            ("qat=off", self.qat.qat == Qat::Off),
        ] {
            parameters.extend(is_set.then(|| name.to_owned()));
        }
        if self.keep_zeros != KeepZeros::Auto {
            parameters.push(format!("keep-zeros={}", self.keep_zeros.name()));
        }
        request.add("parameters", parameters.join(" "));
        if let Some(path) = &self.imatrix {
            request.add("imatrix.sha256", receipt::hash_of(path)?);
        }
        if let Some(path) = self.target.text() {
            request.add("calibration.sha256", receipt::hash_of(path)?);
        }
        Ok(request)
    }
}

/// The line that tells how far a plan is.
fn line(plan: &Plan<'_>, step: &Step<'_>, told: &Told) -> String {
    let Told { percent, left, .. } = told;
    if !told.is_terminal {
        return format!("quantized {percent} %{left}");
    }
    let (number, all, name) = (step.number + 1, plan.tensors.len(), &step.tensor.info.name);
    format!("{percent:3} % [{number}/{all}] {name}{left}")
}

/// Losses and time of a file that was written.
struct Written<'a> {
    /// What each tensor lost.
    losses: &'a [Loss],
    /// What its outputs lost, by name, where a text was seen.
    outputs: Option<&'a HashMap<String, OutputLoss>>,
    time: Duration,
}

impl Written<'_> {
    /// What a tensor lost, if it is not copied.
    fn loss(&self, plan: &Plan<'_>, number: usize) -> Option<Loss> {
        (!plan.tensors[number].is_copied()).then_some(self.losses[number])
    }

    /// The relative errors of its outputs by the method's first step alone, and of what was written.
    fn outputs(&self, plan: &Plan<'_>, number: usize) -> Option<[f64; 2]> {
        let loss = self.outputs?.get(&plan.tensors[number].info.name)?;
        let relative = [loss.before, loss.after].map(|lost| (lost / loss.size).sqrt());
        (loss.size > 0.0).then_some(relative)
    }
}

/// What is known of each tensor.
fn tensors_of(
    plan: &Plan<'_>,
    chosen: Option<&Chosen>,
    written: Option<&Written<'_>>,
) -> Vec<Value> {
    let tensor = |(number, tensor): (usize, &Planned<'_>)| {
        let mut value = json!({
            "name": tensor.info.name,
            "shape": tensor.info.dims,
            "from": tensor.info.ty.name(),
            "type": tensor.ty.name(),
            "bytes": tensor.bytes,
            "method": tensor.method.name,
            "importances": tensor.has_importances(),
            "grid": tensor.grid.as_ref().map(grids::as_json),
        });
        if let Some(probe) = chosen.and_then(|chosen| chosen.probes[number]) {
            value["probe"] = json!({
                "type": probe.ty.name(),
                "relative_error": probe.relative_error,
                "together": probe.together,
                "divergence": probe.divergence,
            });
        }
        if let Some(loss) = written.and_then(|written| written.loss(plan, number)) {
            value["rms_error"] = json!(loss.rms_error());
            value["relative_error"] = json!(loss.relative());
            value["cosine"] = json!(loss.cosine());
        }
        if let Some([before, after]) = written.and_then(|written| written.outputs(plan, number)) {
            value["output_error"] = json!({"method_alone": before, "written": after});
        }
        value
    };
    plan.tensors.iter().enumerate().map(tensor).collect()
}

/// Writes a line of JSON for each tensor.
fn report(path: &Path, tensors: &[Value]) -> Result<(), CliError> {
    let part = PartFile::create(path)?;
    let lines: String = tensors.iter().map(|tensor| format!("{tensor}\n")).collect();
    part.file().write_all(lines.as_bytes()).map_err(CliError::at(path))?;
    Ok(part.finish()?)
}

/// Tells what was written, with its losses and the time that it took, or what would be.
fn tell(
    args: &QuantizeArgs,
    plan: &Plan<'_>,
    chosen: Option<&Chosen>,
    written: Option<Written<'_>>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let elements: u64 = plan.tensors.iter().map(|t| t.info.dims.iter().product::<u64>()).sum();
    let before: u64 = plan.tensors.iter().map(|t| t.info.bytes).sum();
    let after = plan.data_bytes();
    let bits = |bytes: u64| bytes as f64 * 8.0 / elements.max(1) as f64;
    let loss_of = |number| written.as_ref().and_then(|written| written.loss(plan, number));
    let output_of = |number| written.as_ref().and_then(|written| written.outputs(plan, number));
    if args.json {
        let tensors = tensors_of(plan, chosen, written.as_ref());
        let mut value = json!({
            "type": args.mix.map_or("target", Named::name),
            "method": args.method.name,
            "tensors": tensors,
            "bytes_before": before,
            "bytes": after,
            "file_bytes": plan.file_bytes().ok(),
            "bits_per_weight": bits(after),
            "dry_run": args.dry_run,
        });
        if let Some(written) = &written {
            value["seconds"] = json!(written.time.as_secs_f64());
        }
        return writeln!(out, "{value}");
    }
    let width = plan.tensors.iter().map(|t| t.info.name.len()).max().unwrap_or(0);
    for (number, tensor) in plan.tensors.iter().enumerate() {
        let (name, from, to) = (&tensor.info.name, tensor.info.ty.name(), tensor.ty.name());
        let size = bytes(tensor.bytes);
        match loss_of(number) {
            Some(loss) => {
                let (rms, part) = (loss.rms_error(), 100.0 * loss.relative());
                let output = output_of(number).map_or(String::new(), |[before, after]| {
                    format!(", output {:.2} % (alone {:.2} %)", 100.0 * after, 100.0 * before)
                });
                writeln!(
                    out,
                    "{name:width$}  {from:>7} -> {to:7} {size:>10}  rms error {rms:.3e} ({part:.2} %)\
                     {output}"
                )?;
            }
            None if tensor.is_copied() => writeln!(out, "{name:width$}  {from:>7} {size:>21}")?,
            None => writeln!(out, "{name:width$}  {from:>7} -> {to:7} {size:>10}")?,
        }
    }
    for line in grids::summary(plan.tensors.iter().filter_map(|tensor| tensor.grid.as_ref())) {
        writeln!(out, "{line}")?;
    }
    let time = written.as_ref().map(|written| format!(", {:.1} s", written.time.as_secs_f64()));
    let time = time.unwrap_or_default();
    writeln!(
        out,
        "{} ({:.2} bits per weight) -> {} ({:.2}){time}",
        bytes(before),
        bits(before),
        bytes(after),
        bits(after)
    )
}
