//! Mamba and Mamba 2.

use crate::backend::program::{Buf, CopyPieces, Epilogue, Norm, NormKind, Op, Part, Piece, Tokens};
use crate::backend::program::{Conv, Scan, ScanKind};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{ModelError, StateSpaceGeneration, StateSpaceSpec};
use teff_kernels::Activation;

impl Lowering<'_> {
    pub(super) fn state_space(
        &mut self,
        at: Place<'_>,
        spec: &StateSpaceSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let out = match spec.generation {
            StateSpaceGeneration::One { time_rank, norms } => {
                self.first_generation(at, spec, time_rank, norms)?
            }
            StateSpaceGeneration::Two { n_heads, n_groups } => {
                self.second_generation(at, spec, n_heads, n_groups)?
            }
        };
        Ok((out, self.part(&at.name("ssm_out"), self.spec.n_embd, spec.n_inner)?))
    }

    /// The first product, `width` wide, and a convolution of `n_channels` of its columns from
    /// `from` on.
    fn state_space_input(
        &mut self,
        at: Place<'_>,
        width: usize,
        (from, n_channels): (usize, usize),
        taps: usize,
    ) -> Result<(Buf, Buf), ModelError> {
        let input = self.buffer(width);
        let part = self.part(&at.name("ssm_in"), width, self.spec.n_embd)?;
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        self.read_stream(norm, vec![part], Epilogue::None, input, Tokens::All);
        let out = self.buffer(n_channels);
        let weight = self.binder.elements(&at.name("ssm_conv1d.weight"), n_channels * taps)?;
        let weight = super::taps_first(&weight, taps);
        let bias = self.binder.optional_vector(&at.name("ssm_conv1d.bias"), n_channels)?;
        let state = self.program.state(n_channels * (taps - 1));
        let act = Some(Activation::Silu);
        let factors = None;
        let conv = Conv { input, from, factors, weight, taps, bias, act, state, out };
        self.program.ops.push(Op::Conv(conv));
        Ok((input, out))
    }

    fn first_generation(
        &mut self,
        at: Place<'_>,
        spec: &StateSpaceSpec,
        time_rank: usize,
        norms: bool,
    ) -> Result<Buf, ModelError> {
        let &StateSpaceSpec { n_inner, state_dim, taps, .. } = spec;
        let (input, x) = self.state_space_input(at, 2 * n_inner, (0, n_inner), taps)?;
        // The time step's source, `b` and `c`.
        let sizes = [time_rank, state_dim, state_dim];
        let width = sizes.iter().sum();
        let mut bc = self.buffer(width);
        let part = self.part(&at.name("ssm_x"), width, n_inner)?;
        self.store_product(x, None, part, bc, Tokens::All);
        if norms || self.binder.has(&at.name("ssm_dt_norm.weight")) {
            let out = self.buffer(width);
            let mut pieces = Vec::new();
            let mut first = 0;
            for (name, len) in ["ssm_dt_norm", "ssm_b_norm", "ssm_c_norm"].iter().zip(sizes) {
                let weight =
                    self.binder.optional_vector(&at.name(&format!("{name}.weight")), len)?;
                let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
                let norm = Some(Norm { kind, eps, weight, bias: None, name: None });
                pieces.push(Piece { norm, to: first, ..Piece::heads(bc, first, 0, len, 1) });
                first += len;
            }
            self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out, rows: Tokens::All }));
            bc = out;
        }
        let dt = self.buffer(n_inner);
        let part = self.part(&at.name("ssm_dt"), n_inner, time_rank)?;
        self.store_product(bc, None, part, dt, Tokens::All);
        let out = self.buffer(n_inner);
        let scan = Scan {
            kind: ScanKind::StateSpace {
                x: (x, 0),
                bc: (bc, [time_rank, time_rank + state_dim]),
                n_groups: 1,
                dt: (dt, 0),
                // The product has it already.
                dt_bias: vec![0.0; n_inner],
                a: self.binder.elements(&at.name("ssm_a"), n_inner * state_dim)?,
                d: self.binder.elements(&at.name("ssm_d"), n_inner)?,
            },
            n_heads: n_inner,
            head_dim: 1,
            state_dim,
            state: self.program.state(n_inner * state_dim),
            gate: Some((input, n_inner)),
            gate_act: Activation::Silu,
            norm: None,
            out,
        };
        self.program.ops.push(Op::Scan(Box::new(scan)));
        Ok(out)
    }

    fn second_generation(
        &mut self,
        at: Place<'_>,
        spec: &StateSpaceSpec,
        n_heads: usize,
        n_groups: usize,
    ) -> Result<Buf, ModelError> {
        let &StateSpaceSpec { n_inner, state_dim, taps, .. } = spec;
        let n_bc = n_groups * state_dim;
        let n_channels = n_inner + 2 * n_bc;
        // The gate, then what is convolved, then time steps.
        let width = n_inner + n_channels + n_heads;
        let (input, x) = self.state_space_input(at, width, (n_inner, n_channels), taps)?;
        let out = self.buffer(n_inner);
        let scan = Scan {
            kind: ScanKind::StateSpace {
                x: (x, 0),
                bc: (x, [n_inner, n_inner + n_bc]),
                n_groups,
                dt: (input, n_inner + n_channels),
                dt_bias: self.binder.vector(&at.name("ssm_dt.bias"), n_heads)?,
                a: self.binder.elements(&at.name("ssm_a"), n_heads)?,
                d: self.binder.elements(&at.name("ssm_d"), n_heads)?,
            },
            n_heads,
            head_dim: n_inner / n_heads,
            state_dim,
            state: self.program.state(n_inner * state_dim),
            gate: Some((input, 0)),
            gate_act: Activation::Silu,
            norm: None,
            out,
        };
        self.program.ops.push(Op::Scan(Box::new(scan)));
        let weights = at.name("ssm_norm.weight");
        if !self.binder.has(&weights) {
            return Ok(out);
        }
        let weights = self.binder.elements(&weights, n_inner)?;
        let normed = self.buffer(n_inner);
        let len = n_inner / n_groups;
        let pieces = weights.chunks_exact(len).enumerate().map(|(i, weight)| {
            let (kind, eps, weight) = (NormKind::Rms, self.spec.norm_eps, Some(weight.to_vec()));
            let norm = Some(Norm { kind, eps, weight, bias: None, name: None });
            Piece { norm, to: i * len, ..Piece::heads(out, i * len, 0, len, 1) }
        });
        let gather = CopyPieces { pieces: pieces.collect(), out: normed, rows: at.rows };
        self.program.ops.push(Op::CopyPieces(gather));
        Ok(normed)
    }
}
