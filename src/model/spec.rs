//! The description of a network: an embedding, layers of a mixer and a feed-forward part, a head.
//!
//! Descriptions are data with sum types: they can be printed, checked at load, lowered to any
//! backend. An architecture is a function from hyperparameters to this, see [`super::arch`].

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
    /// Whether the first row of `token_types` is added to them, if the file has it: BERT's
    /// "sentence A".
    pub token_types: bool,
    /// Whether they are normalized.
    pub embed_norm: EmbedNorm,
    /// Parallel residual streams (AltUp, arXiv:2301.13310), of which the layers work on the first.
    pub n_streams: usize,
    /// Elements of an embedding of its own that each layer adds at its end, by way of a gate; to
    /// the other streams if there are several.
    pub layer_embed: Option<usize>,
    /// Formula of the norms of the residual stream.
    pub norm: NormFormula,
    /// Added to the mean square or the variance in every norm.
    pub norm_eps: f32,
    /// But this in the norms of what mixers and feed-forward parts give.
    pub post_norm_eps: f32,
    /// From the first to the last.
    pub layers: Vec<LayerSpec>,
    /// If the layers are passes through two stacks of layers: which.
    pub cycles: Option<CycleSpec>,
    /// Layers behind them in the file, for drafts of further tokens: not computed.
    pub n_draft_layers: usize,
    /// Beginnings of names of tensors in layers that take no part in what this describes, such as
    /// those of an indexer that would choose everything.
    pub unused: &'static [&'static str],
    /// Whether a token sees those behind it too: an encoder. Texts are then computed whole.
    pub bidirectional: bool,
    /// How the vectors of a text become one, if the metadata says.
    pub pooling: Option<Pooling>,
    /// From the residual stream to logits.
    pub head: HeadSpec,
}

/// Two stacks of layers that tokens pass in turn (hierarchical reasoning, arXiv:2506.21734): the low
/// one several times, the high one once, and so on. Each pass reads the sum of what both gave last,
/// at first the embeddings and `hrm.z_l_init`; what it gives is normed without weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CycleSpec {
    /// Layers of a stack.
    pub n_layers: usize,
    /// Passes through the low stack ahead of each through the high one.
    pub n_low: usize,
}

impl CycleSpec {
    /// The layer of the file whose tensors a layer has.
    pub fn block(&self, layer: usize) -> usize {
        let is_high = self.is_high(layer / self.n_layers);
        layer % self.n_layers + if is_high { self.n_layers } else { 0 }
    }

    /// Whether a pass is through the high stack.
    pub fn is_high(&self, pass: usize) -> bool {
        pass % (self.n_low + 1) == self.n_low
    }
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// They do not.
    None,
    /// Their mean.
    Mean,
    /// The first one, BERT's `[CLS]`.
    Cls,
    /// The last one.
    Last,
    /// They do not: the model is a reranker, whose [`ClassifierSpec`] scores pairs of texts.
    Rank,
}

/// The head of a reranker or another classifier of texts, `cls.*`, on the pooled vector:
/// `softmax(output(norm(act(dense(x)))))`, without the matrices and the norm that the file lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierSpec {
    /// How the tokens' vectors become one.
    pub pooling: Pooling,
    /// After the first matrix.
    pub act: Activation,
    /// Whether the scores are probabilities that sum to 1.
    pub softmax: bool,
}

/// Norm of the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedNorm {
    /// None.
    None,
    /// `token_embd_norm`.
    Weighted,
    /// An RMS norm without weights.
    Bare,
}

/// Formula of the norms, which have a bias if the file has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormFormula {
    /// RMS norm with weights (arXiv:1910.07467).
    Rms,
    /// RMS norm without.
    BareRms,
    /// Layer norm with weights (arXiv:1607.06450).
    Layer,
    /// Layer norm without any.
    BareLayer,
}

