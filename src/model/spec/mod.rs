//! The vocabulary of descriptions: an embedding, layers of a mixer and a feed-forward part, a head.
//!
//! Descriptions are data with sum types: they can be printed, checked at load, lowered to any
//! backend. An architecture is a function from hyperparameters to a [`ModelSpec`], see
//! [`super::arch`]; it starts from a common shape ([`ModelSpec::llama_like`]) and changes what
//! differs, by the builder methods beside each part's types.

mod attention;
mod ffn;
mod head;
mod mla;
mod norms;
mod recurrent;
mod rope;

use super::{Hparams, ModelError};

pub use attention::{AttentionGate, AttentionSpec, KvSource, QkNorm, TemperatureSpec};
pub use ffn::{
    DenseGate, DenseSpec, ExpertGating, Ffn, GluClamp, MoeSpec, RouterInput, SharedExpert, Weigh,
    Xielu,
};
pub use head::{ClassifierSpec, HeadSpec, Pooling};
pub use mla::{MlaCache, MlaSpec};
pub use norms::{EmbedNorm, NormFormula, NormPlacement};
pub use recurrent::{
    DeltaDecay, DeltaSpec, KeyHeads, LightningSpec, ShortConvSpec, StateSpaceGeneration,
    StateSpaceSpec,
};
pub use rope::{RopeScaling, RopeSpec};
pub use teff_kernels::{Activation, RopePairing};

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Context in tokens that the model was trained for.
    pub n_ctx_train: usize,
    /// Longest context in tokens that the description holds for, if there is a bound.
    pub n_ctx_max: Option<usize>,
    /// Factor of the token embeddings.
    pub embed_scale: f32,
    /// Whether a matrix `position_embd` of [`ModelSpec::n_ctx_train`] rows is added to the token
    /// embeddings.
    pub learned_positions: bool,
    /// Whether the first row of `token_types`, BERT's "sentence A", is added to the token
    /// embeddings if the file has that matrix.
    pub token_types: bool,
    /// Norm of the token embeddings.
    pub embed_norm: EmbedNorm,
    /// Number of parallel residual streams (AltUp, arXiv:2301.13310); layers work on the first.
    pub n_streams: usize,
    /// Elements of the embedding that each layer has of its own and adds, gated, at its end; to the
    /// other streams if there are several.
    pub layer_embed: Option<usize>,
    /// Formula of the norms of the residual stream.
    pub norm: NormFormula,
    /// Epsilon of every norm but the post-norms: added to the mean square or the variance.
    pub norm_eps: f32,
    /// Epsilon of the post-norms (output of mixer and FFN); elsewhere [`ModelSpec::norm_eps`].
    pub post_norm_eps: f32,
    /// Layers, in the order in which a token passes them.
    pub layers: Vec<LayerSpec>,
    /// The two stacks that the layers are passes through, if tokens pass them several times.
    pub cycles: Option<CycleSpec>,
    /// Layers at the file's end that draft further tokens: not computed.
    pub n_draft_layers: usize,
    /// Beginnings of the names of tensors within layers that the description does not use, such as
    /// those of an indexer that would choose everything.
    pub unused: &'static [&'static str],
    /// Whether a token also sees those behind it, as in encoders. Texts are then computed whole.
    pub bidirectional: bool,
    /// Pooling of the embeddings of a text's tokens, if the metadata says.
    pub pooling: Option<Pooling>,
    /// Head: from the residual stream to logits.
    pub head: HeadSpec,
}

/// Two stacks of layers that tokens pass in turn (hierarchical reasoning, arXiv:2506.21734): the
/// low one several times, the high one once, and so on. Each pass reads the sum of the latest
/// output of both stacks, at first the embeddings and `hrm.z_l_init`; its output is normed without
/// weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CycleSpec {
    /// Layers of a stack.
    pub n_layers: usize,
    /// Passes through the low stack ahead of each through the high one.
    pub n_low: usize,
}

impl CycleSpec {
    /// The layer of the file whose tensors `layer` has.
    pub fn block(&self, layer: usize) -> usize {
        let is_high = self.is_high(layer / self.n_layers);
        layer % self.n_layers + if is_high { self.n_layers } else { 0 }
    }

    /// Whether a pass is through the high stack.
    pub fn is_high(&self, pass: usize) -> bool {
        pass % (self.n_low + 1) == self.n_low
    }
}

