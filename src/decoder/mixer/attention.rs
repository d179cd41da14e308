//! Softmax attention with grouped queries.

use crate::backend::program::{
    Attention, Buf, CopyPieces, Epilogue, HeadNorm, KvShape, Norm, NormKind, Op, Part, Piece, Rope,
    RopeId, RopeKv, Temperature, Tokens,
};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{
    AttentionGate, AttentionSpec, KvSource, ModelError, QkNorm, RopeSpec, TemperatureSpec,
    TensorUse,
};

impl Lowering<'_> {
    /// Returns the attention output buffer and the output projection that is still to be applied.
    pub(super) fn attention(
        &mut self,
        at: Place<'_>,
        spec: &AttentionSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let &AttentionSpec { n_heads, n_kv_heads, k_dim, v_dim, .. } = spec;
        let n_embd = self.spec.n_embd;
        let stores = !matches!(spec.kv, KvSource::Layer(_));
        let stored = if stores { n_kv_heads } else { 0 };
        let (q, k, v) = (n_heads * k_dim, stored * k_dim, stored * v_dim);
        let q_rows = if spec.gate == AttentionGate::InQuery { 2 * q } else { q };
        let (parts, width) = self.qkv_parts(at, spec, [q_rows, k, v])?;
        let qkv = self.buffer(q + k + v);
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        let is_wider = width > q + k + v;
        let products = if is_wider { self.buffer(width) } else { qkv };
        self.read_stream(norm.clone(), parts, Epilogue::None, products, Tokens::All);
        if is_wider {
            let stride = q_rows / n_heads;
            let queries = Piece::heads(products, 0, stride, k_dim, n_heads);
            let rest = Piece { from: q_rows, to: q, ..Piece::heads(products, 0, 0, k + v, 1) };
            let pieces = vec![queries, rest];
            self.program.ops.push(Op::CopyPieces(CopyPieces {
                pieces,
                out: qkv,
                rows: Tokens::All,
            }));
        }
        let kv_layer = match spec.kv {
            KvSource::Layer(layer) => self.kv_layers[layer],
            KvSource::Own | KvSource::KeysOnly => {
                self.program.kv.push(KvShape { n_kv_heads, k_dim, v_dim, window: spec.window });
                self.program.kv.len() - 1
            }
        };
        self.kv_layers.resize(at.index, usize::MAX);
        self.kv_layers.push(kv_layer);
        self.rope_kv(at, spec, qkv, kv_layer)?;
        let sinks = match spec.sinks {
            true => Some(self.binder.vector(&at.name("attn_sinks.weight"), n_heads)?),
            false => None,
        };
        let out = self.buffer(n_heads * v_dim);
        self.program.ops.push(Op::Attention(Attention {
            qkv,
            n_heads,
            layer: kv_layer,
            scale: spec.scale,
            softcap: spec.softcap,
            slopes: spec.alibi.map(|exponent| alibi_slopes(n_heads, exponent)),
            sinks,
            out,
            rows: at.rows,
        }));
        self.attention_gate(at, spec, norm, products, out)?;
        if let Some(name) = at.layer.norms.inside_attention {
            let norm = self.norm(&at.name(name), n_heads * v_dim)?;
            self.program.ops.push(Op::Normalize { buf: out, norm, rows: at.rows });
        }
        let mut part = self.part(&at.name("attn_output"), n_embd, n_heads * v_dim)?;
        part.scale *= spec.value_scale;
        part.bias = part.bias.filter(|_| spec.output_bias == TensorUse::Apply);
        Ok((out, part))
    }

    /// The matrices of queries, keys and values, which have `[q, k, v]` rows, and the number of rows
    /// that they have in all.
    fn qkv_parts(
        &mut self,
        at: Place<'_>,
        spec: &AttentionSpec,
        [q, k, v]: [usize; 3],
    ) -> Result<(Vec<Part>, usize), ModelError> {
        let n_embd = self.spec.n_embd;
        let mut width = q + k + v;
        let mut parts = if self.binder.has(&at.name("attn_qkv.weight")) {
            width = spec.qkv_rows.unwrap_or(width).max(width);
            vec![self.part(&at.name("attn_qkv"), width, n_embd)?]
        } else {
            let mut parts = vec![self.part(&at.name("attn_q"), q, n_embd)?];
            let names: &[&str] = match spec.kv {
                KvSource::Own => &["attn_k", "attn_v"],
                KvSource::KeysOnly => &["attn_k", "attn_k"],
                KvSource::Layer(_) => &[],
            };
            for (name, rows) in names.iter().zip([k, v]) {
                parts.push(self.part(&at.name(name), rows, n_embd)?);
            }
            parts
        };
        if matches!(spec.kv, KvSource::Layer(_)) {
            // Some files have them all the same.
            for name in ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"] {
                self.binder.ignore(&at.name(name));
            }
        }
        if spec.qkv_scales == TensorUse::Ignore {
            parts.iter_mut().for_each(|part| part.scale = 1.0);
        }
        if spec.qkv_biases == TensorUse::Ignore {
            parts.iter_mut().for_each(|part| part.bias = None);
        }
        Ok((parts, width))
    }

    /// Norms and rotation of queries and keys, which go to the cache of `layer` if it is their own.
    fn rope_kv(
        &mut self,
        at: Place<'_>,
        spec: &AttentionSpec,
        qkv: Buf,
        layer: usize,
    ) -> Result<(), ModelError> {
        let &AttentionSpec { n_heads, n_kv_heads, k_dim, v_dim, .. } = spec;
        let stores = !matches!(spec.kv, KvSource::Layer(_));
        let rope = match &spec.rope {
            Some(rope) => Some((self.rope(rope)?, rope.pairing)),
            None => None,
        };
        let q_norm = self.head_norm(&at.name("attn_q_norm"), spec.qk_norm, n_heads, k_dim)?;
        let k_norm = match stores {
            true => self.head_norm(&at.name("attn_k_norm"), spec.qk_norm, n_kv_heads, k_dim)?,
            false => None,
        };
        let v_norm = spec.v_norm.then(|| {
            let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
            HeadNorm { norm: Norm { kind, eps, weight: None, bias: None, name: None }, dim: v_dim }
        });
        self.program.ops.push(Op::RopeKv(RopeKv {
            qkv,
            n_heads,
            layer,
            clamp: spec.clamp,
            q_norm,
            k_norm,
            norm_after_rope: matches!(
                spec.qk_norm,
                QkNorm::HeadsAfterRope | QkNorm::BareHeadsAfterRope | QkNorm::GainsAfterRope
            ),
            v_norm,
            stores,
            rope,
            rope_from: 0,
            temperature: spec.temperature.map(temperature),
        }));
        Ok(())
    }

    /// Multiplies attention's result `out` by its gate, which is computed from the stream by `norm`
    /// or lies beside the queries in `products`.
    fn attention_gate(
        &mut self,
        at: Place<'_>,
        spec: &AttentionSpec,
        norm: Option<Norm>,
        products: Buf,
        out: Buf,
    ) -> Result<(), ModelError> {
        let &AttentionSpec { n_heads, k_dim, v_dim, .. } = spec;
        let gate_width = match spec.gate {
            AttentionGate::None => None,
            AttentionGate::Heads => Some(n_heads),
            AttentionGate::Elements => Some(n_heads * v_dim),
            AttentionGate::InQuery => {
                let gate = self.buffer(n_heads * k_dim);
                let piece = Piece {
                    act: Some(spec.gate_act),
                    ..Piece::heads(products, k_dim, 2 * k_dim, k_dim, n_heads)
                };
                let (pieces, rows) = (vec![piece], at.rows);
                self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: gate, rows }));
                self.program.ops.push(Op::MulBroadcast { gate, buf: out, rows });
                None
            }
        };
        if let Some(width) = gate_width {
            // The reference implementation loads and ignores its scale.
            let part =
                Part { scale: 1.0, ..self.part(&at.name("attn_gate"), width, self.spec.n_embd)? };
            let gate = self.buffer(width);
            self.read_stream(norm, vec![part], Epilogue::Act(spec.gate_act), gate, at.rows);
            self.program.ops.push(Op::MulBroadcast { gate, buf: out, rows: at.rows });
        }
        Ok(())
    }

    /// The norm of some heads of queries or keys.
    fn head_norm(
        &mut self,
        name: &str,
        norm: QkNorm,
        n_heads: usize,
        k_dim: usize,
    ) -> Result<Option<HeadNorm>, ModelError> {
        let of = |dim: usize| move |norm| Some(HeadNorm { norm, dim });
        match norm {
            QkNorm::None => Ok(None),
            QkNorm::Heads | QkNorm::HeadsAfterRope => self.norm(name, k_dim).map(of(k_dim)),
            QkNorm::BareHeadsAfterRope => {
                let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
                Ok(of(k_dim)(Norm { kind, eps, weight: None, bias: None, name: None }))
            }
            QkNorm::GainsAfterRope => {
                let gains = format!("{name}.weight");
                let weight = match self.binder.has(&gains) {
                    true => {
                        let gains = self.binder.elements(&gains, n_heads)?;
                        Some(gains.iter().flat_map(|&gain| vec![gain; k_dim]).collect())
                    }
                    false => None,
                };
                let (kind, eps) = (NormKind::Rms, self.spec.norm_eps);
                Ok(of(k_dim)(Norm { kind, eps, weight, bias: None, name: None }))
            }
            QkNorm::Whole => self.norm(name, n_heads * k_dim).map(of(n_heads * k_dim)),
            QkNorm::OwnHeads if !self.binder.has(&format!("{name}.weight")) => Ok(None),
            QkNorm::OwnHeads => {
                let weight = self.binder.matrix(&format!("{name}.weight"), n_heads, k_dim)?;
                let weight = Some(self.binder.values(&weight));
                let (kind, eps) = (NormKind::Layer, self.spec.norm_eps);
                Ok(Some(HeadNorm {
                    norm: Norm { kind, eps, weight, bias: None, name: None },
                    dim: k_dim,
                }))
            }
        }
    }

    pub(super) fn rope(&mut self, spec: &RopeSpec) -> Result<RopeId, ModelError> {
        let n = spec.n_rot / 2;
        let factors = match spec.freq_factors {
            true => self.freq_factors(n, self.n_ctx > spec.n_ctx_orig)?,
            false => None,
        };
        let (inv_freq, magnitude) = spec.frequencies(factors.as_deref());
        Ok(self.program.rope(Rope { inv_freq, magnitude }))
    }

    /// Divisors of the frequencies of `n` pairs: the first elements of the tensor, which may be as
    /// long as half a head that is rotated in part.
    fn freq_factors(&mut self, n: usize, long: bool) -> Result<Option<Vec<f32>>, ModelError> {
        let mut of = |name: &str| {
            let name = format!("rope_{name}.weight");
            let len =
                self.binder.dims(&name).and_then(|dims| dims.first()).map(|&len| len as usize);
            let factors = self.binder.optional_vector(&name, len.unwrap_or(n).max(n))?;
            Ok::<_, ModelError>(factors.map(|factors| factors[..n].to_vec()))
        };
        let [always, in_long, in_short] = [of("freqs")?, of("factors_long")?, of("factors_short")?];
        Ok(always.or(if long { in_long } else { in_short }))
    }
}

/// The factor of queries, in the backend's words.
pub(super) fn temperature(spec: TemperatureSpec) -> Temperature {
    let TemperatureSpec { scale, period } = spec;
    Temperature { scale, period: u32::try_from(period).unwrap_or(u32::MAX) }
}

/// The slopes of ALiBi: powers of `2^(-exponent / n)` for the largest power of two `n` of heads,
/// and the odd ones of its square root for those beyond.
fn alibi_slopes(n_heads: usize, exponent: f32) -> Vec<f32> {
    let n = 1 << n_heads.max(1).ilog2();
    let base = |exponent: f32| (-exponent / n as f32).exp2();
    let slope = |head: usize| match head < n {
        true => base(exponent).powi(head as i32 + 1),
        false => base(exponent / 2.0).powi(2 * (head - n) as i32 + 1),
    };
    (0..n_heads).map(slope).collect()
}
