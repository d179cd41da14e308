//! Top-k (Fan et al. 2018): only the k likeliest tokens.

use super::{Filter, Param};

pub(super) const FILTER: Filter = Filter {
    name: "top-k",
    params: &[Param {
        name: "top_k",
        flag: "top-k",
        help: "Choose among the k likeliest tokens; 0 is off",
        min: 0.0,
        max: u32::MAX as f64,
        integer: true,
        get: |p| p.top_k as f64,
        set: |p, value| p.top_k = value as usize,
    }],
    apply: |params, _, candidates| {
        if params.top_k > 0 && params.top_k < candidates.len() {
            candidates.keep_best(params.top_k);
        }
    },
};
