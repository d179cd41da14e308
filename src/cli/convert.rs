//! `teff convert`: a Hugging Face folder, or a repository of the hub, as one GGUF file.

use super::edit::told;
use super::grids::{self, QatArgs};
use super::options::cache_of;
use super::progress::{StderrProgress, Told, WorkProgress};
use super::{CliError, interrupt, receipt, space};
use crate::cache::ModelRef;
use crate::convert::{Conversion, ConvertError, ConvertOptions, Output, Place, Qat, TargetType};
use crate::model::describe::{bytes, counted};
use crate::receipt::Request;
use crate::text::is_pre_tokenizer;
use clap::ValueEnum;
use gguf_rs_lite::GgufFile;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `teff convert`
#[derive(clap::Args, Debug)]
pub struct ConvertArgs {
    /// The folder: config.json, *.safetensors and the files of the tokenizer; hf:owner/repo
    /// downloads one
    #[arg(value_name = "DIR")]
    source: ModelRef,
    /// The file to write
    #[arg(short, long, value_name = "OUT.gguf", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Type of the matrices; auto is the one that they are stored in, and that of their codes where
    /// they are quantized
    #[arg(long = "type", value_name = "TYPE", default_value = "auto")]
    ty: Type,
    /// Name of the model in the file [default: the folder's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Name of the pre-tokenizer, where that of tokenizer.json is not known
    #[arg(long, value_name = "NAME", value_parser = parse_pre)]
    pre: Option<String>,
    /// Folder with the config.json of the model that an adapter is for [default: the adapter's]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    #[command(flatten)]
    qat: QatArgs,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Types that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    Auto,
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

fn parse_pre(text: &str) -> Result<String, String> {
    match is_pre_tokenizer(text) {
        true => Ok(text.to_owned()),
        false => Err("no known pre-tokenizer".into()),
    }
}

/// The folder, fetched if need be.
fn folder(source: &ModelRef) -> Result<PathBuf, CliError> {
    match source {
        ModelRef::Path(path) => Ok(path.clone()),
        // Nothing is to be converted there; a folder of the name may be.
        ModelRef::Alias(alias) => Ok(PathBuf::from(alias.name)),
        ModelRef::Hub { .. } => {
            let cache = cache_of(source)?;
            let mut progress = StderrProgress::new();
            interrupt::orderly(|cancel| cache.checkpoint(source, &mut progress, cancel))
        }
    }
}

/// Converts a folder.
pub fn convert(args: &ConvertArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let ty = match args.ty {
        Type::Auto => None,
        Type::F32 => Some(TargetType::F32),
        Type::F16 => Some(TargetType::F16),
        Type::Bf16 => Some(TargetType::Bf16),
        Type::Q8_0 => Some(TargetType::Q8_0),
    };
    let (pre, name, base) = (args.pre.clone(), args.name.clone(), args.base.clone());
    let options = ConvertOptions { ty, pre, name, base, qat: args.qat.qat };
    let folder = folder(&args.source)?;
    let output = args.output.as_ref().filter(|_| !args.dry_run);
    if let Some(output) = output {
        let files = files_of(&folder);
        space::check_output(output, files.iter().map(PathBuf::as_path), &[])?;
    }
    let conversion = plan(&folder, &options)?;
    let start = Instant::now();
    match output {
        Some(output) => {
            let request = |file: &GgufFile| args.receipt(file);
            write_any(&conversion, &folder, output, Some(&request))?;
        }
        None => drop(outline(&conversion, &folder)?),
    }
    Ok(tell(args, &conversion, start.elapsed(), out)?)
}

/// Reads a folder, and says what has no place in the result.
///
/// # Errors
/// The folder cannot be converted.
pub fn plan(folder: &Path, options: &ConvertOptions) -> Result<Conversion, CliError> {
    if !folder.is_dir() {
        let problem = if folder.exists() { "is no folder" } else { "there is no such folder" };
        return Err(CliError::failed(format!("{}: {problem}", folder.display())));
    }
    let conversion = Conversion::plan(folder, options).map_err(at(folder))?;
    for name in conversion.left_out() {
        super::note(format_args!("left out: {name}"));
    }
    if let Some(warning) = lost_tokens(conversion.tokens_left_out()) {
        super::note(format_args!("{warning}"));
    }
    Ok(conversion)
}

/// Tokens that a warning names.
const TOKENS_NAMED: usize = 4;

/// Words about tokens that the embedding has no row for.
fn lost_tokens(tokens: &[String]) -> Option<String> {
    let n = tokens.len();
    let named: Vec<String> =
        tokens.iter().take(TOKENS_NAMED).map(|token| format!("{token:?}")).collect();
    let more = if n > TOKENS_NAMED { ", ..." } else { "" };
    let many = if n == 1 { "token has an id" } else { "tokens have ids" };
    let named = named.join(", ");
    (n > 0).then(|| {
        format!("warning: {n} {many} beyond the embedding's rows and no place: {named}{more}")
    })
}

/// The files of a folder.
pub fn files_of(folder: &Path) -> Vec<PathBuf> {
    let files = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| !path.is_dir()).collect()
}

