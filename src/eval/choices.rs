//! Multiple choice by likelihood: which of several texts a model finds likeliest.
//!
//! A question has several texts that share what comes first (HellaSwag, ARC: one context, several
//! endings) or last (Winogrande: several contexts, one ending). Each is tokenized whole. What is scored
//! are the tokens from where the texts of a question part on, or, with several contexts, from the
//! ending on. The likeliest by sum is one answer, by mean over tokens another ([`Accuracy`]).
//!
//! Cost: what the texts share is computed once and forked; texts of several questions share steps.

use super::EvalError;
use super::perplexity::check_tokens;
use super::rows::score_rows;
use super::steps::{self, Piece, Room, Run};
use crate::decoder::Stepper;
use crate::engine::Engine;
use crate::kv::SeqId;
use crate::text::{EncodeOptions, TextError, Tokenizer};
use std::fmt;
use std::ops::ControlFlow;
use teff_kernels::{FloatOps, KernelTable};

/// Texts that a question may have, at most: each takes a sequence of the cache.
pub const CHOICES_MAX: usize = 64;

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The texts, of which one is right.
    texts: Vec<Vec<u32>>,
    /// First scored token of each.
    scored_from: Vec<usize>,
    /// Number of the right one.
    label: usize,
}

/// Error of a question that cannot be asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuestionError {
    /// Fewer than two texts, or more than [`CHOICES_MAX`].
    Choices(usize),
    /// The label is no text's number.
    Label {
        /// The label.
        label: usize,
        /// Number of texts.
        n: usize,
    },
    /// Texts that are equal in tokens, or of which one is the beginning of another.
    Same,
    /// A text that the context does not hold.
    TooLong {
        /// Its tokens.
        n_tokens: usize,
        /// Tokens that fit.
        n_ctx: usize,
    },
    /// A text that cannot be tokenized.
    Text(TextError),
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuestionError::Choices(n) => write!(f, "{n} choices are not from 2 to {CHOICES_MAX}"),
            QuestionError::Label { label, n } => {
                write!(f, "label {label} is none of the {n} choices' numbers, which begin at 0")
            }
            QuestionError::Same => {
                write!(f, "a choice is empty, or equal to another or its beginning")
            }
            QuestionError::TooLong { n_tokens, n_ctx } => {
                write!(f, "a choice has {n_tokens} tokens and the context holds {n_ctx}")
            }
            QuestionError::Text(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for QuestionError {}

impl From<TextError> for QuestionError {
    fn from(error: TextError) -> QuestionError {
        QuestionError::Text(error)
    }
}

/// Number of tokens that both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Two texts with a space between them, unless there is white space or nothing on a side.
fn joined(context: &str, ending: &str) -> String {
    let is_apart = context.is_empty()
        || ending.is_empty()
        || context.ends_with(char::is_whitespace)
        || ending.starts_with(char::is_whitespace);
    format!("{context}{}{ending}", if is_apart { "" } else { " " })
}

impl Question {
    /// A question with one context and several endings.
    ///
    /// # Errors
    /// See [`QuestionError`].
    pub fn endings(
        tokenizer: &Tokenizer,
        context: &str,
        endings: &[String],
        label: usize,
    ) -> Result<Question, QuestionError> {
        let special = EncodeOptions { add_special: false, parse_special: false };
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let encode = |ending: &String| {
            let mut tokens: Vec<u32> = bos.into_iter().collect();
            tokens.extend(tokenizer.encode(&joined(context, ending), special)?);
            Ok(tokens)
        };
        let texts: Vec<Vec<u32>> =
            endings.iter().map(encode).collect::<Result<_, QuestionError>>()?;
        let shared = texts.iter().map(|text| common(text, &texts[0])).min().unwrap_or(0);
        Question::new(vec![shared; texts.len()], texts, label)
    }

    /// A question with several contexts and one ending.
    ///
    /// # Errors
    /// See [`QuestionError`].
    pub fn contexts(
        tokenizer: &Tokenizer,
        contexts: &[String],
        ending: &str,
        label: usize,
    ) -> Result<Question, QuestionError> {
        let special = EncodeOptions { add_special: false, parse_special: false };
        let bos: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect();
        let (mut texts, mut scored_from) = (Vec::new(), Vec::new());
        for context in contexts {
            let encode = |text: &str| -> Result<Vec<u32>, QuestionError> {
                Ok([bos.clone(), tokenizer.encode(text, special)?].concat())
            };
            let text = encode(&joined(context, ending))?;
            scored_from.push(common(&text, &encode(context)?));
            texts.push(text);
        }
        Question::new(scored_from, texts, label)
    }

    fn new(
        scored_from: Vec<usize>,
        texts: Vec<Vec<u32>>,
        label: usize,
    ) -> Result<Question, QuestionError> {
        let n = texts.len();
        if !(2..=CHOICES_MAX).contains(&n) {
            return Err(QuestionError::Choices(n));
        }
        if label >= n {
            return Err(QuestionError::Label { label, n });
        }
        if texts.iter().zip(&scored_from).any(|(text, &from)| text.len() == from) {
            return Err(QuestionError::Same);
        }
        // The first token of all is predicted by nothing: without BOS it counts for none.
        let scored_from: Vec<usize> = scored_from.iter().map(|&from| from.max(1)).collect();
        if texts.iter().zip(&scored_from).any(|(text, &from)| text.len() <= from) {
            return Err(QuestionError::Same);
        }
        Ok(Question { texts, scored_from, label })
    }

    /// Tokens of the longest text.
    pub fn n_tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Tokens that all texts begin with, of those whose results nobody wants.
    fn n_shared(&self) -> usize {
        let shared = self.texts.iter().map(|text| common(text, &self.texts[0])).min().unwrap_or(0);
        let wanted = self.scored_from.iter().map(|from| from - 1).min().unwrap_or(0);
        shared.min(wanted)
    }
}

/// Questions answered so far, and how many of them rightly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Questions.
    pub n: usize,
    /// Right by the likelihood of all scored tokens together.
    pub n_right: usize,
    /// Right by the mean log-likelihood of the scored tokens, as llama.cpp's HellaSwag scores.
    pub n_right_mean: usize,
}