/// A layer: `x += mixer(norm(x)); x += ffn(norm(x))`, see [`Residual`] and [`NormPlacement`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Part in which tokens see each other.
    pub mixer: Mixer,
    /// Computation on each token alone.
    pub ffn: Ffn,
    /// Places of the norms.
    pub norms: NormPlacement,
    /// Input of the feed-forward part.
    pub residual: Residual,
    /// Factor of the outputs that are added to the stream.
    pub residual_scale: f32,
    /// Factor of the stream that outputs are added to.
    pub stream_scale: f32,
    /// Rank of a branch beside the mixer (LAuReL, arXiv:2411.07501), if there is one.
    pub laurel: Option<usize>,
    /// Use of `layer_output_scale`, if the file has it.
    pub output_scale: OutputScale,
}

/// Target of a layer's own factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputScale {
    /// No factor.
    None,
    /// The stream.
    Stream,
    /// The embeddings, as the first layer got them, which are added to the stream.
    Embeddings,
}

/// Input of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// The stream with the mixer's output.
    Sequential,
    /// The stream as the mixer saw it (GPT-J, arXiv:2204.02311).
    Parallel,
}

/// Use of optional tensors: biases, and the one-element `*.scale` that accompany some quantized
/// weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorUse {
    /// They take part.
    Apply,
    /// The reference implementation of the architecture loads and ignores them.
    Ignore,
    /// The reference implementation ignores all but that of a feed-forward part's last matrix.
    OfOutput,
}

/// Part of a layer in which tokens see each other.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Mixer {
    /// Not at all.
    None,
    /// Softmax attention.
    Attention(AttentionSpec),
    /// Multi-head latent attention.
    Mla(MlaSpec),
    /// Short convolution.
    ShortConv(ShortConvSpec),
    /// Selective state space.
    StateSpace(StateSpaceSpec),
    /// Attention and a state space side by side, their outputs added.
    AttentionAndStateSpace(AttentionSpec, StateSpaceSpec),
    /// Gated delta rule.
    Delta(DeltaSpec),
    /// Linear attention with a fixed decay.
    LightningAttention(LightningSpec),
}

/// Shape of the keys and values that a layer keeps in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedShape {
    /// Tokens that are seen, if not all.
    pub window: Option<usize>,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
}

impl Mixer {
    /// The softmax attention, alone or beside a state space.
    fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) => {
                Some(attention)
            }
            Mixer::None
            | Mixer::Mla(_)
            | Mixer::ShortConv(_)
            | Mixer::StateSpace(_)
            | Mixer::Delta(_)
            | Mixer::LightningAttention(_) => None,
        }
    }

    /// The rotation of queries and keys, if there is one.
    pub fn rope(&self) -> Option<&RopeSpec> {
        match self {
            Mixer::Mla(mla) => mla.rope.as_ref(),
            mixer => mixer.attention()?.rope.as_ref(),
        }
    }

    /// The rotation of queries and keys, to be changed.
    fn rope_mut(&mut self) -> Option<&mut RopeSpec> {
        match self {
            Mixer::None
            | Mixer::ShortConv(_)
            | Mixer::StateSpace(_)
            | Mixer::Delta(_)
            | Mixer::LightningAttention(_) => None,
            Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) => {
                attention.rope.as_mut()
            }
            Mixer::Mla(mla) => mla.rope.as_mut(),
        }
    }

    /// Keys and values that the layer caches; `None` if it has none or reads another layer's.
    pub fn cached(&self) -> Option<CachedShape> {
        if let Mixer::Mla(mla) = self {
            let (n_kv_heads, k_dim, v_dim) = mla.cached();
            return Some(CachedShape { window: None, n_kv_heads, k_dim, v_dim });
        }
        let a = self.attention().filter(|a| !matches!(a.kv, KvSource::Layer(_)))?;
        let &AttentionSpec { window, n_kv_heads, k_dim, v_dim, .. } = a;
        Some(CachedShape { window, n_kv_heads, k_dim, v_dim })
    }

    /// Elements of the recurrent states that a sequence has in the layer, in a stream `n_embd`
    /// wide.
    pub fn state_len(&self, n_embd: usize) -> usize {
        match self {
            Mixer::None | Mixer::Attention(_) | Mixer::Mla(_) => 0,
            Mixer::ShortConv(conv) => n_embd * (conv.taps - 1),
            Mixer::StateSpace(space) | Mixer::AttentionAndStateSpace(_, space) => space.state_len(),
            Mixer::Delta(delta) => delta.state_len(),
            Mixer::LightningAttention(lightning) => lightning.state_len(),
        }
    }
}

