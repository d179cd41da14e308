//! Steps of training, and what they are worth on tokens that are not learned from.

use super::adamw::Schedule;
use super::checkpoint::{Best, State};
use super::{Score, Sequence, TeacherModel, TuneError, Tuner};
use crate::random::SplitMix64;
use std::sync::{Mutex, PoisonError};

/// How training goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Steps and their rates.
    pub schedule: Schedule,
    /// Sequences of a step, one after the other: their gradients add up.
    pub batch: usize,
    /// Steps from one measurement to the next; the last is always followed by one.
    pub eval_every: u64,
    /// Seed of the order of sequences.
    pub seed: u64,
}

/// Event of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A sequence was learned from or measured; work goes on in the middle of a step.
    Sequence,
    /// A step was made.
    Step {
        /// Steps that were made.
        step: u64,
        /// Mean loss of its predictions, in nats.
        loss: f64,
        /// Length of the gradients.
        norm: f64,
    },
    /// The loss was measured.
    Measured {
        /// Steps that were made.
        step: u64,
        /// Mean loss of predictions that are not learned from, in nats.
        loss: f64,
    },
}

/// Result of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Mean loss before, in nats, on sequences that were not learned from.
    pub before: f64,
    /// The least that was measured, and behind how many steps; `None` if none was below.
    pub best: Option<(f64, u64)>,
    /// Predictions that were measured.
    pub n: usize,
}

/// What is learned from, and what is measured.
#[derive(Clone, Copy)]
struct Data<'a> {
    learned: &'a [Sequence],
    held_out: &'a [Sequence],
}

/// Numbers below `n` in the order of an epoch.
fn order(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut random = SplitMix64::new(seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut numbers: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        numbers.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
    }
    numbers
}

impl Data<'_> {
    /// The sequences of a step.
    fn batch(&self, course: &Course, step: u64) -> Vec<&Sequence> {
        let n = self.learned.len() as u64;
        let first = step * course.batch as u64;
        let of = |at: u64| &self.learned[order(n as usize, course.seed, at / n)[(at % n) as usize]];
        (first..first + course.batch as u64).map(of).collect()
    }
}

/// The mean loss of what is not learned from.
fn measure(
    tuner: &Tuner,
    data: Data<'_>,
    teacher: &mut Option<&mut TeacherModel>,
    on: &mut dyn FnMut(Event) -> bool,
) -> Result<Score, TuneError> {
    let mut score = Score::default();
    for sequence in data.held_out {
        let rows = teacher.as_mut().map(|teacher| teacher.rows(&sequence.tokens)).transpose()?;
        score.add(tuner.score(sequence, rows.as_deref())?);
        if !on(Event::Sequence) {
            return Err(TuneError::Stopped);
        }
    }
    Ok(score)
}

/// Trains from where `state` is, which is whole whenever nobody holds it. `on` hears what happens and
/// returns whether to go on. In the end the tuner has the best parameters that were measured.
///
/// # Errors
/// There is nothing to learn from or to measure, the loss is no number, the teacher cannot answer or has
/// another vocabulary, or `on` said to stop.
pub fn train(
    tuner: &mut Tuner,
    (learned, held_out): (&[Sequence], &[Sequence]),
    mut teacher: Option<&mut TeacherModel>,
    course: &Course,
    state: &Mutex<State>,
    on: &mut dyn FnMut(Event) -> bool,
) -> Result<Report, TuneError> {
    let data = Data { learned, held_out };
    let has_any = |all: &[Sequence]| all.iter().any(|sequence| sequence.n_counted() > 0);
    if course.batch == 0 || !has_any(learned) || !has_any(held_out) {
        return Err(TuneError::NoData);
    }
    if let Some(teacher) = &teacher {
        teacher.check(tuner.n_vocab())?;
    }
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    tuner.set_values(&lock().values)?;
    let mut first = lock().step;
    if lock().before.is_none() {
        let loss = measure(tuner, data, &mut teacher, on)?.mean();
        lock().before = Some(loss);
        if !on(Event::Measured { step: 0, loss }) {
            return Err(TuneError::Stopped);
        }
    }
    while first < course.schedule.steps {
        let (loss, norm) = step(tuner, data, &mut teacher, course, state, on)?;
        first += 1;
        if !on(Event::Step { step: first, loss, norm }) {
            return Err(TuneError::Stopped);
        }
        if first.is_multiple_of(course.eval_every.max(1)) || first == course.schedule.steps {
            let loss = measure(tuner, data, &mut teacher, on)?.mean();
            note(&mut lock(), loss);
            if !on(Event::Measured { step: first, loss }) {
                return Err(TuneError::Stopped);
            }
        }
    }
    let state = lock();
    let values = state.best.as_ref().map_or(&state.values, |best| &best.values);
    tuner.set_values(values)?;
    let n = held_out.iter().map(Sequence::n_counted).sum();
    let best = state.best.as_ref().map(|best| (best.loss, best.step));
    Ok(Report { before: state.before.unwrap_or(f64::NAN), best, n })
}

/// Keeps what is better than all before.
fn note(state: &mut State, loss: f64) {
    let least = state.best.as_ref().map(|best| best.loss).or(state.before);
    if least.is_none_or(|least| loss < least) {
        let (step, values) = (state.step, state.values.clone());
        state.best = Some(Best { loss, step, values });
    }
}

/// Makes a step; returns the mean loss of its predictions and the length of its gradients.
fn step(
    tuner: &mut Tuner,
    data: Data<'_>,
    teacher: &mut Option<&mut TeacherModel>,
    course: &Course,
    state: &Mutex<State>,
    on: &mut dyn FnMut(Event) -> bool,
) -> Result<(f64, f64), TuneError> {
    let number = state.lock().unwrap_or_else(PoisonError::into_inner).step;
    let batch = data.batch(course, number);
    let counted: usize = batch.iter().map(|sequence| sequence.n_counted()).sum();
    let factor = 1.0 / counted.max(1) as f32;
    let mut score = Score::default();
    for sequence in batch {
        let rows = teacher.as_mut().map(|teacher| teacher.rows(&sequence.tokens)).transpose()?;
        score.add(tuner.learn(sequence, rows.as_deref(), factor)?);
        if !on(Event::Sequence) {
            return Err(TuneError::Stopped);
        }
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let norm = state.advance(&tuner.gradients, &course.schedule);
    tuner.set_values(&state.values)?;
    Ok((score.mean(), norm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_sequence_once() {
        let learned: Vec<Sequence> = (0..7).map(|i| Sequence::of_text(&[i, i])).collect();
        let data = Data { learned: &learned, held_out: &[] };
        let schedule = Schedule { steps: 1, warmup: 0, rate: 0.0, decay: 0.0, clip: 1.0 };
        let course = Course { schedule, batch: 3, eval_every: 1, seed: 5 };
        let seen: Vec<u32> = (0..7)
            .flat_map(|step| data.batch(&course, step))
            .map(|sequence| sequence.tokens[0])
            .collect();
        for epoch in seen.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert!(seen[..7] != seen[7..14]);
    }

    #[test]
    fn only_what_is_better_is_kept() {
        let mut state = State::new(vec![vec![1.0]]);
        state.before = Some(2.0);
        note(&mut state, 2.5);
        assert!(state.best.is_none());
        state.values = vec![vec![2.0]];
        note(&mut state, 1.5);
        state.values = vec![vec![3.0]];
        note(&mut state, 1.75);
        let best = state.best.unwrap();
        assert_eq!((best.loss, best.values), (1.5, vec![vec![2.0]]));
    }
}
