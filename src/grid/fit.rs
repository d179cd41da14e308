//! A group of values as codes: whole numbers of steps, from zero or from the least value.

use super::precision::Precision;
use super::steps::{Sample, Steps, coarsest};
use half::f16;

/// Steps from zero at most: those of eight bits, wherever zero is among them.
const STEPS_MAX: f64 = 255.0;
/// Steps from the least value at most, where zero is no code: those of four bits.
const STEPS_ABOVE_MIN_MAX: f64 = 15.0;
/// Halves that are tried for a step: more than lie between its bounds, but for subnormal ones.
const HALVES_MAX: usize = 16;
/// Codes from which on floats of few bits may have several steps in common.
const AMBIGUOUS: i16 = 31;
/// Finer steps that are tried there.
const FINER_MAX: usize = 8;
/// Elements of a group that leave no room for a step too coarse.
const SURE: usize = 64;
/// Finer steps that are tried if no half has the step: codes may have a common divisor.
const DIVISORS: &[f64] = &[3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// Origin of codes: what they count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Zero: a value is a code times the scale, where codes may be negative.
    Zero,
    /// A minimum of each group, which is no multiple of the scale.
    Minimum,
}

/// A group's codes and scale.
#[derive(Clone, Debug, Default)]
pub(super) struct Fit {
    /// Steps from the origin.
    pub codes: Vec<i16>,
    /// Bounds of the step; `None`: all values are equal to the origin.
    pub steps: Option<Steps>,
    /// The least value, if codes count from it.
    pub least: f32,
    /// The mean of codes and that of values, likewise.
    middle: [f64; 2],
    /// Bits by which chance would have to be lucky, 0 at least.
    pub evidence: f64,
    samples: Vec<Sample>,
}

impl Fit {
    /// Finds the codes of a group; `false` if it has none. `evidence` is the precision that values may have.
    pub fn find(
        &mut self,
        values: &[f32],
        origin: Origin,
        precision: Precision,
        evidence: Precision,
    ) -> bool {
        self.codes.clear();
        (self.steps, self.evidence) = (None, 0.0);
        if values.iter().any(|x| !x.is_finite()) {
            return false;
        }
        self.least = values.iter().copied().fold(f32::INFINITY, f32::min);
        self.samples.clear();
        let half = |x: f32| {
            // Products are rounded to f32 first.
            let once = if precision == Precision::F32 { 0.5 } else { 0.5 + 1.0 / 4096.0 };
            if x == 0.0 { 0.0 } else { once * precision.ulp(x) }
        };
        let (least, of_least) = (f64::from(self.least), 2.0 * half(self.least));
        self.samples.extend(values.iter().map(|&x| match origin {
            Origin::Zero => Sample { x: f64::from(x.abs()), half: half(x) },
            // A difference of two that were rounded, of a sum of two.
            Origin::Minimum if x == self.least => Sample { x: 0.0, half: 0.0 },
            Origin::Minimum => Sample { x: f64::from(x) - least, half: 2.0 * half(x) + of_least },
        }));
        let max = match origin {
            Origin::Zero => STEPS_MAX,
            Origin::Minimum => STEPS_ABOVE_MIN_MAX,
        };
        if self.samples.iter().all(|sample| sample.x == 0.0) {
            self.codes.resize(values.len(), 0);
            return true;
        }
        let samples = std::mem::take(&mut self.samples);
        let mut first = None;
        let mut tries = 0;
        // Where few bits leave room for steps too coarse, that is seen by f16s that do not have them.
        let found = coarsest(&samples, max, &mut |steps| {
            first.get_or_insert(steps);
            tries += 1;
            self.take(values, &samples, (origin, steps));
            if tries > 1 && self.most() > i16::from(i8::MAX) + 1 {
                tries = FINER_MAX + 1;
            }
            let is_few = values.len() < SURE && precision != Precision::F32;
            let is_sure = !is_few || self.most() <= AMBIGUOUS;
            is_sure || tries > FINER_MAX || self.half(values, precision, 0).2
        });
        let best = found.filter(|_| tries <= FINER_MAX).or(first);
        if let Some(steps) = best {
            self.take(values, &samples, (origin, steps));
        }
        self.samples = samples;
        let Some(steps) = best else { return false };
        if origin == Origin::Minimum && !self.fit_line(values) {
            return false;
        }
        self.evidence = self.luck(values, steps.middle(), origin, evidence);
        true
    }

