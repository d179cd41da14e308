//! Convolutions and scans, token by token.

use super::float::{activate, dot, normalize};
use super::{Step, glu};
use crate::backend::program::{Buf, Tokens};
use crate::backend::program::{Conv, Scan, ScanKind};
use teff_kernels::Activation;

/// Factors of a recurrence for one head and token.
struct Head {
    /// Decay of each column of the state.
    decay: Vec<f64>,
    /// Factors of a row of the state in the sum that is an output.
    read: Vec<f64>,
}

impl Step<'_> {
    pub(super) fn conv(&mut self, op: &Conv) {
        let (n_channels, past) = (op.n_channels(), op.taps - 1);
        for t in self.selected(Tokens::All) {
            let row = self.row(op.input, t).to_vec();
            let mut out = Vec::new();
            for c in 0..n_channels {
                let factor = op.factors.map_or(1.0, |(first, _)| row[first + c]);
                let x = row[op.from + c] * factor;
                let state = &mut self.sequence.states[op.state.0][c * past..][..past];
                let window = state.iter().copied().chain([x]);
                let taps = window.clone().zip(op.weight.iter().skip(c).step_by(n_channels));
                let sum: f64 = taps.map(|(x, &w)| f64::from(x) * f64::from(w)).sum();
                let window: Vec<f32> = window.skip(1).collect();
                state.copy_from_slice(&window);
                let sum = sum + op.bias.as_ref().map_or(0.0, |bias| f64::from(bias[c]));
                let y = op.act.map_or(sum as f32, |act| activate(act, sum as f32));
                out.push(y * op.factors.map_or(1.0, |(_, second)| row[second + c]));
            }
            self.set(op.out, t, &out);
        }
    }

    /// `n` columns of a token's row.
    fn slice(&self, t: usize, (buf, first): (Buf, usize), n: usize) -> &[f32] {
        &self.row(buf, t)[first..][..n]
    }

    pub(super) fn scan(&mut self, op: &Scan) {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        for t in self.selected(Tokens::All) {
            let mut out = Vec::new();
            for head in 0..n_heads {
                let len = head_dim * state_dim;
                let mut state = self.sequence.states[op.state.0][head * len..][..len].to_vec();
                let mut y = self.scan_head(op, t, head, &mut state);
                self.sequence.states[op.state.0][head * len..][..len].copy_from_slice(&state);
                if let Some(norm) = &op.norm {
                    y = normalize(norm, &y);
                }
                if let Some((gate, first)) = op.gate {
                    let gate = (gate, first + head * head_dim);
                    let mut gate = self.slice(t, gate, head_dim).to_vec();
                    glu(op.gate_act, &mut gate, &y);
                    y = gate;
                }
                out.extend(y);
            }
            self.set(op.out, t, &out);
        }
    }

    /// One token of one head: changes its state, returns its output.
    fn scan_head(&self, op: &Scan, t: usize, head: usize, state: &mut [f32]) -> Vec<f32> {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        let widen = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        match &op.kind {
            ScanKind::StateSpace { x, bc, n_groups, dt, dt_bias, a, d } => {
                let group = head / (n_heads / n_groups);
                let [b, c] = bc.1.map(|first| {
                    widen(self.slice(t, (bc.0, first + group * state_dim), state_dim))
                });
                let dt = self.slice(t, (dt.0, dt.1 + head), 1)[0] + dt_bias[head];
                let dt = f64::from(activate(Activation::Softplus, dt));
                let a = of_columns(a, n_heads, head, state_dim);
                let decay = a.iter().map(|a| (dt * a).exp()).collect();
                let x = widen(self.slice(t, (x.0, x.1 + head * head_dim), head_dim));
                let head_of = Head { decay, read: c };
                let write = |i: usize, _: &[f64], n: usize| dt * x[i] * b[n];
                let y = head_of.step(state, write);
                y.iter().zip(&x).map(|(y, x)| (y + f64::from(d[head]) * x) as f32).collect()
            }
            ScanKind::Linear { qkv, head_stride, decay } => {
                let at = |i: usize, n: usize| {
                    widen(self.slice(t, (qkv.0, qkv.1[i] + head * head_stride), n))
                };
                let (q, k, v) = (at(0, state_dim), at(1, state_dim), at(2, head_dim));
                let head_of = Head { decay: vec![f64::from(decay[head]); state_dim], read: q };
                let y = head_of.step(state, |i, _, n| v[i] * k[n]);
                y.into_iter().map(|y| y as f32).collect()
            }
            ScanKind::Delta { qkv, key_head, alpha, alpha_bias, a, bound, beta, eps } => {
                let of_length_1 = |i: usize| {
                    let first = qkv.1[i] + key_head[head] * state_dim;
                    let x = self.slice(t, (qkv.0, first), state_dim);
                    let length = (dot(x, x) + f64::from(*eps)).sqrt();
                    x.iter().map(|&x| f64::from(x) / length).collect::<Vec<f64>>()
                };
                let scale = (state_dim as f64).sqrt();
                let q = of_length_1(0).into_iter().map(|q| q / scale).collect();
                let k = of_length_1(1);
                let v = widen(self.slice(t, (qkv.0, qkv.1[2] + head * head_dim), head_dim));
                let n_alpha = alpha_bias.len() / n_heads;
                let alpha = self.slice(t, (alpha.0, alpha.1[head]), n_alpha);
                let bias = &alpha_bias[head * n_alpha..][..n_alpha];
                let decay = alpha.iter().zip(bias).map(|(alpha, bias)| {
                    let (x, a) = (alpha + bias, a[head]);
                    let exponent = match bound {
                        None => a * activate(Activation::Softplus, x),
                        Some(bound) => bound * activate(Activation::Sigmoid, a * x),
                    };
                    f64::from(exponent).exp()
                });
                let decay: Vec<f64> = decay.collect();
                let decay = if n_alpha == 1 { vec![decay[0]; state_dim] } else { decay };
                let beta = self.slice(t, (beta.0, beta.1[head]), 1)[0];
                let beta = f64::from(activate(Activation::Sigmoid, beta));
                let head_of = Head { decay, read: q };
                let y = head_of.step(state, |i, row, n| {
                    let known: f64 = row.iter().zip(&k).map(|(s, k)| s * k).sum();
                    beta * (v[i] - known) * k[n]
                });
                y.into_iter().map(|y| y as f32).collect()
            }
        }
    }
}

impl Head {
    /// Decays each row of the state, adds `write(row, decayed row, column)` and reads it.
    fn step(&self, state: &mut [f32], write: impl Fn(usize, &[f64], usize) -> f64) -> Vec<f64> {
        let n = self.read.len();
        let rows = state.chunks_mut(n).enumerate().map(|(i, row)| {
            let decayed: Vec<f64> =
                row.iter().zip(&self.decay).map(|(&s, decay)| f64::from(s) * decay).collect();
            let new: Vec<f64> =
                (0..n).map(|column| decayed[column] + write(i, &decayed, column)).collect();
            row.iter_mut().zip(&new).for_each(|(s, &new)| *s = new as f32);
            new.iter().zip(&self.read).map(|(s, read)| s * read).sum()
        });
        rows.collect()
    }
}

/// The values of a head for each column of its state, which may be one and the same.
fn of_columns(values: &[f32], n_heads: usize, head: usize, state_dim: usize) -> Vec<f64> {
    let n = values.len() / n_heads;
    let of_head = &values[head * n..][..n];
    match of_head {
        [one] => vec![f64::from(*one); state_dim],
        each => each.iter().map(|&x| f64::from(x)).collect(),
    }
}
