//! `teff imatrix`: an importance matrix from a calibration text, or from several such files.
//!
//! Ctrl-C writes what the chunks so far have given to a file of its own beside the output, where an
//! older one stays. The next start goes on behind them with `--merge` and `--from-chunk`.

use super::corpus::{ChunkArgs, ChunkProgress, read_text};
use super::engine_args::{EngineArgs, check_context};
use super::options::{ModelArgs, TOKENS_MAX, tokenizer_of, whole_number};
use super::space::UNFINISHED;
use super::{CliError, interrupt, space};
use crate::backend::pages::KvType;
use crate::engine::{Engine, Model};
use crate::eval::{self, Chunks, EvalError};
use crate::model::describe::counted;
use crate::quantize::Options;
use crate::quantize::collect::{RareExperts, rare_experts};
use crate::quantize::imatrix::{Imatrix, ImatrixError};
use gguf_rs_lite::PartFile;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Experts that were chosen less than this share as often as if all were alike get a warning: their
/// importances rest on few tokens.
const RARE_SHARE: f64 = 0.1;
/// Layers that are named in warnings, at most.
const RARE_LAYERS_TOLD: usize = 8;
/// Experts of a layer that are named, at most.
const RARE_EXPERTS_TOLD: usize = 6;

/// `teff imatrix`
#[derive(clap::Args, Debug)]
pub struct ImatrixArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// The calibration text; - is standard input. Left out, the files of --merge are merged only
    #[arg(short, long, value_name = "PATH", required_unless_present = "merge")]
    file: Option<PathBuf>,
    /// The file to be written
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    chunks: ChunkArgs,
    /// Pass over the chunks before this one, counted from 0: to go on where Ctrl-C ended it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number(0..=TOKENS_MAX))]
    from_chunk: u32,
    /// Add the statistics of this file, of either form. May be given several times
    #[arg(long, value_name = "PATH")]
    merge: Vec<PathBuf>,
    /// Form of the output: gguf, or dat, which llama.cpp's tools before 2025 read
    #[arg(long, value_name = "FORM", default_value = "gguf")]
    output_format: Form,
    /// Collect for the matrix that makes logits too
    #[arg(long)]
    process_output: bool,
}

/// Form of an importance matrix's file.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    Gguf,
    Dat,
}

/// Writes the importance matrix.
pub fn imatrix(args: &ImatrixArgs) -> Result<(), CliError> {
    interrupt::done(|| "nothing was written".into());
    space::check_output(&args.output, args.file.as_deref(), &[])?;
    let text = args.file.as_deref().map(read_text).transpose()?;
    let mut imatrix = Imatrix::new(Vec::new(), 0, 0);
    let mut merged = Vec::new();
    for path in &args.merge {
        merged.push((path, open_imatrix(path)?));
    }
    let model = match &text {
        Some(_) => Some(open_model(args)?),
        None => None,
    };
    if let Some(model) = &model {
        space::check_output(&args.output, [], &[model.file()])?;
    }
    let n_ctx = model.as_ref().map(|model| args.chunks.n_ctx(model)).or(args.chunks.ctx());
    // Files of the old form do not say how long their chunks were.
    let size_known = merged.iter().map(|(_, other)| other.chunk_size as usize).find(|&n| n != 0);
    let n_ctx = n_ctx.or(size_known).unwrap_or(0);
    imatrix.set_chunk_size(u32::try_from(n_ctx).unwrap_or(u32::MAX));
    for (path, mut other) in merged {
        other.set_chunk_size(imatrix.chunk_size);
        let named = |error| CliError::failed(format!("{}: {error}", path.display()));
        imatrix.merge(&other).map_err(named)?;
    }
    let shared = Arc::new(Mutex::new(imatrix));
    let is_written = Arc::new(AtomicBool::new(false));
    if let (Some(model), Some(text)) = (&model, &text) {
        collect(args, model, text, (&shared, &is_written))?;
    }
    let imatrix = shared.lock().unwrap_or_else(PoisonError::into_inner);
    write(&imatrix, &args.output, args.output_format)?;
    is_written.store(true, Ordering::Release);
    warn_of_experts(&imatrix)?;
    super::note(format_args!(
        "{}: {}, {} of {} tokens",
        args.output.display(),
        counted(imatrix.weights().len(), "weight"),
        counted(imatrix.chunk_count, "chunk"),
        imatrix.chunk_size
    ));
    Ok(())
}

/// Gives options the importances of a file, and its name.
///
/// # Errors
/// The file cannot be read, or is none.
pub fn add_imatrix(options: &mut Options, path: Option<&Path>) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    options.imatrix = Some(open_imatrix(path)?);
    options.imatrix_name = path.display().to_string();
    Ok(())
}

/// An importance matrix.
///
/// # Errors
/// The file cannot be read, or is none.
fn open_imatrix(path: &Path) -> Result<Imatrix, CliError> {
    Imatrix::open(path).map_err(|error| match error {
        ImatrixError::Io { path, source } => CliError::at(&path)(source),
        error => CliError::failed(format!("{}: {error}", path.display())),
    })
}

