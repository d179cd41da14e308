//! `--target-size` and `--target-bpw`: types by what they cost, for a size.

use super::corpus::read_text;
use super::options::{TOKENS_MAX, parse_bytes, tokenizer_of, whole_number};
use super::progress::WorkProgress;
use super::{CliError, interrupt};
use crate::engine::{EngineError, EngineOptions, Model};
use crate::eval::{self, Chunks, EvalError, Sensitivity};
use crate::quantize::allocate::Offer;
use crate::quantize::{Options, Plan, QuantizeError, Survey, Surveyed, Target};
use gguf_rs_lite::{GgmlType, GgufFile};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Tokens in a chunk of the text that sensitivities are measured on: enough for answers to depend on
/// more than the last few words, few enough for several passages.
const N_CTX: usize = 256;

/// Chunks that are used when nobody says.
const CHUNKS_DEFAULT: usize = 2;

/// Groups of layers in which each kind of tensor is measured: runs of the model do not grow with its depth.
const GROUPS: usize = 8;

/// Memory that the changed weights of a group may take, unless one alone takes more.
const GROUP_BYTES: u64 = 1 << 30;

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
    /// A text. With a size: to measure on how much losses matter, by runs of the model with
    /// neighbouring layers' tensors of one kind changed; without it the same relative error counts alike
    /// in all but the head, where it counts forty times. With a --method that sees a text:
    /// the text whose inputs of products count
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// Chunks of that text that are used [default: 2 of 256 tokens to measure losses, 64 of 512 by
    /// methods]
    #[arg(long, value_name = "N", requires = "calibrate",
          value_parser = whole_number(1..=TOKENS_MAX))]
    calibrate_chunks: Option<u32>,
}

fn parse_bits(text: &str) -> Result<f64, String> {
    let bits = text.trim().parse().ok().filter(|bits: &f64| (0.5..=32.0).contains(bits));
    bits.ok_or_else(|| "must be a number from 0.5 to 32".into())
}

/// Types that were chosen for a size.
pub struct Chosen {
    /// Type of each tensor of the file.
    pub types: Vec<GgmlType>,
    /// Measurement of each tensor's sensitivity, if it was made.
    pub probes: Vec<Option<Probe>>,
}

/// A tensor in a type of less precision, and what came of it.
#[derive(Clone, Copy)]
pub struct Probe {
    /// The type.
    pub ty: GgmlType,
    /// Root of the weighted squared error by the size of the weights.
    pub relative_error: f64,
    /// Tensors that were changed together.
    pub together: usize,
    /// Divergence of the model with all of them from the one that it was, in nats.
    pub divergence: f64,
    /// The tensor's part of the divergence by its weighted squared error.
    sensitivity: f64,
}

impl TargetArgs {
    /// Words for a receipt: what was asked for. Those of a size are as long as of any other.
    pub fn told(&self) -> Vec<String> {
        let size = self.target_size.map(|size| format!("target-size={size:012}"));
        let bits = self.target_bpw.map(|bits| format!("target-bpw={bits}"));
        let chunks = self.calibrate_chunks.map(|n| format!("calibrate-chunks={n}"));
        [size, bits, chunks].into_iter().flatten().collect()
    }

    /// The text that sensitivities are measured on.
    pub fn text(&self) -> Option<&Path> {
        self.calibrate.as_deref()
    }

    /// Chunks of it that are used, if the user says.
    pub fn chunks(&self) -> Option<u32> {
        self.calibrate_chunks
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
        let survey = survey(file, options, target, at)?;
        // Before anything is measured: whether the size can be met.
        let usual: Vec<f64> = survey.tensors.iter().map(Surveyed::usual_sensitivity).collect();
        let mut types = survey.types(&usual).map_err(at)?;
        let mut probes = vec![None; types.len()];
        if let Some(probing) = probing {
            let bits = survey.target_bits().map_err(at)?;
            let found = measure(&survey, probing, path, bits, at)?;
            let own = found.iter().map(|probe| probe.map_or(0.0, |probe| probe.sensitivity));
            types = survey.types(&own.collect::<Vec<f64>>()).map_err(at)?;
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
        let n = self.calibrate_chunks.map_or(CHUNKS_DEFAULT, |n| n as usize);
        let chunks = chunks_of(&model, text, N_CTX, n)?;
        Ok(Probing { model, chunks })
    }
}

/// The first `n` chunks of a text, of at most `n_ctx` tokens.
///
/// # Errors
/// The text cannot be read or tokenized, or fills no chunk.
pub fn chunks_of(model: &Model, text: &Path, n_ctx: usize, n: usize) -> Result<Chunks, CliError> {
    let n_ctx = model.spec().n_ctx_default(n_ctx);
    // No option cuts other chunks, which is what a hint of ours would speak of.
    let at = |error: EvalError| CliError::failed(format!("{}: {error}", text.display()));
    let mut chunks =
        Chunks::of_text(&tokenizer_of(model)?, &read_text(text)?, n_ctx).map_err(at)?;
    chunks.truncate(n);
    Ok(chunks)
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
        let groups = groups(&survey.tensors, bits);
        let mut found = vec![None; survey.tensors.len()];
        for (done, group) in groups.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(at(QuantizeError::Cancelled));
            }
            file.check_uncut()?;
            let weights = group.iter().map(|(number, offer)| {
                survey.changed(&survey.tensors[*number], offer.ty).map_err(at)
            });
            let weights = weights.collect::<Result<Vec<_>, CliError>>()?;
            // Rounding may take a divergence of nothing below zero.
            let divergence = sensitivity.divergence(weights).map_err(&of_model)?.max(0.0);
            let part = |&(number, offer): &Member<'_>| offer.cost / survey.tensors[number].size2;
            let parts: f64 = group.iter().map(part).sum();
            for member @ &(number, offer) in group {
                found[number] = Some(Probe {
                    ty: offer.ty,
                    relative_error: part(member).sqrt(),
                    together: group.len(),
                    divergence,
                    sensitivity: divergence / parts / survey.tensors[number].size2,
                });
            }
            let name = group.first().map_or("", |&(number, _)| &survey.tensors[number].info.name);
            progress.show_item("measured", name, done + 1, groups.len());
        }
        Ok::<_, CliError>(found)
    })
}

