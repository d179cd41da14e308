//! The description of a network: an embedding, layers of a mixer and a feed-forward part, a head.
//!
//! Descriptions are data with sum types: they can be printed, checked at load, lowered to any
//! backend. An architecture is a function from hyperparameters to this, see [`super::arch`].

use super::{Hparams, ModelError};
pub use teff_kernels::{Activation, RopePairing};

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Context in tokens that the model was trained for.
    pub n_ctx_train: usize,
    /// Longest context that the description holds for, if there is a bound.
    pub n_ctx_max: Option<usize>,
    /// Factor of the token embeddings.
    pub embed_scale: f32,
    /// Whether a matrix `position_embd` of [`ModelSpec::n_ctx_train`] rows is added to them.
    pub learned_positions: bool,
    /// Whether they are normalized by `token_embd_norm`.
    pub embed_norm: bool,
    /// Formula of the norms of the residual stream.
    pub norm: NormFormula,
    /// Added to the mean square or the variance in every norm.
    pub norm_eps: f32,
    /// From the first to the last.
    pub layers: Vec<LayerSpec>,
    /// From the residual stream to logits.
    pub head: HeadSpec,
}

/// Formula of the norms, which have a bias if the file has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormFormula {
    /// RMS norm with weights (arXiv:1910.07467).
    Rms,
    /// Layer norm with weights (arXiv:1607.06450).
    Layer,
    /// Layer norm without any.
    BareLayer,
}

/// One layer: `x += mixer(norm(x)); x += ffn(norm(x))`, see [`Residual`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// How tokens see each other.
    pub mixer: Mixer,
    /// What happens to each token alone.
    pub ffn: Ffn,
    /// Where the norms are.
    pub norms: NormPlacement,
    /// What the feed-forward part reads.
    pub residual: Residual,
    /// Factor of what is added to the stream.
    pub residual_scale: f32,
}

/// What the feed-forward part reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// The stream with the mixer's output.
    Sequential,
    /// The stream as the mixer saw it (GPT-J, arXiv:2204.02311).
    Parallel,
}

/// How tokens see each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(AttentionSpec),
}

/// Causal softmax attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a query or key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Rotation of queries and keys.
    pub rope: Option<RopeSpec>,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether the tensors `attn_{q,k,v,qkv}.scale` apply, if there are any.
    pub qkv_scales: TensorScales,
    /// Queries, keys and values are clamped to `-clamp..=clamp`.
    pub clamp: Option<f32>,
    /// Scores fall with distance, by slopes of which this is the largest exponent of 1/2 (ALiBi,
    /// arXiv:2108.12409).
    pub alibi: Option<f32>,
    /// Whether each head has a score without a value, `attn_sinks` (arXiv:2309.17453).
    pub sinks: bool,
    /// Whether the result is multiplied by the sigmoid of `attn_gate`, of a factor per head or per
    /// element.
    pub gate: AttentionGate,
    /// A token sees itself and the `window - 1` tokens before it; `None`: all.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Norms of queries and keys, of the formula of the stream's norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Of each head, with the same weights for all.
    Heads,
    /// The same, after the rotation.
    HeadsAfterRope,
    /// RMS norms without weights of each head, after the rotation.
    BareHeadsAfterRope,
    /// Of each head with weights of its own, if the file has them.
    OwnHeads,
    /// Of all heads together.
    Whole,
}

/// Factors of what attention gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionGate {
    /// None.
    None,
    /// One of each head.
    Heads,
    /// One of each element.
    Elements,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Leading dimensions of a head that are rotated.
    pub n_rot: usize,
    /// Which dimensions form a pair.
    pub pairing: RopePairing,
    /// Pair `i` turns by `freq_base^(-2 i / n_rot)` radians per position.
    pub freq_base: f32,
    /// Stretching to longer contexts.
    pub scaling: RopeScaling,
    /// Whether a tensor `rope_freqs.weight` divides the frequencies.
    pub freq_factors: bool,
}

/// How rotations are stretched to contexts longer than those first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor` (arXiv:2306.15595).
    Linear {
        /// At least 1 in practice.
        factor: f32,
    },
    /// YaRN (arXiv:2309.00071): slow pairs are interpolated, fast ones are not.
    Yarn {
        /// Ratio of the contexts.
        factor: f32,
        /// Context before stretching, in tokens.
        n_ctx_orig: usize,
        /// Turns within the original context from which a pair is left alone.
        beta_fast: f32,
        /// Turns below which it is interpolated in full.
        beta_slow: f32,
        /// Weight of the correction, 1 in practice.
        ext_factor: f32,
        /// Further factor of cosine and sine.
        attn_factor: f32,
    },
    /// LongRoPE (arXiv:2402.13753) within the original context: the frequencies are divided by
    /// `rope_factors_short`, if the file has it.
    Short {
        /// Factor of cosine and sine.
        attn_factor: f32,
    },
}

