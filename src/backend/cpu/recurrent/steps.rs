//! Recurrences of a head whose state is a matrix `S`, `[state_dim][head_dim]`:
//! `S = D S + k u^T`, `y = S^T q + skip v`, where `D` is a diagonal of decays.
//!
//! **The result is defined as**, token by token, with `S` the state before the token,
//! `u = gain (v - S^T D k)` for delta rules or else `u = gain v`, and
//! `y = S^T D q + (q . k) u + skip v`; both products with `S` are chains of `fma`s over `state_dim` in
//! order. So the state is read once for both and written once, and an output needs no sum across
//! columns: registers hold neighbouring columns. Columns do not depend on one another: a block of
//! them, which fits the first-level cache, takes all tokens before the next one does.
//!
//! Chunked forms of the same recurrences (arXiv:2406.06484, arXiv:2405.21060) would multiply larger
//! matrices. With states of 128 x 128 they do about as many operations as this one saves loads.

use crate::backend::cpu::at_least;
use teff_kernels::{Activation, Ahead, FloatOps};

/// Tokens whose steps are prepared at a time: about 80 KiB for a state of 128 columns.
pub(super) const STEPS_MAX: usize = 32;
/// Columns of a block: with 128 rows it takes 16 KiB, half of the first-level cache of most CPUs.
const BLOCK: usize = 32;

/// Inputs of up to [`STEPS_MAX`] tokens for the state of one head.
#[derive(Default)]
pub(super) struct Steps {
    /// Rows of the state.
    n: usize,
    /// `D q` and, of delta rules, `D k`: `[tokens][1 or 2][n]`.
    reads: Vec<f32>,
    /// `k`, `[tokens][n]`.
    keys: Vec<f32>,
    /// `D`: one for each token, or `[tokens][n]`.
    decays: Vec<f32>,
    /// `v`, `[tokens][head_dim]`.
    values: Vec<f32>,
    scalars: Vec<Scalars>,
    /// Normed `q` and `k` of a token.
    normed: Vec<f32>,
}

/// Factors of a step.
struct Scalars {
    gain: f32,
    /// `q . k`
    score: f32,
    skip: f32,
}

/// Inputs of a state-space recurrence for one head and token.
pub(super) struct StateSpace<'a> {
    pub dt: f32,
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub c: &'a [f32],
    pub d: f32,
}

/// Inputs of a delta rule for one head and token, but for the values.
pub(super) struct Delta<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub alpha: &'a [f32],
    pub alpha_bias: &'a [f32],
    pub a: f32,
    pub bound: Option<f32>,
    pub beta: f32,
    pub eps: f32,
}

impl Steps {
    /// No tokens, for a state of `n` rows.
    pub fn clear(&mut self, n: usize) {
        self.n = n;
        self.reads.clear();
        self.keys.clear();
        self.decays.clear();
        self.values.clear();
        self.scalars.clear();
    }

    /// Adds a token of a state space.
    pub fn add_state_space(&mut self, step: &StateSpace<'_>, x: &[f32], ops: &FloatOps) {
        let first = self.decays.len();
        self.decays.extend(step.a.iter().map(|a| step.dt * a));
        (ops.exp_sum)(&mut self.decays[first..], 0.0);
        push_scaled(&mut self.reads, step.c, &self.decays[first..]);
        let score = (ops.dot)(step.c, step.b);
        self.push(step.b, x, Scalars { gain: step.dt, score, skip: step.d });
    }

    /// Adds a token of linear attention.
    pub fn add_linear(&mut self, q: &[f32], k: &[f32], v: &[f32], decay: f32, ops: &FloatOps) {
        self.decays.push(decay);
        push_scaled(&mut self.reads, q, &[decay]);
        self.push(k, v, Scalars { gain: 1.0, score: (ops.dot)(q, k), skip: 0.0 });
    }

