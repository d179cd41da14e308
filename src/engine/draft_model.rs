//! A draft model: a small model whose likeliest tokens are the drafts of a large one.
//!
//! It has an engine and a thread of its own, and computes between two steps of the large model, whose
//! scheduler waits for it. Its sequence follows that of the request: tokens that both have are not computed
//! again, what was drafted in vain is taken back, and where recurrent states cannot be, drafts are made on a
//! fork. A prompt is read a part at a time, one before each step of the large model, so that nothing else
//! waits long; there are drafts when all of it has been read.
//!
//! What it says changes no token, see `draft`: a draft model may be anything with the same vocabulary. What
//! goes wrong with it ends its drafts, not the answer.

use super::draft::{DRAFT_MAX, SIZE_SHARE_MAX};
use super::runner::Runner;
use super::{Engine, EngineError, EngineOptions, Model};
use crate::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use crate::kv::SeqId;
use crate::text::Tokenizer;
use std::fmt;
use std::time::{Duration, Instant};

/// Tokens that a draft model has to read before its next draft, most, where drafts follow each other: the
/// time for more is that of a prompt, and not one of drafts.
const READ_MAX: usize = DRAFT_MAX + 1;

/// Tokens of a prompt that a draft model reads at a time, most: the request waits meanwhile, and cannot be
/// cancelled.
const BATCH_MAX: usize = 64;

/// Difference between the vocabularies of a draft model and the model that it drafts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherVocabulary {
    /// File of the draft model.
    pub draft: String,
    /// File of the model.
    pub model: String,
    /// First difference.
    pub difference: VocabularyDifference,
}

/// Difference between two vocabularies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VocabularyDifference {
    /// Numbers of tokens, the draft model's first.
    Sizes(usize, usize),
    /// A token, with its text in both, the draft model's first.
    Token(u32, String, String),
}

impl fmt::Display for OtherVocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherVocabulary { draft, model, difference } = self;
        write!(f, "{draft} cannot draft for {model}, whose vocabulary is another one: ")?;
        match difference {
            VocabularyDifference::Sizes(draft, model) => {
                write!(f, "{draft} tokens are not {model}")
            }
            VocabularyDifference::Token(id, draft, model) => {
                write!(f, "token {id} is {draft:?}, not {model:?}")
            }
        }
    }
}

impl std::error::Error for OtherVocabulary {}

/// A model that drafts for another, with its engine.
pub struct DraftModel {
    runner: Runner,
    /// Tokens of its context.
    n_ctx: usize,
    /// Its weights' bytes to those of the model.
    size_share: f64,
    /// Its sequence; `None` when something went wrong, and there are no drafts any more.
    state: Option<State>,
}

/// Sequence of a draft model.
#[derive(Debug, Default)]
struct State {
    sequence: Option<SeqId>,
    /// Tokens that it holds.
    tokens: Vec<u32>,
}

/// Tokens that may come next.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    pub tokens: Vec<u32>,
    /// Tokens that were read first, where there is more to read than what the last draft led to, and the time
    /// for them.
    pub n_read: usize,
    pub reading: Duration,
    /// Time for the draft itself.
    pub drafting: Duration,
}

impl DraftModel {
    /// Loads a draft model for `model`. Of its own context it sees as much as it was trained on, at most;
    /// behind that there are no drafts.
    ///
    /// # Errors
    /// [`EngineError::OtherVocabulary`] if it has other tokens than the model; those of [`Engine::new`];
    /// [`EngineError::NoLogits`] for a model that only reads.
    pub fn new(
        draft: &Model,
        model: &Model,
        tokenizer: &Tokenizer,
        options: &EngineOptions,
    ) -> Result<DraftModel, EngineError> {
        if !draft.spec().generates() {
            return Err(EngineError::NoLogits);
        }
        if let Some(difference) = difference(&draft.tokenizer()?, tokenizer) {
            let [draft, model] = [draft, model].map(|model| model.path().display().to_string());
            let other = OtherVocabulary { draft, model, difference };
            return Err(EngineError::OtherVocabulary(Box::new(other)));
        }
        let n_ctx = options.n_ctx.unwrap_or(usize::MAX).min(draft.spec().n_ctx_train);
        let max_batch = options.max_batch.min(BATCH_MAX);
        let options = EngineOptions { n_ctx: Some(n_ctx), max_batch, max_outputs: 1, ..*options };
        let engine = Engine::new(draft, &options)?;
        let n_ctx = engine.n_ctx();
        let runner = Runner::start(engine, None, 1)?;
        let bytes = |model: &Model| {
            model.file().tensors().iter().map(|tensor| tensor.bytes).sum::<u64>() as f64
        };
        let size_share = bytes(draft) / bytes(model).max(1.0);
        Ok(DraftModel { runner, n_ctx, size_share, state: Some(State::default()) })
    }

    /// Whether it is small enough beside its model for drafts that may pay. One that is not is only asked by requests
    /// that always want drafts ([`Speculation::Always`](super::Speculation::Always)); others have them made of their
    /// text.
    pub fn is_small(&self) -> bool {
        self.size_share <= SIZE_SHARE_MAX
    }

    /// Tokens that it has not read, of a request that it drafted for before.
    pub(super) fn n_unread(&self, tokens: &[u32]) -> usize {
        let n_known = self.state.as_ref().map_or(0, |state| state.tokens.len());
        tokens.len().saturating_sub(n_known)
    }