impl Accuracy {
    /// Share of right answers by sum, from 0 to 1.
    pub fn by_sum(&self) -> f64 {
        self.n_right as f64 / self.n.max(1) as f64
    }

    /// Share of right answers by mean, from 0 to 1.
    pub fn by_mean(&self) -> f64 {
        self.n_right_mean as f64 / self.n.max(1) as f64
    }

    /// Standard error of a share of so many questions.
    pub fn error_of(&self, share: f64) -> f64 {
        (share * (1.0 - share) / (self.n as f64 - 1.0).max(1.0)).sqrt()
    }

    /// Counts a question, given sum and number of the log-likelihoods of each text's tokens.
    fn add(&mut self, scores: &[(f64, usize)], label: usize) {
        let best = |of: &dyn Fn(&(f64, usize)) -> f64| {
            // The first among equals.
            let first =
                |best: usize, i: usize| if of(&scores[i]) > of(&scores[best]) { i } else { best };
            (0..scores.len()).fold(0, first)
        };
        self.n += 1;
        self.n_right += usize::from(best(&|score| score.0) == label);
        self.n_right_mean += usize::from(best(&|score| score.0 / score.1 as f64) == label);
    }
}

/// Answers questions; `on_step` hears how far it is, and may end it.
///
/// # Errors
/// A text is longer than the engine's context, the model cannot run it or its logits are no numbers, or
/// the listener ended it.
pub fn choose(
    engine: &mut Engine,
    questions: &[Question],
    on_step: &mut dyn FnMut(&Accuracy) -> ControlFlow<()>,
) -> Result<Accuracy, EvalError> {
    let n_ctx = engine.decoder().kv().n_ctx();
    let too_long = |question: &Question| question.n_tokens() > n_ctx;
    if let Some(number) = questions.iter().position(too_long) {
        let error = QuestionError::TooLong { n_tokens: questions[number].n_tokens(), n_ctx };
        return Err(EvalError::Question { question: number, error });
    }
    let tokens = questions.iter().flat_map(|question| &question.texts).flatten();
    check_tokens(tokens, engine.decoder().n_out())?;
    let (room, n_threads) = (Room::of(engine), engine.n_threads());
    let mut accuracy = Accuracy::default();
    let mut first = 0;
    while first < questions.len() {
        let n = fitting(engine, &questions[first..], room);
        let group = &questions[first..first + n];
        let scores = engine.lead(|stepper| {
            let mut sequences = Vec::new();
            let scores = answer(stepper, group, room, n_threads, first, &mut sequences);
            sequences.iter().for_each(|&id| stepper.kv_mut().remove(id));
            scores
        })?;
        for (question, scores) in group.iter().zip(&scores) {
            accuracy.add(scores, question.label);
        }
        if on_step(&accuracy).is_break() {
            return Err(EvalError::Stopped);
        }
        first += n;
    }
    Ok(accuracy)
}

/// Questions that share steps: as many as fill one, and as the cache has room for; at least one.
fn fitting(engine: &Engine, questions: &[Question], room: Room) -> usize {
    let kv = engine.decoder().kv();
    let (mut tokens, mut bytes) = (0, 0_usize);
    let fits = |question: &&Question| {
        let shared = question.n_shared();
        tokens += question.texts.iter().map(|text| text.len() - shared).sum::<usize>();
        let texts = question.texts.iter().map(|text| kv.bytes_of(text.len(), room.tokens));
        bytes = texts.fold(bytes, usize::saturating_add);
        tokens <= room.tokens && bytes <= kv.kv_bytes_max()
    };
    questions.iter().take_while(fits).count().max(1)
}

