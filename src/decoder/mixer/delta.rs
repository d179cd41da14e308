//! Linear attention by a gated delta rule.

use crate::backend::program::{Buf, Epilogue, Norm, Op, Part, Tokens};
use crate::backend::program::{Conv, Scan, ScanKind};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{DeltaDecay, DeltaSpec, KeyHeads, ModelError, TensorUse};
use teff_kernels::Activation;

/// Buffers and columns of the scan's inputs that are not convolved.
struct Controls {
    alpha: (Buf, Vec<usize>),
    beta: (Buf, Vec<usize>),
    gate: (Buf, usize),
}

impl Lowering<'_> {
    pub(super) fn delta(
        &mut self,
        at: Place<'_>,
        spec: &DeltaSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let &DeltaSpec { n_heads, v_dim, n_key_heads, k_dim, taps, .. } = spec;
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        let (n_channels, n_values) = (spec.n_channels(), n_heads * v_dim);
        let (input, from, controls, weight) = match spec.decay {
            DeltaDecay::Heads => {
                let (input, controls) = self.delta_of_heads(at, spec, norm)?;
                let name = at.name("ssm_conv1d.weight");
                (input, 0, controls, self.binder.elements(&name, n_channels * taps)?)
            }
            DeltaDecay::Channels | DeltaDecay::BoundedChannels(_) => {
                let (input, from, controls) = match spec.decay {
                    DeltaDecay::Channels => self.delta_of_channels(at, spec, norm)?,
                    _ => self.delta_of_whole_channels(at, spec, norm)?,
                };
                let mut weight = Vec::new();
                let n_keys = n_key_heads * k_dim;
                for (name, n) in [("q", n_keys), ("k", n_keys), ("v", n_values)] {
                    let name = at.name(&format!("ssm_conv1d_{name}.weight"));
                    weight.extend(self.binder.elements(&name, n * taps)?);
                }
                (input, from, controls, weight)
            }
        };
        let weight = super::taps_first(&weight, taps);
        let qkv = self.buffer(n_channels);
        let state = self.program.state(n_channels * (taps - 1));
        let (factors, bias, act) = (None, None, Some(Activation::Silu));
        let conv = Conv { input, from, factors, weight, taps, bias, act, state, out: qkv };
        self.program.ops.push(Op::Conv(conv));

        let out = self.buffer(n_values);
        let n_alpha = match spec.decay {
            DeltaDecay::Heads => n_heads,
            DeltaDecay::Channels | DeltaDecay::BoundedChannels(_) => n_heads * k_dim,
        };
        let key_head = |head: usize| match spec.key_heads {
            KeyHeads::Grouped => head / (n_heads / n_key_heads),
            KeyHeads::Tiled => head % n_key_heads,
        };
        let scan = Scan {
            kind: ScanKind::Delta {
                qkv: (qkv, [0, 1, 2].map(|i| i * n_key_heads * k_dim)),
                key_head: (0..n_heads).map(key_head).collect(),
                alpha: controls.alpha,
                alpha_bias: self.binder.vector(&at.name("ssm_dt.bias"), n_alpha)?,
                a: self.binder.elements(&at.name("ssm_a"), n_heads)?,
                bound: match spec.decay {
                    DeltaDecay::BoundedChannels(bound) => Some(bound),
                    DeltaDecay::Heads | DeltaDecay::Channels => None,
                },
                beta: controls.beta,
                eps: self.spec.norm_eps,
            },
            n_heads,
            head_dim: v_dim,
            state_dim: k_dim,
            state: self.program.state(n_values * k_dim),
            gate: Some(controls.gate),
            gate_act: match spec.decay {
                DeltaDecay::Heads => Activation::Silu,
                DeltaDecay::Channels | DeltaDecay::BoundedChannels(_) => Activation::Sigmoid,
            },
            norm: Some(self.norm(&at.name("ssm_norm"), v_dim)?),
            out,
        };
        self.program.ops.push(Op::Scan(Box::new(scan)));
        let name = match spec.decay {
            DeltaDecay::Heads => "ssm_out",
            DeltaDecay::Channels | DeltaDecay::BoundedChannels(_) => "attn_output",
        };
        Ok((out, self.delta_part(at, name, self.spec.n_embd, n_values, spec)?))
    }

    fn delta_part(
        &mut self,
        at: Place<'_>,
        name: &str,
        rows: usize,
        cols: usize,
        spec: &DeltaSpec,
    ) -> Result<Part, ModelError> {
        let mut part = self.part(&at.name(name), rows, cols)?;
        if spec.scales == TensorUse::Ignore {
            part.scale = 1.0;
        }
        if spec.decay != DeltaDecay::Heads {
            // Some files have biases, which the reference implementation ignores.
            part.bias = None;
        }
        Ok(part)
    }

    /// Queries, keys and values come first.
    fn delta_of_heads(
        &mut self,
        at: Place<'_>,
        spec: &DeltaSpec,
        norm: Option<Norm>,
    ) -> Result<(Buf, Controls), ModelError> {
        let (n_embd, n_heads, n_values) =
            (self.spec.n_embd, spec.n_heads, spec.n_heads * spec.v_dim);
        let n_channels = spec.n_channels();
        let mut parts = vec![
            self.delta_part(at, "attn_qkv", n_channels, n_embd, spec)?,
            self.delta_part(at, "attn_gate", n_values, n_embd, spec)?,
        ];
        let first = n_channels + n_values;
        let (beta, alpha): (Vec<usize>, Vec<usize>) = if self.binder.has(&at.name("ssm_ba.weight"))
        {
            // For each head of keys the betas of its heads of values, then their alphas.
            parts.push(self.delta_part(at, "ssm_ba", 2 * n_heads, n_embd, spec)?);
            let n = n_heads / spec.n_key_heads;
            let place = |head: usize| first + head / n * 2 * n + head % n;
            (0..n_heads).map(|head| (place(head), place(head) + n)).unzip()
        } else {
            parts.push(self.delta_part(at, "ssm_beta", n_heads, n_embd, spec)?);
            parts.push(self.delta_part(at, "ssm_alpha", n_heads, n_embd, spec)?);
            (0..n_heads).map(|head| (first + head, first + n_heads + head)).unzip()
        };
        let input = self.buffer(first + 2 * n_heads);
        self.read_stream(norm, parts, Epilogue::None, input, Tokens::All);
        let gate = (input, n_channels);
        Ok((input, Controls { alpha: (input, alpha), beta: (input, beta), gate }))
    }

    /// Queries, keys and values come from the column on that comes second.
    fn delta_of_channels(
        &mut self,
        at: Place<'_>,
        spec: &DeltaSpec,
        norm: Option<Norm>,
    ) -> Result<(Buf, usize, Controls), ModelError> {
        let &DeltaSpec { n_heads, v_dim, n_key_heads, k_dim, .. } = spec;
        let (n_embd, n_values, n_keys) = (self.spec.n_embd, n_heads * v_dim, n_key_heads * k_dim);
        // The matrices of decay and gate are products of two, `head_dim` wide in between.
        let rank = k_dim;
        let mut parts = vec![self.delta_part(at, "ssm_f_a", rank, n_embd, spec)?];
        for (name, rows) in [("attn_q", n_keys), ("attn_k", n_keys), ("attn_v", n_values)] {
            parts.push(self.delta_part(at, name, rows, n_embd, spec)?);
        }
        parts.push(self.delta_part(at, "ssm_beta", n_heads, n_embd, spec)?);
        let first_beta = rank + spec.n_channels();
        let input = self.buffer(first_beta + n_heads);
        self.read_stream(norm.clone(), parts, Epilogue::None, input, Tokens::All);
        let alpha = self.buffer(n_heads * k_dim);
        let part = self.delta_part(at, "ssm_f_b", n_heads * k_dim, rank, spec)?;
        self.store_product(input, None, part, alpha, Tokens::All);
        let low = self.buffer(rank);
        let part = self.delta_part(at, "ssm_g_a", rank, n_embd, spec)?;
        self.read_stream(norm, vec![part], Epilogue::None, low, Tokens::All);
        let gate = self.buffer(n_values);
        let part = self.delta_part(at, "ssm_g_b", n_values, rank, spec)?;
        self.store_product(low, None, part, gate, Tokens::All);
        let controls = Controls {
            alpha: (alpha, (0..n_heads).map(|head| head * k_dim).collect()),
            beta: (input, (0..n_heads).map(|head| first_beta + head).collect()),
            gate: (gate, 0),
        };
        Ok((input, rank, controls))
    }

    /// Inputs of a rule with decays per channel whose decay and gate are one product each. Queries,
    /// keys and values come from the column on that comes second.
    fn delta_of_whole_channels(
        &mut self,
        at: Place<'_>,
        spec: &DeltaSpec,
        norm: Option<Norm>,
    ) -> Result<(Buf, usize, Controls), ModelError> {
        let &DeltaSpec { n_heads, v_dim, n_key_heads, k_dim, .. } = spec;
        let (n_alpha, n_keys, n_values) = (n_heads * k_dim, n_key_heads * k_dim, n_heads * v_dim);
        let sizes = [
            ("ssm_f_a", n_alpha),
            ("attn_q", n_keys),
            ("attn_k", n_keys),
            ("attn_v", n_values),
            ("ssm_g_a", n_values),
            ("ssm_beta", n_heads),
        ];
        let mut parts = Vec::new();
        for (name, rows) in sizes {
            parts.push(self.delta_part(at, name, rows, self.spec.n_embd, spec)?);
        }
        let first_gate = n_alpha + spec.n_channels();
        let first_beta = first_gate + n_values;
        let input = self.buffer(first_beta + n_heads);
        self.read_stream(norm, parts, Epilogue::None, input, Tokens::All);
        let controls = Controls {
            alpha: (input, (0..n_heads).map(|head| head * k_dim).collect()),
            beta: (input, (0..n_heads).map(|head| first_beta + head).collect()),
            gate: (input, first_gate),
        };
        Ok((input, n_alpha, controls))
    }
}
