//! Two stacks of layers that tokens pass in turn (hierarchical reasoning, arXiv:2506.21734).

use super::{Lowering, Place};
use crate::backend::program::{Buf, CopyPieces, Norm, NormKind, Op, Piece};
use crate::model::{CycleSpec, ModelError};

/// The stacks' latest outputs.
#[derive(Clone, Copy)]
pub(super) struct Cycles {
    pub spec: CycleSpec,
    /// Output of the low stack.
    low: Buf,
    /// Output of the high stack: at first the embeddings.
    high: Buf,
}

impl Lowering<'_> {
    /// Buffers for the outputs of both stacks, without their first contents, and the vector that is
    /// the low stack's first output.
    pub(super) fn open_cycles(
        &mut self,
        spec: CycleSpec,
    ) -> Result<(Cycles, Buf, Vec<f32>), ModelError> {
        let n_embd = self.spec.n_embd;
        let [low, high] = [0, 1].map(|_| self.buffer(n_embd));
        let first = self.binder.vector("hrm.z_l_init", n_embd)?;
        Ok((Cycles { spec, low, high }, high, first))
    }

    /// After the last layer of a stack: saves the pass's output and adds the other stack's latest
    /// output to the stream.
    pub(super) fn end_of_pass(&mut self, at: Place<'_>, cycles: Cycles) {
        let Cycles { spec, low, high } = cycles;
        let (n, rows) = (at.index + 1, at.rows);
        if !n.is_multiple_of(spec.n_layers) {
            return;
        }
        let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
        let norm = Norm { kind, eps, weight: None, bias: None, name: None };
        self.program.ops.push(Op::Normalize { buf: self.x, norm, rows });
        if n == self.spec.layers.len() {
            return;
        }
        let is_high = spec.is_high(at.index / spec.n_layers);
        let (out, input) = if is_high { (high, low) } else { (low, high) };
        let pieces = vec![Piece::heads(self.x, 0, 0, self.spec.n_embd, 1)];
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out, rows }));
        self.program.ops.push(Op::Add { input, out: self.x, from: 0, rows });
    }
}