    /// Takes the codes for a step.
    fn take(&mut self, values: &[f32], samples: &[Sample], (origin, steps): (Origin, Steps)) {
        let by = 1.0 / steps.middle();
        self.codes.clear();
        self.codes.extend(values.iter().zip(samples).map(|(&value, sample)| {
            let code = (sample.x * by).round() as i16;
            if origin == Origin::Zero && value < 0.0 { -code } else { code }
        }));
        self.steps = Some(steps);
    }

    /// The largest code.
    fn most(&self) -> i16 {
        let (low, high) = self.range();
        high.max(-low)
    }

    /// Has the step be that of the line of least squares through codes and values, as differences from the
    /// least value say less; `false` if a value is more than an ulp away from it.
    fn fit_line(&mut self, values: &[f32]) -> bool {
        let n = values.len() as f64;
        let pairs = || self.codes.iter().zip(values).map(|(&c, &x)| (f64::from(c), f64::from(x)));
        let (code, value) = pairs().fold((0.0, 0.0), |(a, b), (c, x)| (a + c / n, b + x / n));
        let products = pairs().map(|(c, x)| ((c - code) * (x - value), (c - code) * (c - code)));
        let (both, square) = products.fold((0.0, 0.0), |(a, b), (p, q)| (a + p, b + q));
        let step = both / square;
        let far = |(c, x): (f64, f64)| (value + step * (c - code) - x).abs();
        let ok = pairs().zip(&self.samples).all(|(pair, sample)| {
            let slack = if sample.half == 0.0 { f64::INFINITY } else { sample.half };
            far(pair) <= slack
        });
        self.middle = [code, value];
        self.steps = Some(Steps { low: step, high: step });
        ok && step > 0.0
    }

    /// Bits by which the group is less likely than chance: a value between two multiples of the step has a
    /// place for each ulp, and one of them fits. Some choose the step, and prove nothing.
    fn luck(&self, values: &[f32], step: f64, origin: Origin, precision: Precision) -> f64 {
        let (mut sum, mut most, mut n) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (&x, sample) in values.iter().zip(&self.samples).filter(|(_, sample)| sample.x > 0.0) {
            let ulp = if x == 0.0 { sample.half } else { precision.ulp(x) };
            let bits = (step / ulp).log2().max(0.0);
            (sum, most, n) = (sum + bits, most.max(bits), n + 1.0);
        }
        let free = if origin == Origin::Zero { 1.0 } else { 2.0 };
        let guesses = STEPS_MAX.log2() + n.max(1.0).log2();
        // Whole bits: their sum is the same in any order.
        (sum - free * most - guesses).max(0.0).floor()
    }

    /// The least and the largest code; zero is one of those that count from it.
    pub fn range(&self) -> (i16, i16) {
        self.codes.iter().fold((0, 0), |(low, high), &code| (low.min(code), high.max(code)))
    }

