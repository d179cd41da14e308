//! Mirostat 1 and 2 (Basu et al. 2020): a cut that moves so that the surprise of what is drawn nears
//! `tau` bits. Version 1 estimates the exponent of a Zipf distribution from the likeliest tokens and
//! cuts as top-k does; version 2 cuts at a surprise.
//!
//! It draws for itself and replaces what else would cut ([`REPLACED`]).

use std::f64::consts::LN_2;

use super::math::{exp, ln};
use super::{Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams};

/// Filters that do not run beside mirostat.
pub(super) const REPLACED: &[&str] = &["top-k", "typical", "top-p", "min-p"];

/// Tokens that the exponent is estimated from.
const N_TOP: usize = 100;

pub(super) const FILTER: FilterDef = FilterDef {
    name: "mirostat",
    other_names: &[],
    place: Place::Last,
    params: &[
        Param {
            name: "mirostat",
            flag: "mirostat",
            help: "Keep to a surprise by mirostat 1 or 2, not by top-k, typical, top-p and min-p; 0 is off",
            field: Field::Integer {
                min: 0,
                max: 2,
                get: |p| i64::from(p.mirostat),
                set: |p, value| p.mirostat = value as u8,
            },
        },
        Param {
            name: "mirostat_tau",
            flag: "mirostat-tau",
            help: "Surprise that mirostat keeps to, in bits",
            field: Field::Number {
                min: 0.0,
                max: 1000.0,
                get: |p| f64::from(p.mirostat_tau),
                set: |p, value| p.mirostat_tau = value as f32,
            },
        },
        Param {
            name: "mirostat_eta",
            flag: "mirostat-eta",
            help: "Rate at which mirostat learns",
            field: Field::Number {
                min: 0.0,
                max: 1000.0,
                get: |p| f64::from(p.mirostat_eta),
                set: |p, value| p.mirostat_eta = value as f32,
            },
        },
    ],
    build: |params, _| Ok(build(params)),
};

fn build(params: &SampleParams) -> Option<Box<dyn Filter>> {
    let [tau, eta] = [params.mirostat_tau, params.mirostat_eta].map(f64::from);
    let mirostat = Mirostat { version: params.mirostat, tau, eta, mu: 2.0 * tau, drawn: None };
    (params.mirostat > 0).then(|| Box::new(mirostat) as Box<dyn Filter>)
}

#[derive(Clone, Debug)]
struct Mirostat {
    version: u8,
    tau: f64,
    eta: f64,
    /// Surprise at which the cut aims, in bits.
    mu: f64,
    /// Token that was drawn, with its surprise in bits among those that were left.
    drawn: Option<(u32, f64)>,
}

impl Filter for Mirostat {
    fn apply(&mut self, candidates: &mut Candidates<'_>, rng: &mut Rng) -> Result<(), SampleError> {
        let Some(best) = candidates.best() else { return Ok(()) };
        if self.version == 1 {
            let top: Vec<f32> = candidates.top(N_TOP).iter().map(|c| c.logit).collect();
            candidates.keep_best(n_kept(&top, self.mu, candidates.n_vocab()));
        } else if let Some(weights) = candidates.weights() {
            match weights.logit(self.mu * LN_2) {
                bound if bound > best.logit => candidates.keep_only(&[best.id]),
                bound => candidates.keep_above(bound),
            }
        }
        let token = candidates.draw(rng.unit_f64()).ok_or(SampleError::NothingLeft)?;
        let weights = candidates.weights();
        candidates.keep_only(&[token]);
        self.drawn = candidates
            .best()
            .zip(weights)
            .map(|(drawn, weights)| (token, weights.surprise(drawn.logit) / LN_2));
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        if let Some((drawn, surprise)) = self.drawn.take()
            && drawn == token
        {
            self.mu -= self.eta * (surprise - self.tau);
        }
    }
}

/// Tokens that version 1 keeps of `n`: `k = (e 2^mu / (1 - n^-e))^(1 / s)`, where `s = e + 1` is the
/// exponent that fits the likeliest logits, which descend.
fn n_kept(top: &[f32], mu: f64, n: usize) -> usize {
    let pairs = top.windows(2).take_while(|pair| pair[1] > f32::NEG_INFINITY);
    let (mut products, mut squares) = (0.0, 0.0);
    for (i, pair) in pairs.enumerate() {
        let t = ln((i + 2) as f64 / (i + 1) as f64);
        products += t * (f64::from(pair[0]) - f64::from(pair[1]));
        squares += t * t;
    }
    if squares == 0.0 {
        return 1;
    }
    let s = products / squares;
    let (e, ln_n) = (s - 1.0, ln(n as f64));
    // ln of e / (1 - n^-e), which is |e| n^-|e| / (1 - n^-|e|) where e is negative, and 1 / ln n at 0.
    let size = e.abs();
    let scale = match size * ln_n < 1e-9 {
        true => -ln(ln_n),
        false => ln(size) - ln(1.0 - exp(-size * ln_n)) - if e < 0.0 { size * ln_n } else { 0.0 },
    };
    let ln_k = (scale + mu * LN_2) / s;
    match ln_k < ln_n {
        // Truncated, and one at least.
        true => ((n as f64 * exp(ln_k - ln_n)) as usize).max(1),
        false => n,
    }
}

