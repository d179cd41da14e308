//! From a description and the tensors of a file to the flat list of operations that backends run.
//! The fusions are chosen here, once.

use crate::backend::program::{
    Attention, Buf, Epilogue, ExpertGroups, ExpertPart, Gating, GluClamp, HeadNorm, KvShape,
    Linear, Moe, Norm, NormKind, Op, Output, Part, Program, Rope, RopeKv, Rows,
};
use crate::model::{
    AttentionGate, AttentionSpec, Binder, DenseGate, DenseSpec, ExpertGating, Ffn, LayerSpec,
    Mixer, ModelError, ModelSpec, MoeSpec, NormFormula, QkNorm, Residual, RopeScaling, RopeSpec,
    TensorScales, Weigh,
};
use gguf_rs_lite::GgufFile;
use std::sync::Arc;
use teff_kernels::{Activation, KernelTable};

/// The program of a model.
pub fn lower(
    file: &Arc<GgufFile>,
    spec: &ModelSpec,
    kernels: &'static KernelTable,
) -> Result<Program, ModelError> {
    let mut lowering = Lowering {
        binder: Binder::new(file, kernels)?,
        program: Program::default(),
        spec,
        x: Buf(0),
        y: Buf(0),
        buffers: Vec::new(),
    };
    lowering.model()?;
    lowering.binder.finish()?;
    Ok(lowering.program)
}

struct Lowering<'a> {
    binder: Binder<'a>,
    program: Program,
    spec: &'a ModelSpec,
    /// The residual stream.
    x: Buf,
    /// Output of a part that is normalized before it is added to the stream.
    y: Buf,
    /// Buffers inside a layer, by use and width: all layers share them.
    buffers: Vec<(&'static str, usize, Buf)>,
}

