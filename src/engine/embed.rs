//! Texts to vectors: the model's vectors of a text's tokens, pooled.
//!
//! Texts share steps, and those of causal models may be cut between steps; a bidirectional model
//! sees each text whole, so that a text has to fit one step. Neither changes a bit: sums are taken
//! in f64, token by token.

use super::{Engine, EngineError};
use crate::decoder::{Decoder, Outputs, SequenceChunk, StepError, Stepper};
use crate::kv::SeqId;
use crate::model::Pooling;

/// Texts in a step, at most: keys and values of each lie in pages of 32 tokens, of which many short
/// texts would leave the most part empty.
const TEXTS_MAX: usize = 16;

impl Engine {
    /// Tokens that a text may have.
    pub fn text_tokens_max(&self) -> usize {
        text_tokens_max(&self.decoder)
    }

    /// The vectors of texts, which are given as tokens, in their order: one vector of
    /// [`Decoder::n_out`] elements, with [`Pooling::None`] one for each token, with
    /// [`Pooling::Rank`] the scores of the model's classifier. They are not normalized.
    ///
    /// # Errors
    /// The engine is of a model with logits (see [`Model::output_embeddings`](super::Model)), a
    /// text has no token or more than [`Engine::text_tokens_max`], or gives vectors that are no
    /// numbers; or scores are wanted of a model without a classifier.
    pub fn embed(
        &mut self,
        texts: &[Vec<u32>],
        pooling: Pooling,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        if self.decoder.program().gives_logits() {
            return Err(EngineError::NoEmbeddings);
        }
        let (pooling, classifier) = match (pooling, &self.classifier) {
            (Pooling::Rank, None) => return Err(EngineError::NoClassifier),
            (Pooling::Rank, Some(classifier)) => (classifier.pooling(), Some(classifier.clone())),
            _ => (pooling, None),
        };
        let max = self.text_tokens_max();
        for (text, tokens) in texts.iter().enumerate() {
            match tokens.len() {
                0 => return Err(EngineError::EmptyText { text }),
                n_tokens if n_tokens > max => {
                    return Err(EngineError::TextTooLong { text, n_tokens, max });
                }
                _ => {}
            }
        }
        let mut texts: Vec<Text<'_>> = texts.iter().map(|tokens| Text::new(tokens)).collect();
        self.lead(|decoder| {
            let result = steps(decoder, &mut texts, pooling);
            let sequences = texts.iter().filter_map(|text| text.sequence);
            sequences.for_each(|sequence| decoder.kv_mut().remove(sequence));
            result
        })?;
        let mut vectors: Vec<Vec<f32>> = texts.into_iter().map(|text| text.vectors).collect();
        if let Some(classifier) = classifier {
            vectors.iter_mut().for_each(|vector| *vector = classifier.scores(vector));
        }
        let is_bad = |vectors: &Vec<f32>| vectors.iter().any(|x| !x.is_finite());
        match vectors.iter().position(is_bad) {
            Some(text) => Err(EngineError::NotFinite { text }),
            None => Ok(vectors),
        }
    }
}

/// Divides a vector by its length, unless that is 0.
pub fn normalize(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if squares > 0.0 {
        let factor = 1.0 / squares.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

fn text_tokens_max(decoder: &Decoder) -> usize {
    match decoder.program().bidirectional {
        true => decoder.kv().n_ctx().min(decoder.max_batch()),
        false => decoder.kv().n_ctx(),
    }
}

/// A text on its way through the model.
struct Text<'a> {
    tokens: &'a [u32],
    /// Tokens that have been in a step.
    done: usize,
    /// While there are such and others.
    sequence: Option<SeqId>,
    /// Sum of the tokens' vectors, if their mean is wanted.
    sum: Vec<f64>,
    /// The result.
    vectors: Vec<f32>,
}

impl<'a> Text<'a> {
    fn new(tokens: &'a [u32]) -> Text<'a> {
        Text { tokens, done: 0, sequence: None, sum: Vec::new(), vectors: Vec::new() }
    }

    fn is_done(&self) -> bool {
        self.done == self.tokens.len()
    }

    /// Which of the next `n` tokens' vectors the result is made of.
    fn wanted(&self, n: usize, pooling: Pooling) -> Outputs {
        match pooling {
            Pooling::None | Pooling::Mean => Outputs::All,
            Pooling::Cls if self.done == 0 => Outputs::First,
            Pooling::Last if self.done + n == self.tokens.len() => Outputs::Last,
            Pooling::Cls | Pooling::Last | Pooling::Rank => Outputs::None,
        }
    }

    /// Forgets what is computed: its sequence is empty.
    fn begin_again(&mut self) {
        *self = Text { sequence: self.sequence, ..Text::new(self.tokens) };
    }

    /// Takes the wanted vectors of the next `n` tokens.
    fn take(&mut self, n: usize, rows: &[f32], n_out: usize, pooling: Pooling) {
        self.done += n;
        if pooling != Pooling::Mean {
            self.vectors.extend_from_slice(rows);
            return;
        }
        self.sum.resize(n_out, 0.0);
        for row in rows.chunks_exact(n_out) {
            self.sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        if self.is_done() {
            let n = self.tokens.len() as f64;
            self.vectors.extend(self.sum.iter().map(|sum| (sum / n) as f32));
        }
    }
}

/// Computes all texts. Their sequences are left for those that an error interrupts.
fn steps(
    decoder: &mut Stepper<'_>,
    texts: &mut [Text<'_>],
    pooling: Pooling,
) -> Result<(), EngineError> {
    let (max_batch, n_out) = (decoder.max_batch(), decoder.n_out());
    let whole = decoder.program().bidirectional;
    let mut first = 0;
    while first < texts.len() {
        let mut room = max_batch;
        let mut runs = Vec::new();
        for text in texts[first..].iter_mut().take(TEXTS_MAX) {
            let left = &text.tokens[text.done..];
            if room == 0 || (whole && left.len() > room) {
                break;
            }
            let tokens = &left[..left.len().min(room)];
            let outputs = text.wanted(tokens.len(), pooling);
            let sequence = *text.sequence.get_or_insert_with(|| decoder.kv_mut().create());
            room -= tokens.len();
            runs.push(SequenceChunk { sequence, tokens, outputs });
        }
        let mut rows: &[f32] = match decoder.step(&runs) {
            Ok(rows) => rows,
            Err(StepError::Moved(_)) => {
                texts[first..].iter_mut().for_each(Text::begin_again);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for (text, run) in texts[first..].iter_mut().zip(&runs) {
            let n = run.outputs.count(run.tokens.len());
            let (own, others) = rows.split_at(n * n_out);
            text.take(run.tokens.len(), own, n_out, pooling);
            rows = others;
        }
        for text in texts[first..][..runs.len()].iter_mut().take_while(|text| text.is_done()) {
            text.sequence.take().into_iter().for_each(|id| decoder.kv_mut().remove(id));
            first += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalized_vectors_have_length_one_or_none() {
        let mut vector = [3e-30, -4e-30];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut zero = [0.0; 3];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