    /// Adds a token of a delta rule.
    pub fn add_delta(&mut self, step: &Delta<'_>, v: &[f32], ops: &FloatOps) {
        let n = self.n;
        let mut normed = std::mem::take(&mut self.normed);
        let (q, k) = at_least(&mut normed, 2 * n).split_at_mut(n);
        let length = (n as f32).sqrt();
        for (x, out) in [(step.q, &mut *q), (step.k, &mut *k)] {
            (ops.rms_norm)(x, None, step.eps / n as f32, out);
            (ops.scale)(out, 1.0 / length);
        }
        (ops.scale)(q, 1.0 / length);
        let first = self.decays.len();
        let biased = step.alpha.iter().zip(step.alpha_bias).map(|(alpha, bias)| alpha + bias);
        self.decays.extend(biased);
        let decay = &mut self.decays[first..];
        match step.bound {
            None => {
                (ops.act)(Activation::Softplus, decay);
                (ops.scale)(decay, step.a);
            }
            Some(bound) => {
                (ops.scale)(decay, step.a);
                (ops.act)(Activation::Sigmoid, decay);
                (ops.scale)(decay, bound);
            }
        }
        (ops.exp_sum)(decay, 0.0);
        push_scaled(&mut self.reads, q, decay);
        push_scaled(&mut self.reads, k, decay);
        self.push(k, v, Scalars { gain: step.beta, score: (ops.dot)(q, k), skip: 0.0 });
        self.normed = normed;
    }

    fn push(&mut self, key: &[f32], values: &[f32], scalars: Scalars) {
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(values);
        self.scalars.push(scalars);
    }

    /// Takes all tokens: the state lies in blocks of [`BLOCK`] columns, `[n][columns]` each, and row
    /// `i` of `y`, which begins every `stride` elements, becomes the output of token `i`.
    pub fn run(
        &self,
        state: &mut [f32],
        (y, stride): (&mut [f32], usize),
        head_dim: usize,
        ops: &FloatOps,
    ) {
        let n_tokens = self.scalars.len();
        let n_reads = self.reads.len() / (n_tokens * self.n);
        let n_decays = self.decays.len() / n_tokens;
        for (block, state) in state.chunks_mut(BLOCK * self.n).enumerate() {
            let width = state.len() / self.n;
            let columns = block * BLOCK..block * BLOCK + width;
            for (i, scalars) in self.scalars.iter().enumerate() {
                let reads = &self.reads[i * n_reads * self.n..][..n_reads * self.n];
                let v = &self.values[i * head_dim..][columns.clone()];
                let y = &mut y[i * stride..][columns.clone()];
                let mut products = [0.0; 2 * BLOCK];
                let products = &mut products[..n_reads * width];
                let (a, c) = ((reads, self.n), (&mut *products, width));
                (ops.add_product_f32)(n_reads, a, state, width, c, Ahead::NONE);
                let (queried, known) = products.split_at(width);
                let mut u = [0.0; BLOCK];
                let u = &mut u[..width];
                match known {
                    [] => u.iter_mut().zip(v).for_each(|(u, v)| *u = v * scalars.gain),
                    known => {
                        for ((u, v), known) in u.iter_mut().zip(v).zip(known) {
                            *u = (v - known) * scalars.gain;
                        }
                    }
                }
                for (((y, queried), u), v) in y.iter_mut().zip(queried).zip(&*u).zip(v) {
                    *y = queried + scalars.score * u + scalars.skip * v;
                }
                let decays = &self.decays[i * n_decays..][..n_decays];
                update(state, decays, &self.keys[i * self.n..][..self.n], u);
            }
        }
    }
}

/// Appends `x`, each element multiplied with its decay or all with the one.
fn push_scaled(to: &mut Vec<f32>, x: &[f32], decay: &[f32]) {
    match decay {
        [decay] => to.extend(x.iter().map(|x| x * decay)),
        decay => to.extend(x.iter().zip(decay).map(|(x, decay)| x * decay)),
    }
}