/// What happens to each token alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// `down(act(gate(x)) * up(x))`, see [`DenseGate`].
    Dense(DenseSpec),
    /// A few of many such parts, chosen per token.
    Moe(MoeSpec),
}

/// A feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpec {
    /// Hidden width.
    pub n_ff: usize,
    /// Of the gate.
    pub act: Activation,
    /// Where the gate is.
    pub gate: DenseGate,
    /// Whether the tensors `ffn_*.scale` apply, if there are any.
    pub scales: TensorScales,
}

/// Where the gate of a feed-forward part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseGate {
    /// In `ffn_gate`.
    Own,
    /// In the upper rows of `ffn_up`.
    InUp,
    /// Nowhere: `down(act(up(x)))`.
    None,
}

/// What to do with the one-element tensors `*.scale` that accompany some quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorScales {
    /// The product is multiplied by it.
    Apply,
    /// The reference implementation of the architecture loads and ignores them.
    Ignore,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// Hidden width of an expert.
    pub n_ff: usize,
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub n_used: usize,
    /// Of the gate.
    pub act: Activation,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// How the router's scores become weights.
    pub gating: ExpertGating,
    /// Groups of equal size, and how many of them take part; the best by the sum of their two best
    /// experts.
    pub groups: Option<(usize, usize)>,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalize_weights: bool,
    /// Factor of the weights.
    pub weight_scale: f32,
    /// What the weights multiply.
    pub weigh: Weigh,
    /// Whether the tensors `ffn_*_exps.scale` apply, if there are any.
    pub scales: TensorScales,
    /// The expert that every token has.
    pub shared: Option<SharedExpert>,
}

/// How a router's scores become weights. Tensors `exp_probs_b` bias the choice alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertGating {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// What the weights of experts multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weigh {
    /// What the experts give.
    Outputs,
    /// What they get.
    Inputs,
}

/// `f(min(gate, limit)) * (clamp(up, -limit, limit) + up_plus)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GluClamp {
    /// The bound.
    pub limit: f32,
    /// Added to the up projection.
    pub up_plus: f32,
}

/// An expert that every token has, in `ffn_*_shexp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Hidden width.
    pub n_ff: usize,
    /// Whether its output is multiplied by the sigmoid of `ffn_gate_inp_shexp`.
    pub gated: bool,
}

/// Names of the norms of a layer, without `.weight`; `None` where there is no norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormPlacement {
    /// Of the mixer's input.
    pub before_mixer: Option<&'static str>,
    /// Of what the mixer gives, ahead of the residual sum.
    pub after_mixer: Option<&'static str>,
    /// Of the feed-forward part's input.
    pub before_ffn: Option<&'static str>,
    /// Of what the feed-forward part gives.
    pub after_ffn: Option<&'static str>,
}

impl NormPlacement {
    /// Before mixer and feed-forward part.
    pub const PRE: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        after_mixer: None,
        before_ffn: Some("ffn_norm"),
        after_ffn: None,
    };
    /// After each, ahead of the residual sum.
    pub const POST: NormPlacement = NormPlacement {
        before_mixer: None,
        after_mixer: Some("post_attention_norm"),
        before_ffn: None,
        after_ffn: Some("post_ffw_norm"),
    };
    /// Before and after each.
    pub const PRE_AND_POST: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        before_ffn: Some("ffn_norm"),
        ..NormPlacement::POST
    };
}

/// From the residual stream to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    /// Factor of the logits.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

