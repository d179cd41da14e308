//! `--target-size` and `--target-bpw`: types by what they cost, for a size.

use super::corpus::read_text;
use super::options::{TOKENS_MAX, parse_bytes, tokenizer_of, whole_number};
use super::progress::{Told, WorkProgress};
use super::{CliError, interrupt};
use crate::engine::{EngineError, EngineOptions, Model};
use crate::eval::{self, Chunks, EvalError, Sensitivity};
use crate::quantize::{Options, QuantizeError, Survey, Surveyed, Target};
use gguf_rs_lite::{GgmlType, GgufFile};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens in a chunk of the text that sensitivities are measured on: enough for answers to depend on
/// more than the last few words, few enough for several passages.
const N_CTX: usize = 256;

/// A size in place of a mix.
#[derive(clap::Args, Debug)]
pub struct TargetArgs {
    /// In place of --type: the types that lose least in a file of at most this size, in bytes or
    /// units of 1024 (2.5G)
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_bytes, group = "types")]
    target_size: Option<u64>,
    /// The same for a number of bits per weight
    #[arg(long, value_name = "BITS", value_parser = parse_bits, group = "types")]
    target_bpw: Option<f64>,
    /// Measure on this text how much the loss of each tensor matters, by a run of the model for each;
    /// without it the same relative error counts alike in all
    #[arg(long, value_name = "TEXT", conflicts_with = "mix")]
    calibrate: Option<PathBuf>,
    /// Chunks of 256 tokens of that text that are used
    #[arg(long, value_name = "N", default_value_t = 2, requires = "calibrate",
          value_parser = whole_number(1..=TOKENS_MAX))]
    calibrate_chunks: u32,
}

fn parse_bits(text: &str) -> Result<f64, String> {
    let bits = text.trim().parse().ok().filter(|bits: &f64| (0.5..=32.0).contains(bits));
    bits.ok_or_else(|| "must be a number from 0.5 to 32".into())
}

/// Types that were chosen for a size.
pub struct Chosen {
    /// For each tensor of the file.
    pub types: Vec<GgmlType>,
    /// For each tensor, how its sensitivity was measured, if it was.
    pub probes: Vec<Option<Probe>>,
}

/// A tensor in a type of less precision, and what came of it.
#[derive(Clone, Copy)]
pub struct Probe {
    /// The type.
    pub ty: GgmlType,
    /// Root of the weighted squared error by the size of the weights.
    pub relative_error: f64,
    /// Divergence of the model from the one that it was, in nats.
    pub divergence: f64,
    /// The divergence by the weighted squared error.
    sensitivity: f64,
}

impl TargetArgs {
    /// The text that sensitivities are measured on.
    pub fn text(&self) -> Option<&Path> {
        self.calibrate.as_deref()
    }

    /// Whether there is a size.
    pub fn is_given(&self) -> bool {
        self.target().is_some()
    }

    fn target(&self) -> Option<Target> {
        let bits = self.target_bpw.map(Target::BitsPerWeight);
        self.target_size.map(Target::FileBytes).or(bits)
    }

    /// Chooses types, if there is a size.
    ///
    /// # Errors
    /// The size cannot be met, or the tensors or their sensitivities cannot be measured.
    pub fn choose(
        &self,
        file: &Arc<GgufFile>,
        path: &Path,
        options: &Options,
        at: &dyn Fn(QuantizeError) -> CliError,
    ) -> Result<Option<Chosen>, CliError> {
        let Some(target) = self.target() else { return Ok(None) };
        let probing =
            self.calibrate.as_deref().map(|text| self.probing(text, file, path)).transpose()?;
        let survey = survey(file, options, at)?;
        // Before anything is measured: whether the size can be met.
        let usual: Vec<f64> = survey.tensors.iter().map(Surveyed::usual_sensitivity).collect();
        let mut types = survey.types(&usual, target).map_err(at)?;
        let mut probes = vec![None; types.len()];
        if let Some(probing) = probing {
            let bits = match target {
                Target::BitsPerWeight(bits) => bits,
                Target::FileBytes(bytes) => survey.bits_of(bytes).map_err(at)?,
            };
            let found = measure(&survey, probing, path, bits, at)?;
            let own = found.iter().map(|probe| probe.map_or(0.0, |probe| probe.sensitivity));
            types = survey.types(&own.collect::<Vec<f64>>(), target).map_err(at)?;
            for (tensor, probe) in survey.tensors.iter().zip(found) {
                probes[tensor.number] = probe;
            }
        }
        Ok(Some(Chosen { types, probes }))
    }

