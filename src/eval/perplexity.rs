//! Perplexity of a text, as llama.cpp computes it: the predictions of the second half of each chunk
//! count, so that every one has half a chunk before it. Beside a teacher, its divergence too.
//!
//! Two chunks go through the model together: the first half of one, whose logits nobody wants, fills
//! steps that the other's would not.

use super::logits_file::{LogitsFile, LogitsWriter};
use super::rows::{Score, score_rows};
use super::steps::{self, Piece, Room, Run};
use super::{Chunks, Divergence, EvalError};
use crate::decoder::StepError;
use crate::engine::{Engine, EngineError};
use crate::kv::SeqId;
use crate::tensor::memory;
use std::ops::ControlFlow;
use teff_kernels::{FloatOps, KernelTable};

/// Chunks that go through the model together.
const GROUP: usize = 2;

/// Perplexity over the positions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    sum_nll: f64,
    sum_nll2: f64,
    n: usize,
}

impl Perplexity {
    fn add(&mut self, nll: f64) {
        self.sum_nll += nll;
        self.sum_nll2 += nll * nll;
        self.n += 1;
    }

    /// Scored positions.
    pub fn tokens(&self) -> usize {
        self.n
    }

    /// Mean negative log-likelihood, in nats.
    pub fn nll_mean(&self) -> f64 {
        self.sum_nll / self.n.max(1) as f64
    }

    /// Exponential of [`Perplexity::nll_mean`].
    pub fn value(&self) -> f64 {
        self.nll_mean().exp()
    }

    /// Standard error of [`Perplexity::value`], as if positions were independent; 0 for fewer than two.
    pub fn error(&self) -> f64 {
        let n = self.n.max(1) as f64;
        let variance = (self.sum_nll2 / n - self.nll_mean().powi(2)).max(0.0);
        (variance / (n - 1.0).max(1.0)).sqrt() * self.value()
    }
}

/// Figures over the chunks so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Perplexity of the model.
    pub perplexity: Perplexity,
    /// Comparison with the teacher, if there is one.
    pub divergence: Option<Divergence>,
    /// Chunks so far.
    pub n_chunks: usize,
}

impl Report {
    fn add(&mut self, score: &Score) {
        self.perplexity.add(score.nll);
        if let Some(beside) = &score.beside {
            self.divergence.get_or_insert_default().add(score, beside);
        }
    }
}

/// Source of the answers that a model is compared with.
#[derive(Default)]
pub enum Teacher<'a> {
    /// None: perplexity only.
    #[default]
    Nobody,
    /// A model of the same vocabulary, made by [`engine_options`](super::engine_options).
    Engine(&'a mut Engine),
    /// Answers that were kept.
    File(&'a mut LogitsFile),
}

/// Listener of a measurement; `Break` ends it.
pub type OnChunk<'a> = &'a mut dyn FnMut(&Report) -> ControlFlow<()>;

/// Choices of a measurement.
#[derive(Default)]
pub struct Options<'a> {
    /// Whom to compare the model with.
    pub teacher: Teacher<'a>,
    /// Writer that keeps the model's own answers, for later ones to be compared with.
    pub save: Option<&'a mut LogitsWriter>,
    /// Listener that hears the figures after every chunk, and may end the measurement.
    pub on_chunk: Option<OnChunk<'a>>,
}

