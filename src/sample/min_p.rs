//! Min-p (Nguyen et al. 2024): only tokens at least p times as likely as the likeliest.

use super::{Filter, Param};

pub(super) const FILTER: Filter = Filter {
    name: "min-p",
    params: &[Param {
        name: "min_p",
        flag: "min-p",
        help: "Choose among tokens at least this likely relative to the likeliest; 0 is off",
        min: 0.0,
        max: 1.0,
        integer: false,
        get: |p| f64::from(p.min_p),
        set: |p, value| p.min_p = value as f32,
    }],
    apply: |params, _, candidates| {
        if params.min_p > 0.0 {
            candidates.keep_relative(params.min_p);
        }
    },
};