    /// What sensitivities are measured with, once it is known that they can be.
    fn probing(&self, text: &Path, file: &Arc<GgufFile>, path: &Path) -> Result<Probing, CliError> {
        let model = Model::from_file(file.clone(), path)?;
        if !model.spec().generates() {
            return Err(CliError::of_model(path)(EngineError::NoLogits));
        }
        let n_ctx = model.spec().n_ctx_default(N_CTX);
        // No option cuts other chunks, which is what a hint of ours would speak of.
        let at = |error: EvalError| CliError::failed(format!("{}: {error}", text.display()));
        let mut chunks =
            Chunks::of_text(&tokenizer_of(&model)?, &read_text(text)?, n_ctx).map_err(at)?;
        chunks.truncate(self.calibrate_chunks as usize);
        Ok(Probing { model, chunks })
    }
}

/// A model, and the text that it is run on.
struct Probing {
    model: Model,
    chunks: Chunks,
}

/// The divergence that comes of each tensor in one type.
fn measure(
    survey: &Survey<'_>,
    probing: Probing,
    path: &Path,
    bits: f64,
    at: &dyn Fn(QuantizeError) -> CliError,
) -> Result<Vec<Option<Probe>>, CliError> {
    let Probing { mut model, chunks } = probing;
    let threads = Some(survey.threads());
    let base = EngineOptions { threads, kernels: survey.kernels(), ..EngineOptions::default() };
    let engine = eval::engine_options(&model, chunks.n_ctx(), &base);
    let of_model = CliError::of_model::<EvalError>(path);
    let file = model.file().clone();
    let mut progress = WorkProgress::begin();
    interrupt::orderly(|cancel| {
        let mut sensitivity = Sensitivity::new(&mut model, &chunks, engine).map_err(&of_model)?;
        let total = survey.tensors.len();
        let mut found = Vec::with_capacity(total);
        for tensor in &survey.tensors {
            stop_if(cancel)?;
            file.check_uncut()?;
            found.push(match tensor.probe(bits) {
                Some(offer) => {
                    let weight = survey.changed(tensor, offer.ty).map_err(at)?;
                    // Rounding may take a divergence of nothing below zero.
                    let kl = sensitivity.divergence(vec![weight]).map_err(&of_model)?.max(0.0);
                    Some(Probe {
                        ty: offer.ty,
                        relative_error: (offer.cost / tensor.size2).sqrt(),
                        divergence: kl,
                        sensitivity: kl / offer.cost,
                    })
                }
                // Nothing is lost in any type that may be chosen.
                None => None,
            });
            let line = |told| line("measured", &tensor.info.name, found.len(), total, &told);
            progress.show(found.len() as u64, total as u64, line);
        }
        Ok::<_, CliError>(found)
    })
}

/// What each tensor loses in each type.
fn survey<'a>(
    file: &'a GgufFile,
    options: &'a Options,
    at: &dyn Fn(QuantizeError) -> CliError,
) -> Result<Survey<'a>, CliError> {
    let mut progress = WorkProgress::begin();
    interrupt::orderly(|cancel| {
        let surveyed = Survey::new(file, options, &mut |info, done, total| {
            let told = |told| line("tried", &info.name, done, total, &told);
            progress.show(done as u64, total as u64, told);
            !cancel.load(Ordering::Relaxed)
        });
        surveyed.map_err(|error| match error {
            QuantizeError::Cancelled => stopped(),
            error => at(error),
        })
    })
}

fn stop_if(cancel: &AtomicBool) -> Result<(), CliError> {
    if cancel.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
}

fn stopped() -> CliError {
    CliError::failed("nothing was written")
}

fn line(what: &str, name: &str, done: usize, total: usize, told: &Told) -> String {
    let Told { is_terminal, percent, left } = told;
    match is_terminal {
        true => format!("{what} {percent:3} % [{done}/{total}] {name}{left}"),
        false => format!("{what} {percent} %{left}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_within_reason() {
        assert_eq!(parse_bits("4.5"), Ok(4.5));
        for text in ["", "0", "33", "nan", "-4"] {
            assert!(parse_bits(text).unwrap_err().starts_with("must be"), "{text}");
        }
    }
}
