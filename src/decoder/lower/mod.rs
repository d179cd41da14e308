//! From a description and the tensors of a file to the flat list of operations that backends run.
//! The fusions are chosen here, once.

mod cycles;
mod embed;
mod head;
mod layer;

use crate::backend::program::{
    BoundWeight, Buf, Epilogue, Linear, Norm, NormKind, Op, Output, Part, Program, Tokens,
};
use crate::model::{Binder, DenseSpec, LayerSpec, ModelError, ModelSpec, NormFormula, TensorUse};
use crate::tensor::Weight;
use gguf_rs_lite::GgufFile;
use layer::Beside;
use std::collections::HashMap;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// The program of a model for sequences of at most `n_ctx` tokens.
///
/// # Errors
/// A tensor is missing, has no place or another shape; or a step would take too much memory.
pub fn lower(
    file: &Arc<GgufFile>,
    spec: &ModelSpec,
    kernels: &'static KernelTable,
    n_ctx: usize,
) -> Result<Program, ModelError> {
    lower_with(file, &[], spec, kernels, n_ctx)
}

/// A part of a model that can be computed by itself.
#[derive(Clone, Debug)]
pub enum ModelPart {
    /// From token ids to the streams that the first layer reads.
    Embeddings,
    /// A layer, whose input is given: the stream of a token is the row of the matrix that the token's
    /// id names.
    Layer(usize, Weight),
}

/// The program of a part of a model, whose results are the residual streams behind it. Weights in
/// `replaced` take the place of the file's tensors of their names.
///
/// # Errors
/// [`ModelError::LayersDepend`] if layers read more than the stream that the one before leaves; else
/// as [`lower`], of the part's tensors.
pub fn lower_part(
    file: &Arc<GgufFile>,
    replaced: &[Weight],
    spec: &ModelSpec,
    kernels: &'static KernelTable,
    n_ctx: usize,
    part: ModelPart,
) -> Result<Program, ModelError> {
    if let Some(what) = spec.layers_share() {
        return Err(ModelError::LayersDepend { what });
    }
    let mut lowering = Lowering::new(file, replaced, spec, kernels, n_ctx)?;
    lowering.part_of_model(part)?;
    check(&lowering.program)?;
    lowering.program.share_buffers();
    Ok(lowering.program)
}

/// [`lower`] with some weights in place of the file's tensors of their names, whose shapes they have.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(
    file: &Arc<GgufFile>,
    replaced: &[Weight],
    spec: &ModelSpec,
    kernels: &'static KernelTable,
    n_ctx: usize,
) -> Result<Program, ModelError> {
    let mut lowering = Lowering::new(file, replaced, spec, kernels, n_ctx)?;
    lowering.model()?;
    let n_layers = spec.layers.len();
    for layer in n_layers..n_layers + spec.n_draft_layers {
        lowering.binder.ignore_layer(layer);
    }
    if spec.head.classifier.is_some() {
        lowering.binder.ignore_classifier();
    }
    spec.unused.iter().for_each(|prefix| lowering.binder.ignore_layers(prefix));
    lowering.binder.finish()?;
    check(&lowering.program)?;
    lowering.program.share_buffers();
    Ok(lowering.program)
}

/// Refuses a program that no backend could run.
pub(super) fn check(program: &Program) -> Result<(), ModelError> {
    program.check().map_err(|error| ModelError::Program { problem: error.to_string() })
}

pub(super) struct Lowering<'a> {
    pub binder: Binder<'a>,
    pub program: Program,
    pub spec: &'a ModelSpec,
    /// Tokens that a sequence may have.
    pub n_ctx: usize,
    /// Weights of the program by the names of their tensors.
    weights: HashMap<String, BoundWeight>,
    /// Index into [`Program::kv`] of what each layer so far reads.
    pub kv_layers: Vec<usize>,
    /// Number of the layer's tensors in the file, and of its `*.scale`: the reference
    /// implementation looks those up by the place of the layer.
    scales_of: (usize, usize),
    /// The residual stream.
    pub x: Buf,
}

impl<'a> Lowering<'a> {
    fn new(
        file: &'a Arc<GgufFile>,
        replaced: &'a [Weight],
        spec: &'a ModelSpec,
        kernels: &'static KernelTable,
        n_ctx: usize,
    ) -> Result<Lowering<'a>, ModelError> {
        let mut binder = Binder::new(file, kernels)?;
        binder.replace(replaced);
        Ok(Lowering {
            binder,
            program: Program::default(),
            spec,
            n_ctx,
            weights: HashMap::new(),
            kv_layers: Vec::new(),
            scales_of: (0, 0),
            x: Buf(0),
        })
    }
}