impl ModelSpec {
    /// Name of what layers read beside the stream that the one before them leaves, if they do.
    pub fn layers_share(&self) -> Option<&'static str> {
        let any = |test: fn(&LayerSpec) -> bool| self.layers.iter().any(test);
        let reads_others = |layer: &LayerSpec| {
            layer.mixer.attention().is_some_and(|a| matches!(a.kv, KvSource::Layer(_)))
        };
        if self.n_streams > 1 {
            return Some("parallel streams");
        }
        if self.cycles.is_some() {
            return Some("the outputs of two stacks in turn");
        }
        if self.layer_embed.is_some() {
            return Some("embeddings of their own");
        }
        if any(|layer| layer.output_scale == OutputScale::Embeddings) {
            return Some("the embeddings");
        }
        any(reads_others).then_some("keys and values of other layers")
    }

    /// The common shape: pre-norms, grouped-query attention with rotation, SwiGLU; experts if the
    /// metadata counts some.
    ///
    /// # Errors
    /// A key is missing, of a wrong type or contradicts another.
    pub fn llama_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let mixers = attention::from_metadata(h)?;
        let ffns = ffn::from_metadata(h)?;
        let (norm, norm_eps) = norms::from_metadata(h)?;
        let layer = |(mixer, ffn)| LayerSpec {
            mixer,
            ffn,
            norms: NormPlacement::PRE,
            residual: Residual::Sequential,
            residual_scale: 1.0,
            stream_scale: 1.0,
            laurel: None,
            output_scale: OutputScale::None,
        };
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
            layers: mixers.into_iter().zip(ffns).map(layer).collect(),
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

    /// Whether the model can continue texts: it gives logits and does not see texts whole.
    pub fn generates(&self) -> bool {
        self.head.logits && !self.bidirectional
    }

    /// Context in tokens when nobody says, at most `most`.
    pub fn n_ctx_default(&self, most: usize) -> usize {
        self.n_ctx_train.min(self.n_ctx_max.unwrap_or(most)).min(most)
    }

    /// [`ModelSpec::llama_like`] without the feed-forward parts' `*.scale`, which the reference
    /// implementation ignores in most architectures.
    ///
    /// # Errors
    /// Those of [`ModelSpec::llama_like`].
    pub fn unscaled(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        ModelSpec::llama_like(h).map(ModelSpec::ignore_ffn_scales)
    }

    /// [`ModelSpec::unscaled`] as an encoder, see [`ModelSpec::encoding`].
    ///
    /// # Errors
    /// Those of [`ModelSpec::unscaled`] and [`ModelSpec::encoding`].
    pub fn encoder(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        ModelSpec::unscaled(h)?.encoding(h)
    }

    /// BERT and its kin (arXiv:1810.04805): an encoder with layer norms of its sums, GELU without a
    /// gate, no norm in the end.
    ///
    /// # Errors
    /// Those of [`ModelSpec::encoder`].
    pub fn bert_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let mut spec = ModelSpec::encoder(h)?.norms(NormPlacement::OF_SUMS);
        spec.token_types = true;
        spec.embed_norm = EmbedNorm::Weighted;
        spec.head.norm = None;
        let spec = spec.classifier(h, Activation::Tanh, false)?;
        Ok(spec.dense(Activation::Gelu, DenseGate::None).rope(RopePairing::Neox))
    }

    /// [`ModelSpec::unscaled`] with feed-forward parts without a gate.
    ///
    /// # Errors
    /// Those of [`ModelSpec::unscaled`].
    pub fn gpt_like(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        Ok(ModelSpec::unscaled(h)?.dense(Activation::Gelu, DenseGate::None))
    }

    /// Positions by a learned table if `learned`, otherwise none at all; no rotation.
    pub fn positions(mut self, learned: bool) -> ModelSpec {
        self.learned_positions = learned;
        if learned {
            self.n_ctx_max = Some(self.n_ctx_train);
        }
        self.no_rope(|_, _| true)
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

    /// Factors of embeddings, residual sums and attention's scores, as Granite names them.
    ///
    /// # Errors
    /// A factor is not a finite float.
    pub fn scaled(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let factor = |name: &str| Ok::<_, ModelError>(h.f32(name)?.filter(|&x| x != 0.0));
        self.embed_scale = factor("embedding_scale")?.unwrap_or(self.embed_scale);
        let residual_scale = factor("residual_scale")?;
        for layer in &mut self.layers {
            layer.residual_scale = residual_scale.unwrap_or(layer.residual_scale);
        }
        self.attention_scale(h)
    }
}