    /// The scale in f16 that gives the values back, and how many finer steps are one of these; or else the
    /// nearest one, and `false`. Codes are not made larger than `max`.
    pub fn half(&self, values: &[f32], precision: Precision, max: i16) -> (f32, i16, bool) {
        let Some(steps) = self.steps else { return (0.0, 1, true) };
        let most = f64::from(self.most());
        let finer = DIVISORS.iter().filter(|&&divisor| most * divisor <= f64::from(max));
        for &divisor in std::iter::once(&1.0).chain(finer) {
            let gives = |&scale: &f32| {
                let scale = scale * divisor as f32;
                // A product of a half and a small number is exact.
                let value = |&code: &i16| precision.round(scale * f32::from(code));
                self.codes.iter().zip(values).all(|(code, &x)| value(code) == x)
            };
            let (low, high) = (steps.low / divisor, steps.high / divisor);
            if let Some(scale) = halves(low, high).into_iter().find(gives) {
                return (scale, divisor as i16, true);
            }
        }
        (f16::from_f64(steps.middle()).to_f32(), 1, false)
    }

    /// Scale and minimum in f16, and what is added to codes, of a type with codes up to `max`: those that
    /// give the values back, or else the nearest ones, and `false`.
    pub fn half_with_min(
        &self,
        values: &[f32],
        (origin, precision): (Origin, Precision),
        max: i16,
    ) -> ([f32; 2], i16, bool) {
        let (low, high) = self.range();
        let steps = self.steps.unwrap_or(Steps { low: 0.0, high: 0.0 });
        let scales = match origin {
            Origin::Zero => halves(steps.low, steps.high),
            Origin::Minimum => around(steps.middle()),
        };
        let nearest = [f16::from_f64(steps.middle()).to_f32()];
        let mut best = ([0.0; 2], 0, f64::INFINITY);
        for &scale in if scales.is_empty() { &nearest[..] } else { &scales[..] } {
            for add in -low..=max - high {
                let wanted = match origin {
                    Origin::Zero => -f64::from(scale) * f64::from(add),
                    Origin::Minimum if self.steps.is_none() => f64::from(self.least),
                    Origin::Minimum => {
                        let [code, value] = self.middle;
                        value - f64::from(scale) * (code + f64::from(add))
                    }
                };
                let nearest = [f16::from_f64(wanted).to_f32()];
                let mins = if origin == Origin::Zero { nearest.to_vec() } else { around(wanted) };
                for min in mins {
                    let value = |&code: &i16| precision.round(scale * f32::from(code + add) + min);
                    if self.codes.iter().zip(values).all(|(code, &x)| value(code) == x) {
                        return ([scale, min], add, true);
                    }
                }
                let far = f64::from(scale) - steps.middle();
                let error =
                    (f64::from(nearest[0]) - wanted).abs() + far.abs() * f64::from(high - low);
                if error < best.2 {
                    best = ([scale, nearest[0]], add, error);
                }
            }
        }
        (best.0, best.1, false)
    }
}

/// Halves next to a number, the nearest first.
fn around(x: f64) -> Vec<f32> {
    let nearest = f16::from_f64(x).to_bits();
    let all = [0, 1, -1, 2, -2].map(|step: i16| nearest.wrapping_add_signed(step));
    all.into_iter().map(|bits| f16::from_bits(bits).to_f32()).filter(|x| x.is_finite()).collect()
}

/// Halves between two bounds, those of few bits first: scales are made of such more often than not.
fn halves(low: f64, high: f64) -> Vec<f32> {
    let mut found: Vec<f32> = Vec::new();
    let middle = f16::from_f64((low + high) / 2.0).to_bits();
    let span = HALVES_MAX as u16 / 2;
    let all = middle.saturating_sub(span)..=middle.saturating_add(span);
    let within = |x: &f32| (low..=high).contains(&f64::from(*x)) && *x > 0.0;
    found.extend(all.map(|bits| f16::from_bits(bits).to_f32()).filter(within));
    let middle = (low + high) / 2.0;
    let distance = |x: f32| (f64::from(x) - middle).abs();
    found.sort_by(|&a, &b| {
        let zeros = |x: f32| f16::from_f32(x).to_bits().trailing_zeros();
        zeros(b).cmp(&zeros(a)).then(distance(a).total_cmp(&distance(b)))
    });
    found
}