/// Sums and numbers of the log-likelihoods of each question's texts.
fn answer(
    stepper: &mut Stepper<'_>,
    questions: &[Question],
    room: Room,
    n_threads: usize,
    first: usize,
    sequences: &mut Vec<SeqId>,
) -> Result<Vec<Vec<(f64, usize)>>, EvalError> {
    let ops = KernelTable::detect().float();
    // What the texts of a question share, without results.
    let shared: Vec<Run<'_>> = questions
        .iter()
        .map(|question| Run {
            tokens: &question.texts[0][..question.n_shared()],
            wanted_from: usize::MAX,
        })
        .collect();
    sequences.extend(shared.iter().map(|_| stepper.kv_mut().create()));
    let parents = sequences.clone();
    for pieces in steps::plan(&shared, room) {
        steps::step(stepper, &parents, &shared, &pieces)?;
    }
    let (mut runs, mut texts, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (question, &parent) in questions.iter().zip(&parents) {
        for (text, &from) in question.texts.iter().zip(&question.scored_from) {
            // A sequence whose past cannot be shared is computed anew.
            let (id, start) = match stepper.kv_mut().fork(parent, question.n_shared()) {
                Some(id) => (id, question.n_shared()),
                None => (stepper.kv_mut().create(), 0),
            };
            sequences.push(id);
            texts.push(id);
            let tokens = &text[start..text.len() - 1];
            runs.push(Run { tokens, wanted_from: from - 1 - start });
            targets.push(&text[start + 1..]);
        }
    }
    let mut sums = vec![(0.0, 0); runs.len()];
    for pieces in steps::plan(&runs, room) {
        let rows = &*steps::step(stepper, &texts, &runs, &pieces)?;
        add_rows(rows, &pieces, &targets, ops, n_threads, &mut sums)?;
    }
    if let Some(bad) = sums.iter().position(|sum| !sum.0.is_finite()) {
        let mut ends = questions.iter().scan(0, |end, question| {
            *end += question.texts.len();
            Some(*end)
        });
        let chunk = first + ends.position(|end| bad < end).unwrap_or(0);
        return Err(EvalError::NotFinite { chunk, position: 0 });
    }
    let mut sums = sums.into_iter();
    Ok(questions.iter().map(|q| sums.by_ref().take(q.texts.len()).collect()).collect())
}

/// Adds the log-likelihoods of a step's rows to the sums of their runs.
fn add_rows(
    rows: &[f32],
    pieces: &[Piece],
    targets: &[&[u32]],
    ops: &FloatOps,
    n_threads: usize,
    sums: &mut [(f64, usize)],
) -> Result<(), EvalError> {
    let wanted = || pieces.iter().filter(|piece| piece.wanted);
    let tokens: Vec<u32> =
        wanted().flat_map(|piece| &targets[piece.run][piece.at.clone()]).copied().collect();
    let scores = score_rows(rows, &tokens, None, ops, n_threads)?;
    let runs = wanted().flat_map(|piece| piece.at.clone().map(|_| piece.run));
    for (run, score) in runs.zip(scores) {
        sums[run].0 -= score.nll;
        sums[run].1 += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_texts_share_ends_before_what_is_scored() {
        let question =
            Question::new(vec![3, 3], vec![vec![1, 2, 3, 4], vec![1, 2, 3, 5, 6]], 1).unwrap();
        assert_eq!((question.n_shared(), question.n_tokens()), (2, 5));
        // Contexts that differ, scored behind them.
        let texts = vec![vec![1, 2, 9, 7], vec![1, 2, 8, 8, 7]];
        assert_eq!(Question::new(vec![3, 4], texts, 0).unwrap().n_shared(), 2);
    }

    #[test]
    fn questions_that_cannot_be_asked_are_named() {
        let of = |scored: &[usize], texts: &[&[u32]], label| {
            let texts: Vec<Vec<u32>> = texts.iter().map(|text| text.to_vec()).collect();
            Question::new(scored.to_vec(), texts, label).unwrap_err().to_string()
        };
        assert_eq!(of(&[0], &[&[1]], 0), "1 choices are not from 2 to 64");
        assert!(of(&[1, 1], &[&[1, 2], &[1, 3]], 2).starts_with("label 2 is none of the 2"));
        assert!(of(&[2, 2], &[&[1, 2], &[1, 2, 3]], 0).starts_with("a choice is empty"));
        assert!(of(&[0, 0], &[&[1], &[2]], 0).starts_with("a choice is empty"));
    }

    #[test]
    fn sums_and_means_may_differ() {
        let mut accuracy = Accuracy::default();
        accuracy.add(&[(-4.0, 2), (-5.0, 5)], 1);
        accuracy.add(&[(-1.0, 1), (-1.0, 1)], 0);
        assert_eq!(accuracy, Accuracy { n: 2, n_right: 1, n_right_mean: 2 });
        assert_eq!(accuracy.by_sum(), 0.5);
        assert!((accuracy.error_of(0.5) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn texts_are_joined_by_a_space_where_there_is_none() {
        assert_eq!(joined("a", "b"), "a b");
        assert_eq!(joined("a ", "b"), "a b");
        assert_eq!(joined("a", " b"), "a b");
        assert_eq!(joined("", "b"), "b");
    }
}
