//! Min-p (Nguyen et al. 2024): only tokens at least p times as likely as the likeliest.

use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "min-p",
    other_names: &[],
    place: Place::Listed,
    params: &[Param {
        name: "min_p",
        flag: "min-p",
        help: "Choose among tokens at least this likely relative to the likeliest; 0 is off",
        field: Field::Number {
            min: 0.0,
            max: 1.0,
            get: |p| f64::from(p.min_p),
            set: |p, value| p.min_p = value as f32,
        },
    }],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    (params.min_p > 0.0).then(|| Box::new(MinP { p: params.min_p }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct MinP {
    p: f32,
}

impl Filter for MinP {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        candidates.keep_relative(self.p);
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_distribution, filtered};
    use super::*;

    #[test]
    fn tokens_are_measured_by_the_likeliest() {
        let logits = [0.1f32, 0.5, 0.3, 0.1].map(f32::ln);
        let with =
            |p| filtered(build(&SampleParams { min_p: p, ..Default::default() }).unwrap(), &logits);
        // The bound is 0.5 * 0.19, below 0.1.
        assert_distribution(&with(0.19), &[(0, 0.1), (1, 0.5), (2, 0.3), (3, 0.1)]);
        // 0.5 * 0.21, above 0.1: 0.5 and 0.3 of 0.8.
        assert_distribution(&with(0.21), &[(1, 0.625), (2, 0.375)]);
        assert_distribution(&with(1.0), &[(1, 1.0)]);
        assert!(build(&SampleParams { min_p: 0.0, ..Default::default() }).is_none());
    }
}
