//! Gated short convolutions.

use crate::backend::program::Conv;
use crate::backend::program::{Buf, Epilogue, Op, Part, Tokens};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{ModelError, ShortConvSpec};

impl Lowering<'_> {
    pub(super) fn short_conv(
        &mut self,
        at: Place<'_>,
        spec: &ShortConvSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let (n, taps) = (self.spec.n_embd, spec.taps);
        // `b`, `c` and `x`.
        let input = self.buffer(3 * n);
        let part = self.part(&at.name("shortconv.in_proj"), 3 * n, n)?;
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        self.read_stream(norm, vec![part], Epilogue::None, input, Tokens::All);
        let out = self.buffer(n);
        let weight = self.binder.elements(&at.name("shortconv.conv.weight"), n * taps)?;
        let state = self.program.state(n * (taps - 1));
        self.program.ops.push(Op::Conv(Conv {
            input,
            from: 2 * n,
            factors: Some((0, n)),
            weight: super::taps_first(&weight, taps),
            taps,
            bias: None,
            act: None,
            state,
            out,
        }));
        Ok((out, self.part(&at.name("shortconv.out_proj"), n, n)?))
    }
}