/// The model; without the product with the vocabulary where nothing is to be learned of that.
fn open_model(args: &ImatrixArgs) -> Result<Model, CliError> {
    let mut model = args.engine.open(&args.model)?;
    if args.process_output {
        return match model.spec().generates() {
            true => Ok(model),
            false => Err(CliError::of_model(model.path())(
                "the model is an encoder, which has no matrix that makes logits: leave \
                 --process-output out"
                    .to_string(),
            )),
        };
    }
    model.output_embeddings();
    Ok(model)
}

/// Runs the text through the model.
fn collect(
    args: &ImatrixArgs,
    model: &Model,
    text: &str,
    (shared, is_written): (&Arc<Mutex<Imatrix>>, &Arc<AtomicBool>),
) -> Result<(), CliError> {
    let at = |error: EvalError| CliError::of_model(model.path())(error);
    let tokenizer = tokenizer_of(model)?;
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let chunks = args.chunks.cut(model, &tokenizer, path, text)?;
    let first = args.from_chunk as usize;
    let n_ctx = chunks.n_ctx();
    let rest: Vec<u32> = chunks.iter().skip(first).flatten().copied().collect();
    if rest.is_empty() {
        let n = counted(chunks.len(), "chunk");
        return Err(CliError::failed(format!("--from-chunk {first}: the text has {n}")));
    }
    let chunks = Chunks::of_tokens(rest, None, n_ctx).map_err(at)?;
    let options = args.engine.options(KvType::F16)?;
    let options = eval::engine_options(model, n_ctx, &options);
    check_context(model, n_ctx, options.kv_type, args.engine.kv_bytes())?;
    let mut engine = Engine::new(model, &options).map_err(CliError::of_model(model.path()))?;
    args.engine.lock(model, &engine)?;
    {
        let name = path.display().to_string();
        let mut imatrix = shared.lock().unwrap_or_else(PoisonError::into_inner);
        // What goes on is the text that is there already.
        if first == 0 || !imatrix.datasets.contains(&name) {
            imatrix.datasets.push(name);
        }
    }
    save_at_interrupt(args, shared, is_written, first);
    let mut progress = ChunkProgress::new(chunks.len(), "chunks");
    let mut cut = Ok(());
    let collected =
        eval::importance(&mut engine, &chunks, args.process_output, shared, &mut |done| {
            progress.show(done, "");
            // A file that was cut meanwhile must not be touched again.
            cut = model.file().check_uncut();
            if cut.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    drop(progress);
    cut?;
    collected.map_err(at)
}

/// Lets Ctrl-C write what there is.
fn save_at_interrupt(
    args: &ImatrixArgs,
    shared: &Arc<Mutex<Imatrix>>,
    is_written: &Arc<AtomicBool>,
    first: usize,
) {
    let (shared, path, form) =
        (shared.clone(), space::beside(&args.output, UNFINISHED), args.output_format);
    let is_written = is_written.clone();
    let before = shared.lock().unwrap_or_else(PoisonError::into_inner).chunk_count;
    interrupt::done(move || {
        // Held by others for as long as a chunk's sums are added, or the file is written.
        let imatrix = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if is_written.load(Ordering::Acquire) {
            return "all was written".into();
        }
        let n = imatrix.chunk_count.saturating_sub(before);
        if n == 0 {
            return "no chunk was done, nothing was written".into();
        }
        let (next, chunks) = (first + n as usize, counted(n, "chunk"));
        match write(&imatrix, &path, form) {
            Ok(()) => format!(
                "{} has {chunks}: go on with --merge {} --from-chunk {next}",
                path.display(),
                path.display()
            ),
            Err(error) => format!("{chunks} could not be written: {error}"),
        }
    });
}

/// Writes the file, which gets its name when it is whole.
fn write(imatrix: &Imatrix, path: &Path, form: Form) -> Result<(), CliError> {
    let part = PartFile::create(path)?;
    let mut out = BufWriter::new(part.file());
    match form {
        Form::Gguf => imatrix.write_gguf(&mut out).map_err(CliError::of_model(part.path()))?,
        Form::Dat => imatrix.write_dat(&mut out).map_err(CliError::at(part.path()))?,
    }
    out.into_inner().map_err(|error| part.error(error.into_error()))?;
    Ok(part.finish()?)
}

/// Says which experts the text has hardly chosen.
fn warn_of_experts(imatrix: &Imatrix) -> std::io::Result<()> {
    let rare = rare_experts(imatrix, RARE_SHARE);
    for RareExperts { weight, experts, n_experts } in rare.iter().take(RARE_LAYERS_TOLD) {
        let layer = weight.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let told = experts.iter().take(RARE_EXPERTS_TOLD);
        let told = told.map(|(expert, share)| format!("{expert} ({:.3} %)", 100.0 * share));
        let more = match experts.len().saturating_sub(RARE_EXPERTS_TOLD) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        super::note(format_args!(
            "warning: {layer}: of {n_experts} experts the text hardly chose {}{more}: their \
             importances rest on few tokens, or are 1 throughout where there are none",
            told.collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(more) = rare.len().checked_sub(RARE_LAYERS_TOLD).filter(|&n| n > 0) {
        super::note(format_args!("warning: so it is in {}", counted(more, "more layer")));
    }
    Ok(())
}
