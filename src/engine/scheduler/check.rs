//! Drafts in the steps of a scheduler: a request that generates alone has its draft computed behind its
//! last token, and what did not come true is taken back behind the step.

use super::super::EngineError;
use super::super::batch::Share;
use super::super::draft::DRAFT_MAX;
use super::{Outcome, Scheduler};
use crate::decoder::{StepError, Stepper};
use crate::kv::{KvError, SeqId};
use std::time::Instant;

/// A step of a request that generates alone.
pub(super) struct Check {
    /// The last token, and the draft behind it.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the sequence before the step.
    n_before: usize,
    /// The sequence as it was, where recurrent states may have to go back.
    fork: Option<SeqId>,
    /// Tokens that were generated before the step.
    n_generated: usize,
    start: Instant,
}

impl<'l> Scheduler<'l> {
    /// Has the request that generates alone draft what its next step checks; `None` if there is no such
    /// request.
    pub(super) fn make_draft(
        &mut self,
        stepper: &mut Stepper<'_>,
        shares: &[Share],
    ) -> Option<Check> {
        let is_alone = self.running.len() == 1 && self.suspects.is_empty();
        let ([Share { n_tokens: 1, draws: true, .. }], true) = (shares, is_alone) else {
            return None;
        };
        let has_states = !stepper.program().states.is_empty();
        let n_max = DRAFT_MAX.min(stepper.max_outputs().min(stepper.max_batch()) - 1);
        let task = &mut self.running[0];
        let sequence = task.sequence().filter(|_| !task.is_reading())?;
        task.make_draft(n_max, stepper.n_vocab(), self.draft_model.as_mut());
        let (kv, mut fork) = (stepper.kv_mut(), None);
        if has_states && !task.draft().is_empty() {
            fork = kv.fork(sequence, kv.len(sequence));
            if fork.is_none() {
                task.drop_draft();
            }
        }
        let tokens = [task.left(), task.draft()].concat();
        let n_generated = task.n_generated();
        Some(Check { tokens, n_before: kv.len(sequence), fork, n_generated, start: Instant::now() })
    }

    /// Takes back what a draft has added in vain, behind its step. `true`: the step was refused for
    /// want of memory, which it may not want without a draft.
    pub(super) fn settle_draft(
        &mut self,
        stepper: &mut Stepper<'_>,
        mut check: Check,
        result: &Result<Result<Outcome<'l>, StepError>, EngineError>,
    ) -> bool {
        let time = check.start.elapsed();
        let task = &mut self.running[0];
        let (kv, n_draft) = (stepper.kv_mut(), task.draft().len());
        if matches!(result, Ok(Ok(_))) {
            if let Some(sequence) = task.sequence()
                && !kv.truncate(sequence, task.n_done())
                // Recurrent states cannot be cut: those before the step are gone on from.
                && let Some(fork) = check.fork.take()
            {
                task.go_back_to(fork, check.n_before);
                kv.remove(sequence);
            }
            let n_new = task.n_generated() - check.n_generated;
            task.learn(n_new, time);
            (self.counters.n_drafted, self.counters.n_accepted) = (
                self.counters.n_drafted + n_draft as u64,
                self.counters.n_accepted + n_new.saturating_sub(1) as u64,
            );
        }
        if let Some(fork) = check.fork {
            kv.remove(fork);
        }
        let refused = matches!(
            result,
            Ok(Err(StepError::Memory(_) | StepError::Kv(KvError::OutOfBudget { .. })))
        );
        if n_draft > 0 && !matches!(result, Ok(Ok(_))) {
            self.running[0].give_drafts_up(refused);
        }
        if refused && n_draft > 0 {
            self.restore(stepper);
            return true;
        }
        false
    }
}
