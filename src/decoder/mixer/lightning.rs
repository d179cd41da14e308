//! Linear attention with a fixed decay for each head.

use crate::backend::program::{Buf, Epilogue, Op, Part, Tokens};
use crate::backend::program::{Scan, ScanKind};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{LightningSpec, ModelError};
use teff_kernels::Activation;

impl Lowering<'_> {
    pub(super) fn lightning(
        &mut self,
        at: Place<'_>,
        spec: &LightningSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let (n_heads, head_dim, n_embd) = (spec.slopes.len(), spec.head_dim, self.spec.n_embd);
        let width = n_heads * head_dim;
        // The reference implementation ignores all scales here.
        let unscaled = |part| Part { scale: 1.0, ..part };
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        let silu = Epilogue::Act(Activation::Silu);
        let part = unscaled(self.part(&at.name("attn_qkv"), 3 * width, n_embd)?);
        let qkv = self.buffer(3 * width);
        self.read_stream(norm.clone(), vec![part], silu, qkv, Tokens::All);
        let out = self.buffer(width);
        let scan = Scan {
            kind: ScanKind::Linear {
                qkv: (qkv, [0, head_dim, 2 * head_dim]),
                head_stride: 3 * head_dim,
                decay: spec.slopes.iter().map(|slope| (-slope).exp()).collect(),
            },
            n_heads,
            head_dim,
            state_dim: head_dim,
            state: self.program.state(spec.state_len()),
            gate: None,
            gate_act: Activation::Sigmoid,
            norm: None,
            out,
        };
        self.program.ops.push(Op::Scan(Box::new(scan)));
        let whole = self.norm(&at.name("attn_norm_2"), width)?;
        self.program.ops.push(Op::Normalize { buf: out, norm: whole, rows: at.rows });
        let part = unscaled(self.part(&at.name("attn_gate"), width, n_embd)?);
        let gate = self.buffer(width);
        let sigmoid = Epilogue::Act(Activation::Sigmoid);
        self.read_stream(norm, vec![part], sigmoid, gate, at.rows);
        self.program.ops.push(Op::MulBroadcast { gate, buf: out, rows: at.rows });
        Ok((out, unscaled(self.part(&at.name("attn_output"), n_embd, width)?)))
    }
}
