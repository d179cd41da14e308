//! Repeat, frequency and presence penalties over the last tokens.
//!
//! The repeat penalty is Keskar et al. 2019 (CTRL, §4.1) with the sign rule every runtime uses;
//! frequency and presence are OpenAI's. Cost: one update per distinct recent token.

use super::{
    Candidates, Field, Filter, FilterDef, History, Param, Place, REPEAT_LAST_N_MAX, Rng,
    SampleError, SampleParams,
};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "penalties",
    other_names: &[],
    place: Place::Listed,
    params: &[
        Param {
            name: "repeat_penalty",
            flag: "repeat-penalty",
            help: "Make recent tokens this much less likely; 1 is off",
            field: Field::Number {
                min: 0.125,
                max: 100.0,
                get: |p| f64::from(p.repeat_penalty),
                set: |p, value| p.repeat_penalty = value as f32,
            },
        },
        Param {
            name: "frequency_penalty",
            flag: "frequency-penalty",
            help: "Subtract this from a token's logit per recent occurrence",
            field: Field::Number {
                min: -100.0,
                max: 100.0,
                get: |p| f64::from(p.frequency_penalty),
                set: |p, value| p.frequency_penalty = value as f32,
            },
        },
        Param {
            name: "presence_penalty",
            flag: "presence-penalty",
            help: "Subtract this from a token's logit if it occurred recently",
            field: Field::Number {
                min: -100.0,
                max: 100.0,
                get: |p| f64::from(p.presence_penalty),
                set: |p, value| p.presence_penalty = value as f32,
            },
        },
        Param {
            name: "repeat_last_n",
            flag: "repeat-last-n",
            help: "How many tokens back the penalties look; 0 is off",
            field: Field::Integer {
                min: 0,
                max: REPEAT_LAST_N_MAX as i64,
                get: |p| p.repeat_last_n as i64,
                set: |p, value| p.repeat_last_n = value as usize,
            },
        },
    ],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let SampleParams { repeat_penalty: repeat, repeat_last_n: last_n, .. } = *params;
    let (per_count, once) = (params.frequency_penalty, params.presence_penalty);
    let on = last_n > 0 && (repeat != 1.0 || per_count != 0.0 || once != 0.0);
    let penalties = Penalties { repeat, per_count, once, history: History::new(last_n) };
    on.then(|| Box::new(penalties) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Penalties {
    repeat: f32,
    per_count: f32,
    once: f32,
    history: History,
}

impl Filter for Penalties {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        for (token, count) in self.history.counts() {
            candidates.change(token, |logit| {
                let scaled = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
                // Finite stays finite: infinities mean "forbidden" or "broken model".
                (scaled - count as f32 * self.per_count - self.once).clamp(f32::MIN, f32::MAX)
            });
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        self.history.push(token);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_distribution, filtered};
    use super::*;

    #[test]
    fn each_penalty_follows_its_formula() {
        let off = SampleParams::default();
        // 3 has left the window of 4; 0 occurs twice, 1 once, and 9 is beyond the logits.
        let text = [3, 0, 9, 0, 1];
        let after = |params: SampleParams| {
            let params = SampleParams { repeat_last_n: 4, ..params };
            let mut filter = build(&params).unwrap();
            text.iter().for_each(|&token| filter.accept(token));
            filtered(filter, &[4.0, -1.0, 2.5, 1.0])
        };
        // exp of [4/2, -1*2, 2.5, 1] is [7.389, 0.135, 12.182, 2.718], together 22.425.
        let repeat = SampleParams { repeat_penalty: 2.0, ..off.clone() };
        assert_distribution(&after(repeat), &[(0, 0.3295), (1, 0.0060), (2, 0.5433), (3, 0.1212)]);
        // exp of [4-2, -1-1, 2.5, 1], the same numbers.
        let frequency = SampleParams { frequency_penalty: 1.0, ..off.clone() };
        assert_distribution(
            &after(frequency),
            &[(0, 0.3295), (1, 0.0060), (2, 0.5433), (3, 0.1212)],
        );
        // exp of [4-1, -1-1, 2.5, 1] is [20.086, 0.135, 12.182, 2.718], together 35.121.
        let presence = SampleParams { presence_penalty: 1.0, ..off };
        assert_distribution(
            &after(presence),
            &[(0, 0.5719), (1, 0.0039), (2, 0.3469), (3, 0.0774)],
        );
    }

    #[test]
    fn forbidden_tokens_stay_forbidden_and_finite_ones_finite() {
        let params = SampleParams { presence_penalty: -100.0, ..SampleParams::default() };
        let mut filter = build(&params).unwrap();
        (0..3).for_each(|token| filter.accept(token));
        let left = filtered(filter, &[f32::NEG_INFINITY, f32::MAX, 0.0]);
        assert_distribution(&left, &[(1, 1.0), (2, 0.0)]);
    }

    #[test]
    fn defaults_and_an_empty_window_are_off() {
        assert!(build(&SampleParams::default()).is_none());
        let params = SampleParams { repeat_penalty: 2.0, repeat_last_n: 0, ..Default::default() };
        assert!(build(&params).is_none());
    }
}
