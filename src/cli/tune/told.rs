//! What `teff tune` tells.

use super::TuneArgs;
use super::data::Dataset;
use crate::cli::progress::{Told, clear_line};
use crate::cli::{CliError, note};
use crate::model::describe::counted;
use crate::tune::{Report, Sequence, Tuner};
use gguf_rs_lite::GgmlType;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

/// Figures of the line of progress.
#[derive(Default)]
pub(super) struct Figures {
    pub step: u64,
    pub loss: f64,
    pub norm: f64,
    /// Held-out loss before the first step, if it is known.
    pub before: Option<f64>,
}

impl Figures {
    /// Tells of a measurement.
    pub fn note(&mut self, step: u64, steps: u64, loss: f64) {
        clear_line();
        note(format_args!("{}", self.measured(step, steps, loss)));
    }

    /// The line of a measurement, with its change since the first, whoever made that.
    fn measured(&mut self, step: u64, steps: u64, loss: f64) -> String {
        let change = self
            .before
            .map_or(String::new(), |before| format!(" ({:+.1} %)", 100.0 * (loss / before - 1.0)));
        self.before.get_or_insert(loss);
        format!("step {step} of {steps}: held-out loss {loss:.5}{change}")
    }

    /// The line of progress.
    pub fn line(&self, steps: u64, told: &Told) -> String {
        let Figures { step, loss, norm, .. } = self;
        let Told { left, .. } = told;
        format!("{step} of {steps} steps, loss {loss:.4}, gradient {norm:.2e}{left}")
    }
}

impl TuneArgs {
    /// Tells of matrices that stay as they are for their types.
    pub(super) fn tell_fixed(&self, tuner: &Tuner) {
        let mut types: Vec<(GgmlType, u64)> = Vec::new();
        for (_, ty) in tuner.fixed() {
            match types.iter_mut().find(|known| known.0 == ty) {
                Some((_, n)) => *n += 1,
                None => types.push((ty, 1)),
            }
        }
        for (ty, n) in types {
            let why = match ty.block_len() {
                1 => "has no scales",
                _ => "has scales that no step moves",
            };
            note(format_args!("not trained: {} of {ty}, which {why}", counted(n, "matrix")));
        }
    }

    /// Tells what would be trained.
    pub(super) fn tell_plan(
        &self,
        tuner: &Tuner,
        dataset: &Dataset,
        out: &mut dyn Write,
    ) -> Result<(), CliError> {
        let n = dataset.train.iter().map(Sequence::n_counted).sum::<usize>();
        let held_out = dataset.held_out.iter().map(Sequence::n_counted).sum::<usize>();
        if self.json {
            let names: Vec<_> =
                tuner.names().map(|(name, n)| json!({"name": name, "numbers": n})).collect();
            let plan = json!({
                "trained": tuner.n_trained(), "tensors": names, "parameters": self.parameters(),
                "sequences": dataset.train.len(), "predictions": n, "held_out": held_out,
                "fixed": tuner.fixed().map(|(name, _)| name).collect::<Vec<_>>(),
            });
            writeln!(out, "{plan}")?;
            return Ok(());
        }
        for (name, n) in tuner.names() {
            writeln!(out, "{name}  {n}")?;
        }
        writeln!(
            out,
            "{} of {}, {} of {} to learn from, {held_out} to measure; {}",
            counted(tuner.n_trained(), "number"),
            counted(tuner.names().count(), "tensor"),
            counted(n, "prediction"),
            counted(dataset.train.len(), "sequence"),
            self.parameters()
        )?;
        Ok(())
    }

    /// Tells what came of it.
    pub(super) fn tell(
        &self,
        tuner: &Tuner,
        report: &Report,
        start: Instant,
        out: &mut dyn Write,
    ) -> Result<(), CliError> {
        let seconds = start.elapsed().as_secs_f64();
        let what = if self.teacher.is_some() { "divergence" } else { "loss" };
        if self.json {
            let told = json!({
                "output": self.output.display().to_string(), "written": report.best.is_some(),
                "loss": what, "before": report.before, "after": report.best.map(|(loss, _)| loss),
                "best_step": report.best.map(|(_, step)| step), "steps": self.steps,
                "trained": tuner.n_trained(), "measured": report.n, "seconds": seconds,
            });
            writeln!(out, "{told}")?;
        }
        let Report { before, best, n } = report;
        let n = counted(*n, "prediction");
        match best {
            Some(_) if self.json => {}
            Some((after, step)) => writeln!(
                out,
                "{}: {what} {before:.5} -> {after:.5} ({:+.1} %) on {n} that were not \
                 learned from, behind step {step} of {}, {seconds:.0} s",
                self.output.display(),
                100.0 * (after / before - 1.0),
                self.steps
            )?,
            None => {
                return Err(CliError::failed(format!(
                    "nothing was written: the {what} of {before:.5} on {n} that were not \
                     learned from did not become less, {seconds:.0} s"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_since_the_first_step() {
        let mut told = Figures::default();
        assert_eq!(told.measured(0, 200, 2.0), "step 0 of 200: held-out loss 2.00000");
        assert!(told.measured(50, 200, 1.5).ends_with("1.50000 (-25.0 %)"));
        // As a process has it that goes on.
        let mut told = Figures { before: Some(2.0), ..Figures::default() };
        assert!(told.measured(100, 200, 1.0).ends_with("1.00000 (-50.0 %)"));
    }
}
