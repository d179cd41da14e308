//! Descriptions step by step: the common shape from the metadata, and what makes a model differ.

use super::*;

impl ModelSpec {
    /// The common shape: pre-norms, grouped-query attention with rotation, SwiGLU. Experts if the
    /// metadata counts some.
    pub fn llama_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let n_heads = h.counts("attention.head_count")?;
        let n_heads = n_heads.ok_or_else(|| h.bad("attention.head_count", "is missing"))?;
        let n_kv_heads = h.counts("attention.head_count_kv")?.unwrap_or_else(|| n_heads.clone());
        let n_ff = h.counts("feed_forward_length")?;
        let n_ff = n_ff.ok_or_else(|| h.bad("feed_forward_length", "is missing"))?;
        let most_heads = n_heads.iter().copied().max().unwrap_or(0);
        let head_dim = (h.n_embd / most_heads.max(1)).max(1);
        let k_dim = h.optional_length("attention.key_length")?.unwrap_or(head_dim);
        let v_dim = h.optional_length("attention.value_length")?.unwrap_or(head_dim);
        let norm_eps = h.f32("attention.layer_norm_rms_epsilon")?;
        let eps = "attention.layer_norm_epsilon";
        let (norm, norm_eps) = match (norm_eps, h.f32(eps)?) {
            (Some(norm_eps), None) => (NormFormula::Rms, norm_eps),
            (None, Some(norm_eps)) => (NormFormula::Layer, norm_eps),
            // Said twice: an RMS norm has no bias. Descriptions whose layer norms have none say so.
            (Some(rms), Some(layer)) if rms == layer => match h.has_norm_bias() {
                true => (NormFormula::Layer, layer),
                false => (NormFormula::Rms, rms),
            },
            (None, None) => return Err(h.bad("attention.layer_norm_rms_epsilon", "is missing")),
            (Some(_), Some(_)) => return Err(h.bad(eps, "contradicts that of the RMS norms")),
        };
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
            let attends = n_heads > 0 && n_kv_heads > 0;
            if attends && !n_heads.is_multiple_of(n_kv_heads) {
                let problem = format!("is {n_kv_heads}, which does not divide {n_heads} heads");
                return Err(h.bad("attention.head_count_kv", problem));
            }
            let act = Activation::Silu;
            let expert_n_ff = h.optional_length("expert_feed_forward_length")?.unwrap_or(n_ff);
            let ffn = match (n_experts, n_ff.max(expert_n_ff)) {
                (_, 0) => Ffn::None,
                (0, _) => Ffn::Dense(DenseSpec::gated(n_ff, act)),
                _ => Ffn::Moe(MoeSpec {
                    n_ff: expert_n_ff,
                    n_experts,
                    n_used,
                    act,
                    gated: true,
                    clamp: None,
                    latent: None,
                    router: RouterInput::Experts,
                    gating: ExpertGating::Softmax,
                    groups,
                    normalize_weights: true,
                    weight_scale,
                    weigh: Weigh::Outputs,
                    scales: TensorUse::Apply,
                    shared: None,
                    out_scale: 1.0,
                }),
            };
            let attention = AttentionSpec {
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
                scale,
                softcap: None,
                output_bias: TensorUse::Apply,
            };
            layers.push(LayerSpec {
                mixer: if attends { Mixer::Attention(attention) } else { Mixer::None },
                ffn,
                norms: NormPlacement::PRE,
                residual: Residual::Sequential,
                residual_scale: 1.0,
                stream_scale: 1.0,
                laurel: None,
                output_scale: OutputScale::None,
            });
        }
        Ok(ModelSpec {
            n_embd: h.n_embd,
            n_ctx_train: h.n_ctx_train,
            n_ctx_max: None,
            embed_scale: 1.0,
            learned_positions: false,
            token_types: false,
            n_streams: 1,
            layer_embed: None,
            embed_norm: EmbedNorm::None,
            norm,
            norm_eps,
            post_norm_eps: norm_eps,
            layers,
            cycles: None,
            n_draft_layers: h.n_draft_layers,
            unused: &[],
            bidirectional: h.bool("attention.causal")? == Some(false),
            pooling: h.pooling()?,
            head: HeadSpec {
                norm: Some("output_norm"),
                dense: &[],
                logits: true,
                scale: 1.0,
                softcap: None,
                classifier: None,
            },
        })
    }

    /// Whether texts can be continued with it: it gives logits and does not see texts whole.
    pub fn generates(&self) -> bool {
        self.head.logits && !self.bidirectional
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

    /// As [`ModelSpec::unscaled`], of an encoder.
    pub fn encoder(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        ModelSpec::unscaled(h)?.encoding(h)
    }

    /// Tokens see those behind them too, whether or not the metadata says so; no logits.
    pub fn encoding(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        if h.bool("attention.causal")? == Some(true) {
            return Err(h.bad("attention.causal", "is true, but this is an encoder"));
        }
        self.bidirectional = true;
        Ok(self.without_logits())
    }

    /// BERT and its kin (arXiv:1810.04805): an encoder with layer norms of its sums, GELU without a
    /// gate, no norm in the end.
    pub fn bert_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let mut spec = ModelSpec::encoder(h)?.norms(NormPlacement::OF_SUMS);
        spec.token_types = true;
        spec.embed_norm = EmbedNorm::Weighted;
        spec.head.norm = None;
        let spec = spec.classifier(h, Activation::Tanh, false)?;
        Ok(spec.dense(Activation::Gelu, DenseGate::None).rope(RopePairing::Neox))
    }

    /// A head of scores, which the file may have: of the mean if it says so, otherwise of the first
    /// token if that sees them all.
    pub fn classifier(
        mut self,
        h: &Hparams<'_>,
        act: Activation,
        softmax: bool,
    ) -> Result<ModelSpec, ModelError> {
        const MEAN: u64 = 1;
        let pooling = match h.u64("classifier.pooling_type")? {
            Some(MEAN) => Pooling::Mean,
            _ if self.bidirectional => Pooling::Cls,
            _ => Pooling::Last,
        };
        self.head.classifier = Some(ClassifierSpec { pooling, act, softmax });
        Ok(self)
    }

    /// What gives the vectors of tokens in place of logits.
    pub fn without_logits(mut self) -> ModelSpec {
        self.head.logits = false;
        self
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

    /// Queries that grow with the position if the metadata says so, in steps of `period` tokens.
    pub fn temperature(self, h: &Hparams<'_>, period: usize) -> Result<ModelSpec, ModelError> {
        let scale = h.f32("attention.temperature_scale")?.filter(|&scale| scale != 0.0);
        let temperature = scale.map(|scale| TemperatureSpec { scale, period: period.max(1) });
        let spec = self.each_attention(|_, attention| attention.temperature = temperature);
        Ok(spec.each_latent(|_, latent| latent.temperature = temperature))
    }

    /// Attention sinks in every layer.
    pub fn sinks(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.sinks = true)
    }

    /// Changes every layer's attention.
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

    /// Changes every dense feed-forward part.
    pub fn each_dense(mut self, f: impl Fn(&mut DenseSpec)) -> ModelSpec {
        for layer in &mut self.layers {
            if let Ffn::Dense(dense) | Ffn::DenseAndMoe(dense, _) | Ffn::DenseBesideMoe(dense, _) =
                &mut layer.ffn
            {
                f(dense);
            }
        }
        self
    }

    /// Changes every mixture of experts.
    pub fn each_moe(mut self, mut f: impl FnMut(usize, &mut MoeSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Ffn::Moe(moe) | Ffn::DenseAndMoe(_, moe) | Ffn::DenseBesideMoe(_, moe) =
                &mut layer.ffn
            {
                f(i, moe);
            }
        }
        self
    }

    /// Which dimensions of a head are rotated together.
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

    /// Norms of query and key heads.
    pub fn qk_norm(self) -> ModelSpec {
        self.qk_norms(QkNorm::Heads)
    }

    /// Norms of queries and keys.
    pub fn qk_norms(self, norm: QkNorm) -> ModelSpec {
        self.each_attention(|_, attention| attention.qk_norm = norm)
    }

    /// Norms that subtract the mean, whichever epsilon the metadata has.
    pub fn layer_norms(mut self) -> ModelSpec {
        self.norm = NormFormula::Layer;
        self
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

    /// Attention's output without its bias, which the reference implementation ignores.
    pub fn ignore_output_bias(self) -> ModelSpec {
        self.each_attention(|_, attention| attention.output_bias = TensorUse::Ignore)
    }

    /// Latent attention in place of attention. The cache holds heads if the metadata does not tell
    /// their lengths from those of latent vectors.
    pub fn latent(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let rank = h.length("attention.kv_lora_rank")?;
        let q_rank = h.u64("attention.q_lora_rank")?.filter(|&n| n > 0).map(|n| n as usize);
        let own = [
            h.optional_length("attention.key_length_mla")?,
            h.optional_length("attention.value_length_mla")?,
        ];
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer else { continue };
            let cache = if own == [None; 2] { LatentCache::Heads } else { LatentCache::Latent };
            let k_dim = own[0].unwrap_or(attention.k_dim);
            let v_dim = own[1].unwrap_or(attention.v_dim);
            let n_position = match &attention.rope {
                Some(rope) => rope.n_rot,
                None => h.length("rope.dimension_count")?,
            };
            let Some(n_content) = k_dim.checked_sub(n_position) else {
                return Err(h.bad("rope.dimension_count", "exceeds the length of keys"));
            };
            // Lite models have queries without a rank, whatever the metadata says.
            let has_rank = !h.has_tensor(&format!("blk.{i}.attn_q.weight"));
            layer.mixer = Mixer::Latent(LatentSpec {
                n_heads: attention.n_heads,
                q_rank: q_rank.filter(|_| has_rank),
                rank,
                n_content,
                n_position,
                v_dim,
                cache,
                rope: attention.rope.clone(),
                scale: 1.0 / (k_dim as f32).sqrt(),
                temperature: None,
                gate: false,
            });
        }
        Ok(self)
    }

    /// Changes every latent attention.
    pub fn each_latent(mut self, mut f: impl FnMut(usize, &mut LatentSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Mixer::Latent(latent) = &mut layer.mixer {
                f(i, latent);
            }
        }
        self
    }

    /// Recurrent mixers in the layers that attend to nothing by the metadata.
    pub fn recurrent(mut self, mixer: &Mixer) -> ModelSpec {
        for layer in &mut self.layers {
            if layer.mixer == Mixer::None {
                layer.mixer = mixer.clone();
            }
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

    /// See [`TensorUse`].
    pub fn ignore_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorUse::Ignore)
            .each_moe(|_, moe| moe.scales = TensorUse::Ignore)
    }

    /// See [`TensorUse`].
    pub fn apply_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorUse::Apply)
            .each_moe(|_, moe| moe.scales = TensorUse::Apply)
    }

    /// Dense feed-forward parts in the layers that `f` marks.
    pub fn dense_where(
        mut self,
        h: &Hparams<'_>,
        f: impl Fn(usize) -> bool,
    ) -> Result<ModelSpec, ModelError> {
        let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
        for (i, (layer, n_ff)) in self.layers.iter_mut().zip(n_ff).enumerate() {
            if let (Ffn::Moe(moe), true) = (&layer.ffn, f(i)) {
                let gate = if moe.gated { DenseGate::Own } else { DenseGate::None };
                let (act, clamp, scales) = (moe.act, moe.clamp, moe.scales);
                let dense = DenseSpec::gated(n_ff, act);
                layer.ffn = Ffn::Dense(DenseSpec { gate, clamp, scales, ..dense });
            }
        }
        Ok(self)
    }

    /// Dense feed-forward parts in the leading layers that the metadata counts.
    pub fn dense_lead(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let n = h.u64("leading_dense_block_count")?.unwrap_or(0);
        self.dense_where(h, |i| (i as u64) < n)
    }

    /// A shared expert, if there is one.
    pub fn shared_expert(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let count = h.u64("expert_shared_count")?.map(|n| n as usize);
        let width = h.optional_length("expert_shared_feed_forward_length")?;
        Ok(self.each_moe(|i, moe| {
            let n_ff = width.or(count.map(|n| n.saturating_mul(moe.n_ff))).filter(|&n| n > 0);
            let n_ff = h.shared_width(i).or(n_ff);
            moe.shared =
                n_ff.map(|n_ff| SharedExpert { n_ff, suffix: "_shexp", gated: false, clamp: None });
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
        self.sliding_where(h, h.pattern("attention.sliding_window_pattern", period)?, default)
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

    /// As [`ModelSpec::sliding`], but of every `period` layers the first has no window.
    pub fn sliding_from(
        self,
        h: &Hparams<'_>,
        period: u64,
        default: Option<usize>,
    ) -> Result<ModelSpec, ModelError> {
        self.sliding_where(h, h.pattern_from("attention.sliding_window_pattern", period)?, default)
    }

    /// Windows of an encoder, which reach as far behind a token as before it, in the marked layers:
    /// these have a rotation of their own.
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

    /// Rotations in layers with a window that are not stretched; their base, if the metadata has
    /// none for them: `base`, or that of the other layers.
    pub fn window_ropes(self, h: &Hparams<'_>, base: Option<f32>) -> Result<ModelSpec, ModelError> {
        let base = h.f32("rope.freq_base_swa")?.or(base);
        Ok(self.each_attention(|_, attention| {
            if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
                rope.scaling = RopeScaling::None;
                rope.freq_base = base.unwrap_or(rope.freq_base);
            }
        }))
    }

    /// As [`ModelSpec::window_ropes`]; the metadata's factor of cosine and sine is not theirs either.
    pub fn plain_window_ropes(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        Ok(self.window_ropes(h, None)?.each_attention(|_, attention| {
            if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
                rope.magnitude = 1.0;
            }
        }))
    }

    /// Bounds contexts to what a sparse attention's indexer chooses all of.
    pub fn dense_within(&mut self, h: &Hparams<'_>) -> Result<(), ModelError> {
        for key in ["attention.indexer.head_count", "attention.indexer.key_length"] {
            h.hide(key);
        }
        self.n_ctx_max = Some(h.length("attention.indexer.top_k")?);
        self.unused = &["indexer."];
        Ok(())
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

impl GluClamp {
    /// Of gate and up projection alike.
    pub fn both(limit: f32, up_plus: f32) -> GluClamp {
        GluClamp { gate_max: limit, up_max: limit, up_plus }
    }

    /// Of the up projection and of what SiLU makes of the gate; a limit of 0 is none.
    pub fn after_silu(limit: f32) -> GluClamp {
        if limit <= 0.0 {
            return GluClamp::both(f32::INFINITY, 0.0);
        }
        // SiLU rises where it is positive. Newton's method for `x / (1 + exp(-x)) = limit` from the
        // right, where it is convex, doubles its digits in each round.
        let (limit64, mut x) = (f64::from(limit), f64::from(limit) + 1.0);
        for _ in 0..8 {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            x -= (x * sigmoid - limit64) / (sigmoid * (1.0 + x * (1.0 - sigmoid)));
        }
        GluClamp { gate_max: x as f32, up_max: limit, up_plus: 0.0 }
    }
}

impl DenseSpec {
    /// A part with a gate.
    pub fn gated(n_ff: usize, act: Activation) -> DenseSpec {
        DenseSpec {
            n_ff,
            act,
            gate: DenseGate::Own,
            sparsity: None,
            clamp: None,
            xielu: None,
            scales: TensorUse::Apply,
            biases: TensorUse::Apply,
        }
    }
}

impl StateSpaceSpec {
    /// Mamba as the metadata describes it.
    pub fn one(h: &Hparams<'_>) -> Result<StateSpaceSpec, ModelError> {
        let time_rank = h.length("ssm.time_step_rank")?;
        let norms = h.bool("ssm.dt_b_c_rms")?.unwrap_or(false);
        StateSpaceSpec::new(h, StateSpaceGeneration::One { time_rank, norms })
    }

    /// Mamba 2 as the metadata describes it.
    pub fn two(h: &Hparams<'_>) -> Result<StateSpaceSpec, ModelError> {
        let n_heads = h.length("ssm.time_step_rank")?;
        let n_groups = h.length("ssm.group_count")?;
        let n_inner = h.length("ssm.inner_size")?;
        if !n_inner.is_multiple_of(n_heads) || !n_heads.is_multiple_of(n_groups) {
            return Err(h.bad("ssm.time_step_rank", "does not go with the sizes of groups"));
        }
        StateSpaceSpec::new(h, StateSpaceGeneration::Two { n_heads, n_groups })
    }

    fn new(
        h: &Hparams<'_>,
        generation: StateSpaceGeneration,
    ) -> Result<StateSpaceSpec, ModelError> {
        let (n_inner, state_dim) = (h.length("ssm.inner_size")?, h.length("ssm.state_size")?);
        let taps = h.length("ssm.conv_kernel")?;
        Ok(StateSpaceSpec { n_inner, state_dim, taps, generation })
    }
}

impl DeltaSpec {
    /// Gated DeltaNet as the metadata describes it.
    pub fn heads(h: &Hparams<'_>, key_heads: KeyHeads) -> Result<DeltaSpec, ModelError> {
        let (n_heads, n_inner) = (h.length("ssm.time_step_rank")?, h.length("ssm.inner_size")?);
        let n_key_heads = h.length("ssm.group_count")?;
        if !n_inner.is_multiple_of(n_heads) || !n_heads.is_multiple_of(n_key_heads) {
            return Err(h.bad("ssm.time_step_rank", "does not go with the sizes of groups"));
        }
        Ok(DeltaSpec {
            n_heads,
            v_dim: n_inner / n_heads,
            n_key_heads,
            k_dim: h.length("ssm.state_size")?,
            key_heads,
            taps: h.length("ssm.conv_kernel")?,
            decay: DeltaDecay::Heads,
            scales: TensorUse::Apply,
        })
    }

    /// Kimi Delta Attention (arXiv:2510.26692) as the metadata describes it: as many heads as the
    /// layers of attention have, each of queries, keys and values.
    pub fn channels(h: &Hparams<'_>, decay: DeltaDecay) -> Result<DeltaSpec, ModelError> {
        let heads = h.counts("attention.head_count")?.unwrap_or_default();
        let n_heads = heads.into_iter().max().unwrap_or(0);
        let head_dim = h.length("kda.head_dim")?;
        Ok(DeltaSpec {
            n_heads,
            v_dim: head_dim,
            n_key_heads: n_heads,
            k_dim: head_dim,
            key_heads: KeyHeads::Grouped,
            taps: h.length("ssm.conv_kernel")?,
            decay,
            scales: TensorUse::Ignore,
        })
    }
}
