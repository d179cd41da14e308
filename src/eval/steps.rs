//! Sequences on their way through a model, several in a step: the plan of steps is made first, so
//! that two models can follow the same one and be compared row by row.

use super::EvalError;
use crate::decoder::{Outputs, SequenceChunk, Stepper};
use crate::engine::Engine;
use crate::kv::SeqId;
use std::ops::Range;

/// Tokens of a sequence, of which all from a position on want logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// Tokens of the run.
    pub tokens: &'a [u32],
    /// Position of the first one that wants logits.
    pub wanted_from: usize,
}

/// Part of a run in a step; its tokens want logits all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Number of the run.
    pub run: usize,
    /// Positions of the tokens.
    pub at: Range<usize>,
    /// Whether they want logits.
    pub wanted: bool,
}

/// Room of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Tokens.
    pub tokens: usize,
    /// Rows of logits.
    pub rows: usize,
}

impl Room {
    /// Room of an engine's steps.
    pub fn of(engine: &Engine) -> Room {
        let decoder = engine.decoder();
        Room { tokens: decoder.max_batch(), rows: decoder.max_outputs() }
    }

    /// Room of steps that both engines make.
    pub fn min(self, other: Room) -> Room {
        Room { tokens: self.tokens.min(other.tokens), rows: self.rows.min(other.rows) }
    }
}

/// Cuts runs into the pieces of steps: each step takes what fits of the first run, then of the next
/// one, at most one piece of each.
pub(super) fn plan(runs: &[Run<'_>], room: Room) -> Vec<Vec<Piece>> {
    let mut done = vec![0; runs.len()];
    let mut steps = Vec::new();
    loop {
        let mut left = room;
        let mut pieces = Vec::new();
        for (run, (Run { tokens, wanted_from }, done)) in runs.iter().zip(&mut done).enumerate() {
            let wanted = *done >= *wanted_from;
            let end = if wanted { tokens.len() } else { (*wanted_from).min(tokens.len()) };
            let most = if wanted { left.tokens.min(left.rows) } else { left.tokens };
            let n = (end - *done).min(most);
            if n == 0 {
                continue;
            }
            pieces.push(Piece { run, at: *done..*done + n, wanted });
            *done += n;
            left.tokens -= n;
            left.rows -= if wanted { n } else { 0 };
        }
        if pieces.is_empty() {
            return steps;
        }
        steps.push(pieces);
    }
}

/// Makes a step of a plan. Returns the rows of the pieces that want logits, in their order.
pub(super) fn step<'s>(
    stepper: &'s mut Stepper<'_>,
    sequences: &[SeqId],
    runs: &[Run<'_>],
    pieces: &[Piece],
) -> Result<&'s mut [f32], EvalError> {
    let chunk = |Piece { run, at, wanted }: &Piece| SequenceChunk {
        sequence: sequences[*run],
        tokens: &runs[*run].tokens[at.clone()],
        outputs: if *wanted { Outputs::All } else { Outputs::None },
    };
    let chunks: Vec<SequenceChunk<'_>> = pieces.iter().map(chunk).collect();
    Ok(stepper.step(&chunks)?)
}

/// New sequences, which [`remove`] takes away.
pub(super) fn create(engine: &mut Engine, n: usize) -> Vec<SeqId> {
    engine.lead(|stepper| (0..n).map(|_| stepper.kv_mut().create()).collect())
}

/// Forgets sequences.
pub(super) fn remove(engine: &mut Engine, sequences: &[SeqId]) {
    engine.lead(|stepper| sequences.iter().for_each(|&id| stepper.kv_mut().remove(id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token once, in order, within what fits, and logits of those that want them.
    #[test]
    fn plans_cover_all_tokens_within_the_room() {
        let tokens = [0; 40];
        for (lens, room) in [
            (vec![(11, 5), (11, 5)], [12, 12]),
            (vec![(11, 5), (11, 5)], [12, 2]),
            (vec![(40, 30), (1, 0), (9, 9), (0, 0)], [7, 3]),
            (vec![(3, 8)], [1, 1]),
        ] {
            let room = Room { tokens: room[0], rows: room[1] };
            let run = |&(n, wanted_from)| Run { tokens: &tokens[..n], wanted_from };
            let runs: Vec<Run<'_>> = lens.iter().map(run).collect();
            let mut done = vec![0; runs.len()];
            for pieces in plan(&runs, room) {
                let [mut n, mut rows] = [0; 2];
                for Piece { run, at, wanted } in pieces {
                    assert_eq!(at.start, done[run]);
                    assert_eq!(wanted, at.start >= runs[run].wanted_from);
                    assert!(wanted || at.end <= runs[run].wanted_from);
                    done[run] = at.end;
                    n += at.len();
                    rows += if wanted { at.len() } else { 0 };
                }
                assert!((1..=room.tokens).contains(&n) && rows <= room.rows);
            }
            assert_eq!(done, lens.iter().map(|len| len.0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn two_halves_fill_a_step() {
        let run = Run { tokens: &[0; 511], wanted_from: 256 };
        let steps = plan(&[run, run], Room { tokens: 512, rows: 512 });
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|pieces| pieces.len() == 2));
    }
}