/// One layer: `x += mixer(norm(x)); x += ffn(norm(x))`, see [`Residual`] and [`NormPlacement`].
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
    /// Factor of the stream that it is added to.
    pub stream_scale: f32,
    /// Rank of a branch beside the mixer (LAuReL, arXiv:2411.07501).
    pub laurel: Option<usize>,
    /// What `layer_output_scale` multiplies in the end, if the file has it.
    pub output_scale: OutputScale,
}

/// What a layer's own factor multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputScale {
    /// There is none.
    None,
    /// The stream.
    Stream,
    /// The embeddings, as the first layer got them, which are added to the stream.
    Embeddings,
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
    /// Not at all.
    None,
    /// Softmax attention.
    Attention(AttentionSpec),
    /// Softmax attention over latent vectors.
    Latent(LatentSpec),
    /// A short convolution.
    ShortConv(ShortConvSpec),
    /// A selective state space.
    StateSpace(StateSpaceSpec),
    /// Attention and a state space side by side, their outputs added.
    AttentionAndStateSpace(AttentionSpec, StateSpaceSpec),
    /// A gated delta rule.
    Delta(DeltaSpec),
    /// Linear attention.
    Linear(LinearSpec),
}

/// Softmax attention with grouped queries.
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
    /// Where keys and values come from.
    pub kv: KvSource,
    /// Rows of `attn_qkv` if it has some behind those of queries, keys and values, which say
    /// nothing.
    pub qkv_rows: Option<usize>,
    /// Whether the tensors `attn_{q,k,v,qkv}.scale` apply, if there are any.
    pub qkv_scales: TensorUse,
    /// Whether the tensors `attn_{q,k,v,qkv}.bias` apply, if there are any.
    pub qkv_biases: TensorUse,
    /// Queries, keys and values are clamped to `-clamp..=clamp`.
    pub clamp: Option<f32>,
    /// Scores fall with distance, by slopes of which this is the largest exponent of 1/2 (ALiBi,
    /// arXiv:2108.12409).
    pub alibi: Option<f32>,
    /// Factor of the queries by position.
    pub temperature: Option<TemperatureSpec>,
    /// Whether each head has a score without a value, `attn_sinks` (arXiv:2309.17453).
    pub sinks: bool,
    /// Whether the result is multiplied by a function of `attn_gate`, of a factor per head or per
    /// element.
    pub gate: AttentionGate,
    /// Applied to the gate.
    pub gate_act: Activation,
    /// A token sees itself and the `window - 1` tokens before it, and as many behind it if the
    /// model is bidirectional; `None`: all.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Whether `attn_output.bias` applies, if there is one.
    pub output_bias: TensorUse,
}

/// Multi-head latent attention (MLA, arXiv:2405.04434): keys and values are projections of one
/// latent vector per token; a few dimensions of the keys, the same for all heads, carry positions.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Elements of the vector that queries are projected from; `None`: from the stream.
    pub q_rank: Option<usize>,
    /// Elements of the latent vector.
    pub rank: usize,
    /// Elements of a head's query and key that are projected from it.
    pub n_content: usize,
    /// Elements behind those that carry the position.
    pub n_position: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// What the cache holds.
    pub cache: LatentCache,
    /// Rotation of the elements that carry the position.
    pub rope: Option<RopeSpec>,
    /// Factor of the scores.
    pub scale: f32,
    /// Factor of the queries by position.
    pub temperature: Option<TemperatureSpec>,
    /// Whether each head's result is multiplied by the sigmoid of a row of `attn_gate`.
    pub gate: bool,
}

/// Queries times `1 + scale * ln(1 + floor(position / period))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemperatureSpec {
    /// Weight of the logarithm.
    pub scale: f32,
    /// Tokens between steps, at least 1.
    pub period: usize,
}

/// A gated causal convolution of each channel: `c * conv(b * x)` (arXiv:2511.23404).
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConvSpec {
    /// Tokens that an output depends on.
    pub taps: usize,
}

