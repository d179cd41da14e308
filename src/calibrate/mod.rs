//! Tensors by methods that see a text: layer after layer, each quantized for the inputs that the
//! quantized layers before it leave.
//!
//! [`quantize_layers`] keeps the residual stream of every token of the text, one layer's weights and the
//! Hessians of its inputs in memory, whatever the model's size: 4 bytes for each token and element of the
//! stream, and for each product 4 bytes times the square of its columns. A layer runs twice, as the
//! program of its own that [`lower_part`] makes: with the weights of the file, to
//! see the inputs of its products, and with those that came of it, for the next layer. What is finished is
//! in a folder, from which a later call goes on.

mod error;
mod folder;

pub use error::CalibrateError;
pub use folder::LayerFolder;

use crate::backend::Observer;
use crate::backend::available_bytes;
use crate::backend::pages::KvType;
use crate::decoder::{
    Decoder, DecoderOptions, ModelPart, Outputs, SequenceChunk, Stepper, lower_part,
};
use crate::engine::{KV_BYTES_DEFAULT, Model};
use crate::quantize::hessian::Inputs;
use crate::quantize::{Feedback, OutputLoss, Plan, Planned, check_finite};
use crate::tensor::Weight;
use crate::tensor::memory::reserve;
use gguf_rs_lite::GgmlType;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use teff_kernels::KernelTable;

/// A text, and what runs the model on it.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// The model, whose weights are quantized.
    pub model: &'a Model,
    /// The text in chunks, which the model sees one by one.
    pub chunks: &'a [&'a [u32]],
    /// Worker threads.
    pub threads: usize,
    /// Kernels that run the model.
    pub kernels: &'static KernelTable,
}

/// Feedback by input, matrix and columns of a block.
type Known = HashMap<(usize, usize, usize), Feedback>;

/// A tensor that is finished.
#[derive(Clone, Copy, Debug)]
pub struct LayerStep<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type that it got.
    pub ty: GgmlType,
    /// What its outputs lost; `None` if it comes from the folder.
    pub loss: Option<OutputLoss>,
    /// Tensors that are finished.
    pub done: usize,
    /// All tensors.
    pub total: usize,
}