/// The file of a folder without its weights.
///
/// # Errors
/// It would not run, or there is no place for it.
pub fn outline(conversion: &Conversion, folder: &Path) -> Result<(Arc<GgufFile>, Place), CliError> {
    conversion.outline().map_err(at(folder))
}

/// Writes the file of a folder, with progress, where there is room for it.
///
/// # Errors
/// There is none, or the folder cannot be converted.
pub fn write(conversion: &Conversion, folder: &Path, output: &Path) -> Result<(), CliError> {
    write_any(conversion, folder, output, None)
}

fn write_any(
    conversion: &Conversion,
    folder: &Path,
    output: &Path,
    receipt: Option<&dyn Fn(&GgufFile) -> Request>,
) -> Result<(), CliError> {
    space::check(output, conversion.bytes())?;
    let total = conversion.bytes();
    let mut progress = WorkProgress::begin();
    let line = |Told { is_terminal, percent, left }| match is_terminal {
        true => format!("{percent:3} % of {}{left}", bytes(total)),
        false => format!("converted {percent} %{left}"),
    };
    interrupt::orderly(|cancel| {
        let show = &mut |done| progress.show(done, total, line);
        let written = match receipt {
            Some(request) => conversion.write_with_receipt(output, request, show, cancel),
            None => conversion.write(output, show, cancel),
        };
        written.map_err(at(folder))
    })
}

impl ConvertArgs {
    /// The receipt's entries: whatever the bytes depend on, beside the folder.
    fn receipt(&self, file: &GgufFile) -> Request {
        let mut request = receipt::request(file, "convert");
        let ty = self.ty.to_possible_value();
        let mut parameters: Vec<String> =
            ty.iter().map(|ty| format!("type={}", ty.get_name())).collect();
        parameters.extend(self.pre.as_ref().map(|pre| format!("pre={pre}")));
        parameters.extend((self.qat.qat == Qat::Off).then(|| "qat=off".to_owned()));
        request.add("parameters", parameters.join(" "));
        request
    }
}

/// Names the folder in front of errors that do not, and the flags that help.
fn at(folder: &Path) -> impl Fn(ConvertError) -> CliError {
    move |error| {
        let hint = match &error {
            ConvertError::UnknownPreTokenizer { .. } => " (--pre NAME says which one it is like)",
            ConvertError::NoBase { .. } => " (--base DIR names its folder)",
            ConvertError::NotFinite { value, .. } if value.is_finite() => {
                " (--type f32 or bf16 holds it)"
            }
            _ => "",
        };
        let named = error.to_string().contains(&*folder.to_string_lossy());
        let colon = if named { String::new() } else { format!("{}: ", folder.display()) };
        CliError::failed(format!("{colon}{error}{hint}"))
    }
}

fn tell(
    args: &ConvertArgs,
    conversion: &Conversion,
    time: Duration,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let all = conversion.tensors();
    if args.json {
        let row = |t: &Output| {
            let codes = t.keeps_codes().map(|keeps| if keeps { "kept" } else { "rounded" });
            let grid = t.grid().map(grids::as_json);
            json!({"name": t.name, "type": t.ty.name(), "dims": t.dims(), "codes": codes, "grid": grid})
        };
        let tensors: Vec<_> = all.iter().map(row).collect();
        let value = json!({
            "architecture": conversion.arch(),
            "path": args.output.as_ref().map(|path| path.to_string_lossy()),
            "bytes": conversion.bytes(),
            "tensors": tensors,
            "left_out": conversion.left_out(),
            "tokens_left_out": conversion.tokens_left_out(),
            "dry_run": args.dry_run,
            "seconds": time.as_secs_f64(),
        });
        return writeln!(out, "{value}");
    }
    if args.dry_run {
        for (key, value) in conversion.entries() {
            writeln!(out, "{key} = {}", told(value))?;
        }
        let width = all.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        for tensor in all {
            let (name, ty) = (&tensor.name, tensor.ty.name());
            let dims: Vec<String> = tensor.dims().iter().map(u64::to_string).collect();
            let grid = tensor.grid().map(|found| format!("  {}", grids::told(found)));
            let codes = match tensor.keeps_codes() {
                Some(true) => "  codes as they are",
                Some(false) => "  values rounded: no type has the grid",
                None => grid.as_deref().unwrap_or(""),
            };
            writeln!(out, "{name:width$}  {ty:>5}  {}{codes}", dims.join(" x "))?;
        }
    }
    let (arch, n, size) = (conversion.arch(), all.len(), bytes(conversion.bytes()));
    let path = args.output.as_ref().map_or_else(String::new, |p| format!("{}: ", p.display()));
    writeln!(out, "{path}{arch}, {} of {size}", counted(n, "tensor"))?;
    for line in grids::summary(all.iter().filter_map(Output::grid)) {
        writeln!(out, "{line}")?;
    }
    let count = |keeps| all.iter().filter(|output| output.keeps_codes() == Some(keeps)).count();
    match (count(true), count(false)) {
        (0, 0) => Ok(()),
        (kept, 0) => writeln!(out, "the codes of all {kept} quantized tensors are as they were"),
        (kept, rounded) => writeln!(
            out,
            "the codes of {kept} quantized tensors are as they were, the values of {rounded} rounded, whose \
             grid no type has"
        ),
    }
}
