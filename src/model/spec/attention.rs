//! Softmax attention, and the builders that change it in all or some layers.

use super::*;

/// Softmax attention with grouped queries (arXiv:2305.13245).
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
    /// Whether each head's value has an RMS norm without weights.
    pub v_norm: bool,
    /// Source of keys and values.
    pub kv: KvSource,
    /// Rows of `attn_qkv` if it has more than those of queries, keys and values; the rest is
    /// unused.
    pub qkv_rows: Option<usize>,
    /// Use of the optional tensors `attn_{q,k,v,qkv}.scale`.
    pub qkv_scales: TensorUse,
    /// Use of the optional tensors `attn_{q,k,v,qkv}.bias`.
    pub qkv_biases: TensorUse,
    /// Bound of queries, keys and values, which are clamped to `-clamp..=clamp`.
    pub clamp: Option<f32>,
    /// Largest exponent of 1/2 among the slopes by which scores fall with distance (ALiBi,
    /// arXiv:2108.12409).
    pub alibi: Option<f32>,
    /// Factor of the queries by position.
    pub temperature: Option<TemperatureSpec>,
    /// Whether each head has a score without a value, `attn_sinks` (arXiv:2309.17453).
    pub sinks: bool,
    /// Gate of the result, by `attn_gate`.
    pub gate: AttentionGate,
    /// Activation of the gate.
    pub gate_act: Activation,
    /// Tokens seen: a token sees itself and the `window - 1` tokens before it, and as many behind
    /// it if the model is bidirectional; `None`: all.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Soft bound of the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Factor of the values, and so of the result ahead of its bias.
    pub value_scale: f32,
    /// Use of the optional tensor `attn_output.bias`.
    pub output_bias: TensorUse,
}

/// Queries times `1 + scale * ln(1 + floor(position / period))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemperatureSpec {
    /// Weight of the logarithm.
    pub scale: f32,
    /// Tokens between steps, at least 1.
    pub period: usize,
}

/// Source of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSource {
    /// Projections of the layer's own.
    Own,
    /// One projection for both.
    KeysOnly,
    /// An earlier layer, which stored them.
    Layer(usize),
}

/// Norms of queries and keys, of the formula of the stream's norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Norm of each head, with the same weights for all.
    Heads,
    /// Norm of each head, with the same weights for all, after the rotation.
    HeadsAfterRope,
    /// RMS norm without weights of each head, after the rotation.
    BareHeadsAfterRope,
    /// RMS norm without weights of each head, after the rotation; then a factor for each head of
    /// queries.
    GainsAfterRope,
    /// Norm of each head with weights of its own, if the file has them.
    OwnHeads,
    /// Norm of all heads together.
    Whole,
}

/// Factors of attention's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionGate {
    /// None.
    None,
    /// One factor for each head.
    Heads,
    /// One factor for each element.
    Elements,
    /// One factor for each element, in `attn_q` behind the query of each head.
    InQuery,
}

/// The common shape's mixer of each layer: attention, or none where the metadata counts no heads.
pub(super) fn from_metadata(h: &Hparams<'_>) -> Result<Vec<Mixer>, ModelError> {
    let n_heads = h.counts("attention.head_count")?;
    let n_heads = n_heads.ok_or_else(|| h.missing("attention.head_count"))?;
    let n_kv_heads = h.counts("attention.head_count_kv")?.unwrap_or_else(|| n_heads.clone());
    let most_heads = n_heads.iter().copied().max().unwrap_or(0);
    let head_dim = (h.n_embd / most_heads.max(1)).max(1);
    let k_dim = h.optional_length("attention.key_length")?.unwrap_or(head_dim);
    let v_dim = h.optional_length("attention.value_length")?.unwrap_or(head_dim);
    let rope = RopeSpec::new(h, k_dim)?;
    let mixer = |(&n_heads, &n_kv_heads): (&usize, &usize)| {
        if n_heads == 0 || n_kv_heads == 0 {
            return Ok(Mixer::None);
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            let problem = format!("is {n_kv_heads}, which does not divide {n_heads} heads");
            return Err(h.bad("attention.head_count_kv", problem));
        }
        Ok(Mixer::Attention(AttentionSpec {
            n_heads,
            n_kv_heads,
            k_dim,
            v_dim,
            rope: Some(rope.clone()),
            qk_norm: QkNorm::None,
            v_norm: false,
            kv: KvSource::Own,
            qkv_rows: None,
            qkv_scales: TensorUse::Apply,
            qkv_biases: TensorUse::Apply,
            clamp: None,
            alibi: None,
            temperature: None,
            sinks: false,
            gate: AttentionGate::None,
            gate_act: Activation::Sigmoid,
            window: None,
            scale: 1.0 / (k_dim as f32).sqrt(),
            softcap: None,
            value_scale: 1.0,
            output_bias: TensorUse::Apply,
        }))
    };
    n_heads.iter().zip(&n_kv_heads).take(h.n_layers).map(mixer).collect()
}

