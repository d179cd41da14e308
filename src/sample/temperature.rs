//! Temperature: logits divided by t. Runs last by default; at 0 the likeliest token is left alone.
//!
//! Dynamic temperature (kalomaze 2023, koboldcpp): t goes from `temperature - range` to
//! `temperature + range` as the entropy goes from none to that of equal probabilities, by a power of
//! that share.

use super::math::{ln, pow};
use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "temperature",
    other_names: &["temp"],
    place: Place::Listed,
    params: &[
        Param {
            name: "temperature",
            flag: "temp",
            help: "Flatten (above 1) or sharpen (below 1) the distribution; 0 is greedy",
            field: Field::Number {
                min: 0.0,
                max: 1000.0,
                get: |p| f64::from(p.temperature),
                set: |p, value| p.temperature = value as f32,
            },
        },
        Param {
            name: "dynatemp_range",
            flag: "dynatemp-range",
            help: "Let the temperature go up and down this far with the entropy; 0 is off",
            field: Field::Number {
                min: 0.0,
                max: 1000.0,
                get: |p| f64::from(p.dynatemp_range),
                set: |p, value| p.dynatemp_range = value as f32,
            },
        },
        Param {
            name: "dynatemp_exponent",
            flag: "dynatemp-exp",
            help: "Power of the entropy that the temperature follows",
            field: Field::Number {
                min: 0.0,
                max: 100.0,
                get: |p| f64::from(p.dynatemp_exponent),
                set: |p, value| p.dynatemp_exponent = value as f32,
            },
        },
    ],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let SampleParams { temperature: t, dynatemp_range: range, .. } = *params;
    if range > 0.0 {
        let exponent = f64::from(params.dynatemp_exponent);
        let [least, most] = [(t - range).max(0.0), t + range].map(f64::from);
        return Some(Box::new(Dynamic { least, most, exponent }));
    }
    (t != 1.0).then(|| Box::new(Temperature { t }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Temperature {
    t: f32,
}

impl Filter for Temperature {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        heat(candidates, self.t);
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }

    fn takes_best(&self) -> Option<usize> {
        (self.t == 0.0).then_some(1)
    }
}

#[derive(Clone, Debug)]
struct Dynamic {
    least: f64,
    most: f64,
    exponent: f64,
}

impl Filter for Dynamic {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        let n_allowed = candidates.n_allowed();
        let Some(weights) = candidates.weights().filter(|_| n_allowed > 1) else { return Ok(()) };
        let share = weights.entropy / ln(n_allowed as f64);
        let t = self.least + (self.most - self.least) * pow(share.clamp(0.0, 1.0), self.exponent);
        heat(candidates, t as f32);
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }
}

/// Divides the logits by `t`, by products, which take a third of the time of quotients.
fn heat(candidates: &mut Candidates<'_>, t: f32) {
    if t == 0.0 {
        candidates.keep_best(1);
    } else if let Some(best) = candidates.best() {
        // Relative to the best one, and finite, so that a tiny t gives negative infinity, never NaN.
        let factor = (1.0 / t).min(f32::MAX);
        candidates.map(|logit| (logit - best.logit) * factor);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_distribution, filtered};
    use super::*;

    #[test]
    fn probabilities_are_raised_to_one_over_t() {
        let logits = [0.2f32, 0.5, 0.3].map(f32::ln);
        let with = |t| {
            filtered(
                build(&SampleParams { temperature: t, ..Default::default() }).unwrap(),
                &logits,
            )
        };
        // Squares: 0.04, 0.25 and 0.09 of 0.38.
        assert_distribution(&with(0.5), &[(0, 0.10526), (1, 0.65789), (2, 0.23684)]);
        // Roots: 0.44721, 0.70711 and 0.54772 of 1.70204.
        assert_distribution(&with(2.0), &[(0, 0.26275), (1, 0.41545), (2, 0.32180)]);
        assert_distribution(&with(0.0), &[(1, 1.0)]);
        assert_distribution(&with(f32::MIN_POSITIVE), &[(0, 0.0), (1, 1.0), (2, 0.0)]);
        assert!(build(&SampleParams { temperature: 1.0, ..Default::default() }).is_none());
    }

    #[test]
    fn zero_takes_the_lowest_id_among_equals() {
        let greedy = build(&SampleParams::greedy()).unwrap();
        assert_eq!(greedy.takes_best(), Some(1));
        assert_distribution(&filtered(greedy, &[1.0, 2.0, 2.0]), &[(1, 1.0)]);
    }

    #[test]
    fn the_temperature_follows_the_entropy() {
        let with = |t, range, exponent, logits: &[f32]| {
            let (temperature, dynatemp_range, dynatemp_exponent) = (t, range, exponent);
            let params = SampleParams {
                temperature,
                dynatemp_range,
                dynatemp_exponent,
                ..Default::default()
            };
            filtered(build(&params).unwrap(), logits)
        };
        let logits = [0.9f32, 0.1].map(f32::ln);
        // The entropy is 0.32508 of 0.69315, a share of 0.46900; t is 0.5 + 0.46900 = 0.96900.
        // 0.9^(1/t) is 0.89697 and 0.1^(1/t) 0.09290.
        assert_distribution(&with(1.0, 0.5, 1.0, &logits), &[(0, 0.90615), (1, 0.09385)]);
        // The square of the share is 0.21996; t is 0.71996: 0.86387 and 0.04084.
        assert_distribution(&with(1.0, 0.5, 2.0, &logits), &[(0, 0.95486), (1, 0.04514)]);
        // A power of 0 is the highest temperature, 2: roots 0.94868 and 0.31623.
        assert_distribution(&with(1.0, 1.0, 0.0, &logits), &[(0, 0.75), (1, 0.25)]);
        // Equal probabilities have the most entropy, and stay equal; a forbidden token is no part.
        let equal = [1.0, 1.0, f32::NEG_INFINITY];
        assert_distribution(&with(1.0, 0.5, 1.0, &equal), &[(0, 0.5), (1, 0.5)]);
        assert_distribution(&with(0.0, 0.5, 1.0, &[7.0, f32::NEG_INFINITY]), &[(0, 1.0)]);
    }
}
