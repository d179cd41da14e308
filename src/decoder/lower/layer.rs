//! One layer: mixer, feed-forward part, and what is done to the residual stream around them.

use super::cycles::Cycles;
use super::{Lowering, Place};
use crate::backend::program::{Buf, CopyPieces, Epilogue, Op, Piece, Tokens};
use crate::model::{Ffn, LayerSpec, ModelError, OutputScale, Residual, RouterInput};

/// Buffers that layers share beside the residual stream.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// The embeddings, where layers add them to their output; otherwise the stream.
    pub embeddings: Buf,
    /// Embeddings of the layers' own, and their length.
    pub layer_embed: Option<(Buf, usize)>,
    /// Parallel streams.
    pub streams: Option<Buf>,
    /// Stacks of layers that tokens pass in turn.
    pub cycles: Option<Cycles>,
}

impl Lowering<'_> {
    /// Lowers all layers.
    pub(super) fn layers(&mut self, beside: Beside) -> Result<(), ModelError> {
        let last = self.spec.layers.len() - 1;
        for (i, layer) in self.spec.layers.iter().enumerate() {
            // After the last mixer nothing but the results is wanted.
            let rows = if i == last { Tokens::Outputs } else { Tokens::All };
            let block = beside.cycles.map_or(i, |cycles| cycles.spec.block(i));
            self.scales_of = (block, i);
            let start = self.program.ops.len();
            self.layer(Place { index: i, block, layer, rows }, beside)?;
            self.program.layers.push(start..self.program.ops.len());
        }
        Ok(())
    }

    /// A layer for all tokens, of a model whose layers read nothing but the stream.
    pub(super) fn lone_layer(&mut self, index: usize) -> Result<(), ModelError> {
        let layer = &self.spec.layers[index];
        self.scales_of = (index, index);
        let at = Place { index, block: index, layer, rows: Tokens::All };
        let (embeddings, layer_embed, streams, cycles) = (self.x, None, None, None);
        self.layer(at, Beside { embeddings, layer_embed, streams, cycles })
    }

    fn layer(&mut self, at: Place<'_>, beside: Beside) -> Result<(), ModelError> {
        let Place { layer, rows, .. } = at;
        if let Some(streams) = beside.streams {
            self.predict_streams(at, streams)?;
        }
        let scores = self.early_scores(at)?;
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
        match (beside.streams, beside.layer_embed) {
            (Some(streams), embed) => self.correct_streams(at, streams, embed)?,
            (None, Some((embeddings, len))) => self.add_layer_embedding(at, embeddings, len)?,
            (None, None) => {}
        }
        self.scale_output(at, beside.embeddings)?;
        if let Some(cycles) = beside.cycles {
            self.end_of_pass(at, cycles);
        }
        Ok(())
    }

    /// Scores of experts that are routed by the layer's input.
    fn early_scores(&mut self, at: Place<'_>) -> Result<Option<Buf>, ModelError> {
        let Ffn::Moe(moe) = &at.layer.ffn else { return Ok(None) };
        if moe.router != RouterInput::Layer {
            return Ok(None);
        }
        let part = self.part(&at.name("ffn_gate_inp"), moe.n_experts, self.spec.n_embd)?;
        let scores = self.buffer(moe.n_experts);
        self.read_stream(None, vec![part], Epilogue::None, scores, at.rows);
        Ok(Some(scores))
    }

    /// A copy of the embeddings for the layers that add them to their output, or the stream itself
    /// if none does.
    pub(super) fn embeddings(&mut self) -> Buf {
        let adds = |layer: &LayerSpec| layer.output_scale == OutputScale::Embeddings;
        match self.spec.layers.iter().any(adds) {
            true => self.copy_of_stream(Tokens::All),
            false => self.x,
        }
    }

    /// Replaces the stream by its norm, if there is one.
    fn norm_sum(&mut self, at: Place<'_>, name: Option<&'static str>) -> Result<(), ModelError> {
        if let Some(norm) = self.layer_norm(at, name)? {
            self.program.ops.push(Op::Normalize { buf: self.x, norm, rows: at.rows });
        }
        Ok(())
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
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: buf, rows }));
        self.program.ops.push(Op::Scale { buf, factors, rows });
        self.program.ops.push(Op::Add { input: buf, out: self.x, from: 0, rows });
        Ok(())
    }

    /// A copy of the stream as it is.
    fn copy_of_stream(&mut self, rows: Tokens) -> Buf {
        let out = self.buffer(self.spec.n_embd);
        let pieces = vec![Piece::heads(self.x, 0, 0, self.spec.n_embd, 1)];
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out, rows }));
        out
    }
}
