//! Norms: their formula and their places in a layer.

use super::*;

/// Norm of the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedNorm {
    /// None.
    None,
    /// Norm with the weights `token_embd_norm`.
    Weighted,
    /// RMS norm without weights.
    Bare,
}

/// Formula of the norms, which have a bias if the file has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormFormula {
    /// RMS norm with weights (arXiv:1910.07467).
    Rms,
    /// RMS norm without weights.
    BareRms,
    /// Layer norm with weights (arXiv:1607.06450).
    Layer,
    /// Layer norm without weights.
    BareLayer,
}

/// Names of the norms of a layer, without `.weight`; `None` where there is no norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormPlacement {
    /// Norm of the mixer's input (pre-norm).
    pub before_mixer: Option<&'static str>,
    /// Norm of the mixer's output before it is added to the residual stream (post-norm).
    pub after_mixer: Option<&'static str>,
    /// Norm of the feed-forward part's input (pre-norm).
    pub before_ffn: Option<&'static str>,
    /// Norm of the feed-forward part's output before it is added to the residual stream
    /// (post-norm).
    pub after_ffn: Option<&'static str>,
    /// Norm that replaces the stream ahead of the mixer.
    pub of_mixer_input: Option<&'static str>,
    /// Norm that replaces the stream ahead of the feed-forward part.
    pub of_ffn_input: Option<&'static str>,
    /// Norm that replaces the stream after the mixer's output was added.
    pub of_mixer_sum: Option<&'static str>,
    /// Norm that replaces the stream after the feed-forward part's output was added.
    pub of_ffn_sum: Option<&'static str>,
    /// Norm of the input of attention's output matrix.
    pub inside_attention: Option<&'static str>,
    /// Norm of the input of a dense feed-forward part's last matrix.
    pub inside_ffn: Option<&'static str>,
}

impl NormPlacement {
    /// No norms.
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
    /// Norms before mixer and feed-forward part.
    pub const PRE: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        before_ffn: Some("ffn_norm"),
        ..NormPlacement::NONE
    };
    /// Norms after each, ahead of the residual sum.
    pub const POST: NormPlacement = NormPlacement {
        after_mixer: Some("post_attention_norm"),
        after_ffn: Some("post_ffw_norm"),
        ..NormPlacement::NONE
    };
    /// Norms before and after each.
    pub const PRE_AND_POST: NormPlacement = NormPlacement {
        before_mixer: Some("attn_norm"),
        before_ffn: Some("ffn_norm"),
        ..NormPlacement::POST
    };
    /// Norms of the stream itself after each sum, as in the first transformer (arXiv:1706.03762).
    pub const OF_SUMS: NormPlacement = NormPlacement {
        of_mixer_sum: Some("attn_output_norm"),
        of_ffn_sum: Some("layer_output_norm"),
        ..NormPlacement::NONE
    };
}

/// Formula and epsilon of the stream's norms: RMS or layer norms, by the name of the epsilon's key.
pub(super) fn from_metadata(h: &Hparams<'_>) -> Result<(NormFormula, f32), ModelError> {
    let rms = "attention.layer_norm_rms_epsilon";
    let layer = "attention.layer_norm_epsilon";
    Ok(match (h.f32(rms)?, h.f32(layer)?) {
        (Some(norm_eps), None) => (NormFormula::Rms, norm_eps),
        (None, Some(norm_eps)) => (NormFormula::Layer, norm_eps),
        // Said twice: an RMS norm has no bias. Descriptions whose layer norms have none say so.
        (Some(rms), Some(layer)) if rms == layer => match h.has_norm_bias() {
            true => (NormFormula::Layer, layer),
            false => (NormFormula::Rms, rms),
        },
        (None, None) => return Err(h.missing(rms)),
        (Some(_), Some(_)) => return Err(h.bad(layer, "contradicts that of the RMS norms")),
    })
}

impl ModelSpec {
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
}
