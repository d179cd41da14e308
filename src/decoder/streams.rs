//! Parallel residual streams (AltUp, arXiv:2301.13310), of which the layers work on the first, and
//! the low-rank branch beside attention (LAuReL, arXiv:2411.07501).
//!
//! `x` is the first stream while a layer works on it; between layers all are in a buffer.

use super::lower::{Lowering, Place};
use crate::backend::program::{
    Buf, CopyPieces, Epilogue, HeadLinear, MixStreams, Op, Piece, STREAMS_MAX, Tokens,
};
use crate::model::ModelError;
use std::f32::consts::FRAC_1_SQRT_2;

impl Lowering<'_> {
    /// The streams of a token: its embedding, and projections of it of the same length.
    pub(super) fn open_streams(&mut self) -> Result<Buf, ModelError> {
        let (n, n_embd, rows) = (self.spec.n_streams, self.spec.n_embd, Tokens::All);
        assert!(n <= STREAMS_MAX, "the description keeps the bound");
        let streams = self.program.buffer(n * n_embd);
        let others = self.projected("altup_proj", self.x, 0, rows)?;
        let pieces = vec![
            Piece::heads(self.x, 0, 0, n_embd, 1),
            Piece { to: n_embd, ..Piece::heads(others, 0, n_embd, n_embd, n - 1) },
        ];
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: streams, rows }));
        Ok(streams)
    }

    /// The mean of the streams, the others projected back.
    pub(super) fn close_streams(&mut self, streams: Buf) -> Result<(), ModelError> {
        let (n, n_embd, rows) = (self.spec.n_streams, self.spec.n_embd, Tokens::Outputs);
        let others = self.buffer((n - 1) * n_embd);
        let piece = Piece::heads(streams, n_embd, n_embd, n_embd, n - 1);
        self.program.ops.push(Op::CopyPieces(CopyPieces {
            pieces: vec![piece],
            out: others,
            rows,
        }));
        let piece = Piece::heads(streams, 0, 0, n_embd, 1);
        self.program.ops.push(Op::CopyPieces(CopyPieces {
            pieces: vec![piece],
            out: self.x,
            rows,
        }));
        let others = self.projected("altup_unembd_proj", others, n_embd, rows)?;
        let one = self.buffer(n_embd);
        for i in 0..n - 1 {
            let piece = Piece::heads(others, i * n_embd, 0, n_embd, 1);
            self.program.ops.push(Op::CopyPieces(CopyPieces {
                pieces: vec![piece],
                out: one,
                rows,
            }));
            self.program.ops.push(Op::Add { input: one, out: self.x, from: 0, rows });
        }
        let factors = vec![1.0 / n as f32; n_embd];
        self.program.ops.push(Op::Scale { buf: self.x, factors, rows });
        Ok(())
    }

    /// Products with the matrices of a stack, of the length of `x`.
    fn projected(
        &mut self,
        name: &str,
        input: Buf,
        input_stride: usize,
        rows: Tokens,
    ) -> Result<Buf, ModelError> {
        let (n, n_embd) = (self.spec.n_streams - 1, self.spec.n_embd);
        let weight = self.stack(&format!("{name}.weight"), [n, n_embd, n_embd])?;
        let out = self.buffer(n * n_embd);
        let (scale, out_stride) = (1.0, n_embd);
        let op = HeadLinear { input, input_stride, weight, scale, out, out_stride, rows };
        self.program.ops.push(Op::HeadLinear(op));
        self.program.ops.push(Op::MatchLength { to: self.x, buf: out, rows });
        Ok(out)
    }

    /// The streams as they predict each other, from which a layer starts; `x` becomes the first.
    pub(super) fn predict_streams(
        &mut self,
        at: Place<'_>,
        streams: Buf,
    ) -> Result<(), ModelError> {
        let n = self.spec.n_streams;
        self.mix_streams(at, streams, None, "altup_predict_coef", n * n, Tokens::All)?;
        let piece = Piece::heads(streams, 0, 0, self.spec.n_embd, 1);
        let (pieces, rows) = (vec![piece], Tokens::All);
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: self.x, rows }));
        Ok(())
    }

    /// Corrects the streams by what the layer made of the first, and adds the layer's embedding of
    /// the token to the others.
    pub(super) fn correct_streams(
        &mut self,
        at: Place<'_>,
        streams: Buf,
        embedding: Option<(Buf, usize)>,
    ) -> Result<(), ModelError> {
        let (n, n_embd, rows) = (self.spec.n_streams, self.spec.n_embd, at.rows);
        self.mix_streams(at, streams, Some(self.x), "altup_correct_coef", n, rows)?;
        let Some((embeddings, len)) = embedding else { return Ok(()) };
        let piece = Piece::heads(streams, 0, 0, n_embd, 1);
        self.program.ops.push(Op::CopyPieces(CopyPieces {
            pieces: vec![piece],
            out: self.x,
            rows,
        }));
        let factors = self.binder.vector(&at.name("altup_correct_scale.weight"), n_embd)?;
        self.program.ops.push(Op::Scale { buf: self.x, factors, rows });
        let (gated, part) = self.gated_layer_embedding(at, embeddings, len)?;
        let added = self.beside();
        self.store_product(gated, None, part, added, rows);
        let norm = self.layer_norm(at, Some("post_norm"))?;
        let normed = self.buffer(n_embd);
        let piece = Piece { norm, ..Piece::heads(added, 0, 0, n_embd, 1) };
        self.program.ops.push(Op::CopyPieces(CopyPieces {
            pieces: vec![piece],
            out: normed,
            rows,
        }));
        self.program.ops.push(Op::Add { input: normed, out: streams, from: n_embd, rows });
        Ok(())
    }

    fn mix_streams(
        &mut self,
        at: Place<'_>,
        streams: Buf,
        made: Option<Buf>,
        coefficients: &str,
        n_coefficients: usize,
        rows: Tokens,
    ) -> Result<(), ModelError> {
        let (n, n_embd) = (self.spec.n_streams, self.spec.n_embd);
        let mut norm = self.norm(&at.name("altup_router_norm"), n_embd)?;
        norm.weight.iter_mut().flatten().for_each(|weight| *weight /= n_embd as f32);
        let mut matrix = |name: &str, rows, cols| {
            let weight = self.binder.matrix(&at.name(&format!("{name}.weight")), rows, cols)?;
            Ok::<_, ModelError>(self.binder.values(&weight))
        };
        let router = matrix("altup_router", n, n_embd)?;
        let coefficients = matrix(coefficients, n_coefficients, n)?;
        let op = MixStreams { streams, made, norm, router, coefficients, n, rows };
        self.program.ops.push(Op::MixStreams(Box::new(op)));
        Ok(())
    }

    /// The low-rank branch of the mixer's input `h`: `h + norm(R L h)`. Gives its buffer.
    pub(super) fn laurel(&mut self, at: Place<'_>, rank: usize) -> Result<Buf, ModelError> {
        let (n_embd, rows) = (self.spec.n_embd, at.rows);
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        let low = self.buffer(rank);
        let part = self.part(&at.name("laurel_l"), rank, n_embd)?;
        self.read_stream(norm.clone(), vec![part], Epilogue::None, low, rows);
        let product = self.beside();
        let part = self.part(&at.name("laurel_r"), n_embd, rank)?;
        self.store_product(low, None, part, product, rows);
        let branch = self.buffer(n_embd);
        let piece = Piece { norm, ..Piece::heads(self.x, 0, 0, n_embd, 1) };
        self.program.ops.push(Op::CopyPieces(CopyPieces {
            pieces: vec![piece],
            out: branch,
            rows,
        }));
        let norm = self.norm(&at.name("laurel_post_norm"), n_embd)?;
        let op = Op::AddNorm { input: product, norm, scale: 1.0, out: branch, rows };
        self.program.ops.push(op);
        Ok(branch)
    }

    /// The mean of stream and branch, times the square root of 2.
    pub(super) fn add_laurel(&mut self, at: Place<'_>, branch: Buf) {
        let rows = at.rows;
        self.program.ops.push(Op::Add { input: branch, out: self.x, from: 0, rows });
        let factors = vec![FRAC_1_SQRT_2; self.spec.n_embd];
        self.program.ops.push(Op::Scale { buf: self.x, factors, rows });
    }
}