    /// At most `n` tokens below `n_vocab` that may follow `tokens`; none where its context ends, while it has more to read
    /// than a step takes, and for good when something went wrong with it.
    pub(super) fn propose(&mut self, tokens: &[u32], n: usize, n_vocab: usize) -> Proposal {
        let n = n.min((self.n_ctx + 1).saturating_sub(tokens.len()));
        let Some(mut state) = self.state.take_if(|_| n > 0) else { return Proposal::default() };
        let tokens = tokens.to_vec();
        let done = self.runner.call(move |stepper| {
            let proposal = state.propose(stepper, &tokens, (n, n_vocab));
            (state, proposal)
        });
        match done {
            Ok((state, Ok(proposal))) => {
                self.state = Some(state);
                proposal
            }
            _ => Proposal::default(),
        }
    }
}

impl State {
    fn propose(
        &mut self,
        stepper: &mut Stepper<'_>,
        tokens: &[u32],
        (n, n_vocab): (usize, usize),
    ) -> Result<Proposal, StepError> {
        let start = Instant::now();
        let sequence = self.go_back_to(stepper, tokens);
        let left = &tokens[self.tokens.len()..];
        if left.len() > stepper.max_batch() {
            let part = &left[..stepper.max_batch()];
            stepper.step(&[SequenceChunk { sequence, tokens: part, outputs: Outputs::None }])?;
            self.tokens.extend_from_slice(part);
            let (n_read, reading) = (part.len(), start.elapsed());
            return Ok(Proposal { n_read, reading, ..Proposal::default() });
        }
        let first = likeliest(stepper, sequence, left, n_vocab)?;
        self.tokens.extend_from_slice(left);
        let (n_read, reading) = match left.len() {
            n if n > READ_MAX => (n, start.elapsed()),
            _ => (0, Duration::ZERO),
        };
        let mut draft: Vec<u32> = first.into_iter().collect();
        // Where states cannot be taken back, the sequence itself stays behind the tokens that are known.
        let has_states = !stepper.program().states.is_empty();
        let fork = match has_states && n > 1 {
            true => stepper.kv_mut().fork(sequence, tokens.len()),
            false => None,
        };
        if !has_states || fork.is_some() {
            let on = fork.unwrap_or(sequence);
            let more = go_on(stepper, on, &mut draft, (n, n_vocab));
            fork.into_iter().for_each(|fork| stepper.kv_mut().remove(fork));
            more?;
        }
        if !has_states {
            self.tokens.extend_from_slice(&draft[..draft.len().saturating_sub(1)]);
        }
        Ok(Proposal { tokens: draft, n_read, reading, drafting: start.elapsed() - reading })
    }

    /// A sequence that holds nothing but tokens at the front, the last one not among them.
    fn go_back_to(&mut self, stepper: &mut Stepper<'_>, tokens: &[u32]) -> SeqId {
        let kv = stepper.kv_mut();
        let n_max = tokens.len().saturating_sub(1);
        let same = self.tokens.iter().zip(&tokens[..n_max]).take_while(|(a, b)| a == b);
        let n_common = same.count();
        if let Some(sequence) = self.sequence {
            if kv.truncate(sequence, n_common) {
                self.tokens.truncate(n_common);
                return sequence;
            }
            kv.remove(sequence);
        }
        self.tokens.clear();
        *self.sequence.insert(kv.create())
    }
}

/// Adds the likeliest tokens to a draft until it has `n`.
fn go_on(
    stepper: &mut Stepper<'_>,
    sequence: SeqId,
    draft: &mut Vec<u32>,
    (n, n_vocab): (usize, usize),
) -> Result<(), StepError> {
    while let Some(&last) = draft.last().filter(|_| draft.len() < n) {
        match likeliest(stepper, sequence, &[last], n_vocab)? {
            Some(next) => draft.push(next),
            None => break,
        }
    }
    Ok(())
}

/// Computes tokens, and finds the likeliest one behind them; `None` where the logits are no numbers.
fn likeliest(
    stepper: &mut Stepper<'_>,
    sequence: SeqId,
    tokens: &[u32],
    n_vocab: usize,
) -> Result<Option<u32>, StepError> {
    let logits = stepper.step(&[SequenceChunk { sequence, tokens, outputs: Outputs::Last }])?;
    let best = logits.iter().take(n_vocab).enumerate().filter(|(_, x)| x.is_finite());
    let best = best.reduce(|best, next| if next.1 > best.1 { next } else { best });
    Ok(best.map(|(id, _)| id as u32))
}

/// The first difference between the vocabularies of a draft model and of the model that it drafts for.
fn difference(draft: &Tokenizer, model: &Tokenizer) -> Option<VocabularyDifference> {
    let sizes = [draft, model].map(Tokenizer::vocab_size);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let differ = |&id: &u32| {
        draft.token_bytes(id) != model.token_bytes(id)
            || draft.is_end_of_generation(id) != model.is_end_of_generation(id)
    };
    let token = (0..sizes[0].min(sizes[1]) as u32).find(differ).map(|id| {
        let [draft, model] = [draft, model].map(|tokenizer| text(tokenizer.token_bytes(id)));
        VocabularyDifference::Token(id, draft, model)
    });
    token.or((sizes[0] != sizes[1]).then_some(VocabularyDifference::Sizes(sizes[0], sizes[1])))
}
