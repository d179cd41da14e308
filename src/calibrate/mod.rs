//! Tensors by methods that see a text: layer after layer, each quantized for the inputs that the
//! quantized layers before it leave.
//!
//! [`quantize_layers`] keeps the residual stream of every token of the text, one layer's weights and the
//! Hessians of its inputs in memory, whatever the model's size: 4 bytes for each token and element of the
//! stream, and for each product 4 bytes times the square of its columns. A layer runs twice, as the
//! program of its own that [`lower_part`] makes: with the weights of the file, to
//! see the inputs of its products, and with those that came of it, for the next layer. What is finished is
//! in a folder, from which a later call goes on.

mod awq;
mod error;
mod fold;
mod folder;
mod known;

pub use error::CalibrateError;
pub use fold::{Fold, FoldSource, Reader, Scaling, folds};
pub use folder::LayerFolder;

use crate::backend::Observer;
use crate::backend::available_bytes;
use crate::backend::pages::KvType;
use crate::decoder::{
    Decoder, DecoderOptions, ModelPart, Outputs, SequenceChunk, Stepper, lower_part,
};
use crate::engine::{KV_BYTES_DEFAULT, Model};
use crate::quantize::hessian::Inputs;
use crate::quantize::prune::PruneAtInputs;
use crate::quantize::{AtInputs, Factors, Loss, Made, OutputLoss, Plan, Planned, check_finite};
use crate::tensor::Weight;
use crate::tensor::memory::reserve;
use gguf_rs_lite::GgmlType;
use known::Known;
use std::collections::HashSet;
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

/// A tensor that is finished.
#[derive(Clone, Copy, Debug)]
pub struct LayerStep<'a> {
    /// The tensor.
    pub made: &'a Made,
    /// Whether it comes from the folder.
    pub kept: bool,
    /// Tensors that are finished.
    pub done: usize,
    /// All tensors.
    pub total: usize,
}