impl ModelSpec {
    /// The common shape: pre-norms, grouped-query attention with rotation, SwiGLU. Experts if the
    /// metadata counts some.
    pub fn llama_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let n_heads = h.lengths("attention.head_count")?;
        let n_heads = n_heads.ok_or_else(|| h.bad("attention.head_count", "is missing"))?;
        let n_kv_heads = h.lengths("attention.head_count_kv")?.unwrap_or_else(|| n_heads.clone());
        let n_ff = h.lengths("feed_forward_length")?;
        let n_ff = n_ff.ok_or_else(|| h.bad("feed_forward_length", "is missing"))?;
        let head_dim = h.n_embd / n_heads[0].max(1);
        let k_dim = h.optional_length("attention.key_length")?.unwrap_or(head_dim);
        let v_dim = h.optional_length("attention.value_length")?.unwrap_or(head_dim);
        let norm_eps = h.f32("attention.layer_norm_rms_epsilon")?;
        let norm = if norm_eps.is_some() { NormFormula::Rms } else { NormFormula::Layer };
        let eps = "attention.layer_norm_epsilon";
        let norm_eps = match (norm_eps, h.f32(eps)?) {
            (Some(norm_eps), None) | (None, Some(norm_eps)) => norm_eps,
            (None, None) => return Err(h.bad("attention.layer_norm_rms_epsilon", "is missing")),
            (Some(_), Some(_)) => return Err(h.bad(eps, "contradicts that of the RMS norms")),
        };
        if h.bool("attention.causal")? == Some(false) {
            return Err(h.bad("attention.causal", "is false: encoders are not supported"));
        }
        let rope = RopeSpec::new(h, k_dim)?;
        let scale = 1.0 / (k_dim as f32).sqrt();
        let n_experts = h.u64("expert_count")?.unwrap_or(0) as usize;
        let n_used = h.u64("expert_used_count")?.unwrap_or(0) as usize;
        let weight_scale = h.f32("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        if n_experts > 0 && !(1..=n_experts).contains(&n_used) {
            let problem = format!("is {n_used}, not within 1..={n_experts}");
            return Err(h.bad("expert_used_count", problem));
        }
        let groups = expert_groups(h, n_experts, n_used)?;
        let mut layers = Vec::with_capacity(h.n_layers);
        for i in 0..h.n_layers {
            let (n_heads, n_kv_heads, n_ff) = (n_heads[i], n_kv_heads[i], n_ff[i]);
            if !n_heads.is_multiple_of(n_kv_heads) {
                let problem = format!("is {n_kv_heads}, which does not divide {n_heads} heads");
                return Err(h.bad("attention.head_count_kv", problem));
            }
            let act = Activation::Silu;
            let ffn = match n_experts {
                0 => Ffn::Dense(DenseSpec {
                    n_ff,
                    act,
                    gate: DenseGate::Own,
                    scales: TensorScales::Apply,
                }),
                _ => Ffn::Moe(MoeSpec {
                    n_ff: h.optional_length("expert_feed_forward_length")?.unwrap_or(n_ff),
                    n_experts,
                    n_used,
                    act,
                    clamp: None,
                    gating: ExpertGating::Softmax,
                    groups,
                    normalize_weights: true,
                    weight_scale,
                    weigh: Weigh::Outputs,
                    scales: TensorScales::Apply,
                    shared: None,
                }),
            };
            let mixer = Mixer::Attention(AttentionSpec {
                n_heads,
                n_kv_heads,
                k_dim,
                v_dim,
                rope: Some(rope.clone()),
                qk_norm: QkNorm::None,
                qkv_scales: TensorScales::Apply,
                clamp: None,
                alibi: None,
                sinks: false,
                gate: AttentionGate::None,
                window: None,
                scale,
                softcap: None,
            });
            layers.push(LayerSpec {
                mixer,
                ffn,
                norms: NormPlacement::PRE,
                residual: Residual::Sequential,
                residual_scale: 1.0,
            });
        }
        Ok(ModelSpec {
            n_embd: h.n_embd,
            n_ctx_train: h.n_ctx_train,
            n_ctx_max: None,
            embed_scale: 1.0,
            learned_positions: false,
            embed_norm: false,
            norm,
            norm_eps,
            layers,
            head: HeadSpec { scale: 1.0, softcap: None },
        })
    }

    /// Tokens of the context unless told otherwise, at most `most`.
    pub fn n_ctx_default(&self, most: usize) -> usize {
        self.n_ctx_train.min(self.n_ctx_max.unwrap_or(most)).min(most)
    }

    /// As [`ModelSpec::llama_like`]; the reference implementation ignores the feed-forward parts'
    /// `*.scale`, as it does for most architectures.
    pub fn unscaled(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        ModelSpec::llama_like(h).map(ModelSpec::ignore_ffn_scales)
    }

    /// As [`ModelSpec::unscaled`], with feed-forward parts without a gate.
    pub fn gpt_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        Ok(ModelSpec::unscaled(h)?.dense(Activation::Gelu, DenseGate::None))
    }

    /// Positions by a learned table, or not at all: no rotation.
    pub fn positions(mut self, learned: bool) -> ModelSpec {
        self.learned_positions = learned;
        if learned {
            self.n_ctx_max = Some(self.n_ctx_train);
        }
        self.no_rope(|_, _| true)
    }

    /// Positions by slopes of the scores: no rotation.
    pub fn alibi(self, exponent: f32) -> ModelSpec {
        self.no_rope(|_, _| true).each_attention(|_, a| a.alibi = Some(exponent))
    }

    /// Queries, keys and values clamped as the metadata says.
    pub fn clamped(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let clamp = h.f32("attention.clamp_kqv")?.filter(|&clamp| clamp > 0.0);
        Ok(self.each_attention(|_, attention| attention.clamp = clamp))
    }

    /// Logits multiplied by the metadata's factor.
    pub fn logit_scale(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        self.head.scale = h.f32("logit_scale")?.filter(|&x| x != 0.0).unwrap_or(1.0);
        Ok(self)
    }

    /// Attention sinks in every layer.
    pub fn sinks(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.sinks = true)
    }

    /// Changes every layer's attention.
    pub fn each_attention(mut self, mut f: impl FnMut(usize, &mut AttentionSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            match &mut layer.mixer {
                Mixer::Attention(attention) => f(i, attention),
            }
        }
        self
    }

    /// Changes every dense feed-forward part.
    pub fn each_dense(mut self, f: impl Fn(&mut DenseSpec)) -> ModelSpec {
        for layer in &mut self.layers {
            if let Ffn::Dense(dense) = &mut layer.ffn {
                f(dense);
            }
        }
        self
    }

    /// Changes every mixture of experts.
    pub fn each_moe(mut self, mut f: impl FnMut(usize, &mut MoeSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Ffn::Moe(moe) = &mut layer.ffn {
                f(i, moe);
            }
        }
        self
    }

    /// Which dimensions of a head are rotated together.
    pub fn rope(self, pairing: RopePairing) -> ModelSpec {
        self.each_attention(|_, attention| {
            if let Some(rope) = &mut attention.rope {
                rope.pairing = pairing;
            }
        })
    }

    /// No rotation in the layers that `f` marks.
    pub fn no_rope(self, f: impl Fn(usize, &AttentionSpec) -> bool) -> ModelSpec {
        self.each_attention(|i, attention| {
            if f(i, attention) {
                attention.rope = None;
            }
        })
    }

    /// Norms of query and key heads.
    pub fn qk_norm(self) -> ModelSpec {
        self.qk_norms(QkNorm::Heads)
    }

    /// Norms of queries and keys.
    pub fn qk_norms(self, norm: QkNorm) -> ModelSpec {
        self.each_attention(|_, attention| attention.qk_norm = norm)
    }

    /// Norms of every layer.
    pub fn norms(mut self, norms: NormPlacement) -> ModelSpec {
        self.layers.iter_mut().for_each(|layer| layer.norms = norms);
        self
    }

    /// Feed-forward parts beside the mixers, on norms of the name.
    pub fn parallel(mut self, norm: &'static str) -> ModelSpec {
        for layer in &mut self.layers {
            layer.residual = Residual::Parallel;
            layer.norms.before_ffn = Some(norm);
        }
        self
    }

    /// Feed-forward parts of this kind, dense and in experts.
    pub fn act(self, act: Activation) -> ModelSpec {
        self.each_dense(|dense| dense.act = act).each_moe(|_, moe| moe.act = act)
    }

    /// Dense feed-forward parts of this kind.
    pub fn dense(self, act: Activation, gate: DenseGate) -> ModelSpec {
        self.each_dense(|dense| (dense.act, dense.gate) = (act, gate))
    }

    /// See [`TensorScales`].
    pub fn ignore_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorScales::Ignore)
            .each_moe(|_, moe| moe.scales = TensorScales::Ignore)
    }

    /// Dense feed-forward parts in the layers that `f` marks.
    pub fn dense_where(
        mut self,
        h: &Hparams<'_>,
        f: impl Fn(usize) -> bool,
    ) -> Result<ModelSpec, ModelError> {
        let n_ff = h.lengths("feed_forward_length")?.unwrap_or_default();
        for (i, (layer, n_ff)) in self.layers.iter_mut().zip(n_ff).enumerate() {
            if let (Ffn::Moe(moe), true) = (&layer.ffn, f(i)) {
                let (act, gate, scales) = (moe.act, DenseGate::Own, moe.scales);
                layer.ffn = Ffn::Dense(DenseSpec { n_ff, act, gate, scales });
            }
        }
        Ok(self)
    }

    /// Dense feed-forward parts in the leading layers that the metadata counts.
    pub fn dense_lead(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let n = h.u64("leading_dense_block_count")?.unwrap_or(0);
        self.dense_where(h, |i| (i as u64) < n)
    }

    /// A shared expert, if the metadata has one.
    pub fn shared_expert(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let count = h.u64("expert_shared_count")?.map(|n| n as usize);
        let width = h.optional_length("expert_shared_feed_forward_length")?;
        Ok(self.each_moe(|_, moe| {
            let n_ff = width.or(count.map(|n| n.saturating_mul(moe.n_ff))).filter(|&n| n > 0);
            moe.shared = n_ff.map(|n_ff| SharedExpert { n_ff, gated: false });
        }))
    }

    /// Gating and normalization of the experts' weights as the metadata says; `gating` if it says
    /// nothing.
    pub fn expert_gating(
        self,
        h: &Hparams<'_>,
        gating: ExpertGating,
    ) -> Result<ModelSpec, ModelError> {
        let gating = match h.u64("expert_gating_func")?.unwrap_or(0) {
            0 => gating,
            1 => ExpertGating::Softmax,
            2 => ExpertGating::Sigmoid,
            3 => ExpertGating::SoftmaxOfChosen,
            n => return Err(h.bad("expert_gating_func", format!("is {n}, not supported"))),
        };
        let normalize = h.bool("expert_weights_norm")?.unwrap_or(false);
        Ok(self.each_moe(|_, moe| (moe.gating, moe.normalize_weights) = (gating, normalize)))
    }

    /// Sliding windows in the layers that the metadata marks, by default all but every `period`-th.
    /// No window in the metadata: `default`.
    pub fn sliding(
        self,
        h: &Hparams<'_>,
        period: u64,
        default: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        const WINDOW: &str = "attention.sliding_window";
        let window = h.u64(WINDOW)?.map_or(default, |n| Some(n as usize)).filter(|&n| n > 0);
        let sliding = h.pattern("attention.sliding_window_pattern", period)?;
        let base = h.f32("rope.freq_base_swa")?;
        let dims = [
            h.optional_length("attention.key_length_swa")?,
            h.optional_length("attention.value_length_swa")?,
            h.optional_length("rope.dimension_count_swa")?,
        ];
        let mut uneven = false;
        let spec = self.each_attention(|i, attention| {
            if window.is_none() || !sliding[i] {
                return;
            }
            attention.window = window;
            let mut own = [Some(attention.k_dim), Some(attention.v_dim), None];
            if let Some(rope) = &mut attention.rope {
                rope.freq_base = base.unwrap_or(rope.freq_base);
                own[2] = Some(rope.n_rot);
            }
            uneven |= dims.iter().zip(own).any(|(dim, own)| dim.is_some() && *dim != own);
        });
        match uneven {
            true => Err(h.bad("attention.key_length_swa", "differs from the other layers' heads")),
            false => Ok(spec),
        }
    }

    /// Factors of embeddings, residual sums and attention's scores, as Granite names them.
    pub fn scaled(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let factor = |name: &str| Ok::<_, ModelError>(h.f32(name)?.filter(|&x| x != 0.0));
        self.embed_scale = factor("embedding_scale")?.unwrap_or(self.embed_scale);
        let residual_scale = factor("residual_scale")?;
        for layer in &mut self.layers {
            layer.residual_scale = residual_scale.unwrap_or(layer.residual_scale);
        }
        self.attention_scale(h)
    }

    /// The factor of attention's scores, if the metadata has one.
    pub fn attention_scale(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let scale = h.f32("attention.scale")?.filter(|&x| x != 0.0);
        Ok(self.each_attention(|_, attention| attention.scale = scale.unwrap_or(attention.scale)))
    }
}