/// Mamba (arXiv:2312.00752) or Mamba 2 (arXiv:2405.21060).
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpaceSpec {
    /// Elements of all heads.
    pub n_inner: usize,
    /// Columns of the state.
    pub state_dim: usize,
    /// Tokens that an output of the convolution before depends on.
    pub taps: usize,
    /// What the generations differ in.
    pub generation: StateSpaceGeneration,
}

/// What generations of state spaces differ in.
#[derive(Clone, Debug, PartialEq)]
pub enum StateSpaceGeneration {
    /// Each element of the state has a decay of its own; time steps are projected up.
    One {
        /// Width that time steps are projected from.
        time_rank: usize,
        /// Whether time steps, `b` and `c` are normed, without weights unless the file has them.
        norms: bool,
    },
    /// Heads with one decay each.
    Two {
        /// Heads.
        n_heads: usize,
        /// Groups of heads with the same `b` and `c`; the output is normed by group if the file
        /// has weights for that.
        n_groups: usize,
    },
}

/// Linear attention with a fixed decay for each head (lightning attention, arXiv:2401.04658), its
/// queries, keys and values activated by SiLU, its result normed as a whole and gated by a sigmoid.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    /// Elements of a query, key or value.
    pub head_dim: usize,
    /// Of each head: a state is multiplied by `exp(-slope)` from token to token.
    pub slopes: Vec<f32>,
}

/// Linear attention by a gated delta rule: Gated DeltaNet (arXiv:2412.06464), Kimi Delta Attention
/// (arXiv:2510.26692).
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaSpec {
    /// Heads of values.
    pub n_heads: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Heads of queries and keys.
    pub n_key_heads: usize,
    /// Elements of a query or key.
    pub k_dim: usize,
    /// Which head of keys goes with which of values, if there are fewer.
    pub key_heads: KeyHeads,
    /// Tokens that an output of the convolution before depends on.
    pub taps: usize,
    /// What the state's decay is computed for.
    pub decay: DeltaDecay,
    /// Whether the tensors `*.scale` apply, if there are any.
    pub scales: TensorUse,
}

/// Which head of keys goes with which of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// One with several neighbours.
    Grouped,
    /// In turn.
    Tiled,
}

/// What the decay of a delta rule's state is computed for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DeltaDecay {
    /// Each head; the output's gate is `silu`.
    Heads,
    /// Each element of a key, by way of products of low rank; the output's gate is a sigmoid.
    Channels,
    /// The same by one product, and at least `exp` of this, which is negative.
    BoundedChannels(f32),
}

/// What the cache holds of a layer with latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentCache {
    /// The latent vector, as one head that all queries share: `attn_k_b` is applied to the queries
    /// and `attn_v_b` to what attention gives.
    Latent,
    /// Keys and values of all heads, the product of `attn_kv_b`.
    Heads,
}

/// Where keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSource {
    /// Projections of their own.
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
    /// Of each head, with the same weights for all.
    Heads,
    /// The same, after the rotation.
    HeadsAfterRope,
    /// RMS norms without weights of each head, after the rotation.
    BareHeadsAfterRope,
    /// The same, and each head of queries has one factor behind it.
    GainsAfterRope,
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
    /// One of each element, in `attn_q` behind the query of each head.
    InQuery,
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
    /// Factor of cosine and sine, besides YaRN's own.
    pub magnitude: f32,
    /// Whether a tensor divides the frequencies, if there is one: `rope_freqs` or, as in LongRoPE
    /// (arXiv:2402.13753), `rope_factors_short` and, in contexts that may grow beyond `n_ctx_orig`,
    /// `rope_factors_long`.
    pub freq_factors: bool,
    /// Context before stretching, in tokens.
    pub n_ctx_orig: usize,
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
        /// Turns within the original context from which a pair is left alone.
        beta_fast: f32,
        /// Turns below which it is interpolated in full.
        beta_slow: f32,
        /// Weight of the correction, 1 in practice.
        ext_factor: f32,
    },
}