/// Quantizes the tensors of a plan that are in layers, by its method. `step` hears of each tensor and
/// returns whether to go on. The blocks do not depend on the number of threads.
///
/// # Errors
/// The model's layers cannot be run one by one, activations are no finite numbers, there is no memory, the
/// folder cannot be written, or `step` said to stop: what is in the folder stays then.
pub fn quantize_layers(
    calibration: Calibration<'_>,
    plan: &Plan<'_>,
    folder: &LayerFolder,
    step: &mut dyn FnMut(LayerStep<'_>) -> bool,
) -> Result<Vec<Made>, CalibrateError> {
    let n_layers = calibration.model.spec().layers.len();
    let of_layers: Vec<Vec<&Planned<'_>>> =
        (0..n_layers).map(|layer| calibration.tensors(plan, layer)).collect();
    let total = of_layers.iter().map(Vec::len).sum();
    let (mut done, mut finished) = (0, Vec::new());
    let mut streams = calibration.run(ModelPart::Embeddings, &[], &[])?.0;
    for (layer, tensors) in of_layers.iter().enumerate() {
        let input = calibration.streams(layer, std::mem::take(&mut streams))?;
        let kept = folder.read(layer, tensors)?;
        let is_kept = kept.is_some();
        let made = match kept {
            Some(made) => made,
            None => {
                let made = calibration.layer((layer, &input), plan, tensors)?;
                folder.write(layer, &made)?;
                folder.read(layer, tensors)?.unwrap_or(made)
            }
        };
        for made in &made[..tensors.len()] {
            done += 1;
            if !step(LayerStep { made, kept: is_kept, done, total }) {
                return Err(CalibrateError::Stopped);
            }
        }
        if layer + 1 < n_layers {
            let weights: Vec<Weight> = made.iter().map(|made| made.weight.clone()).collect();
            streams = calibration.run(ModelPart::Layer(layer, input), &weights, &[])?.0;
        }
        finished.extend(made);
    }
    Ok(finished)
}

impl Calibration<'_> {
    /// The matrices of a layer that are to be quantized or pruned, but for those that keep the codes of a grid:
    /// no method makes these any nearer to the source, and factors would take them off the grid.
    fn tensors<'p>(&self, plan: &'p Plan<'_>, layer: usize) -> Vec<&'p Planned<'p>> {
        let prefix = format!("blk.{layer}.");
        let is_wanted = |tensor: &&Planned<'_>| {
            tensor.info.name.starts_with(&prefix)
                && !tensor.is_copied()
                && tensor.grid.is_none()
                && (tensor.ty.block_len() > 1 || tensor.pruning.is_some())
                && tensor.info.dims.len() > 1
        };
        plan.tensors.iter().filter(is_wanted).collect()
    }

    /// Names of the tensors of a plan whose columns get no factors: what comes before their products cannot
    /// take them back.
    ///
    /// # Errors
    /// The model's layers cannot be run one by one.
    pub fn unfolded(&self, plan: &Plan<'_>) -> Result<Vec<String>, CalibrateError> {
        let mut names = Vec::new();
        for layer in 0..self.model.spec().layers.len() {
            let tensors = self.tensors(plan, layer);
            let stream = self.streams(layer, vec![0.0; self.model.spec().n_embd])?;
            let folds = self.folds(plan, &tensors, ModelPart::Layer(layer, stream))?;
            let readers: HashSet<&str> =
                folds.iter().flat_map(|fold| &fold.readers).map(|r| &r.weight[..]).collect();
            let left = tensors.iter().map(|tensor| &tensor.info.name);
            names.extend(left.filter(|name| !readers.contains(&name[..])).cloned());
        }
        Ok(names)
    }

    /// The folds of a layer that a plan can have.
    fn folds(
        &self,
        plan: &Plan<'_>,
        tensors: &[&Planned<'_>],
        part: ModelPart,
    ) -> Result<Vec<Fold>, CalibrateError> {
        let (file, spec) = (self.model.file(), self.model.spec());
        let program = lower_part(file, &[], spec, self.kernels, self.n_ctx(), part)?;
        // What is not quantized is copied, as F32, or left alone.
        let mut may_change: HashSet<&str> =
            tensors.iter().map(|tensor| &tensor.info.name[..]).collect();
        let is_float = |tensor: &&Planned<'_>| tensor.is_copied() && tensor.ty == GgmlType::F32;
        let floats = plan.tensors.iter().filter(is_float);
        may_change.extend(floats.map(|tensor| &tensor.info.name[..]));
        Ok(folds(&program, file, &|name| may_change.contains(name)))
    }

    fn n_ctx(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(1)
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

    /// What becomes of a layer: of these tensors, then of those that take factors back.
    fn layer(
        &self,
        (layer, input): (usize, &Weight),
        plan: &Plan<'_>,
        tensors: &[&Planned<'_>],
    ) -> Result<Vec<Made>, CalibrateError> {
        let names: Vec<&str> = tensors.iter().map(|tensor| &tensor.info.name[..]).collect();
        let part = ModelPart::Layer(layer, input.clone());
        let (_, mut inputs) = self.run(part.clone(), &[], &names)?;
        let scaling = match tensors.iter().any(|tensor| tensor.method.folds) {
            true => self.scaling(&self.folds(plan, tensors, part)?, tensors, &mut inputs)?,
            false => Scaling::default(),
        };
        let mut known = Known::default();
        let made = tensors.iter().map(|tensor| self.tensor(tensor, &inputs, &scaling, &mut known));
        let mut made = made.collect::<Result<Vec<_>, _>>()?;
        for name in scaling.names().into_iter().filter(|name| !names.contains(name)) {
            let weight = scaling.apply(self.model.file(), self.kernels, name)?;
            let (loss, outputs) = (Loss::default(), OutputLoss::default());
            made.push(Made { weight, loss, has_factors: true, outputs, unseen: 0 });
        }
        Ok(made)
    }

    /// A tensor, matrix by matrix.
    fn tensor(
        &self,
        tensor: &Planned<'_>,
        inputs: &Inputs,
        scaling: &Scaling,
        known: &mut Known,
    ) -> Result<Made, CalibrateError> {
        let source = Weight::mapped(self.model.file(), tensor.info);
        let Some(kernels) = self.kernels.types(tensor.ty) else {
            return Err(CalibrateError::no_kernels(tensor));
        };
        let row_bytes = source.cols / tensor.ty.block_len() * tensor.ty.block_bytes();
        let mut bytes = Vec::new();
        reserve(&mut bytes, source.n * source.rows * row_bytes, "quantized weights")?;
        let (mut loss, mut outputs) = (Loss::default(), OutputLoss::default());
        let (mut x, mut unseen) = (Vec::new(), 0);
        if tensor.pruning.is_some() && !inputs.knows(&source.name) {
            return Err(CalibrateError::Quantize(tensor.no_inputs()));
        }
        for matrix in 0..source.n {
            self.read_matrix(tensor, &source, matrix, &mut x)?;
            let start = bytes.len();
            bytes.resize(start + source.rows * row_bytes, 0);
            let blocks = &mut bytes[start..];
            let old = source.rows_of(matrix, 0..source.rows);
            let factors = scaling.of_matrix(&source, matrix);
            let factors = factors.as_ref().map(|(cols, rows)| Factors { cols, rows });
            let Some((input, hessian)) = inputs.of_matrix(&source.name, matrix) else {
                // Outputs of an expert that the text never chose lose nothing there.
                unseen += 1;
                factors.iter().for_each(|factors| factors.apply(&mut x));
                loss.add(tensor.quantize_alone(self.kernels, matrix, (&x, old), blocks)?);
                continue;
            };
            let (form, feedback) = known.get(tensor, (input, matrix), hessian, self.threads)?;
            let (table, method) = (self.kernels, tensor.method);
            let (of_outputs, of_weights) = match tensor.pruning {
                Some(pruning) => PruneAtInputs { tensor, pruning, table, kernels, form, feedback }
                    .prune((&x, old), blocks, self.threads)?,
                None => {
                    let keep_zeros = tensor.keep_zeros;
                    AtInputs { table, kernels, method, form, feedback, factors, keep_zeros }
                        .quantize(&x, blocks, self.threads)?
                }
            };
            outputs.add(of_outputs);
            loss.add(of_weights);
        }
        source.release(0..source.bytes().len());
        let shape = [source.n, source.rows, source.cols];
        let weight = Weight::owned(&source.name, tensor.ty, shape, bytes);
        let has_factors = scaling.has(&source.name);
        Ok(Made { weight, loss, has_factors, outputs, unseen })
    }

    /// Reads a matrix of a tensor, as it is.
    fn read_matrix(
        &self,
        tensor: &Planned<'_>,
        source: &Weight,
        matrix: usize,
        x: &mut Vec<f32>,
    ) -> Result<(), CalibrateError> {
        let kernels = self.kernels.types(source.ty);
        let kernels = kernels.ok_or_else(|| CalibrateError::no_kernels(tensor))?;
        reserve(x, source.rows * source.cols, "the weights of a matrix")?;
        x.resize(source.rows * source.cols, 0.0);
        for (x, row) in x.chunks_exact_mut(source.cols).zip(0..) {
            kernels.dequantize(source.rows_of(matrix, row..row + 1), x);
            check_finite(&source.name, (matrix * source.rows + row) as u64, x)?;
        }
        Ok(())
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
        let n_ctx = self.n_ctx();
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
