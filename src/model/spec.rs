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
    /// Factor of the token embeddings.
    pub embed_scale: f32,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// From the first to the last.
    pub layers: Vec<LayerSpec>,
    /// From the residual stream to logits.
    pub head: HeadSpec,
}

/// One layer: `x += mixer(norm(x)); x += ffn(norm(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// How tokens see each other.
    pub mixer: Mixer,
    /// What happens to each token alone.
    pub ffn: Ffn,
    /// Where the norms are.
    pub norms: NormPlacement,
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
    pub rope: RopeSpec,
    /// RMS norm of each query and key head before the rotation.
    pub qk_norm: bool,
    /// A token sees itself and the `window - 1` tokens before it; `None`: all.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
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
}

/// What happens to each token alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// `down(act(gate(x)) * up(x))`.
    Dense(DenseSpec),
    /// A few of many such parts, chosen per token.
    Moe(MoeSpec),
}

/// A gated feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpec {
    /// Hidden width.
    pub n_ff: usize,
    /// Of the gate.
    pub act: Activation,
    /// Whether the tensors `ffn_*.scale` apply, if there are any.
    pub scales: TensorScales,
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
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalize_weights: bool,
    /// Factor of the weights.
    pub weight_scale: f32,
}

/// Where the norms of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before mixer and feed-forward part.
    Pre,
    /// Before and after each, the latter ahead of the residual sum.
    PreAndPost,
}

/// From the residual stream to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
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
        let eps = "attention.layer_norm_rms_epsilon";
        let norm_eps = h.f32(eps)?.ok_or_else(|| h.bad(eps, "is missing"))?;
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
        let mut layers = Vec::with_capacity(h.n_layers);
        for i in 0..h.n_layers {
            let (n_heads, n_kv_heads, n_ff) = (n_heads[i], n_kv_heads[i], n_ff[i]);
            if !n_heads.is_multiple_of(n_kv_heads) {
                let problem = format!("is {n_kv_heads}, which does not divide {n_heads} heads");
                return Err(h.bad("attention.head_count_kv", problem));
            }
            let act = Activation::Silu;
            let ffn = match n_experts {
                0 => Ffn::Dense(DenseSpec { n_ff, act, scales: TensorScales::Apply }),
                _ => Ffn::Moe(MoeSpec {
                    n_ff: h.optional_length("expert_feed_forward_length")?.unwrap_or(n_ff),
                    n_experts,
                    n_used,
                    act,
                    normalize_weights: true,
                    weight_scale,
                }),
            };
            let mixer = Mixer::Attention(AttentionSpec {
                n_heads,
                n_kv_heads,
                k_dim,
                v_dim,
                rope: rope.clone(),
                qk_norm: false,
                window: None,
                scale,
                softcap: None,
            });
            layers.push(LayerSpec { mixer, ffn, norms: NormPlacement::Pre });
        }
        Ok(ModelSpec {
            n_embd: h.n_embd,
            n_ctx_train: h.n_ctx_train,
            embed_scale: 1.0,
            norm_eps,
            layers,
            head: HeadSpec { softcap: None },
        })
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

    /// Which dimensions of a head are rotated together.
    pub fn rope(self, pairing: RopePairing) -> ModelSpec {
        self.each_attention(|_, attention| attention.rope.pairing = pairing)
    }

    /// Norms of query and key heads.
    pub fn qk_norm(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.qk_norm = true)
    }

    /// See [`TensorScales`].
    pub fn ignore_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorScales::Ignore)
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