#[cfg(test)]
mod tests {
    use super::super::SamplerChain;
    use super::super::testing::{draw_logits, left_by, probabilities};
    use super::*;
    use teff_kernels::BlockMax;

    fn params(version: u8) -> SampleParams {
        let params = SampleParams { mirostat: version, temperature: 1.0, ..Default::default() };
        SampleParams { mirostat_tau: 3.5, ..params }
    }

    #[test]
    fn the_mean_surprise_nears_the_one_that_is_asked_for() {
        // 64 tokens whose surprises go from 3 to about 14 bits.
        let logits: Vec<f32> = (0..64).map(|i| -0.12 * i as f32).collect();
        let all = probabilities(&logits);
        for version in [1, 2] {
            let run = |seed| {
                let mut chain =
                    SamplerChain::new(SampleParams { seed, ..params(version) }).unwrap();
                let mut room = Vec::new();
                (0..2000)
                    .map(|_| {
                        let mut logits = logits.clone();
                        let token = chain.sample(BlockMax::of(&mut logits, &mut room)).unwrap();
                        chain.accept(token);
                        token
                    })
                    .collect::<Vec<_>>()
            };
            let tokens = run(1);
            assert_eq!(tokens, run(1));
            assert_ne!(tokens, run(2));
            let surprise = |&id: &u32| -all[id as usize].log2();
            let mean = tokens[500..].iter().map(surprise).sum::<f64>() / 1500.0;
            // Surprises among what is left are below those among all, which this is the mean of.
            assert!((3.4..4.3).contains(&mean), "version {version}: mean surprise {mean}");
        }
    }

    #[test]
    fn the_cut_agrees_with_the_formulas_and_moves_by_the_error() {
        for seed in 0..300 {
            let logits = draw_logits(seed);
            let all = probabilities(&logits);
            let mut sorted: Vec<usize> = (0..all.len()).filter(|&id| all[id] > 0.0).collect();
            sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let mu = 0.3 + (seed % 40) as f64 / 4.0;
            for version in [1, 2] {
                let kept = match version {
                    1 => {
                        let (mut products, mut squares) = (0.0, 0.0);
                        for i in 0..99.min(sorted.len() - 1) {
                            let t = ((i + 2) as f64 / (i + 1) as f64).ln();
                            products += t * (all[sorted[i]] / all[sorted[i + 1]]).ln();
                            squares += t * t;
                        }
                        let (s, n) = (products / squares, all.len() as f64);
                        let e = s - 1.0;
                        let k = (e * mu.exp2() / (1.0 - n.powf(-e))).powf(1.0 / s);
                        if (k - k.round()).abs() < 1e-6 {
                            continue;
                        }
                        // One token has no exponent.
                        if k.is_nan() { 1 } else { (k as usize).clamp(1, sorted.len()) }
                    }
                    _ => sorted.iter().filter(|&&id| -all[id].log2() <= mu).count().max(1),
                };
                let mut seen = vec![0; logits.len()];
                for draw in 0..50 {
                    let mut filter = Mirostat { version, tau: 3.5, eta: 0.5, mu, drawn: None };
                    let left = left_by(&mut filter, &logits, &mut Rng::new(draw));
                    let [(token, _)] = left[..] else { panic!("{left:?}") };
                    seen[token as usize] += 1;
                    let mass: f64 = sorted[..kept].iter().map(|&id| all[id]).sum();
                    let surprise = -(all[token as usize] / mass).log2();
                    filter.accept(token);
                    // Sums are of exponentials in f32.
                    let distance = (filter.mu - (mu - 0.5 * (surprise - 3.5))).abs();
                    assert!(distance < 5e-6, "seed {seed}: {distance}");
                    filter.accept(token);
                }
                let out = sorted[kept..].iter().find(|&&id| seen[id] > 0);
                assert_eq!(out, None, "seed {seed}, version {version}");
            }
        }
    }

    #[test]
    fn other_cuts_and_greedy_chains_stay_what_they_are() {
        let names = |params: SampleParams| {
            let rows = params.filters().unwrap();
            rows.iter().map(|row| row.name).collect::<Vec<_>>()
        };
        assert!(names(SampleParams::default()).contains(&"top-k"));
        let left = names(params(2));
        assert!(REPLACED.iter().all(|name| !left.contains(name)) && left.contains(&"xtc"));
        let greedy = SampleParams { temperature: 0.0, ..params(1) };
        let mut chain = SamplerChain::new(greedy).unwrap();
        let mut logits = [1.0, 3.0, 3.0, 2.0];
        assert_eq!(chain.sample(BlockMax::of(&mut logits, &mut Vec::new())), Ok(1));
    }
}
