//! The end of a network: logits, embeddings of tokens, or the scores of a classifier.

use super::*;

/// Head of a model: from the residual stream to logits, or to embeddings of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    /// Name of the preceding norm, without `.weight`.
    pub norm: Option<&'static str>,
    /// Names of the matrices that are applied to the normed stream if there are no logits and the
    /// file has them. They are linear: a mean may be taken before or after.
    pub dense: &'static [&'static str],
    /// Whether there are logits; otherwise the model gives the normed stream.
    pub logits: bool,
    /// Factor of the logits.
    pub scale: f32,
    /// Soft bound of the logits: `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// Classifier that the file may have, if the architecture knows one.
    pub classifier: Option<ClassifierSpec>,
}

/// Pooling of the embeddings of a text's tokens into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Not at all: each token keeps its own.
    None,
    /// Mean of all.
    Mean,
    /// First token, BERT's `[CLS]`.
    Cls,
    /// Last token.
    Last,
    /// Not at all: the model is a reranker, whose [`ClassifierSpec`] scores pairs of texts.
    Rank,
}

/// The head of a reranker or another classifier of texts, `cls.*`, on the pooled embedding:
/// `softmax(output(norm(act(dense(x)))))`, without the matrices and the norm that the file lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierSpec {
    /// Pooling of the tokens' embeddings ahead of the first matrix.
    pub pooling: Pooling,
    /// Activation after the first matrix.
    pub act: Activation,
    /// Whether the scores are probabilities that sum to 1.
    pub softmax: bool,
}

impl ModelSpec {
    /// An encoder: tokens also see those behind them, whether or not the metadata says so; no
    /// logits.
    ///
    /// # Errors
    /// The metadata says that the model is causal.
    pub fn encoding(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        if h.bool("attention.causal")? == Some(true) {
            return Err(h.bad("attention.causal", "is true, but this is an encoder"));
        }
        self.bidirectional = true;
        Ok(self.without_logits())
    }

    /// A head of scores, which the file may have: of the mean if it says so, otherwise of the first
    /// token if that sees all others, otherwise of the last.
    ///
    /// # Errors
    /// The type of pooling is not an integer.
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

    /// The model with its LM head removed: it outputs hidden states.
    pub fn without_logits(mut self) -> ModelSpec {
        self.head.logits = false;
        self
    }

    /// Logits multiplied by the metadata's factor.
    ///
    /// # Errors
    /// The factor is not a finite float.
    pub fn logit_scale(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        self.head.scale = h.f32("logit_scale")?.filter(|&x| x != 0.0).unwrap_or(1.0);
        Ok(self)
    }
}
