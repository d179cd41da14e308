//! The model's file that `teff quantize`, `teff prune` and `teff tune` write by a [`Plan`]: what is checked before
//! work begins, the work with its progress, and what it lost.

use super::engine_args::kernels;
use super::layerwise::{Layers, Texts, make_layers};
use super::progress::{Told, WorkProgress};
use super::source::Source;
use super::{CliError, interrupt, space, threads};
use crate::quantize::{Loss, Options, OutputLoss, Plan, Planned, QuantizeError, Step, outputs};
use gguf_rs_lite::GgufFile;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Options of a plan that keeps all types, without a receipt.
///
/// # Errors
/// The kernels that the user asks for are none.
pub fn options(n_threads: Option<u16>) -> Result<Options, CliError> {
    let (threads, kernels) = (threads::number(n_threads), kernels()?);
    Ok(Options { threads, kernels, ..Options::unchanged() })
}

/// Names the input in front of an error that does not name a file itself, and behind it the flag that helps.
pub fn failed(input: &Path, error: &QuantizeError, hint: &str) -> CliError {
    CliError::failed(match error {
        QuantizeError::Cancelled => "nothing was written".to_string(),
        QuantizeError::Output(_) | QuantizeError::SameFile(_) => error.to_string(),
        error => format!("{}: {error}{hint}", input.display()),
    })
}

/// Refuses outputs that are one of the inputs, the source or a file `beside` it, or cannot be written.
///
/// # Errors
/// As [`space::check_output`].
pub fn check_outputs<'p>(
    output: &Path,
    keeps_split: bool,
    source: &Source,
    beside: impl IntoIterator<Item = &'p Path>,
) -> Result<(), CliError> {
    let inputs: Vec<PathBuf> =
        beside.into_iter().map(Path::to_owned).chain(source.files()).collect();
    let models: Vec<&GgufFile> = source.file().into_iter().collect();
    let split = models.first().filter(|_| keeps_split);
    outputs(output, split.map_or(1, |model| model.shard_count())).iter().try_for_each(|output| {
        space::check_output(output, inputs.iter().map(PathBuf::as_path), &models)
    })
}

/// A file that was written.
pub struct Written {
    /// Losses of tensors, in the order of the plan.
    pub losses: Vec<Loss>,
    /// Time since the work began.
    pub time: Duration,
    layers: Option<Layers>,
}

impl Written {
    /// The relative errors of a tensor's outputs, where a text was seen: by the method's first step alone, and
    /// of what was written.
    pub fn outputs(&self, tensor: &Planned<'_>) -> Option<[f64; 2]> {
        let losses: &HashMap<String, OutputLoss> = &self.layers.as_ref()?.losses;
        let loss = losses.get(&tensor.info.name)?;
        let relative = [loss.before, loss.after].map(|lost| (lost / loss.size).sqrt());
        (loss.size > 0.0).then_some(relative)
    }

    /// Takes away what was kept in case that the work does not come to its end. The plan must be gone, as it has
    /// such files mapped.
    ///
    /// # Errors
    /// The folder of what was kept cannot be removed.
    pub fn finish(self) -> Result<(), CliError> {
        self.layers.map_or(Ok(()), Layers::remove)
    }
}

/// Writes the files of a plan, layer after layer first if there are `texts`. `verb` says what becomes of tensors
/// (`pruned`), `at` makes errors of the plan's.
///
/// # Errors
/// The disk has no room, the file cannot be written, or work was stopped.
pub fn write(
    plan: &mut Plan<'_>,
    output: &Path,
    texts: Option<&Texts<'_>>,
    verb: &str,
    at: &dyn Fn(QuantizeError) -> CliError,
) -> Result<Written, CliError> {
    space::check(output, plan.data_bytes())?;
    let start = Instant::now();
    let layers = texts.map(|texts| make_layers(texts, plan, output)).transpose()?;
    let mut progress = WorkProgress::begin();
    let losses = interrupt::orderly(|cancel| {
        let written = plan.write(output, &mut |step| {
            progress.show(step.done, step.total, |told| line(plan, verb, &step, &told));
            !cancel.load(Ordering::Relaxed)
        });
        written.map_err(at)
    })?;
    drop(progress);
    Ok(Written { losses, time: start.elapsed(), layers })
}

/// The line that tells how far a plan is.
fn line(plan: &Plan<'_>, verb: &str, step: &Step<'_>, told: &Told) -> String {
    let Told { percent, left, .. } = told;
    if !told.is_terminal {
        return format!("{verb} {percent} %{left}");
    }
    let (number, all, name) = (step.number + 1, plan.tensors.len(), &step.tensor.info.name);
    format!("{percent:3} % [{number}/{all}] {name}{left}")
}

/// Fields of `--json` that a tensor has whatever the verb.
pub fn tensor_as_json(tensor: &Planned<'_>) -> Value {
    json!({
        "name": tensor.info.name,
        "shape": tensor.info.dims,
        "from": tensor.info.ty.name(),
        "type": tensor.ty.name(),
        "bytes": tensor.bytes,
    })
}

/// Adds what a tensor lost to what is said of it.
pub fn add_loss(tensor: &mut Value, loss: Loss) {
    tensor["rms_error"] = json!(loss.rms_error());
    tensor["relative_error"] = json!(loss.relative());
    tensor["cosine"] = json!(loss.cosine());
}