/// Quantizes the tensors of a plan that are in layers, by its method with error feedback. `step` hears of
/// each tensor and returns whether to go on. The blocks do not depend on the number of threads.
///
/// # Errors
/// The model's layers cannot be run one by one, activations are no finite numbers, there is no memory, the
/// folder cannot be written, or `step` said to stop: what is in the folder stays then.
pub fn quantize_layers(
    calibration: Calibration<'_>,
    plan: &Plan<'_>,
    folder: &LayerFolder,
    step: &mut dyn FnMut(LayerStep<'_>) -> bool,
) -> Result<Vec<Weight>, CalibrateError> {
    let n_layers = calibration.model.spec().layers.len();
    let of_layers: Vec<Vec<&Planned<'_>>> =
        (0..n_layers).map(|layer| calibration.tensors(plan, layer)).collect();
    let total = of_layers.iter().map(Vec::len).sum();
    let (mut done, mut finished) = (0, Vec::new());
    let mut streams = calibration.run(ModelPart::Embeddings, &[], &[])?.0;
    for (layer, tensors) in of_layers.iter().enumerate() {
        let kept = folder.read(layer, tensors)?;
        let is_kept = kept.is_some();
        let input = calibration.streams(layer, std::mem::take(&mut streams))?;
        let mut losses = Vec::new();
        let weights = match kept {
            Some(weights) => weights,
            None => {
                let made = calibration.layer(layer, &input, tensors)?;
                losses = made.iter().map(|(_, loss)| *loss).collect();
                let made: Vec<Weight> = made.into_iter().map(|(weight, _)| weight).collect();
                folder.write(layer, &made)?;
                folder.read(layer, tensors)?.unwrap_or(made)
            }
        };
        for (number, weight) in weights.iter().enumerate() {
            done += 1;
            let loss = losses.get(number).copied().filter(|_| !is_kept);
            if !step(LayerStep { name: &weight.name, ty: weight.ty, loss, done, total }) {
                return Err(CalibrateError::Stopped);
            }
        }
        if layer + 1 < n_layers {
            streams = calibration.run(ModelPart::Layer(layer, input), &weights, &[])?.0;
        }
        finished.extend(weights);
    }
    Ok(finished)
}

impl Calibration<'_> {
    /// The matrices of a layer that are to be quantized.
    fn tensors<'p>(&self, plan: &'p Plan<'_>, layer: usize) -> Vec<&'p Planned<'p>> {
        let prefix = format!("blk.{layer}.");
        let is_wanted = |tensor: &&Planned<'_>| {
            tensor.info.name.starts_with(&prefix)
                && !tensor.is_copied()
                && tensor.ty.block_len() > 1
                && tensor.info.dims.len() > 1
        };
        plan.tensors.iter().filter(is_wanted).collect()
    }

    /// The streams of all tokens as the matrix that a layer's program reads.
    fn streams(&self, layer: usize, streams: Vec<f32>) -> Result<Weight, CalibrateError> {
        let n_embd = self.model.spec().n_embd;
        let mut bytes = Vec::new();
        reserve(&mut bytes, size_of_val(&streams[..]), "the streams of a text")?;
        streams.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        if streams.iter().any(|x| !x.is_finite()) {
            return Err(CalibrateError::NotFinite { layer });
        }
        let shape = [1, streams.len() / n_embd, n_embd];
        Ok(Weight::owned("streams", GgmlType::F32, shape, bytes))
    }

    /// The weights of a layer, and what each lost.
    fn layer(
        &self,
        layer: usize,
        input: &Weight,
        tensors: &[&Planned<'_>],
    ) -> Result<Vec<(Weight, OutputLoss)>, CalibrateError> {
        let names: Vec<&str> = tensors.iter().map(|tensor| &tensor.info.name[..]).collect();
        let (_, inputs) = self.run(ModelPart::Layer(layer, input.clone()), &[], &names)?;
        let mut known = HashMap::new();
        tensors.iter().map(|tensor| self.tensor(tensor, &inputs, &mut known)).collect()
    }

    /// A tensor, matrix by matrix.
    fn tensor(
        &self,
        tensor: &Planned<'_>,
        inputs: &Inputs,
        known: &mut Known,
    ) -> Result<(Weight, OutputLoss), CalibrateError> {
        let source = Weight::mapped(self.model.file(), tensor.info);
        let len = tensor.ty.block_len();
        let (old, new) = (self.kernels.types(source.ty), self.kernels.types(tensor.ty));
        let (Some(old), Some(new)) = (old, new) else {
            return Err(CalibrateError::no_kernels(tensor));
        };
        let row_bytes = source.cols / len * tensor.ty.block_bytes();
        let mut bytes = Vec::new();
        reserve(&mut bytes, source.n * source.rows * row_bytes, "quantized weights")?;
        let mut x = Vec::new();
        reserve(&mut x, source.rows * source.cols, "the weights of a matrix")?;
        x.resize(source.rows * source.cols, 0.0);
        let mut loss = OutputLoss::default();
        for matrix in 0..source.n {
            let rows = x.chunks_exact_mut(source.cols).zip(0..);
            for (x, row) in rows {
                old.dequantize(source.rows_of(matrix, row..row + 1), x);
                check_finite(&source.name, (matrix * source.rows + row) as u64, x)?;
            }
            source.release(0..source.bytes().len());
            let feedback = self.feedback(inputs, &source.name, (matrix, len), known)?;
            let start = bytes.len();
            bytes.resize(start + source.rows * row_bytes, 0);
            let method = tensor.method;
            let blocks = &mut bytes[start..];
            match feedback {
                Some(feedback) => {
                    let way = (new, method);
                    loss.add(feedback.quantize(self.kernels, way, &x, blocks, self.threads)?);
                }
                // Outputs of an expert that the text never chose lose nothing there.
                None => tensor.quantize_alone(self.kernels, matrix, &x, blocks)?,
            }
        }
        let shape = [source.n, source.rows, source.cols];
        Ok((Weight::owned(&source.name, tensor.ty, shape, bytes), loss))
    }

    /// The feedback of a matrix of a weight, for blocks of so many columns: that of its input, which others
    /// may share; `None` if the text never came to it.
    fn feedback<'k>(
        &self,
        inputs: &Inputs,
        name: &str,
        (matrix, len): (usize, usize),
        known: &'k mut Known,
    ) -> Result<Option<&'k Feedback>, CalibrateError> {
        let Some(input) = inputs.input(name) else { return Ok(None) };
        let Some(hessian) = inputs.hessian(input, matrix) else { return Ok(None) };
        Ok(Some(match known.entry((input, matrix, len)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Feedback::new(hessian, len, self.threads)?),
        }))
    }

    /// Runs a part of the model on all tokens; returns the streams behind it, and the Hessians of the
    /// products with these weights.
    fn run(
        &self,
        part: ModelPart,
        replaced: &[Weight],
        watched: &[&str],
    ) -> Result<(Vec<f32>, Inputs), CalibrateError> {
        let spec = self.model.spec();
        let n_ctx = self.chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(1);
        // Token ids are numbers of rows where the streams are given.
        let is_layer = matches!(part, ModelPart::Layer(..));
        let program = lower_part(self.model.file(), replaced, spec, self.kernels, n_ctx, part)?;
        let mut inputs = Inputs::new(&program, |name| watched.contains(&name));
        let options = DecoderOptions {
            threads: Some(self.threads),
            cpus: None,
            max_batch: n_ctx,
            max_outputs: n_ctx,
            n_ctx,
            kv_type: KvType::F16,
            kv_bytes_max: available_bytes().map_or(KV_BYTES_DEFAULT, |bytes| bytes / 2),
            repack: false,
        };
        let mut decoder = Decoder::of_program(program, spec, self.kernels, &options)?;
        let n_tokens: usize = self.chunks.iter().map(|chunk| chunk.len()).sum();
        let mut streams = Vec::new();
        reserve(&mut streams, n_tokens * decoder.n_out(), "the streams of a text")?;
        let mut first = 0;
        for chunk in self.chunks {
            let rows: Vec<u32> = (first..first + chunk.len() as u32).collect();
            first += chunk.len() as u32;
            let tokens = if is_layer { &rows } else { *chunk };
            let observer =
                (!watched.is_empty()).then_some(&mut inputs).map(|own| own as &mut dyn Observer);
            decoder.lead(|stepper| run_chunk(stepper, tokens, observer, &mut streams))?;
            inputs.flush(self.kernels, self.threads)?;
        }
        Ok((streams, inputs))
    }
}

/// Runs a chunk as a sequence of its own, and adds what comes of each token.
fn run_chunk(
    stepper: &mut Stepper<'_>,
    tokens: &[u32],
    mut observer: Option<&mut dyn Observer>,
    streams: &mut Vec<f32>,
) -> Result<(), CalibrateError> {
    let sequence = stepper.kv_mut().create();
    let n = stepper.max_batch().min(stepper.max_outputs());
    let result = tokens.chunks(n).try_for_each(|tokens| {
        let chunk = [SequenceChunk { sequence, tokens, outputs: Outputs::All }];
        let rows = match observer.as_deref_mut() {
            Some(observer) => stepper.step_observed(&chunk, observer)?,
            None => stepper.step(&chunk)?,
        };
        streams.extend_from_slice(rows);
        Ok(())
    });
    stepper.kv_mut().remove(sequence);
    result
}
