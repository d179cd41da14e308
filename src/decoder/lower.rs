//! From a description and the tensors of a file to the flat list of operations that backends run.
//! The fusions are chosen here, once.

use crate::backend::program::{
    Attention, Buf, Epilogue, ExpertPart, Gating, KvShape, Linear, Moe, Norm, NormKind, Op, Output,
    Part, Program, Rope, RopeKv, Rows,
};
use crate::model::{
    AttentionSpec, Binder, DenseSpec, Ffn, Mixer, ModelError, ModelSpec, MoeSpec, NormPlacement,
    RopeSpec, TensorScales,
};
use gguf_rs_lite::GgufFile;
use std::sync::Arc;
use teff_kernels::KernelTable;

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
        self.program.ops.push(Op::Embed {
            table: table.clone(),
            scale: self.spec.embed_scale,
            out: self.x,
        });
        let last = self.spec.layers.len() - 1;
        for (i, layer) in self.spec.layers.iter().enumerate() {
            // After the last mixer nothing but the logits is wanted.
            let rows = if i == last { Rows::Outputs } else { Rows::All };
            match &layer.mixer {
                Mixer::Attention(attention) => self.attention(i, attention, layer.norms, rows)?,
            }
            match &layer.ffn {
                Ffn::Dense(dense) => self.dense(i, dense, layer.norms, rows)?,
                Ffn::Moe(moe) => self.experts(i, moe, layer.norms, rows)?,
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
            epilogue: Epilogue::None,
            out: Output::Logits { scale: 1.0, softcap: self.spec.head.softcap },
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

    /// The RMS norm of this name.
    fn norm(&mut self, name: &str, len: usize) -> Result<Norm, ModelError> {
        let weight = Some(self.binder.vector(&format!("{name}.weight"), len)?);
        Ok(Norm { kind: NormKind::Rms, eps: self.spec.norm_eps, weight, bias: None })
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

    /// A product whose result is added to the residual stream, by way of its own norm if there is
    /// one.
    fn add_product(&mut self, input: Buf, part: Part, post_norm: Option<Norm>, rows: Rows) {
        if post_norm.is_some() && self.y == self.x {
            self.y = self.program.buffer(self.spec.n_embd);
        }
        let out = match post_norm {
            Some(_) => Output::Store(self.y),
            None => Output::Add(self.x, 1.0),
        };
        let (parts, epilogue) = (vec![part], Epilogue::None);
        self.program.ops.push(Op::Linear(Linear { input, norm: None, parts, epilogue, out, rows }));
        if let Some(norm) = post_norm {
            let (input, out) = (self.y, self.x);
            self.program.ops.push(Op::AddNorm { input, norm, scale: 1.0, out, rows });
        }
    }

    fn post_norm(&mut self, name: &str, norms: NormPlacement) -> Result<Option<Norm>, ModelError> {
        match norms {
            NormPlacement::Pre => Ok(None),
            NormPlacement::PreAndPost => self.norm(name, self.spec.n_embd).map(Some),
        }
    }

    fn attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        norms: NormPlacement,
        rows: Rows,
    ) -> Result<(), ModelError> {
        let &AttentionSpec { n_heads, n_kv_heads, k_dim, v_dim, .. } = spec;
        let n_embd = self.spec.n_embd;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (q, k, v) = (n_heads * k_dim, n_kv_heads * k_dim, n_kv_heads * v_dim);
        let parts = if self.binder.has(&name("attn_qkv.weight")) {
            vec![self.part(&name("attn_qkv"), q + k + v, n_embd)?]
        } else {
            vec![
                self.part(&name("attn_q"), q, n_embd)?,
                self.part(&name("attn_k"), k, n_embd)?,
                self.part(&name("attn_v"), v, n_embd)?,
            ]
        };
        let qkv = self.buffer("qkv", q + k + v);
        let norm = self.norm(&name("attn_norm"), n_embd)?;
        self.program.ops.push(Op::Linear(Linear {
            input: self.x,
            norm: Some(norm),
            parts,
            epilogue: Epilogue::None,
            out: Output::Store(qkv),
            rows: Rows::All,
        }));
        self.program.kv.push(KvShape { n_kv_heads, k_dim, v_dim, window: spec.window });
        let kv_layer = self.program.kv.len() - 1;
        let (q_norm, k_norm) = match spec.qk_norm {
            false => (None, None),
            true => (
                Some(self.norm(&name("attn_q_norm"), k_dim)?),
                Some(self.norm(&name("attn_k_norm"), k_dim)?),
            ),
        };
        let rope = Some((self.rope(&spec.rope)?, spec.rope.pairing));
        self.program.ops.push(Op::RopeKv(RopeKv {
            qkv,
            n_heads,
            layer: kv_layer,
            q_norm,
            k_norm,
            rope,
        }));
        let out = self.buffer("attention", n_heads * v_dim);
        self.program.ops.push(Op::Attention(Attention {
            qkv,
            n_heads,
            layer: kv_layer,
            scale: spec.scale,
            softcap: spec.softcap,
            out,
            rows,
        }));
        let output = self.part(&name("attn_output"), n_embd, n_heads * v_dim)?;
        let post_norm = self.post_norm(&name("post_attention_norm"), norms)?;
        self.add_product(out, output, post_norm, rows);
        Ok(())
    }

    fn rope(&mut self, spec: &RopeSpec) -> Result<crate::backend::program::RopeId, ModelError> {
        let factors = match spec.freq_factors {
            true => self.binder.optional_vector("rope_freqs.weight", spec.n_rot / 2)?,
            false => None,
        };
        let (inv_freq, magnitude) =
            spec.scaling.frequencies(spec.n_rot, spec.freq_base, factors.as_deref());
        Ok(self.program.rope(Rope { inv_freq, magnitude }))
    }

    fn dense(
        &mut self,
        layer: usize,
        spec: &DenseSpec,
        norms: NormPlacement,
        rows: Rows,
    ) -> Result<(), ModelError> {
        let &DenseSpec { n_ff, act, scales } = spec;
        let n_embd = self.spec.n_embd;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let norm = self.norm(&name("ffn_norm"), n_embd)?;
        let parts = vec![
            self.ffn_part(&name("ffn_gate"), n_ff, n_embd, scales)?,
            self.ffn_part(&name("ffn_up"), n_ff, n_embd, scales)?,
        ];
        let hidden = self.buffer("hidden", n_ff);
        self.program.ops.push(Op::Linear(Linear {
            input: self.x,
            norm: Some(norm),
            parts,
            epilogue: Epilogue::Glu(act),
            out: Output::Store(hidden),
            rows,
        }));
        let down = self.ffn_part(&name("ffn_down"), n_embd, n_ff, scales)?;
        let post_norm = self.post_norm(&name("post_ffw_norm"), norms)?;
        self.add_product(hidden, down, post_norm, rows);
        Ok(())
    }

    fn experts(
        &mut self,
        layer: usize,
        spec: &MoeSpec,
        norms: NormPlacement,
        rows: Rows,
    ) -> Result<(), ModelError> {
        let &MoeSpec { n_ff, n_experts, n_used, act, .. } = spec;
        let n_embd = self.spec.n_embd;
        let name = |part: &str| format!("blk.{layer}.{part}");
        assert!(norms == NormPlacement::Pre, "no known mixture of experts has post-norms");
        let norm = Some(self.norm(&name("ffn_norm"), n_embd)?);
        let router = self.part(&name("ffn_gate_inp"), n_experts, n_embd)?;
        let gate = self.expert_part(&name("ffn_gate_exps"), [n_experts, n_ff, n_embd])?;
        let up = self.expert_part(&name("ffn_up_exps"), [n_experts, n_ff, n_embd])?;
        let down = self.expert_part(&name("ffn_down_exps"), [n_experts, n_embd, n_ff])?;
        let gating = match spec.normalize_weights {
            true => Gating::SoftmaxNormalized,
            false => Gating::Softmax,
        };
        self.program.ops.push(Op::Moe(Box::new(Moe {
            input: self.x,
            norm,
            router,
            n_used,
            gating,
            weight_scale: spec.weight_scale,
            gate,
            up,
            down,
            act,
            out: self.x,
            scale: 1.0,
            rows,
        })));
        Ok(())
    }

    fn expert_part(&mut self, name: &str, shape: [usize; 3]) -> Result<ExpertPart, ModelError> {
        let weight = self.binder.stack(&format!("{name}.weight"), shape)?;
        let scales = self.binder.optional_vector(&format!("{name}.scale"), shape[0])?;
        self.binder.ignore(&format!("{name}.input_scale"));
        Ok(ExpertPart { weight, scales })
    }
}
