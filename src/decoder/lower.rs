//! From a description and the tensors of a file to the flat list of operations that backends run.
//! The fusions are chosen here, once.

use crate::backend::program::{
    BoundWeight, Buf, Epilogue, Gather, Linear, Norm, NormKind, Op, Output, Part, Piece, Program,
    Rows,
};
use crate::model::{
    Binder, CycleSpec, DenseSpec, EmbedNorm, Ffn, LayerSpec, ModelError, ModelSpec, NormFormula,
    OutputScale, Residual, RouterInput, TensorUse,
};
use crate::tensor::Weight;
use gguf_rs_lite::GgufFile;
use std::collections::HashMap;
use std::f32::consts::FRAC_1_SQRT_2;
use std::sync::Arc;
use teff_kernels::{Activation, KernelTable};

/// The program of a model for sequences of at most `n_ctx` tokens.
pub fn lower(
    file: &Arc<GgufFile>,
    spec: &ModelSpec,
    kernels: &'static KernelTable,
    n_ctx: usize,
) -> Result<Program, ModelError> {
    let mut lowering = Lowering {
        binder: Binder::new(file, kernels)?,
        program: Program::default(),
        spec,
        n_ctx,
        weights: HashMap::new(),
        kv_layers: Vec::new(),
        scales_of: (0, 0),
        x: Buf(0),
    };
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
    /// Number of the layer's tensors in the file, and of its `*.scale`: the reference implementation
    /// looks those up by the place of the layer.
    scales_of: (usize, usize),
    /// The residual stream.
    pub x: Buf,
}