/// A tensor, by its number in a survey, and the offer that it is changed to.
type Member<'a> = (usize, &'a Offer);

/// Tensors that are changed together: those of one kind in neighbouring layers, [`GROUPS`] groups of each
/// kind, more where a group would be too large. Tensors that lose nothing in any type are left out.
fn groups<'a>(tensors: &'a [Surveyed<'_>], bits: f64) -> Vec<Vec<Member<'a>>> {
    let mut kinds: Vec<(&str, Vec<Member<'a>>)> = Vec::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let Some(offer) = tensor.probe(bits) else { continue };
        let name = tensor.info.name.as_str();
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let kind = in_layer.map_or(name, |(_, kind)| kind);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, members)) => members.push((number, offer)),
            None => kinds.push((kind, vec![(number, offer)])),
        }
    }
    let bytes = |&(number, _): &Member<'_>| 2 * tensors[number].info.dims.iter().product::<u64>();
    let mut groups = Vec::new();
    for (_, members) in kinds {
        let largest = members.iter().map(bytes).max().unwrap_or(0);
        groups.extend(parts(members.len(), largest).map(|part| members[part].to_vec()));
    }
    groups
}

/// Cuts `n` tensors of at most so many bytes into groups, of the same size or one tensor more.
fn parts(n: usize, bytes: u64) -> impl Iterator<Item = Range<usize>> {
    let most = usize::try_from(GROUP_BYTES / bytes.max(1)).unwrap_or(usize::MAX).max(1);
    let n_parts = n.div_ceil(n.div_ceil(GROUPS).clamp(1, most));
    (0..n_parts).map(move |i| i * n / n_parts..(i + 1) * n / n_parts)
}

/// What each tensor loses in each type.
fn survey<'a>(
    file: &'a GgufFile,
    options: &'a Options,
    target: Target,
    at: &dyn Fn(QuantizeError) -> CliError,
) -> Result<Survey<'a>, CliError> {
    let mut progress = WorkProgress::begin();
    interrupt::orderly(|cancel| {
        let surveyed = Survey::new(file, options, target, &mut |info, done, total| {
            progress.show_item("tried", &info.name, done, total);
            !cancel.load(Ordering::Relaxed)
        });
        surveyed.map_err(at)
    })
}

/// A plan of a file, whose tensors are looked at where their types depend on values.
///
/// # Errors
/// As [`Plan::new`], or Ctrl-C came.
pub fn plan<'a>(
    file: &'a GgufFile,
    options: &'a Options,
    at: &dyn Fn(QuantizeError) -> CliError,
) -> Result<Plan<'a>, CliError> {
    let mut progress = WorkProgress::begin();
    interrupt::orderly(|cancel| {
        let planned = Plan::watched(file, options, &mut |info, done, total| {
            progress.show_item("looked at", &info.name, done, total);
            !cancel.load(Ordering::Relaxed)
        });
        planned.map_err(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_many_for_a_deep_model_and_small_enough() {
        let sizes = |n, bytes| parts(n, bytes).map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1, 1 << 40), [1]);
        assert_eq!(sizes(3, 1), [1; 3]);
        assert_eq!(sizes(8, 1), [1; 8]);
        assert_eq!(sizes(30, 1), [3, 4, 4, 4, 3, 4, 4, 4]);
        for n in 0..100 {
            for bytes in [0, 1, GROUP_BYTES / 3, GROUP_BYTES, 2 * GROUP_BYTES] {
                let all: Vec<usize> = parts(n, bytes).flatten().collect();
                assert!(all.into_iter().eq(0..n), "{n} of {bytes}");
                let largest = sizes(n, bytes).into_iter().max().unwrap_or(0) as u64;
                assert!(largest <= 1 || largest * bytes <= GROUP_BYTES, "{n} of {bytes}");
                assert!(bytes > 1 || sizes(n, bytes).len() <= GROUPS, "{n} of {bytes}");
            }
        }
    }

    #[test]
    fn bits_are_within_reason() {
        assert_eq!(parse_bits("4.5"), Ok(4.5));
        for text in ["", "0", "33", "nan", "-4"] {
            assert!(parse_bits(text).unwrap_err().starts_with("must be"), "{text}");
        }
    }
}