/// What happens to each token alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// Nothing.
    None,
    /// `down(act(gate(x)) * up(x))`, see [`DenseGate`].
    Dense(DenseSpec),
    /// A few of many such parts, chosen per token.
    Moe(MoeSpec),
    /// Both, each with norms of its own: `norm_1(dense(x)) + norm_2(moe(pre_norm_2(x)))`.
    DenseAndMoe(DenseSpec, MoeSpec),
    /// Both: experts that read the layer's input, by a norm `ffn_norm_exps`, and a dense part behind
    /// the mixer.
    DenseBesideMoe(DenseSpec, MoeSpec),
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
    /// Only what of the gate is as many standard deviations above its mean remains.
    pub sparsity: Option<f32>,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Activation instead of `act`, without a gate.
    pub xielu: Option<Xielu>,
    /// Whether the tensors `ffn_*.scale` apply, if there are any.
    pub scales: TensorUse,
    /// Whether the tensors `ffn_*.bias` apply, if there are any.
    pub biases: TensorUse,
}

/// xIELU (arXiv:2411.13010): `alpha_p x^2 + beta x` for positive `x`, otherwise
/// `alpha_n (exp(min(x, eps)) - 1 - x) + beta x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// Of negative numbers.
    pub alpha_n: f32,
    /// Of positive numbers.
    pub alpha_p: f32,
    /// Of the linear part.
    pub beta: f32,
    /// Largest exponent.
    pub eps: f32,
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

/// What to do with optional tensors: biases, and the one-element `*.scale` that accompany some
/// quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorUse {
    /// They take part.
    Apply,
    /// The reference implementation of the architecture loads and ignores them.
    Ignore,
    /// It ignores all but that of the last matrix of a feed-forward part.
    OfOutput,
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
    /// Whether they have gates, the shared one too: otherwise `down(act(up(x)))`.
    pub gated: bool,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Elements of what experts get and give, if they are not those of the stream: projections
    /// lead there and back.
    pub latent: Option<usize>,
    /// What the router reads.
    pub router: RouterInput,
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
    pub scales: TensorUse,
    /// The expert that every token has.
    pub shared: Option<SharedExpert>,
    /// Factor of what the experts give together.
    pub out_scale: f32,
}

/// What a router reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterInput {
    /// What the experts read.
    Experts,
    /// The stream as the layer got it.
    Layer,
    /// The stream in an RMS norm with weights `ffn_gate_inp.scale / sqrt(n_embd)`.
    OwnNorm,
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

/// `f(min(gate, gate_max)) * (clamp(up, -up_max, up_max) + up_plus)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GluClamp {
    /// Bound of the gate, before its activation.
    pub gate_max: f32,
    /// Bound of the up projection, to both sides.
    pub up_max: f32,
    /// Added to the up projection.
    pub up_plus: f32,
}

/// An expert that every token has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedExpert {
    /// Hidden width.
    pub n_ff: usize,
    /// End of the names of its tensors, such as `_shexp`.
    pub suffix: &'static str,
    /// Whether its output is multiplied by the sigmoid of `ffn_gate_inp_shexp`.
    pub gated: bool,
    /// In place of the experts' bounds.
    pub clamp: Option<GluClamp>,
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
    /// Of the stream itself, ahead of the mixer.
    pub of_mixer_input: Option<&'static str>,
    /// Of the stream itself, ahead of the feed-forward part.
    pub of_ffn_input: Option<&'static str>,
    /// Of the stream with the mixer's output.
    pub of_mixer_sum: Option<&'static str>,
    /// Of the stream with the feed-forward part's output.
    pub of_ffn_sum: Option<&'static str>,
    /// Of what attention's output matrix is applied to.
    pub inside_attention: Option<&'static str>,
    /// Of what a dense feed-forward part's last matrix is applied to.
    pub inside_ffn: Option<&'static str>,
}