/// Runs chunks through a model and scores the second half of each. The figures do not depend on
/// threads, batches or what else the engine holds.
///
/// # Errors
/// The model cannot run the chunks or its logits are no numbers, the teacher's vocabulary differs, a
/// file of logits fails, or the listener ended it.
pub fn perplexity(
    engine: &mut Engine,
    chunks: &Chunks,
    options: Options<'_>,
) -> Result<Report, EvalError> {
    let Options { mut teacher, mut save, mut on_chunk } = options;
    let n_vocab = engine.decoder().n_out();
    let room = check(engine, &teacher, save.as_deref())?;
    check_tokens(chunks.iter().flatten(), n_vocab)?;
    let n_together = together(engine, chunks).min(match &teacher {
        Teacher::Engine(teacher) => together(teacher, chunks),
        Teacher::Nobody | Teacher::File(_) => GROUP,
    });
    let all: Vec<&[u32]> = chunks.iter().collect();
    let mut report = Report::default();
    for (number, group) in all.chunks(n_together).enumerate() {
        let mut group = Group::new(group, number * n_together, chunks.first_scored(), n_vocab);
        let sequences = steps::create(engine, group.runs.len());
        let theirs = match &mut teacher {
            Teacher::Engine(teacher) => steps::create(teacher, group.runs.len()),
            Teacher::Nobody | Teacher::File(_) => Vec::new(),
        };
        let result = steps::plan(&group.runs, room).iter().try_for_each(|pieces| {
            let beside = group.teach(&mut teacher, &theirs, pieces)?;
            group.step(engine, &sequences, pieces, beside, save.as_deref_mut())
        });
        steps::remove(engine, &sequences);
        if let Teacher::Engine(teacher) = &mut teacher {
            steps::remove(teacher, &theirs);
        }
        result?;
        for scores in &group.scores {
            scores.iter().for_each(|score| report.add(score));
            report.n_chunks += 1;
            if let Some(on_chunk) = &mut on_chunk
                && on_chunk(&report).is_break()
            {
                return Err(EvalError::Stopped);
            }
        }
    }
    Ok(report)
}

/// Checks that all have the same vocabulary; says what fits the steps of model and teacher.
fn check(
    engine: &Engine,
    teacher: &Teacher<'_>,
    save: Option<&LogitsWriter>,
) -> Result<Room, EvalError> {
    let model = engine.decoder().n_out();
    let (n_vocab, room) = match teacher {
        Teacher::Nobody => (model, Room::of(engine)),
        Teacher::File(file) => (file.n_vocab(), Room::of(engine)),
        Teacher::Engine(teacher) => {
            (teacher.decoder().n_out(), Room::of(engine).min(Room::of(teacher)))
        }
    };
    let saved = save.map_or(model, LogitsWriter::n_vocab);
    match [n_vocab, saved].into_iter().find(|&n| n != model) {
        Some(teacher) => Err(EvalError::Vocabulary { model, teacher }),
        None => Ok(room),
    }
}

/// Checks that a model has all tokens; a step asks for its own, but not for those that follow them.
pub(super) fn check_tokens<'t>(
    mut tokens: impl Iterator<Item = &'t u32>,
    n_vocab: usize,
) -> Result<(), EvalError> {
    match tokens.find(|&&id| id as usize >= n_vocab) {
        Some(&id) => Err(StepError::TokenId { id, n_vocab }.into()),
        None => Ok(()),
    }
}

/// Chunks that the budget of an engine's cache has room for at a time, at most [`GROUP`].
fn together(engine: &Engine, chunks: &Chunks) -> usize {
    let (kv, max_batch) = (engine.decoder().kv(), engine.decoder().max_batch());
    (kv.kv_bytes_max() / kv.bytes_of(chunks.n_ctx(), max_batch).max(1)).clamp(1, GROUP)
}

/// Chunks that go through the model together.
struct Group<'a> {
    /// The chunks without their last tokens, which predict nothing here.
    runs: Vec<Run<'a>>,
    /// The whole chunks.
    chunks: &'a [&'a [u32]],
    /// Number of the first one.
    first: usize,
    n_vocab: usize,
    /// Scores of each chunk so far.
    scores: Vec<Vec<Score>>,
    /// The teacher's rows for a step.
    rows: Vec<f32>,
    ops: &'static FloatOps,
}