/// `S = D S + k u^T`, row by row.
fn update(state: &mut [f32], decays: &[f32], keys: &[f32], u: &[f32]) {
    let decay = |row: usize| if let [decay] = decays { *decay } else { decays[row] };
    for (i, (row, k)) in state.chunks_exact_mut(u.len()).zip(keys).enumerate() {
        let decay = decay(i);
        row.iter_mut().zip(u).for_each(|(s, u)| *s = *s * decay + k * u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use teff_kernels::KernelTable;

    /// Numbers of `-1.0..1.0` that look random.
    fn numbers(state: &mut u64, n: usize) -> Vec<f32> {
        let mut next = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    struct Token {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        alpha: Vec<f32>,
        beta: f32,
    }

    /// The delta rule as it is written in `ScanKind::Delta`, in f64.
    fn naive(tokens: &[Token], a: f64, n: usize, head_dim: usize) -> Vec<f64> {
        let unit = |x: &[f32]| -> Vec<f64> {
            let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            x.iter().map(|&x| f64::from(x) / length).collect()
        };
        let mut state = vec![0.0; n * head_dim];
        let mut out = Vec::new();
        for token in tokens {
            let (q, k) = (unit(&token.q), unit(&token.k));
            let alpha = |row: usize| f64::from(token.alpha[row.min(token.alpha.len() - 1)]);
            for (row, state) in state.chunks_exact_mut(head_dim).enumerate() {
                let decay = (a * alpha(row).exp().ln_1p()).exp();
                state.iter_mut().for_each(|s| *s *= decay);
            }
            for i in 0..head_dim {
                let column = |state: &[f64], x: &[f64]| -> f64 {
                    x.iter().enumerate().map(|(row, x)| state[row * head_dim + i] * x).sum()
                };
                let u = f64::from(token.beta) * (f64::from(token.v[i]) - column(&state, &k));
                for (row, k) in k.iter().enumerate() {
                    state[row * head_dim + i] += k * u;
                }
                out.push(column(&state, &q) / (n as f64).sqrt());
            }
        }
        out
    }

    fn run(tokens: &[Token], a: f32, (n, head_dim): (usize, usize), cut: usize) -> Vec<f32> {
        let ops = KernelTable::detect().float();
        let mut state = vec![0.0; n * head_dim];
        let mut steps = Steps::default();
        let mut out = Vec::new();
        for tokens in tokens.chunks(cut) {
            steps.clear(n);
            for Token { q, k, v, alpha, beta } in tokens {
                let (alpha_bias, bound, eps) = (&vec![0.0; alpha.len()][..], None, 0.0);
                let delta = Delta { q, k, alpha, alpha_bias, a, bound, beta: *beta, eps };
                steps.add_delta(&delta, v, ops);
            }
            // Rows with something else behind them.
            let stride = head_dim + 3;
            let mut y = vec![0.0; tokens.len() * stride];
            steps.run(&mut state, (&mut y, stride), head_dim, ops);
            out.extend(y.chunks_exact(stride).flat_map(|y| y[..head_dim].to_vec()));
        }
        out
    }

    #[test]
    fn delta_rules_are_their_formula_however_tokens_are_cut() {
        let mut state = 5;
        for (n, head_dim) in [(1, 1), (5, 37), (16, 32), (24, 40), (128, 128)] {
            for n_alpha in [1, n] {
                let tokens: Vec<Token> = (0..STEPS_MAX)
                    .map(|_| Token {
                        q: numbers(&mut state, n),
                        k: numbers(&mut state, n),
                        v: numbers(&mut state, head_dim),
                        alpha: numbers(&mut state, n_alpha),
                        beta: numbers(&mut state, 1)[0].abs(),
                    })
                    .collect();
                let whole = run(&tokens, -0.3, (n, head_dim), STEPS_MAX);
                let truth = naive(&tokens, f64::from(-0.3f32), n, head_dim);
                for (ours, truth) in whole.iter().zip(&truth) {
                    let error = (f64::from(*ours) - truth).abs();
                    assert!(error < 1e-5, "{n} x {head_dim}: {ours} for {truth}");
                }
                for cut in [1, 3, 31] {
                    assert_eq!(run(&tokens, -0.3, (n, head_dim), cut), whole);
                }
            }
        }
    }
}