impl NormPlacement {
    /// None.
    pub const NONE: NormPlacement = NormPlacement {
        before_mixer: None,
        after_mixer: None,
        before_ffn: None,
        after_ffn: None,
        of_mixer_input: None,
        of_ffn_input: None,
        of_mixer_sum: None,
        of_ffn_sum: None,
        inside_attention: None,
        inside_ffn: None,
    };
    /// Before mixer and feed-forward part.
    pub const PRE: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        before_ffn: Some("ffn_norm"),
        ..NormPlacement::NONE
    };
    /// After each, ahead of the residual sum.
    pub const POST: NormPlacement = NormPlacement {
        after_mixer: Some("post_attention_norm"),
        after_ffn: Some("post_ffw_norm"),
        ..NormPlacement::NONE
    };
    /// Before and after each.
    pub const PRE_AND_POST: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        before_ffn: Some("ffn_norm"),
        ..NormPlacement::POST
    };
    /// Of the stream itself after each sum, as in the first transformer (arXiv:1706.03762).
    pub const OF_SUMS: NormPlacement = NormPlacement {
        of_mixer_sum: Some("attn_output_norm"),
        of_ffn_sum: Some("layer_output_norm"),
        ..NormPlacement::NONE
    };
}

/// From the residual stream to logits, or to the vectors of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    /// Name of the norm before it, without `.weight`.
    pub norm: Option<&'static str>,
    /// Names of the matrices that are applied to the normed stream if there are no logits and the
    /// file has them. They are linear: a mean may be taken before or after.
    pub dense: &'static [&'static str],
    /// Whether there are logits; otherwise the stream, normed, is what the model gives.
    pub logits: bool,
    /// Factor of the logits.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// A head beside that, if the architecture may have one.
    pub classifier: Option<ClassifierSpec>,
}

impl Mixer {
    /// The rotation, if it has one.
    pub fn rope(&self) -> Option<&RopeSpec> {
        match self {
            Mixer::None
            | Mixer::ShortConv(_)
            | Mixer::StateSpace(_)
            | Mixer::Delta(_)
            | Mixer::Linear(_) => None,
            Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) => {
                attention.rope.as_ref()
            }
            Mixer::Latent(latent) => latent.rope.as_ref(),
        }
    }

    /// The rotation, to be changed.
    pub fn rope_mut(&mut self) -> Option<&mut RopeSpec> {
        match self {
            Mixer::None
            | Mixer::ShortConv(_)
            | Mixer::StateSpace(_)
            | Mixer::Delta(_)
            | Mixer::Linear(_) => None,
            Mixer::Attention(attention) | Mixer::AttentionAndStateSpace(attention, _) => {
                attention.rope.as_mut()
            }
            Mixer::Latent(latent) => latent.rope.as_mut(),
        }
    }
}

impl LatentSpec {
    /// Heads, elements of a key and elements of a value in the cache.
    pub fn cached(&self) -> (usize, usize, usize) {
        match self.cache {
            LatentCache::Latent => (1, self.rank + self.n_position, self.rank),
            LatentCache::Heads => (self.n_heads, self.n_content + self.n_position, self.v_dim),
        }
    }
}

impl StateSpaceSpec {
    /// Elements of the states of a layer.
    pub fn state_len(&self) -> usize {
        let channels = match self.generation {
            StateSpaceGeneration::One { .. } => self.n_inner,
            StateSpaceGeneration::Two { n_groups, .. } => {
                self.n_inner + 2 * n_groups * self.state_dim
            }
        };
        channels * (self.taps - 1) + self.n_inner * self.state_dim
    }
}

impl LinearSpec {
    /// Elements of the state of a layer.
    pub fn state_len(&self) -> usize {
        self.slopes.len() * self.head_dim * self.head_dim
    }
}

impl DeltaSpec {
    /// Columns of queries, keys and values.
    pub fn n_channels(&self) -> usize {
        2 * self.n_key_heads * self.k_dim + self.n_heads * self.v_dim
    }

    /// Elements of the states of a layer.
    pub fn state_len(&self) -> usize {
        self.n_channels() * (self.taps - 1) + self.n_heads * self.v_dim * self.k_dim
    }
}
