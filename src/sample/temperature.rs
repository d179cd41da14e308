//! Temperature: logits divided by t. Runs last by default; at 0 the likeliest token is left alone.

use super::{Candidates, Field, Filter, FilterDef, Param, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "temperature",
    params: &[Param {
        name: "temperature",
        flag: "temp",
        help: "Flatten (above 1) or sharpen (below 1) the distribution; 0 is greedy",
        field: Field::Number {
            min: 0.0,
            max: 1000.0,
            get: |p| f64::from(p.temperature),
            set: |p, value| p.temperature = value as f32,
        },
    }],
    build,
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    (params.temperature != 1.0)
        .then(|| Box::new(Temperature { t: params.temperature }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Temperature {
    t: f32,
}

impl Filter for Temperature {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        if self.t == 0.0 {
            candidates.keep_best(1);
        } else if let Some(best) = candidates.best() {
            // Relative to the best one, so that a tiny t gives negative infinity, never NaN.
            candidates.map(|logit| (logit - best.logit) / self.t);
        }
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }

    fn takes_best(&self) -> bool {
        self.t == 0.0
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
        assert!(greedy.takes_best());
        assert_distribution(&filtered(greedy, &[1.0, 2.0, 2.0]), &[(1, 1.0)]);
    }
}
