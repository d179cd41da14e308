//! `teff quantize` and `teff prune` by a method that sees a text: the tensors of layers, layer after layer.

use super::progress::WorkProgress;
use super::space::beside;
use super::target::chunks_of;
use super::{CliError, interrupt};
use crate::calibrate::{CalibrateError, Calibration, LayerFolder, quantize_layers};
use crate::engine::{EngineError, Model};
use crate::model::{Fnv, fingerprint};
use crate::quantize::{OutputLoss, Plan, Warning};
use gguf_rs_lite::GgufFile;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Tokens in a chunk of the text.
const N_CTX: usize = 512;
/// Chunks that are used when nobody says.
const CHUNKS_DEFAULT: usize = 64;

/// Layers that are finished.
pub struct Layers {
    folder: LayerFolder,
    n_layers: usize,
    /// Losses of the outputs of tensors, by name.
    pub losses: HashMap<String, OutputLoss>,
}

impl Layers {
    /// Takes away the folder that they were kept in, once the file is written.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(self) -> Result<(), CliError> {
        self.folder.remove(self.n_layers).map_err(|error| CliError::failed(error.to_string()))
    }
}

/// A model, and the text that it is to see.
pub struct Texts<'a> {
    /// The text.
    pub text: &'a Path,
    /// Chunks of it that are used, if the user says.
    pub chunks: Option<u32>,
    /// The model's file.
    pub file: &'a Arc<GgufFile>,
    /// Path of that.
    pub path: &'a Path,
}

/// Has the plan get the tensors of layers by its method, at the inputs that come of a text. Finished layers
/// are in a folder beside the output.
///
/// # Errors
/// The text or the model cannot be used, or work was stopped: finished layers stay.
pub fn make_layers(
    texts: &Texts<'_>,
    plan: &mut Plan<'_>,
    output: &Path,
) -> Result<Layers, CliError> {
    let Texts { text, file, path, .. } = *texts;
    let model = Model::from_file(file.clone(), path)?;
    if !model.spec().generates() {
        return Err(CliError::of_model(path)(EngineError::NoLogits));
    }
    let n = texts.chunks.map_or(CHUNKS_DEFAULT, |n| n as usize);
    let chunks = chunks_of(&model, text, N_CTX, n)?;
    let chunks: Vec<&[u32]> = chunks.iter().collect();
    let folder = beside(output, ".layers");
    let of_model = |error: CalibrateError| match error {
        CalibrateError::Stopped => CliError::failed(format!(
            "stopped: finished layers are in {}, the same command goes on",
            folder.display()
        )),
        CalibrateError::Folder { .. } | CalibrateError::Foreign(_) | CalibrateError::Output(_) => {
            CliError::failed(error.to_string())
        }
        error => CliError::failed(format!("{}: {error}", path.display())),
    };
    let layers = LayerFolder::open(&folder, key(file, &chunks, plan)).map_err(&of_model)?;
    let calibration = Calibration {
        model: &model,
        chunks: &chunks,
        threads: plan.threads(),
        kernels: plan.kernels(),
    };
    if plan.method().folds {
        let left = calibration.unfolded(plan).map_err(&of_model)?;
        if let Some(first) = left.first() {
            let n = left.len();
            super::note(format_args!(
                "no factors for the inputs of {n} tensors, such as {first}: no norm or product before \
                 them could take those back"
            ));
        }
    }
    let (mut losses, mut unseen) = (HashMap::new(), (0, String::new()));
    let mut progress = WorkProgress::begin();
    let weights = interrupt::orderly(|cancel| {
        let made = quantize_layers(calibration, plan, &layers, &mut |step| {
            let name = &step.made.weight.name;
            losses.insert(name.clone(), step.made.outputs);
            if unseen.0 == 0 {
                unseen.1.clone_from(name);
            }
            unseen.0 += step.made.unseen;
            progress.show_item("layers", name, step.done, step.total);
            !cancel.load(Ordering::Relaxed)
        });
        made.map_err(of_model)
    })?;
    drop(progress);
    if let (experts @ 1.., name) = unseen {
        super::note(format_args!("warning: {}", Warning::UnseenExperts { experts, name }));
    }
    plan.take_ready(weights);
    Ok(Layers { folder: layers, n_layers: model.spec().layers.len(), losses })
}

/// A number for all that layers depend on: the model, the text, types and method.
fn key(file: &GgufFile, chunks: &[&[u32]], plan: &Plan<'_>) -> u64 {
    let mut hash = Fnv::default();
    hash.update(&fingerprint(file).to_le_bytes());
    for chunk in chunks {
        hash.update(&(chunk.len() as u64).to_le_bytes());
        chunk.iter().for_each(|token| hash.update(&token.to_le_bytes()));
    }
    for tensor in &plan.tensors {
        hash.update(tensor.ty.name().as_bytes());
        hash.update(tensor.method.name.as_bytes());
        if let Some(pruning) = tensor.pruning {
            hash.update(format!("{} {}", pruning.method.name, pruning.sparsity).as_bytes());
        }
        hash.update(tensor.keep_zeros.name().as_bytes());
        hash.update(&[u8::from(tensor.grid.is_some())]);
    }
    hash.0
}