impl Lowering<'_> {
    fn part_of_model(&mut self, part: ModelPart) -> Result<(), ModelError> {
        let n_embd = self.spec.n_embd;
        self.program.bidirectional = self.spec.bidirectional;
        match part {
            ModelPart::Embeddings => {
                self.embed()?;
            }
            ModelPart::Layer(layer, streams) => {
                self.x = self.buffer(n_embd);
                self.program.n_vocab = streams.rows;
                let (table, out) = (self.program.bind(streams), self.x);
                let (scale, addend, positions) = (1.0, None, None);
                self.program.ops.push(Op::Embed { table, scale, addend, positions, out });
                self.lone_layer(layer)?;
            }
        }
        self.program.n_out = n_embd;
        self.program.ops.push(Op::Result { input: self.x, norm: None });
        Ok(())
    }

    fn model(&mut self) -> Result<(), ModelError> {
        self.program.bidirectional = self.spec.bidirectional;
        let (table, cycles) = self.embed()?;
        let embeddings = self.embeddings();
        let layer_embed = match self.spec.layer_embed {
            Some(len) => Some((self.layer_embeddings(len)?, len)),
            None => None,
        };
        let streams = match self.spec.n_streams {
            1 => None,
            _ => Some(self.open_streams()?),
        };
        self.ignore_unused_factors();
        self.layers(Beside { embeddings, layer_embed, streams, cycles })?;
        if let Some(streams) = streams {
            self.close_streams(streams)?;
        }
        self.head(table)
    }

    /// Claims the factors of rotary frequencies where no layer divides by them.
    fn ignore_unused_factors(&mut self) {
        let divides = |layer: &LayerSpec| layer.mixer.rope().is_some_and(|rope| rope.freq_factors);
        if !self.spec.layers.iter().any(divides) {
            for name in ["freqs", "factors_long", "factors_short"] {
                self.binder.ignore(&format!("rope_{name}.weight"));
            }
        }
    }

    /// A new buffer of `width` elements per token. [`Program::share_buffers`] has those share
    /// memory that are not in use at the same time.
    pub fn buffer(&mut self, width: usize) -> Buf {
        self.program.buffer(width)
    }

    /// The norm of this name.
    pub fn norm(&mut self, name: &str, len: usize) -> Result<Norm, ModelError> {
        let eps = self.spec.norm_eps;
        let weight = format!("{name}.weight");
        let kind = match self.spec.norm {
            NormFormula::Rms | NormFormula::BareRms => NormKind::Rms,
            NormFormula::Layer | NormFormula::BareLayer => NormKind::Layer,
        };
        if matches!(self.spec.norm, NormFormula::BareRms | NormFormula::BareLayer) {
            return Ok(Norm { kind, eps, weight: None, bias: None, name: None });
        }
        // Some files leave the ending away.
        let is_bare = !self.binder.has(&weight) && self.binder.has(name);
        let weight = if is_bare { name.to_string() } else { weight };
        let factors = Some(self.binder.vector(&weight, len)?);
        let bias = self.binder.optional_vector(&format!("{name}.bias"), len)?;
        Ok(Norm { kind, eps, weight: factors, bias, name: Some(weight) })
    }

    /// The norm of this name in a layer, if there is one.
    pub fn layer_norm(
        &mut self,
        at: Place<'_>,
        name: Option<&'static str>,
    ) -> Result<Option<Norm>, ModelError> {
        name.map(|name| self.norm(&at.name(name), self.spec.n_embd)).transpose()
    }

    /// Norm of the output of the layer's mixer or feed-forward part, with an epsilon of its own.
    pub fn post_norm(
        &mut self,
        at: Place<'_>,
        name: Option<&'static str>,
    ) -> Result<Option<Norm>, ModelError> {
        let norm = self.layer_norm(at, name)?;
        Ok(norm.map(|norm| Norm { eps: self.spec.post_norm_eps, ..norm }))
    }

    /// The matrix `[rows][cols]` of this name as a weight of the program.
    pub fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<BoundWeight, ModelError> {
        self.bound(name, [1, rows, cols], |binder| binder.matrix(name, rows, cols))
    }

    /// The stack of matrices `[n][rows][cols]` of this name as a weight of the program.
    pub fn stack(&mut self, name: &str, shape: [usize; 3]) -> Result<BoundWeight, ModelError> {
        self.bound(name, shape, |binder| binder.stack(name, shape))
    }

    /// The weight of this name and shape: the one that the program has already, or a new one.
    fn bound(
        &mut self,
        name: &str,
        shape: [usize; 3],
        claim: impl FnOnce(&mut Binder<'_>) -> Result<Weight, ModelError>,
    ) -> Result<BoundWeight, ModelError> {
        if let Some(known) = self.weights.get(name).filter(|known| known.shape() == shape) {
            return Ok(known.clone());
        }
        let weight = claim(&mut self.binder)?;
        let bound = self.program.bind(weight);
        self.weights.insert(name.to_string(), bound.clone());
        Ok(bound)
    }

    /// The matrix `name.weight`, with `name.scale` and `name.bias` if there are any.
    pub fn part(&mut self, name: &str, rows: usize, cols: usize) -> Result<Part, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = self.binder.optional_vector(&format!("{name}.bias"), rows)?;
        let (block, place) = self.scales_of;
        let of_scales = match name.strip_prefix(&format!("blk.{block}.")) {
            Some(part) => format!("blk.{place}.{part}"),
            None => name.to_string(),
        };
        let scale = self.binder.optional_vector(&format!("{of_scales}.scale"), 1)?;
        // Says how activations may be quantized; ours are not.
        self.binder.ignore(&format!("{of_scales}.input_scale"));
        Ok(Part { weight, scale: scale.map_or(1.0, |s| s[0]), bias })
    }

    /// A matrix of a feed-forward part, as [`Lowering::part`] but with the scale applied to the
    /// bias.
    pub fn ffn_part(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        spec: &DenseSpec,
    ) -> Result<Part, ModelError> {
        let mut part = self.part(name, rows, cols)?;
        let is_output = rows == self.spec.n_embd && name.ends_with("ffn_down");
        match spec.scales {
            TensorUse::Apply => {}
            TensorUse::OfOutput if is_output => {}
            TensorUse::Ignore | TensorUse::OfOutput => part.scale = 1.0,
        }
        part.bias = part.bias.filter(|_| spec.biases == TensorUse::Apply);
        for bias in part.bias.iter_mut().flatten() {
            *bias *= part.scale;
        }
        Ok(part)
    }

    /// The products of some matrices with the stream, or with its norm.
    pub fn read_stream(
        &mut self,
        norm: Option<Norm>,
        parts: Vec<Part>,
        epilogue: Epilogue,
        out: Buf,
        rows: Tokens,
    ) {
        let (input, out) = (self.x, Output::Store(out));
        let addend = None;
        self.program.ops.push(Op::Linear(Linear {
            input,
            norm,
            parts,
            addend,
            epilogue,
            out,
            rows,
        }));
    }

    /// A buffer beside the residual stream, for what is normalized before it is added.
    pub fn beside(&mut self) -> Buf {
        self.buffer(self.spec.n_embd)
    }

    /// A product that is stored.
    pub fn store_product(
        &mut self,
        input: Buf,
        norm: Option<Norm>,
        part: Part,
        out: Buf,
        rows: Tokens,
    ) {
        let (parts, epilogue, out) = (vec![part], Epilogue::None, Output::Store(out));
        self.program.ops.push(Op::Linear(Linear {
            input,
            norm,
            parts,
            addend: None,
            epilogue,
            out,
            rows,
        }));
    }

    /// A product whose result is added to the residual stream: `scale` times, or by way of its own
    /// norm if there is one.
    pub fn add_product(
        &mut self,
        at: Place<'_>,
        input: Buf,
        part: Part,
        scale: f32,
        post_norm: Option<Norm>,
    ) {
        let (rows, scale) = (at.rows, scale * at.layer.residual_scale);
        let beside = post_norm.is_some().then(|| self.beside());
        let out = match beside {
            Some(beside) => Output::Store(beside),
            None => Output::Add(self.x, scale),
        };
        self.program.ops.push(Op::Linear(Linear {
            input,
            norm: None,
            parts: vec![part],
            addend: None,
            epilogue: Epilogue::None,
            out,
            rows,
        }));
        if let (Some(beside), Some(norm)) = (beside, post_norm) {
            self.add_norm(at, beside, norm);
        }
    }

    /// Adds the norm of a buffer to the stream.
    pub fn add_norm(&mut self, at: Place<'_>, input: Buf, norm: Norm) {
        let (out, scale, rows) = (self.x, at.layer.residual_scale, at.rows);
        self.program.ops.push(Op::AddNorm { input, norm, scale, out, rows });
    }
}

/// A layer on its way into the program.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub index: usize,
    /// Number of its tensors in the file.
    block: usize,
    pub layer: &'a LayerSpec,
    /// The tokens that its feed-forward part is computed for.
    pub rows: Tokens,
}

impl<'a> Place<'a> {
    /// This layer for all tokens, as the input of its mixer needs it.
    fn before_mixer(self) -> Place<'a> {
        Place { rows: Tokens::All, ..self }
    }

    /// The name of a tensor of the layer.
    pub fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.block)
    }
}