/// See [`MoeSpec::groups`].
fn expert_groups(
    h: &Hparams<'_>,
    n_experts: usize,
    n_used: usize,
) -> Result<Option<(usize, usize)>, ModelError> {
    let n_groups = h.u64("expert_group_count")?.unwrap_or(1).max(1) as usize;
    let n_groups_used = h.u64("expert_group_used_count")?.unwrap_or(1).max(1) as usize;
    if n_groups == 1 || n_experts == 0 {
        return Ok(None);
    }
    let fits = n_experts.is_multiple_of(n_groups)
        && n_groups_used <= n_groups
        && n_experts / n_groups * n_groups_used >= n_used;
    match fits {
        true => Ok(Some((n_groups, n_groups_used))),
        false => Err(h.bad("expert_group_count", "does not go with the counts of experts")),
    }
}

impl RopeSpec {
    fn new(h: &Hparams<'_>, k_dim: usize) -> Result<RopeSpec, ModelError> {
        let n_rot = h.optional_length("rope.dimension_count")?.unwrap_or(k_dim);
        if n_rot > k_dim || !n_rot.is_multiple_of(2) {
            let problem = format!("is {n_rot}, not an even number up to the head's {k_dim}");
            return Err(h.bad("rope.dimension_count", problem));
        }
        let positive = |name: &str, default: f32| match h.f32(name)? {
            None => Ok(default),
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(h.bad(name, format!("is {x}, not positive"))),
        };
        Ok(RopeSpec {
            n_rot,
            pairing: RopePairing::Norm,
            freq_base: positive("rope.freq_base", 10_000.0)?,
            scaling: RopeScaling::new(h, positive)?,
            freq_factors: true,
        })
    }
}