impl Lowering<'_> {
    fn model(&mut self) -> Result<(), ModelError> {
        let n_embd = self.spec.n_embd;
        const TABLE: &str = "token_embd.weight";
        let n_vocab = self.binder.dims(TABLE).and_then(|dims| dims.get(1).copied());
        let n_vocab = n_vocab.ok_or_else(|| ModelError::MissingTensor(TABLE.into()))? as usize;
        let table = self.binder.matrix(TABLE, n_vocab, n_embd)?;
        self.program.n_vocab = n_vocab;
        self.x = self.program.buffer(n_embd);
        self.y = self.x;
        const POSITIONS: &str = "position_embd.weight";
        let positions = match self.spec.learned_positions {
            true => Some(self.binder.matrix(POSITIONS, self.spec.n_ctx_train, n_embd)?),
            false => None,
        };
        self.program.ops.push(Op::Embed {
            table: table.clone(),
            scale: self.spec.embed_scale,
            positions,
            out: self.x,
        });
        if self.spec.embed_norm {
            let norm = self.norm("token_embd_norm", n_embd)?;
            self.program.ops.push(Op::Normalize { buf: self.x, norm });
        }
        let rotates = |layer: &LayerSpec| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention.rope.is_some()
        };
        if !self.spec.layers.iter().any(rotates) {
            self.binder.ignore("rope_freqs.weight");
        }
        let last = self.spec.layers.len() - 1;
        for (i, layer) in self.spec.layers.iter().enumerate() {
            // After the last mixer nothing but the logits is wanted.
            let rows = if i == last { Rows::Outputs } else { Rows::All };
            let at = Place { index: i, layer, rows };
            let (mixed, output) = match &layer.mixer {
                Mixer::Attention(attention) => self.attention(at, attention)?,
            };
            let after_mixer = self.layer_norm(at, layer.norms.after_mixer)?;
            // The sums of a parallel layer may come in any order once all have read the stream.
            if layer.residual == Residual::Sequential {
                self.add_product(at, mixed, output, after_mixer);
                self.ffn(at)?;
            } else {
                self.ffn(at)?;
                self.add_product(at, mixed, output, after_mixer);
            }
        }
        let norm = self.norm("output_norm", n_embd)?;
        let head = match self.binder.has("output.weight") {
            true => self.part("output", n_vocab, n_embd)?,
            false => Part { weight: table, scale: 1.0, bias: None },
        };
        self.program.ops.push(Op::Linear(Linear {
            input: self.x,
            norm: Some(norm),
            parts: vec![head],
            addend: None,
            epilogue: Epilogue::None,
            out: Output::Logits { scale: self.spec.head.scale, softcap: self.spec.head.softcap },
            rows: Rows::Outputs,
        }));
        Ok(())
    }

    /// The buffer for a use and a width.
    fn buffer(&mut self, used_for: &'static str, width: usize) -> Buf {
        let known = self.buffers.iter().find(|(name, w, _)| (*name, *w) == (used_for, width));
        if let Some(&(.., buf)) = known {
            return buf;
        }
        let buf = self.program.buffer(width);
        self.buffers.push((used_for, width, buf));
        buf
    }

    /// The norm of this name.
    fn norm(&mut self, name: &str, len: usize) -> Result<Norm, ModelError> {
        let eps = self.spec.norm_eps;
        let weight = format!("{name}.weight");
        let kind = match self.spec.norm {
            NormFormula::Rms => NormKind::Rms,
            NormFormula::Layer => NormKind::Layer,
            NormFormula::BareLayer => {
                return Ok(Norm { kind: NormKind::Layer, eps, weight: None, bias: None });
            }
        };
        let weight = Some(self.binder.vector(&weight, len)?);
        let bias = self.binder.optional_vector(&format!("{name}.bias"), len)?;
        Ok(Norm { kind, eps, weight, bias })
    }

    /// The norm of this name in a layer, if there is one.
    fn layer_norm(
        &mut self,
        at: Place<'_>,
        name: Option<&'static str>,
    ) -> Result<Option<Norm>, ModelError> {
        name.map(|name| self.norm(&at.name(name), self.spec.n_embd)).transpose()
    }

    /// The matrix `name.weight`, with `name.scale` and `name.bias` if there are any.
    fn part(&mut self, name: &str, rows: usize, cols: usize) -> Result<Part, ModelError> {
        let weight = self.binder.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = self.binder.optional_vector(&format!("{name}.bias"), rows)?;
        let scale = self.binder.optional_vector(&format!("{name}.scale"), 1)?;
        // Says how activations may be quantized; ours are not.
        self.binder.ignore(&format!("{name}.input_scale"));
        Ok(Part { weight, scale: scale.map_or(1.0, |s| s[0]), bias })
    }

    /// As [`Lowering::part`], for feed-forward parts, where the scale applies to the bias too.
    fn ffn_part(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        scales: TensorScales,
    ) -> Result<Part, ModelError> {
        let mut part = self.part(name, rows, cols)?;
        if scales == TensorScales::Ignore {
            part.scale = 1.0;
        }
        for bias in part.bias.iter_mut().flatten() {
            *bias *= part.scale;
        }
        Ok(part)
    }

    /// The products of some matrices with the stream, or with its norm.
    fn read_stream(
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
    fn beside(&mut self) -> Buf {
        if self.y == self.x {
            self.y = self.program.buffer(self.spec.n_embd);
        }
        self.y
    }

    /// A product whose result is added to the residual stream, by way of its own norm if there is
    /// one.
    fn add_product(&mut self, at: Place<'_>, input: Buf, part: Part, post_norm: Option<Norm>) {
        let (rows, scale) = (at.rows, at.layer.residual_scale);
        let out = match post_norm {
            Some(_) => Output::Store(self.beside()),
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
        self.add_norm(at, post_norm);
    }

    /// Adds what is beside the stream by way of its norm, if there is one.
    fn add_norm(&mut self, at: Place<'_>, norm: Option<Norm>) {
        if let Some(norm) = norm {
            let (input, out, scale) = (self.y, self.x, at.layer.residual_scale);
            self.program.ops.push(Op::AddNorm { input, norm, scale, out, rows: at.rows });
        }
    }

    /// Up to what the output matrix, which comes second, is applied to.
    fn attention(
        &mut self,
        at: Place<'_>,
        spec: &AttentionSpec,
    ) -> Result<(Buf, Part), ModelError> {
        let &AttentionSpec { n_heads, n_kv_heads, k_dim, v_dim, .. } = spec;
        let n_embd = self.spec.n_embd;
        let (q, k, v) = (n_heads * k_dim, n_kv_heads * k_dim, n_kv_heads * v_dim);
        let mut parts = if self.binder.has(&at.name("attn_qkv.weight")) {
            vec![self.part(&at.name("attn_qkv"), q + k + v, n_embd)?]
        } else {
            vec![
                self.part(&at.name("attn_q"), q, n_embd)?,
                self.part(&at.name("attn_k"), k, n_embd)?,
                self.part(&at.name("attn_v"), v, n_embd)?,
            ]
        };
        if spec.qkv_scales == TensorScales::Ignore {
            parts.iter_mut().for_each(|part| part.scale = 1.0);
        }
        let qkv = self.buffer("qkv", q + k + v);
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        self.read_stream(norm.clone(), parts, Epilogue::None, qkv, Rows::All);
        self.program.kv.push(KvShape { n_kv_heads, k_dim, v_dim, window: spec.window });
        let kv_layer = self.program.kv.len() - 1;
        let rope = match &spec.rope {
            Some(rope) => Some((self.rope(rope)?, rope.pairing)),
            None => None,
        };
        let q_norm = self.head_norm(&at.name("attn_q_norm"), spec.qk_norm, n_heads, k_dim)?;
        let k_norm = self.head_norm(&at.name("attn_k_norm"), spec.qk_norm, n_kv_heads, k_dim)?;
        self.program.ops.push(Op::RopeKv(RopeKv {
            qkv,
            n_heads,
            layer: kv_layer,
            clamp: spec.clamp,
            q_norm,
            k_norm,
            norm_after_rope: matches!(
                spec.qk_norm,
                QkNorm::HeadsAfterRope | QkNorm::BareHeadsAfterRope
            ),
            rope,
        }));
        let sinks = match spec.sinks {
            true => Some(self.binder.vector(&at.name("attn_sinks.weight"), n_heads)?),
            false => None,
        };
        let out = self.buffer("attention", n_heads * v_dim);
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
        let gate_width = match spec.gate {
            AttentionGate::None => None,
            AttentionGate::Heads => Some(n_heads),
            AttentionGate::Elements => Some(n_heads * v_dim),
        };
        if let Some(width) = gate_width {
            // The reference implementation loads and ignores its scale.
            let part = Part { scale: 1.0, ..self.part(&at.name("attn_gate"), width, n_embd)? };
            let gate = self.buffer("attention gate", width);
            self.read_stream(norm, vec![part], Epilogue::Act(Activation::Sigmoid), gate, at.rows);
            self.program.ops.push(Op::Gate { gate, buf: out, rows: at.rows });
        }
        Ok((out, self.part(&at.name("attn_output"), n_embd, n_heads * v_dim)?))
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
                Ok(of(k_dim)(Norm { kind, eps, weight: None, bias: None }))
            }
            QkNorm::Whole => self.norm(name, n_heads * k_dim).map(of(n_heads * k_dim)),
            QkNorm::OwnHeads if !self.binder.has(&format!("{name}.weight")) => Ok(None),
            QkNorm::OwnHeads => {
                let weight = self.binder.matrix(&format!("{name}.weight"), n_heads, k_dim)?;
                let weight = Some(self.binder.values(&weight));
                let (kind, eps) = (NormKind::Layer, self.spec.norm_eps);
                Ok(Some(HeadNorm { norm: Norm { kind, eps, weight, bias: None }, dim: k_dim }))
            }
        }
    }

    fn rope(&mut self, spec: &RopeSpec) -> Result<crate::backend::program::RopeId, ModelError> {
        let n = spec.n_rot / 2;
        let factors = match (&spec.scaling, spec.freq_factors) {
            (RopeScaling::Short { .. }, _) => {
                // For contexts beyond the original one.
                self.binder.ignore("rope_factors_long.weight");
                self.binder.optional_vector("rope_factors_short.weight", n)?
            }
            (_, true) => self.binder.optional_vector("rope_freqs.weight", n)?,
            (_, false) => None,
        };
        let (inv_freq, magnitude) =
            spec.scaling.frequencies(spec.n_rot, spec.freq_base, factors.as_deref());
        Ok(self.program.rope(Rope { inv_freq, magnitude }))
    }

    fn ffn(&mut self, at: Place<'_>) -> Result<(), ModelError> {
        let norm = self.layer_norm(at, at.layer.norms.before_ffn)?;
        let post_norm = self.layer_norm(at, at.layer.norms.after_ffn)?;
        match &at.layer.ffn {
            Ffn::Dense(dense) => {
                let (hidden, down) = self.dense(at, dense, "", norm)?;
                self.add_product(at, hidden, down, post_norm);
                Ok(())
            }
            Ffn::Moe(moe) => self.experts(at, moe, norm, post_norm),
        }
    }

    /// Up to what the down projection, which comes second, is applied to. The names of the tensors
    /// end in `suffix`.
    fn dense(
        &mut self,
        at: Place<'_>,
        spec: &DenseSpec,
        suffix: &str,
        norm: Option<Norm>,
    ) -> Result<(Buf, Part), ModelError> {
        let &DenseSpec { n_ff, act, gate, scales } = spec;
        let n_embd = self.spec.n_embd;
        let name = |part: &str| at.name(&format!("{part}{suffix}"));
        let up_rows = if gate == DenseGate::InUp { 2 * n_ff } else { n_ff };
        let mut parts = vec![self.ffn_part(&name("ffn_up"), up_rows, n_embd, scales)?];
        if gate == DenseGate::Own {
            parts.insert(0, self.ffn_part(&name("ffn_gate"), n_ff, n_embd, scales)?);
        }
        let epilogue = match gate {
            DenseGate::None => Epilogue::Act(act),
            DenseGate::Own | DenseGate::InUp => Epilogue::Glu(act),
        };
        let hidden = self.buffer("hidden", n_ff);
        self.read_stream(norm, parts, epilogue, hidden, at.rows);
        // MPT after AWQ: the activations are divided by these.
        if let Some(divisors) = self.binder.optional_vector(&at.name("ffn.act.scales"), n_ff)? {
            let factors = divisors.iter().map(|x| 1.0 / x).collect();
            self.program.ops.push(Op::Scale { buf: hidden, factors, rows: at.rows });
        }
        Ok((hidden, self.ffn_part(&name("ffn_down"), n_embd, n_ff, scales)?))
    }

    fn experts(
        &mut self,
        at: Place<'_>,
        spec: &MoeSpec,
        norm: Option<Norm>,
        post_norm: Option<Norm>,
    ) -> Result<(), ModelError> {
        let &MoeSpec { n_ff, n_experts, n_used, act, scales, .. } = spec;
        let n_embd = self.spec.n_embd;
        let router = self.part(&at.name("ffn_gate_inp"), n_experts, n_embd)?;
        let mut part =
            |name, rows, cols| self.expert_part(&at.name(name), [n_experts, rows, cols], scales);
        let gate = part("ffn_gate_exps", n_ff, n_embd)?;
        let up = part("ffn_up_exps", n_ff, n_embd)?;
        let down = part("ffn_down_exps", n_embd, n_ff)?;
        let mut choice_bias = None;
        for name in ["exp_probs_b.bias", "exp_probs_b"] {
            choice_bias = choice_bias.or(self.binder.optional_vector(&at.name(name), n_experts)?);
        }
        let shared = match spec.shared {
            None => None,
            Some(shared) => {
                let gate = DenseGate::Own;
                let dense = DenseSpec { n_ff: shared.n_ff, act, gate, scales };
                let (hidden, down) = self.dense(at, &dense, "_shexp", norm.clone())?;
                if shared.gated {
                    let part = self.part(&at.name("ffn_gate_inp_shexp"), 1, n_embd)?;
                    let gate = self.buffer("expert gate", 1);
                    let sigmoid = Epilogue::Act(Activation::Sigmoid);
                    self.read_stream(norm.clone(), vec![part], sigmoid, gate, at.rows);
                    self.program.ops.push(Op::Gate { gate, buf: hidden, rows: at.rows });
                }
                Some((hidden, down))
            }
        };
        let moe = Moe {
            input: self.x,
            norm,
            router,
            n_used,
            gating: match spec.gating {
                ExpertGating::Softmax => Gating::Softmax,
                ExpertGating::SoftmaxOfChosen => Gating::SoftmaxOfChosen,
                ExpertGating::Sigmoid => Gating::Sigmoid,
            },
            choice_bias,
            groups: spec.groups.map(|(n_groups, n_used)| ExpertGroups { n_groups, n_used }),
            normalize_weights: spec.normalize_weights,
            weigh_input: spec.weigh == Weigh::Inputs,
            weight_scale: spec.weight_scale,
            gate,
            up,
            down,
            act,
            clamp: spec.clamp.map(|c| GluClamp { limit: c.limit, up_plus: c.up_plus }),
            out: self.x,
            scale: at.layer.residual_scale,
            rows: at.rows,
        };
        match (shared, post_norm) {
            (None, None) => self.program.ops.push(Op::Moe(Box::new(moe))),
            // The shared expert has read the stream already.
            (Some((hidden, down)), None) => {
                self.program.ops.push(Op::Moe(Box::new(moe)));
                self.add_product(at, hidden, down, None);
            }
            (Some((hidden, down)), Some(post_norm)) => {
                let out = self.beside();
                self.program.ops.push(Op::Linear(Linear {
                    input: hidden,
                    norm: None,
                    parts: vec![down],
                    addend: None,
                    epilogue: Epilogue::None,
                    out: Output::Store(out),
                    rows: at.rows,
                }));
                self.program.ops.push(Op::Moe(Box::new(Moe { out, scale: 1.0, ..moe })));
                self.add_norm(at, Some(post_norm));
            }
            (None, Some(_)) => {
                let problem = "is not 0: no description has experts with this norm alone";
                return Err(ModelError::bad_key("expert_count", problem));
            }
        }
        Ok(())
    }

    fn expert_part(
        &mut self,
        name: &str,
        shape: [usize; 3],
        scales: TensorScales,
    ) -> Result<ExpertPart, ModelError> {
        let weight = self.binder.stack(&format!("{name}.weight"), shape)?;
        let own = self.binder.optional_vector(&format!("{name}.scale"), shape[0])?;
        self.binder.ignore(&format!("{name}.input_scale"));
        let bias = format!("{name}.bias");
        let biases = match self.binder.has(&bias) {
            true => {
                let biases = self.binder.matrix(&bias, shape[0], shape[1])?;
                Some(self.binder.values(&biases))
            }
            false => None,
        };
        let scales = own.filter(|_| scales == TensorScales::Apply);
        Ok(ExpertPart { weight, biases, scales })
    }
}

/// A layer on its way into the program.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    layer: &'a LayerSpec,
    /// The tokens that its feed-forward part is computed for.
    rows: Rows,
}

impl Place<'_> {
    /// The name of a tensor of the layer.
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.index)
    }
}

/// The slopes of ALiBi: powers of `2^(-exponent / n)` for the largest power of two `n` of heads, and
/// the odd ones of its square root for those beyond.
fn alibi_slopes(n_heads: usize, exponent: f32) -> Vec<f32> {
    let n = 1 << n_heads.max(1).ilog2();
    let base = |exponent: f32| (-exponent / n as f32).exp2();
    let slope = |head: usize| match head < n {
        true => base(exponent).powi(head as i32 + 1),
        false => base(exponent / 2.0).powi(2 * (head - n) as i32 + 1),
    };
    (0..n_heads).map(slope).collect()
}
