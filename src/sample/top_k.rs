//! Top-k (Fan et al. 2018): only the k likeliest tokens.

use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "top-k",
    other_names: &[],
    place: Place::Listed,
    params: &[Param {
        name: "top_k",
        flag: "top-k",
        help: "Choose among the k likeliest tokens; 0 is off",
        field: Field::Integer {
            min: 0,
            max: u32::MAX as i64,
            get: |p| p.top_k as i64,
            set: |p, value| p.top_k = value as usize,
        },
    }],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    (params.top_k > 0).then(|| Box::new(TopK { k: params.top_k }) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct TopK {
    k: usize,
}

impl Filter for TopK {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        if self.k < candidates.len() {
            candidates.keep_best(self.k);
        }
        Ok(())
    }

    fn keeps_best(&self) -> bool {
        true
    }

    fn takes_best(&self) -> Option<usize> {
        Some(self.k)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_distribution, filtered};
    use super::*;

    #[test]
    fn k_tokens_share_the_probability() {
        let logits = [0.1f32, 0.4, 0.2, 0.2, 0.1].map(f32::ln);
        let with =
            |k| filtered(build(&SampleParams { top_k: k, ..Default::default() }).unwrap(), &logits);
        assert_distribution(&with(1), &[(1, 1.0)]);
        // 0.4 and 0.2 of 0.6: the lower id of two that are equal.
        assert_distribution(&with(2), &[(1, 0.66667), (2, 0.33333)]);
        assert_distribution(&with(3), &[(1, 0.5), (2, 0.25), (3, 0.25)]);
        let all = [(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.2), (4, 0.1)];
        assert_distribution(&with(5), &all);
        assert_distribution(&with(u32::MAX as usize), &all);
        assert!(build(&SampleParams { top_k: 0, ..Default::default() }).is_none());
    }
}