impl ModelSpec {
    /// Changes every layer's softmax attention.
    pub fn each_attention(mut self, mut f: impl FnMut(usize, &mut AttentionSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) =
                &mut layer.mixer
            {
                f(i, attention);
            }
        }
        self
    }

    /// Changes every rotation.
    pub fn each_rope(mut self, mut f: impl FnMut(usize, &mut RopeSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Some(rope) = layer.mixer.rope_mut() {
                f(i, rope);
            }
        }
        self
    }

    /// Pairing of the dimensions that are rotated together.
    pub fn rope(self, pairing: RopePairing) -> ModelSpec {
        self.each_rope(|_, rope| rope.pairing = pairing)
    }

    /// No rotation in the layers that `f` marks.
    pub fn no_rope(self, f: impl Fn(usize, &AttentionSpec) -> bool) -> ModelSpec {
        self.each_attention(|i, attention| {
            if f(i, attention) {
                attention.rope = None;
            }
        })
    }

    /// Positions by slopes of the scores (ALiBi), see [`AttentionSpec::alibi`]; no rotation.
    pub fn alibi(self, exponent: f32) -> ModelSpec {
        self.no_rope(|_, _| true).each_attention(|_, a| a.alibi = Some(exponent))
    }

    /// Queries, keys and values clamped as the metadata says.
    ///
    /// # Errors
    /// The bound is not a finite float.
    pub fn clamped(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let clamp = h.f32("attention.clamp_kqv")?.filter(|&clamp| clamp > 0.0);
        Ok(self.each_attention(|_, attention| attention.clamp = clamp))
    }

    /// Queries that grow with the position if the metadata says so, in steps of `period` tokens.
    ///
    /// # Errors
    /// The factor is not a finite float.
    pub fn temperature(self, h: &Hparams<'_>, period: usize) -> Result<ModelSpec, ModelError> {
        let scale = h.f32("attention.temperature_scale")?.filter(|&scale| scale != 0.0);
        let temperature = scale.map(|scale| TemperatureSpec { scale, period: period.max(1) });
        let spec = self.each_attention(|_, attention| attention.temperature = temperature);
        Ok(spec.each_mla(|_, latent| latent.temperature = temperature))
    }

    /// Attention sinks in every layer.
    pub fn sinks(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.sinks = true)
    }

    /// Norms of query and key heads.
    pub fn qk_norm(self) -> ModelSpec {
        self.qk_norms(QkNorm::Heads)
    }

    /// Norms of queries and keys.
    pub fn qk_norms(self, norm: QkNorm) -> ModelSpec {
        self.each_attention(|_, attention| attention.qk_norm = norm)
    }

    /// Attention's output without its bias, which the reference implementation ignores.
    pub fn ignore_output_bias(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.output_bias = TensorUse::Ignore)
    }

    /// Sliding windows in the layers that the metadata marks, by default all but every `period`-th.
    /// No window in the metadata: `default`.
    ///
    /// # Errors
    /// A key is of a wrong type, or heads with a window differ in size from the others.
    pub fn sliding(
        self,
        h: &Hparams<'_>,
        period: u64,
        default: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        self.sliding_where(h, h.pattern("attention.sliding_window_pattern", period)?, default)
    }

    /// [`ModelSpec::sliding`] with a pattern in which the first of every `period` layers has no
    /// window.
    ///
    /// # Errors
    /// Those of [`ModelSpec::sliding`].
    pub fn sliding_from(
        self,
        h: &Hparams<'_>,
        period: u64,
        default: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        self.sliding_where(h, h.pattern_from("attention.sliding_window_pattern", period)?, default)
    }

    fn sliding_where(
        self,
        h: &Hparams<'_>,
        sliding: Vec<bool>,
        default: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        const WINDOW: &str = "attention.sliding_window";
        let window = h.u64(WINDOW)?.map_or(default, |n| Some(n as usize)).filter(|&n| n > 0);
        let base = h.f32("rope.freq_base_swa")?;
        let dims = [
            h.optional_length("attention.key_length_swa")?,
            h.optional_length("attention.value_length_swa")?,
        ];
        const TURNED: &str = "rope.dimension_count_swa";
        let n_rot = h.optional_length(TURNED)?;
        let (mut uneven, mut too_many) = (false, false);
        let spec = self.each_attention(|i, attention| {
            if window.is_none() || !sliding[i] {
                return;
            }
            attention.window = window;
            let own = [attention.k_dim, attention.v_dim];
            uneven |= dims.iter().zip(own).any(|(dim, own)| dim.is_some_and(|dim| dim != own));
            let Some(rope) = &mut attention.rope else { return };
            rope.freq_base = base.unwrap_or(rope.freq_base);
            rope.n_rot = n_rot.unwrap_or(rope.n_rot);
            too_many |= rope.n_rot > attention.k_dim || rope.n_rot % 2 == 1;
        });
        if too_many {
            return Err(h.bad(TURNED, "is odd or more than a head has"));
        }
        match uneven {
            true => Err(h.bad("attention.key_length_swa", "differs from the other layers' heads")),
            false => Ok(spec),
        }
    }

    /// A window in every layer, where the metadata gives one.
    ///
    /// # Errors
    /// The key is of a wrong type.
    pub fn window_everywhere(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
        Ok(self.each_attention(|_, attention| attention.window = window))
    }

    /// Windows of an encoder, which reach as far behind a token as before it, in the marked layers:
    /// these have a rotation of their own.
    ///
    /// # Errors
    /// A key is of a wrong type.
    pub fn windows_to_both_sides(
        self,
        h: &Hparams<'_>,
        sliding: &[bool],
    ) -> Result<ModelSpec, ModelError> {
        let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
        let base = h.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
        Ok(self.each_attention(|i, attention| {
            if let (Some(window), true) = (window, sliding[i]) {
                attention.window = Some(window / 2 + 1);
                if let Some(rope) = &mut attention.rope {
                    (rope.freq_base, rope.scaling) = (base, RopeScaling::None);
                }
            }
        }))
    }

    /// Rotations in layers with a window that are not stretched. Base: the metadata's for such
    /// layers, otherwise `base`, otherwise that of the other layers.
    ///
    /// # Errors
    /// The metadata's base is not a finite float.
    pub fn window_ropes(self, h: &Hparams<'_>, base: Option<f32>) -> Result<ModelSpec, ModelError> {
        let base = h.f32("rope.freq_base_swa")?.or(base);
        Ok(self.each_attention(|_, attention| {
            if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
                rope.scaling = RopeScaling::None;
                rope.freq_base = base.unwrap_or(rope.freq_base);
            }
        }))
    }

    /// [`ModelSpec::window_ropes`] without the metadata's factor of cosine and sine.
    ///
    /// # Errors
    /// Those of [`ModelSpec::window_ropes`].
    pub fn plain_window_ropes(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        Ok(self.window_ropes(h, None)?.each_attention(|_, attention| {
            if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
                rope.magnitude = 1.0;
            }
        }))
    }

    /// The factor of attention's scores, if the metadata has one.
    ///
    /// # Errors
    /// The factor is not a finite float.
    pub fn attention_scale(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let scale = h.f32("attention.scale")?.filter(|&x| x != 0.0);
        Ok(self.each_attention(|_, attention| attention.scale = scale.unwrap_or(attention.scale)))
    }
}
