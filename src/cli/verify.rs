//! `teff verify`: whether a file is as its receipt says, and runs.

use super::engine_args::kernels;
use super::options::ModelArgs;
use super::receipt::ids_of;
use super::{CliError, header, interrupt};
use crate::engine::report::{Report, ReportOptions};
use crate::model::describe::counted;
use crate::quantize::receipt::{Checked, check, check_folder, check_source, tokens};
use crate::receipt::PREFIX;
use gguf_rs_lite::GgufFile;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use teff_kernels::KernelTable;

/// `teff verify`
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The GGUF file that it was made of: is it that one, and did each tensor lose what the receipt says; or the
    /// Hugging Face folder that it was converted from, whose files are compared and tensors not measured anew
    #[arg(long, value_name = "FILE|DIR")]
    source: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Tells what was found; faults are an error.
///
/// # Errors
/// A file cannot be read, or something is not as it should be.
pub fn verify(args: &VerifyArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let (file, path) = args.model.file()?;
    let kernels = kernels()?;
    let report = Report::new(file, &ReportOptions { kernels, ..ReportOptions::default() });
    let file = &report.file;
    let mut faults: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let at = CliError::of_model(&path);
    let checked = interrupt::orderly(|cancel: &AtomicBool| {
        check(file, &|| !cancel.load(Ordering::Relaxed)).map_err(&at)
    })?;
    let texts = tokens(file);
    for (text, expected) in &texts {
        let found = report.tokenizer.as_ref().and_then(|tokenizer| ids_of(tokenizer, text));
        if found.as_deref() != Some(*expected) {
            faults.push(format!("the vocabulary cuts {text:?} otherwise than when it was made"));
        }
    }
    let source = match &args.source {
        Some(path) => against(path, file, kernels)?,
        None => None,
    };
    for checked in [&checked, &source].into_iter().flatten() {
        faults.extend(checked.faults.iter().cloned());
    }
    if args.source.is_some() && source.is_none() {
        faults.push("there is no receipt to hold the source against".into());
    }
    if args.json {
        let entry = |key: &str| file.get(&format!("{PREFIX}{key}")).and_then(|v| v.as_str());
        let receipt = checked.as_ref().map(|checked| {
            json!({
                "version": entry("version"),
                "method": entry("method"),
                "parameters": entry("parameters"),
                "source": entry("source.sha256"),
                "tensors": checked.same,
            })
        });
        let source = source
            .as_ref()
            .map(|source| json!({"tensors": source.same, "not_measured": source.unmeasured}));
        let texts = texts.len();
        let all = json!({"receipt": receipt, "texts": texts, "source": source, "faults": faults});
        writeln!(out, "{all}")?;
    } else {
        tell(&checked, texts.len(), &source, out)?;
        faults.iter().try_for_each(|fault| writeln!(out, "fault: {fault}"))?;
    }
    match faults.len() {
        0 => Ok(()),
        n => Err(CliError::failed(format!("{}: {}", path.display(), counted(n, "fault")))),
    }
}

/// Holds a receipt against a source.
fn against(
    path: &std::path::Path,
    file: &GgufFile,
    kernels: &KernelTable,
) -> Result<Option<Checked>, CliError> {
    if path.is_dir() {
        return interrupt::orderly(|cancel: &AtomicBool| {
            check_folder(file, path, &|| !cancel.load(Ordering::Relaxed))
                .map_err(CliError::at(path))
        });
    }
    let source = header::open(path)?;
    let at = CliError::of_model(path);
    interrupt::orderly(|cancel: &AtomicBool| {
        check_source(file, &source, kernels, &|| !cancel.load(Ordering::Relaxed)).map_err(at)
    })
}

fn tell(
    checked: &Option<Checked>,
    texts: usize,
    source: &Option<Checked>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    match checked {
        Some(checked) => writeln!(out, "{} as in the receipt", counted(checked.same, "tensor"))?,
        None => writeln!(out, "no receipt: tensors are not checked")?,
    }
    if texts > 0 {
        writeln!(out, "{} cut by the vocabulary", counted(texts, "text"))?;
    }
    if let Some(source) = source {
        let left = match source.unmeasured {
            0 => String::new(),
            n => format!(", {n} not measured: {}", source.why),
        };
        let same = counted(source.same, "tensor");
        writeln!(out, "{same} lost what the receipt says{left}")?;
    }
    Ok(())
}
