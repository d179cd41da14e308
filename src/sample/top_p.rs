//! Top-p, or nucleus sampling (Holtzman et al. 2019): the fewest tokens that hold p of the mass.

use super::{Filter, Param};

pub(super) const FILTER: Filter = Filter {
    name: "top-p",
    params: &[Param {
        name: "top_p",
        flag: "top-p",
        help: "Choose among the fewest tokens that hold this much probability; 1 is off",
        min: 0.0,
        max: 1.0,
        integer: false,
        get: |p| f64::from(p.top_p),
        set: |p, value| p.top_p = value as f32,
    }],
    apply: |params, _, candidates| {
        if params.top_p < 1.0 {
            candidates.keep_mass(params.top_p);
        }
    },
};
