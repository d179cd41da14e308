//! Temperature: logits divided by t. Runs last, and the chain is greedy at 0, so t > 0 here.

use super::{Filter, Param};

pub(super) const FILTER: Filter = Filter {
    name: "temperature",
    params: &[Param {
        name: "temperature",
        flag: "temp",
        help: "Flatten (above 1) or sharpen (below 1) the distribution; 0 is greedy",
        min: 0.0,
        max: 1000.0,
        integer: false,
        get: |p| f64::from(p.temperature),
        set: |p, value| p.temperature = value as f32,
    }],
    apply: |params, _, candidates| {
        if params.temperature != 1.0 {
            // Relative to the best one, so that a tiny t gives negative infinity, never NaN.
            let best = candidates.best().logit;
            candidates.map(|logit| (logit - best) / params.temperature);
        }
    },
};
