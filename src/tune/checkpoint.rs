//! How far training is, kept in a GGUF file.

use super::TuneError;
use super::adamw::{Moments, Schedule};
use super::machine::zeros;
use super::parameters::Gradients;
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter, OwnedValue, PartFile, Value};
use std::path::Path;

/// Key that says what is trained, on what and how.
const KEY: &str = "teff.tune.key";
const STEP: &str = "teff.tune.step";
const LOSSES: &str = "teff.tune.losses";

/// Best values so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    pub loss: f64,
    pub step: u64,
    pub values: Vec<Vec<f32>>,
}

/// How far training is: steps, parameters, what the optimizer remembers, and what was best so far.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(super) step: u64,
    pub(super) values: Vec<Vec<f32>>,
    moments: Vec<Moments>,
    /// Loss before the first step.
    pub(super) before: Option<f64>,
    pub(super) best: Option<Best>,
}

impl State {
    /// Before the first step, with these values.
    pub fn new(values: Vec<Vec<f32>>) -> State {
        let moments = values.iter().map(|values| Moments::new(values.len())).collect();
        State { step: 0, values, moments, before: None, best: None }
    }

    /// Mean loss before the first step on what is not learned from, if it was measured.
    pub fn before(&self) -> Option<f64> {
        self.before
    }

    /// Steps that were made.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Makes a step; returns the gradients' length before they were cut.
    pub(super) fn advance(&mut self, gradients: &Gradients, schedule: &Schedule) -> f64 {
        let norm = gradients.norm();
        let factor = if norm > schedule.clip { schedule.clip / norm } else { 1.0 };
        let all = self.values.iter_mut().zip(&mut self.moments).zip(&gradients.0);
        for ((values, moments), gradients) in all {
            moments.step(values, gradients, factor, self.step, schedule);
        }
        self.step += 1;
        norm
    }

    /// All numbers with their names: of values and moments, and of the best values if there are some.
    fn tensors(&self) -> Vec<(String, &[f32])> {
        let mut all: Vec<(String, &[f32])> = Vec::new();
        for (i, (values, moments)) in self.values.iter().zip(&self.moments).enumerate() {
            all.push((format!("{i}.values"), values));
            all.push((format!("{i}.mean"), &moments.mean));
            all.push((format!("{i}.square"), &moments.square));
        }
        for (i, values) in self.best.iter().flat_map(|best| &best.values).enumerate() {
            all.push((format!("{i}.best"), values));
        }
        all
    }

    /// Bytes that a checkpoint takes, about.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.values.iter().map(Vec::len).sum();
        4 * 4 * values as u64
    }

    /// Writes a checkpoint of training of the number `key`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, key: u64) -> Result<(), TuneError> {
        let part = PartFile::create(path)?;
        let mut writer = GgufWriter::new(std::io::BufWriter::new(part.file()));
        writer.add(KEY, OwnedValue::U64(key))?;
        writer.add(STEP, OwnedValue::U64(self.step))?;
        let best = self.best.as_ref().map_or([f64::NAN, 0.0], |best| [best.loss, best.step as f64]);
        writer.add(LOSSES, vec![self.before.unwrap_or(f64::NAN), best[0], best[1]])?;
        let tensors = self.tensors();
        for (name, values) in &tensors {
            writer.declare(&name[..], GgmlType::F32, &[values.len() as u64])?;
        }
        let mut data = writer.write_header()?;
        for (_, values) in tensors {
            for values in values.chunks(1 << 16) {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                data.write_chunk(&bytes)?;
            }
        }
        data.finish()?;
        Ok(part.finish()?)
    }

    /// Reads a checkpoint of training of the number `key`, of parameters as this has.
    ///
    /// # Errors
    /// The file cannot be read, or is of something else.
    pub fn load(&mut self, path: &Path, key: u64) -> Result<(), TuneError> {
        let file = GgufFile::open(path)?;
        let foreign = || TuneError::Foreign(path.to_owned());
        let whole = |name: &str| file.get(name).and_then(|value| value.as_u64());
        if whole(KEY) != Some(key) {
            return Err(foreign());
        }
        let number = |value: Value<'_>| if let Value::F64(x) = value { Some(x) } else { None };
        let losses = file
            .get(LOSSES)
            .and_then(|value| value.as_array()?.iter().map(number).collect::<Option<Vec<f64>>>());
        let (Some(step), Some(&[before, best, best_step])) = (whole(STEP), losses.as_deref())
        else {
            return Err(foreign());
        };
        let read = |name: String, n: usize| {
            let info = file.tensor(&name).ok_or_else(foreign)?;
            if info.ty != GgmlType::F32 || info.dims != [n as u64] {
                return Err(foreign());
            }
            let mut values = zeros(n)?;
            for (x, bytes) in values.iter_mut().zip(file.data(info).as_chunks().0) {
                *x = f32::from_le_bytes(*bytes);
            }
            Ok::<Vec<f32>, TuneError>(values)
        };
        let lengths: Vec<usize> = self.values.iter().map(Vec::len).collect();
        let mut own = State::new(Vec::new());
        let mut best_values = Vec::new();
        for (i, n) in lengths.into_iter().enumerate() {
            own.values.push(read(format!("{i}.values"), n)?);
            let [mean, square] = [read(format!("{i}.mean"), n)?, read(format!("{i}.square"), n)?];
            own.moments.push(Moments { mean, square });
            if !best.is_nan() {
                best_values.push(read(format!("{i}.best"), n)?);
            }
        }
        (own.step, own.before) = (step, Some(before).filter(|loss| !loss.is_nan()));
        if !best.is_nan() {
            own.best = Some(Best { loss: best, step: best_step as u64, values: best_values });
        }
        *self = own;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_what_it_was_made_of() {
        let name = format!("teff-checkpoint-{}.gguf", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut state = State::new(vec![vec![1.0, 2.0], vec![3.0]]);
        let schedule = Schedule { steps: 3, warmup: 0, rate: 0.1, decay: 0.1, clip: 0.5 };
        state.advance(&Gradients(vec![vec![0.5, -1.0], vec![0.0]]), &schedule);
        for best in [None, Some(Best { loss: 0.5, step: 1, values: state.values.clone() })] {
            state.best = best;
            state.before = Some(0.75);
            state.save(&path, 7).unwrap();
            let mut read = State::new(vec![vec![0.0; 2], vec![0.0]]);
            read.load(&path, 7).unwrap();
            assert_eq!(read, state);
        }
        let mut other = State::new(vec![vec![0.0; 2], vec![0.0]]);
        assert!(matches!(other.load(&path, 8), Err(TuneError::Foreign(_))));
        let mut longer = State::new(vec![vec![0.0; 3], vec![0.0]]);
        assert!(matches!(longer.load(&path, 7), Err(TuneError::Foreign(_))));
        std::fs::remove_file(path).unwrap();
    }
}
