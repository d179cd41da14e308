//! From token ids to the residual stream, and the embeddings that layers have of their own.

use super::cycles::Cycles;
use super::{Lowering, Place};
use crate::backend::program::{
    BoundWeight, Buf, CopyPieces, Epilogue, Norm, NormKind, Op, Part, Piece, Tokens,
};
use crate::model::{EmbedNorm, ModelError};
use std::f32::consts::FRAC_1_SQRT_2;
use teff_kernels::Activation;

const TABLE: &str = "token_embd.weight";
const POSITIONS: &str = "position_embd.weight";
const TYPES: &str = "token_types.weight";

impl Lowering<'_> {
    /// The residual stream of each token. Returns the table of embeddings, and the stacks of layers
    /// if tokens pass those in turn.
    pub(super) fn embed(&mut self) -> Result<(BoundWeight, Option<Cycles>), ModelError> {
        let n_embd = self.spec.n_embd;
        let n_vocab = self.binder.dims(TABLE).and_then(|dims| dims.get(1).copied());
        let n_vocab = n_vocab.ok_or_else(|| ModelError::MissingTensor(TABLE.into()))? as usize;
        let table = self.matrix(TABLE, n_vocab, n_embd)?;
        self.program.n_vocab = n_vocab;
        self.x = self.buffer(n_embd);
        let positions = match self.spec.learned_positions {
            true => Some(self.matrix(POSITIONS, self.spec.n_ctx_train, n_embd)?),
            false => None,
        };
        let mut addend = self.type_embedding()?;
        let scale = self.spec.embed_scale;
        let mut cycles = None;
        if let Some(spec) = self.spec.cycles {
            let (opened, out, first) = self.open_cycles(spec)?;
            let (table, positions) = (table.clone(), None);
            self.program.ops.push(Op::Embed { table, scale, addend: None, positions, out });
            (cycles, addend) = (Some(opened), Some(first));
        }
        let (weight, out) = (table.clone(), self.x);
        self.program.ops.push(Op::Embed { table: weight, scale, addend, positions, out });
        let norm = match self.spec.embed_norm {
            EmbedNorm::None => None,
            EmbedNorm::Weighted => Some(self.norm("token_embd_norm", n_embd)?),
            EmbedNorm::Bare => {
                let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
                Some(Norm { kind, eps, weight: None, bias: None, name: None })
            }
        };
        if let Some(norm) = norm {
            self.program.ops.push(Op::Normalize { buf: self.x, norm, rows: Tokens::All });
        }
        Ok((table, cycles))
    }

    /// The embedding of the first token type, if it is added to every token's.
    fn type_embedding(&mut self) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(dims) = self.binder.dims(TYPES).filter(|_| self.spec.token_types) else {
            return Ok(None);
        };
        let n_types = dims.get(1).map_or(1, |&n| n.max(1) as usize);
        let types = self.binder.matrix(TYPES, n_types, self.spec.n_embd)?;
        Ok(Some(self.binder.values(&types)[..self.spec.n_embd].to_vec()))
    }

    /// An embedding of `len` elements of the token for each layer, with a projection of the common
    /// one added: `(norm(W x / sqrt(n_embd)) + sqrt(len) e) / sqrt(2)`.
    pub(super) fn layer_embeddings(&mut self, len: usize) -> Result<Buf, ModelError> {
        let (n_embd, n_layers) = (self.spec.n_embd, self.spec.layers.len());
        let n_vocab = self.program.n_vocab;
        let width = n_layers * len;
        let table = self.matrix("per_layer_token_embd.weight", n_vocab, width)?;
        let out = self.program.buffer(width);
        let scale = (len as f32).sqrt() * FRAC_1_SQRT_2;
        self.program.ops.push(Op::Embed { table, scale, addend: None, positions: None, out });
        let part = self.part("per_layer_model_proj", width, n_embd)?;
        let part = Part { scale: part.scale / (n_embd as f32).sqrt(), ..part };
        let projected = self.program.buffer(width);
        self.read_stream(None, vec![part], Epilogue::None, projected, Tokens::All);
        let mut norm = self.norm("per_layer_proj_norm", len)?;
        norm.weight.iter_mut().flatten().for_each(|weight| *weight *= FRAC_1_SQRT_2);
        let normed = self.program.buffer(width);
        let heads = Piece::heads(projected, 0, len, len, n_layers);
        let pieces = vec![Piece { norm: Some(norm), ..heads }];
        let rows = Tokens::All;
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: normed, rows }));
        self.program.ops.push(Op::Add { input: normed, out, from: 0, rows });
        Ok(out)
    }

    /// `x += norm(W (gelu(G x) * e))` with the layer's own embedding `e`.
    pub(super) fn add_layer_embedding(
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
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: own, rows: at.rows }));
        let gate = self.buffer(len);
        let part = self.part(&at.name("inp_gate"), len, n_embd)?;
        self.read_stream(None, vec![part], Epilogue::Act(Activation::Gelu), gate, at.rows);
        self.program.ops.push(Op::MulBroadcast { gate: own, buf: gate, rows: at.rows });
        Ok((gate, self.part(&at.name("proj"), n_embd, len)?))
    }
}
