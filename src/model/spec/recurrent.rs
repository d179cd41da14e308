//! Mixers with a recurrent state: convolutions, state spaces, delta rules, linear attention.

use super::*;

/// Gated causal convolution of each channel: `c * conv(b * x)` (arXiv:2511.23404).
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
    /// Tokens that an output of the preceding convolution depends on.
    pub taps: usize,
    /// Generation, with the sizes that only it has.
    pub generation: StateSpaceGeneration,
}

/// Generation of a state space.
#[derive(Clone, Debug, PartialEq)]
pub enum StateSpaceGeneration {
    /// Mamba: each element of the state has a decay of its own; time steps are projected up.
    One {
        /// Width that time steps are projected from.
        time_rank: usize,
        /// Whether time steps, `b` and `c` are normed, without weights unless the file has them.
        norms: bool,
    },
    /// Mamba 2: heads with one decay each.
    Two {
        /// Number of heads.
        n_heads: usize,
        /// Groups of heads with the same `b` and `c`; the output is normed by group if the file
        /// has weights for that.
        n_groups: usize,
    },
}

/// Linear attention with a fixed decay for each head (lightning attention, arXiv:2401.04658), its
/// queries, keys and values activated by SiLU, its result normed as a whole and gated by a sigmoid.
#[derive(Clone, Debug, PartialEq)]
pub struct LightningSpec {
    /// Elements of a query, key or value.
    pub head_dim: usize,
    /// Slope of each head: its state is multiplied by `exp(-slope)` from token to token.
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
    /// Assignment of key heads to value heads, if there are fewer.
    pub key_heads: KeyHeads,
    /// Tokens that an output of the preceding convolution depends on.
    pub taps: usize,
    /// Granularity of the state's decay.
    pub decay: DeltaDecay,
    /// Use of the optional tensors `*.scale`.
    pub scales: TensorUse,
}

/// Assignment of key heads to value heads; `h` is a value head, `group` the number of value heads
/// for each key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// Key head `h / group` serves value head `h`.
    Grouped,
    /// Key head `h % n_key_heads` serves value head `h`.
    Tiled,
}

/// Granularity of the decay of a delta rule's state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DeltaDecay {
    /// One decay for each head; the output's gate is `silu`.
    Heads,
    /// One decay for each element of a key, by products of low rank; the output's gate is a
    /// sigmoid.
    Channels,
    /// One decay for each element of a key, by one product, and at least `exp` of this negative
    /// number; the output's gate is a sigmoid.
    BoundedChannels(f32),
}

impl StateSpaceSpec {
    /// Mamba as the metadata describes it.
    ///
    /// # Errors
    /// A length is missing or out of range.
    pub fn one(h: &Hparams<'_>) -> Result<StateSpaceSpec, ModelError> {
        let time_rank = h.length("ssm.time_step_rank")?;
        let norms = h.bool("ssm.dt_b_c_rms")?.unwrap_or(false);
        StateSpaceSpec::new(h, StateSpaceGeneration::One { time_rank, norms })
    }

    /// Mamba 2 as the metadata describes it.
    ///
    /// # Errors
    /// A length is missing, or heads and groups do not divide each other.
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

impl LightningSpec {
    /// Elements of the state of a layer.
    pub fn state_len(&self) -> usize {
        self.slopes.len() * self.head_dim * self.head_dim
    }
}

impl DeltaSpec {
    /// Gated DeltaNet as the metadata describes it.
    ///
    /// # Errors
    /// A length is missing, or heads do not divide each other.
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
    ///
    /// # Errors
    /// A length is missing or out of range.
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

    /// Columns of queries, keys and values.
    pub fn n_channels(&self) -> usize {
        2 * self.n_key_heads * self.k_dim + self.n_heads * self.v_dim
    }

    /// Elements of the states of a layer.
    pub fn state_len(&self) -> usize {
        self.n_channels() * (self.taps - 1) + self.n_heads * self.v_dim * self.k_dim
    }
}