impl RopeScaling {
    fn new(
        h: &Hparams<'_>,
        positive: impl Fn(&str, f32) -> Result<f32, ModelError>,
    ) -> Result<RopeScaling, ModelError> {
        // Files before 2023-09 have `scale_linear`; 0 means none in both.
        let old = h.f32("rope.scale_linear")?;
        let factor = h.f32("rope.scaling.factor")?.or(old).filter(|&f| f != 0.0).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(h.bad("rope.scaling.factor", format!("is {factor}, not positive")));
        }
        let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
        let _ = h.bool("rope.scaling.finetuned")?;
        let attn_factor = positive("rope.scaling.attn_factor", 1.0)?;
        let attn_factor = positive("rope.scaling.yarn_attn_factor", attn_factor)?;
        let ext_factor = h.f32("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0);
        let beta_fast = positive("rope.scaling.yarn_beta_fast", 32.0)?;
        let beta_slow = positive("rope.scaling.yarn_beta_slow", 1.0)?;
        match h.str("rope.scaling.type")?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                n_ctx_orig: n_ctx_orig.unwrap_or(h.n_ctx_train).max(1),
                beta_fast,
                beta_slow,
                ext_factor,
                attn_factor,
            }),
            "longrope" => Ok(RopeScaling::Short { attn_factor }),
            other => Err(h.bad("rope.scaling.type", format!("is `{other}`, not supported yet"))),
        }
    }

    /// Radians per position of each of `n_rot / 2` pairs, and the factor of cosine and sine.
    /// `factors` divide the frequencies before they are stretched.
    pub fn frequencies(
        &self,
        n_rot: usize,
        freq_base: f32,
        factors: Option<&[f32]>,
    ) -> (Vec<f64>, f32) {
        let base = f64::from(freq_base);
        let pair = |i: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            base.powf(-2.0 * i as f64 / n_rot as f64) / factor
        };
        let pairs = (0..n_rot / 2).map(pair);
        match *self {
            RopeScaling::None => (pairs.collect(), 1.0),
            RopeScaling::Short { attn_factor } => (pairs.collect(), attn_factor),
            RopeScaling::Linear { factor } => (pairs.map(|f| f / f64::from(factor)).collect(), 1.0),
            RopeScaling::Yarn {
                factor,
                n_ctx_orig,
                beta_fast,
                beta_slow,
                ext_factor,
                attn_factor,
            } => {
                let factor = f64::from(factor);
                // The pair that makes `turns` turns within the original context.
                let pair_of = |turns: f32| {
                    let wavelength = n_ctx_orig as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    n_rot as f64 * wavelength.ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_rot as f64 - 1.0);
                let stretched = pairs.enumerate().map(|(i, freq)| {
                    let ramp = (i as f64 - low) / (high - low).max(0.001);
                    let keep = (1.0 - ramp.clamp(0.0, 1.0)) * f64::from(ext_factor);
                    freq / factor * (1.0 - keep) + freq * keep
                });
                let stretch = if ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
                (stretched.collect(), stretch as f32 * attn_factor)
            }
        }
    }
}