impl Lowering<'_> {
    fn model(&mut self) -> Result<(), ModelError> {
        let n_embd = self.spec.n_embd;
        const TABLE: &str = "token_embd.weight";
        let n_vocab = self.binder.dims(TABLE).and_then(|dims| dims.get(1).copied());
        let n_vocab = n_vocab.ok_or_else(|| ModelError::MissingTensor(TABLE.into()))? as usize;
        let table = self.matrix(TABLE, n_vocab, n_embd)?;
        self.program.n_vocab = n_vocab;
        self.program.bidirectional = self.spec.bidirectional;
        self.x = self.program.buffer(n_embd);
        const POSITIONS: &str = "position_embd.weight";
        let positions = match self.spec.learned_positions {
            true => Some(self.matrix(POSITIONS, self.spec.n_ctx_train, n_embd)?),
            false => None,
        };
        const TYPES: &str = "token_types.weight";
        let addend = match self.binder.dims(TYPES) {
            Some(dims) if self.spec.token_types => {
                let n_types = dims.get(1).map_or(1, |&n| n.max(1) as usize);
                let types = self.binder.matrix(TYPES, n_types, n_embd)?;
                Some(self.binder.values(&types)[..n_embd].to_vec())
            }
            _ => None,
        };
        let (cycles, addend) = match self.spec.cycles {
            None => (None, addend),
            Some(cycles) => {
                let [low, high] = [0, 1].map(|_| self.program.buffer(n_embd));
                let (table, scale) = (table.clone(), self.spec.embed_scale);
                let (addend, positions, out) = (None, None, high);
                self.program.ops.push(Op::Embed { table, scale, addend, positions, out });
                let first = self.binder.vector("hrm.z_l_init", n_embd)?;
                (Some((cycles, low, high)), Some(first))
            }
        };
        self.program.ops.push(Op::Embed {
            table: table.clone(),
            scale: self.spec.embed_scale,
            addend,
            positions,
            out: self.x,
        });
        let embed_norm = match self.spec.embed_norm {
            EmbedNorm::None => None,
            EmbedNorm::Weighted => Some(self.norm("token_embd_norm", n_embd)?),
            EmbedNorm::Bare => {
                let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
                Some(Norm { kind, eps, weight: None, bias: None })
            }
        };
        if let Some(norm) = embed_norm {
            self.program.ops.push(Op::Normalize { buf: self.x, norm, rows: Rows::All });
        }
        let skips = |layer: &LayerSpec| layer.output_scale == OutputScale::Embeddings;
        let embeddings = match self.spec.layers.iter().any(skips) {
            true => self.copy_of_stream(Rows::All),
            false => self.x,
        };
        let layer_embed = match self.spec.layer_embed {
            Some(len) => Some((self.layer_embeddings(len, n_vocab)?, len)),
            None => None,
        };
        let streams = match self.spec.n_streams {
            1 => None,
            _ => Some(self.open_streams()?),
        };
        let divides = |layer: &LayerSpec| layer.mixer.rope().is_some_and(|rope| rope.freq_factors);
        if !self.spec.layers.iter().any(divides) {
            for name in ["freqs", "factors_long", "factors_short"] {
                self.binder.ignore(&format!("rope_{name}.weight"));
            }
        }
        let last = self.spec.layers.len() - 1;
        for (i, layer) in self.spec.layers.iter().enumerate() {
            // After the last mixer nothing but the results is wanted.
            let rows = if i == last { Rows::Outputs } else { Rows::All };
            let block = self.spec.cycles.map_or(i, |cycles| cycles.block(i));
            let at = Place { index: i, block, layer, rows };
            self.scales_of = (block, i);
            if let Some(streams) = streams {
                self.predict_streams(at, streams)?;
            }
            let scores = match &layer.ffn {
                Ffn::Moe(moe) if moe.router == RouterInput::Layer => {
                    let part = self.part(&at.name("ffn_gate_inp"), moe.n_experts, n_embd)?;
                    let scores = self.buffer(moe.n_experts);
                    self.read_stream(None, vec![part], Epilogue::None, scores, rows);
                    Some(scores)
                }
                _ => None,
            };
            self.norm_sum(at.before_mixer(), layer.norms.of_mixer_input)?;
            let mixed = self.mixer(at)?;
            let side = self.side_experts(at)?;
            let branch = layer.laurel.map(|rank| self.laurel(at, rank)).transpose()?;
            // The sums of a parallel layer may come in any order once all have read the stream.
            if layer.residual == Residual::Parallel {
                self.ffn(at, scores)?;
            }
            self.scale_stream(at);
            for (buf, output) in mixed {
                let after_mixer = self.post_norm(at, layer.norms.after_mixer)?;
                self.add_product(at, buf, output, 1.0, after_mixer);
            }
            if let Some(branch) = branch {
                self.add_laurel(at, branch);
            }
            self.norm_sum(at, layer.norms.of_mixer_sum)?;
            self.norm_sum(at, layer.norms.of_ffn_input)?;
            if layer.residual == Residual::Sequential {
                self.ffn(at, scores)?;
            }
            if let Some(input) = side {
                self.program.ops.push(Op::Add { input, out: self.x, from: 0, rows });
            }
            self.norm_sum(at, layer.norms.of_ffn_sum)?;
            match (streams, layer_embed) {
                (Some(streams), _) => self.correct_streams(at, streams, layer_embed)?,
                (None, Some((embeddings, len))) => self.add_layer_embedding(at, embeddings, len)?,
                (None, None) => {}
            }
            self.scale_output(at, embeddings)?;
            if let Some((cycles, low, high)) = cycles {
                self.end_of_pass(at, cycles, low, high);
            }
        }
        if let Some(streams) = streams {
            self.close_streams(streams)?;
        }
        let norm = match self.spec.head.norm {
            Some(name) => Some(self.norm(name, n_embd)?),
            None => None,
        };
        let head = match self.binder.has("output.weight") {
            true => self.part("output", n_vocab, n_embd)?,
            false => {
                let bias = self.binder.optional_vector("output.bias", n_vocab)?;
                Part { weight: table, scale: 1.0, bias }
            }
        };
        if !self.spec.head.logits {
            return self.vectors(norm);
        }
        self.program.n_out = n_vocab;
        self.program.ops.push(Op::Linear(Linear {
            input: self.x,
            norm,
            parts: vec![head],
            addend: None,
            epilogue: Epilogue::None,
            out: Output::Logits { scale: self.spec.head.scale, softcap: self.spec.head.softcap },
            rows: Rows::Outputs,
        }));
        Ok(())
    }

    /// The stream as the result.
    fn vectors(&mut self, mut norm: Option<Norm>) -> Result<(), ModelError> {
        let (mut input, mut width) = (self.x, self.spec.n_embd);
        for name in self.spec.head.dense {
            let Some(dims) = self.binder.dims(&format!("{name}.weight")) else { continue };
            let rows = dims.get(1).map_or(1, |&n| n.max(1) as usize);
            let part = self.part(name, rows, width)?;
            let out = self.program.buffer(rows);
            self.store_product(input, norm.take(), part, out, Rows::Outputs);
            (input, width) = (out, rows);
        }
        self.program.n_out = width;
        self.program.ops.push(Op::Result { input, norm });
        Ok(())
    }

    /// An embedding of `len` elements of the token for each layer, with a projection of the common
    /// one added: `(norm(W x / sqrt(n_embd)) + sqrt(len) e) / sqrt(2)`.
    fn layer_embeddings(&mut self, len: usize, n_vocab: usize) -> Result<Buf, ModelError> {
        let (n_embd, n_layers) = (self.spec.n_embd, self.spec.layers.len());
        let width = n_layers * len;
        let table = self.matrix("per_layer_token_embd.weight", n_vocab, width)?;
        let out = self.program.buffer(width);
        let scale = (len as f32).sqrt() * FRAC_1_SQRT_2;
        self.program.ops.push(Op::Embed { table, scale, addend: None, positions: None, out });
        let part = self.part("per_layer_model_proj", width, n_embd)?;
        let part = Part { scale: part.scale / (n_embd as f32).sqrt(), ..part };
        let projected = self.program.buffer(width);
        self.read_stream(None, vec![part], Epilogue::None, projected, Rows::All);
        let mut norm = self.norm("per_layer_proj_norm", len)?;
        norm.weight.iter_mut().flatten().for_each(|weight| *weight *= FRAC_1_SQRT_2);
        let normed = self.program.buffer(width);
        let heads = Piece::heads(projected, 0, len, len, n_layers);
        let pieces = vec![Piece { norm: Some(norm), ..heads }];
        let rows = Rows::All;
        self.program.ops.push(Op::Gather(Gather { pieces, out: normed, rows }));
        self.program.ops.push(Op::Add { input: normed, out, from: 0, rows });
        Ok(out)
    }

    /// `x += norm(W (gelu(G x) * e))` with the layer's own embedding `e`.
    fn add_layer_embedding(
        &mut self,
        at: Place<'_>,
        embeddings: Buf,
        len: usize,
    ) -> Result<(), ModelError> {
        let (gate, part) = self.gated_layer_embedding(at, embeddings, len)?;
        let norm = self.layer_norm(at, Some("post_norm"))?;
        self.add_product(at, gate, part, 1.0, norm);
        Ok(())
    }

    /// `gelu(G x) * e`, and the matrix `W`.
    pub fn gated_layer_embedding(
        &mut self,
        at: Place<'_>,
        embeddings: Buf,
        len: usize,
    ) -> Result<(Buf, Part), ModelError> {
        let n_embd = self.spec.n_embd;
        let own = self.buffer(len);
        let pieces = vec![Piece::heads(embeddings, at.index * len, 0, len, 1)];
        self.program.ops.push(Op::Gather(Gather { pieces, out: own, rows: at.rows }));
        let gate = self.buffer(len);
        let part = self.part(&at.name("inp_gate"), len, n_embd)?;
        self.read_stream(None, vec![part], Epilogue::Act(Activation::Gelu), gate, at.rows);
        self.program.ops.push(Op::Gate { gate: own, buf: gate, rows: at.rows });
        Ok((gate, self.part(&at.name("proj"), n_embd, len)?))
    }

    /// Behind the last layer of a stack: keeps what the pass gave, and adds what the other stack gave
    /// last.
    fn end_of_pass(&mut self, at: Place<'_>, cycles: CycleSpec, low: Buf, high: Buf) {
        let (n, rows) = (at.index + 1, at.rows);
        if !n.is_multiple_of(cycles.n_layers) {
            return;
        }
        let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
        let norm = Norm { kind, eps, weight: None, bias: None };
        self.program.ops.push(Op::Normalize { buf: self.x, norm, rows });
        if n == self.spec.layers.len() {
            return;
        }
        let is_high = cycles.is_high(at.index / cycles.n_layers);
        let (out, input) = if is_high { (high, low) } else { (low, high) };
        let pieces = vec![Piece::heads(self.x, 0, 0, self.spec.n_embd, 1)];
        self.program.ops.push(Op::Gather(Gather { pieces, out, rows }));
        self.program.ops.push(Op::Add { input, out: self.x, from: 0, rows });
    }

    /// The stream times the layer's factor, once what is to be added to it has read it.
    pub fn scale_stream(&mut self, at: Place<'_>) {
        if at.layer.stream_scale != 1.0 {
            let factors = vec![at.layer.stream_scale; self.spec.n_embd];
            self.program.ops.push(Op::Scale { buf: self.x, factors, rows: at.rows });
        }
    }

    /// The factor of a layer's own, of its output or of the embeddings.
    fn scale_output(&mut self, at: Place<'_>, embeddings: Buf) -> Result<(), ModelError> {
        let name = at.name("layer_output_scale.weight");
        let (n_embd, rows) = (self.spec.n_embd, at.rows);
        if at.layer.output_scale == OutputScale::None || !self.binder.has(&name) {
            return Ok(());
        }
        let factors = vec![self.binder.vector(&name, 1)?[0]; n_embd];
        if at.layer.output_scale == OutputScale::Stream {
            self.program.ops.push(Op::Scale { buf: self.x, factors, rows });
            return Ok(());
        }
        let buf = self.buffer(n_embd);
        let pieces = vec![Piece::heads(embeddings, 0, 0, n_embd, 1)];
        self.program.ops.push(Op::Gather(Gather { pieces, out: buf, rows }));
        self.program.ops.push(Op::Scale { buf, factors, rows });
        self.program.ops.push(Op::Add { input: buf, out: self.x, from: 0, rows });
        Ok(())
    }

    /// A copy of the stream as it is.
    fn copy_of_stream(&mut self, rows: Rows) -> Buf {
        let out = self.buffer(self.spec.n_embd);
        let pieces = vec![Piece::heads(self.x, 0, 0, self.spec.n_embd, 1)];
        self.program.ops.push(Op::Gather(Gather { pieces, out, rows }));
        out
    }

    /// Replaces the stream by its norm, if there is one.
    fn norm_sum(&mut self, at: Place<'_>, name: Option<&'static str>) -> Result<(), ModelError> {
        if let Some(norm) = self.layer_norm(at, name)? {
            self.program.ops.push(Op::Normalize { buf: self.x, norm, rows: at.rows });
        }
        Ok(())
    }

    /// A new buffer of `width` elements per token. [`Program::share_buffers`] has those share memory
    /// that are not in use at the same time.
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
            return Ok(Norm { kind, eps, weight: None, bias: None });
        }
        // Some files leave the ending away.
        let is_bare = !self.binder.has(&weight) && self.binder.has(name);
        let weight = if is_bare { name.to_string() } else { weight };
        let weight = Some(self.binder.vector(&weight, len)?);
        let bias = self.binder.optional_vector(&format!("{name}.bias"), len)?;
        Ok(Norm { kind, eps, weight, bias })
    }

    /// The norm of this name in a layer, if there is one.
    pub fn layer_norm(
        &mut self,
        at: Place<'_>,
        name: Option<&'static str>,
    ) -> Result<Option<Norm>, ModelError> {
        name.map(|name| self.norm(&at.name(name), self.spec.n_embd)).transpose()
    }

    /// As [`Lowering::layer_norm`], of what a part of the layer gives.
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

    /// As [`Lowering::part`], for feed-forward parts, where the scale applies to the bias too.
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
        rows: Rows,
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
        rows: Rows,
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
    pub rows: Rows,
}

impl<'a> Place<'a> {
    /// The same for what all tokens need.
    fn before_mixer(self) -> Place<'a> {
        Place { rows: Rows::All, ..self }
    }

    /// The name of a tensor of the layer.
    pub fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.block)
    }
}
