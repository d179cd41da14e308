//! `teff quantize`: a model's file in other types.

use super::grids::{self, QatArgs};
use super::imatrix::add_imatrix;
use super::layerwise::Texts;
use super::mix_arg::{self, Named};
use super::model_file::{self, Written};
use super::options::whole_number;
use super::source::Source;
use super::target::{self, Chosen, TargetArgs};
use super::{CliError, receipt};
use crate::backend::MAX_THREADS;
use crate::cache::ModelRef;
use crate::grid::Qat;
use crate::model::describe::bytes;
use crate::quantize::mix::{MixError, TensorType, Wishes};
use crate::quantize::{KeepZeros, Loss, METHODS, Method, Options, Plan, Planned, QuantizeError};
use crate::receipt::Request;
use gguf_rs_lite::{GgmlType, GgufFile, PartFile};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

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
    let opened = source.checked(&args.output, needs_weights, |preview| {
        options.wishes.check(preview).map_err(|error| at(error.into()))?;
        // A size is met by trials, which need weights.
        if !args.target.is_given() {
            target::plan(preview, &options, &at)?;
        }
        Ok(())
    })?;
    let file = opened.file.clone();
    options.wishes.check(&file).map_err(|error| at(error.into()))?;
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
    let texts = args.target.text().filter(|_| args.method.sees_text()).map(|text| {
        let chunks = args.target.chunks();
        Texts { text, chunks, file: &file, path: &path }
    });
    let written = model_file::write(&mut plan, &args.output, texts.as_ref(), "quantized", &at)?;
    if let Some(path) = &args.report {
        report(path, &tensors_of(&plan, chosen.as_ref(), Some(&written)))?;
    }
    tell(args, &plan, chosen.as_ref(), Some(&written), out)?;
    drop(plan);
    written.finish()
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
            model_file::failed(&path, &error, hint)
        }
    }

    /// Refuses outputs that are inputs or cannot be written, before work begins.
    fn check_outputs(&self, source: &Source) -> Result<(), CliError> {
        let beside = self.imatrix.as_deref().into_iter().chain(self.target.text());
        model_file::check_outputs(&self.output, self.keep_split, source, beside)?;
        match &self.report {
            Some(report) => model_file::check_outputs(report, false, source, [&*self.output]),
            None => Ok(()),
        }
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
        let mut options = Options {
            mix: self.mix.and_then(Named::mix),
            wishes,
            method: self.method,
            force: self.force,
            keep_zeros: self.keep_zeros,
            keep_split: self.keep_split,
            qat: self.qat.qat,
            types_of_grids: self.mix == Some(Named::Auto),
            ..model_file::options(self.threads)?
        };
        add_imatrix(&mut options, self.imatrix.as_deref())?;
        Ok(options)
    }

    /// The receipt's entries: whatever the bytes depend on.
    fn receipt(&self, file: &GgufFile) -> Result<Request, CliError> {
        let mut request = receipt::request(file, self.method.name);
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
        let (imatrix, text) = (self.imatrix.as_deref(), self.target.text());
        receipt::add_files(&mut request, [("imatrix", imatrix), ("calibration", text)])?;
        Ok(request)
    }
}

/// Loss of a tensor that is not copied.
fn loss_of(plan: &Plan<'_>, written: &Written, number: usize) -> Option<Loss> {
    (!plan.tensors[number].is_copied()).then_some(written.losses[number])
}

/// What is known of each tensor.
fn tensors_of(plan: &Plan<'_>, chosen: Option<&Chosen>, written: Option<&Written>) -> Vec<Value> {
    let tensor = |(number, tensor): (usize, &Planned<'_>)| {
        let mut value = model_file::tensor_as_json(tensor);
        value["method"] = json!(tensor.method.name);
        value["importances"] = json!(tensor.has_importances());
        value["grid"] = json!(tensor.grid.as_ref().map(grids::as_json));
        if let Some(probe) = chosen.and_then(|chosen| chosen.probes[number]) {
            value["probe"] = json!({
                "type": probe.ty.name(),
                "relative_error": probe.relative_error,
                "together": probe.together,
                "divergence": probe.divergence,
            });
        }
        if let Some(loss) = written.and_then(|written| loss_of(plan, written, number)) {
            model_file::add_loss(&mut value, loss);
        }
        if let Some([before, after]) = written.and_then(|written| written.outputs(tensor)) {
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
    written: Option<&Written>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let elements: u64 = plan.tensors.iter().map(|t| t.info.dims.iter().product::<u64>()).sum();
    let before: u64 = plan.tensors.iter().map(|t| t.info.bytes).sum();
    let after = plan.data_bytes();
    let bits = |bytes: u64| bytes as f64 * 8.0 / elements.max(1) as f64;
    if args.json {
        let tensors = tensors_of(plan, chosen, written);
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
        if let Some(written) = written {
            value["seconds"] = json!(written.time.as_secs_f64());
        }
        return writeln!(out, "{value}");
    }
    let width = plan.tensors.iter().map(|t| t.info.name.len()).max().unwrap_or(0);
    for (number, tensor) in plan.tensors.iter().enumerate() {
        let (name, from, to) = (&tensor.info.name, tensor.info.ty.name(), tensor.ty.name());
        let size = bytes(tensor.bytes);
        match written.and_then(|written| loss_of(plan, written, number)) {
            Some(loss) => {
                let (rms, part) = (loss.rms_error(), 100.0 * loss.relative());
                let output = written.and_then(|written| written.outputs(tensor));
                let output = output.map_or(String::new(), |[before, after]| {
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
    let time = written.map(|written| format!(", {:.1} s", written.time.as_secs_f64()));
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