impl<'a> Group<'a> {
    fn new(chunks: &'a [&'a [u32]], first: usize, wanted_from: usize, n_vocab: usize) -> Group<'a> {
        let run = |chunk: &&'a [u32]| Run { tokens: &chunk[..chunk.len() - 1], wanted_from };
        let ops = KernelTable::detect().float();
        let runs: Vec<Run<'a>> = chunks.iter().map(run).collect();
        let scores = vec![Vec::new(); runs.len()];
        Group { runs, chunks, first, n_vocab, scores, rows: Vec::new(), ops }
    }

    /// The tokens that follow those which want logits.
    fn targets(&self, pieces: &[Piece]) -> Vec<u32> {
        let wanted = pieces.iter().filter(|piece| piece.wanted);
        wanted.flat_map(|p| &self.chunks[p.run][p.at.start + 1..p.at.end + 1]).copied().collect()
    }

    /// Takes the teacher's rows for a step; `false` without a teacher.
    fn teach(
        &mut self,
        teacher: &mut Teacher<'_>,
        sequences: &[SeqId],
        pieces: &[Piece],
    ) -> Result<bool, EvalError> {
        let n = self.targets(pieces).len() * self.n_vocab;
        self.rows.clear();
        memory::reserve(&mut self.rows, n, "the teacher's logits")
            .map_err(|error| EvalError::Engine(EngineError::Memory(error)))?;
        match teacher {
            Teacher::Nobody => return Ok(false),
            Teacher::Engine(teacher) => {
                let Group { runs, rows, .. } = self;
                teacher.lead(|stepper| {
                    rows.extend_from_slice(steps::step(stepper, sequences, runs, pieces)?);
                    Ok::<_, EvalError>(())
                })?;
            }
            Teacher::File(file) => {
                self.rows.resize(n, 0.0);
                let mut rows = &mut self.rows[..];
                for piece in pieces.iter().filter(|piece| piece.wanted) {
                    let (own, others) = rows.split_at_mut(piece.at.len() * self.n_vocab);
                    let row = piece.at.start - self.runs[piece.run].wanted_from;
                    file.read(self.first + piece.run, row, own)?;
                    rows = others;
                }
            }
        }
        Ok(true)
    }

    /// Makes a step and scores its rows.
    fn step(
        &mut self,
        engine: &mut Engine,
        sequences: &[SeqId],
        pieces: &[Piece],
        beside: bool,
        save: Option<&mut LogitsWriter>,
    ) -> Result<(), EvalError> {
        let (n_threads, targets) = (engine.n_threads(), self.targets(pieces));
        let Group { runs, rows: taught, scores, first, n_vocab, ops, .. } = self;
        let taught = beside.then_some(&taught[..]);
        engine.lead(|stepper| {
            let rows = &*steps::step(stepper, sequences, runs, pieces)?;
            let found = score_rows(rows, &targets, taught, ops, n_threads)?;
            let (mut found, mut rows) = (&found[..], rows);
            let mut save = save;
            for Piece { run, at, .. } in pieces.iter().filter(|piece| piece.wanted) {
                let (own, others) = found.split_at(at.len());
                let (own_rows, other_rows) = rows.split_at(at.len() * *n_vocab);
                let chunk = *first + run;
                let is_bad = |score: &Score| {
                    let beside = score.beside.map_or(0.0, |beside| beside.kl + beside.nll);
                    !(score.nll + beside).is_finite()
                };
                if let Some(bad) = own.iter().position(is_bad) {
                    return Err(EvalError::NotFinite { chunk, position: at.start + bad });
                }
                if let Some(save) = &mut save {
                    save.write(chunk, at.start - runs[*run].wanted_from, own_rows)?;
                }
                scores[*run].extend_from_slice(own);
                (found, rows) = (others, other_rows);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let mut perplexity = Perplexity::default();
        assert_eq!((perplexity.error(), perplexity.tokens()), (0.0, 0));
        [1.0, 2.0, 6.0].into_iter().for_each(|nll| perplexity.add(nll));
        assert!((perplexity.value() - 3.0_f64.exp()).abs() < 1e-12);
        let error = (14.0_f64 / 3.0 / 2.0).sqrt() * 3.0_f64.exp();
        assert!((perplexity.error() - error).abs() < 1e-9);
    }
}
