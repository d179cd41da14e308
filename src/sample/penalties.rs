//! Repeat, frequency and presence penalties over the last tokens.
//!
//! The repeat penalty is Keskar et al. 2019 (CTRL, §4.1) with the sign rule every runtime uses;
//! frequency and presence are OpenAI's. Cost: one update per distinct recent token.

use super::{Candidates, Filter, History, Param, REPEAT_LAST_N_MAX, SampleParams};

pub(super) const FILTER: Filter = Filter {
    name: "penalties",
    params: &[
        Param {
            name: "repeat_penalty",
            flag: "repeat-penalty",
            help: "Make recent tokens this much less likely; 1 is off",
            min: 0.125,
            max: 100.0,
            integer: false,
            get: |p| f64::from(p.repeat_penalty),
            set: |p, value| p.repeat_penalty = value as f32,
        },
        Param {
            name: "frequency_penalty",
            flag: "frequency-penalty",
            help: "Subtract this from a token's logit per recent occurrence",
            min: -100.0,
            max: 100.0,
            integer: false,
            get: |p| f64::from(p.frequency_penalty),
            set: |p, value| p.frequency_penalty = value as f32,
        },
        Param {
            name: "presence_penalty",
            flag: "presence-penalty",
            help: "Subtract this from a token's logit if it occurred recently",
            min: -100.0,
            max: 100.0,
            integer: false,
            get: |p| f64::from(p.presence_penalty),
            set: |p, value| p.presence_penalty = value as f32,
        },
        Param {
            name: "repeat_last_n",
            flag: "repeat-last-n",
            help: "How many tokens back the penalties look; 0 is off",
            min: 0.0,
            max: REPEAT_LAST_N_MAX as f64,
            integer: true,
            get: |p| p.repeat_last_n as f64,
            set: |p, value| p.repeat_last_n = value as usize,
        },
    ],
    apply,
};

fn apply(params: &SampleParams, history: &History, candidates: &mut Candidates<'_>) {
    let (repeat, per_count, once) =
        (params.repeat_penalty, params.frequency_penalty, params.presence_penalty);
    if repeat == 1.0 && per_count == 0.0 && once == 0.0 {
        return;
    }
    for (token, count) in history.counts() {
        candidates.change(token, |logit| {
            let scaled = if logit <= 0.0 { logit * repeat } else { logit / repeat };
            // Finite stays finite: infinities mean "forbidden" or "broken model".
            (scaled - count as f32 * per_count - once).clamp(f32::MIN, f32::MAX)
        });
    }
}
