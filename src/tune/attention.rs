//! Attention over whole sequences, and its gradients.
//!
//! Scores are not kept but computed again for the gradients: they would be most of the memory. A thread has
//! one head of one sequence at a time, three squares of the sequence's length.

use super::TuneError;
use super::machine::{Machine, add, zeros};
use crate::backend::program::{Attention, KvShape};
use std::ops::Range;
use teff_kernels::{Ahead, FloatOps};

/// Keys and values of the tokens of a batch in a layer.
#[derive(Clone, Debug, Default)]
pub(super) struct KeysValues {
    /// `[tokens][n_kv_heads][k_dim]`.
    pub keys: Vec<f32>,
    /// `[tokens][n_kv_heads][v_dim]`.
    pub values: Vec<f32>,
}

/// An operation with what it needs to know.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub op: &'a Attention,
    pub shape: KvShape,
    /// The tokens of each sequence of the batch.
    pub sequences: &'a [Range<usize>],
    /// Elements of a row of queries.
    pub width: usize,
}

/// A head of a sequence.
struct Head {
    head: usize,
    tokens: Range<usize>,
}

/// What comes of a head backward: gradients of its queries, keys and values, `[tokens][dim]` each.
#[derive(Default)]
struct HeadGradients {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The gradients of an operation's inputs.
pub(super) struct AttentionGradients {
    /// Gradients of rows of queries.
    pub queries: Vec<f32>,
    pub kv: KeysValues,
}

/// `dim` columns of some rows.
fn columns(x: &[f32], width: usize, first: usize, dim: usize, rows: &Range<usize>) -> Vec<f32> {
    rows.clone().flat_map(|t| &x[t * width + first..][..dim]).copied().collect()
}

/// A matrix `[rows][cols]` as `[cols][rows]`.
fn turned(x: &[f32], cols: usize) -> Vec<f32> {
    let rows = x.len() / cols;
    let mut out = vec![0.0; x.len()];
    for (r, row) in x.chunks_exact(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, x)| out[c * rows + r] = *x);
    }
    out
}

/// `a b` of matrices `[n][k]` and `[k][cols]`.
fn product(ops: &FloatOps, a: &[f32], b: &[f32], k: usize, cols: usize) -> Vec<f32> {
    let n = a.len() / k;
    let mut c = vec![0.0; n * cols];
    (ops.add_product_f32)(n, (a, k), b, cols, (&mut c, cols), Ahead::NONE);
    c
}

impl Heads<'_> {
    fn heads(&self) -> Vec<Head> {
        let of = |tokens: &Range<usize>| {
            let tokens = tokens.clone();
            (0..self.op.n_heads).map(move |head| Head { head, tokens: tokens.clone() })
        };
        self.sequences.iter().flat_map(of).collect()
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.op.n_heads / self.shape.n_kv_heads)
    }

    /// The keys that token `t` of a sequence sees.
    fn seen(&self, t: usize) -> Range<usize> {
        (t + 1).saturating_sub(self.shape.window.unwrap_or(usize::MAX))..t + 1
    }

    /// Weights of a head's keys, `[tokens][tokens]`, and the derivatives of scores by what they are made of
    /// where there is a cap.
    fn weights(&self, ops: &FloatOps, head: &Head, q: &[f32], k: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let KvShape { k_dim, .. } = self.shape;
        let n = head.tokens.len();
        let mut scores = product(ops, q, &turned(k, k_dim), k_dim, n);
        let mut slopes = Vec::new();
        for (t, row) in scores.chunks_exact_mut(n).enumerate() {
            let seen = self.seen(t);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen.clone()];
            (ops.scale)(row, self.op.scale);
            if let Some(cap) = self.op.softcap {
                (ops.soft_cap)(row, cap);
                slopes.resize(t * n + seen.start, 0.0);
                slopes.extend(row.iter().map(|score| 1.0 - (score / cap).powi(2)));
                slopes.resize((t + 1) * n, 0.0);
            }
            if let Some(of_heads) = &self.op.slopes {
                for (at, score) in seen.zip(&mut *row) {
                    *score -= of_heads[head.head] * (t - at) as f32;
                }
            }
            let sink = self.op.sinks.as_ref().map(|sinks| sinks[head.head]);
            let max = sink.map_or((ops.max)(row), |sink| sink.max((ops.max)(row)));
            let sum = (ops.exp_sum)(row, max) + sink.map_or(0.0, |sink| (sink - max).exp());
            (ops.scale)(row, 1.0 / sum);
        }
        (scores, slopes)
    }

    fn inputs(&self, head: &Head, q: &[f32], kv: &KeysValues) -> [Vec<f32>; 3] {
        let KvShape { k_dim, v_dim, n_kv_heads, .. } = self.shape;
        let (tokens, of) = (&head.tokens, self.kv_head(head.head));
        [
            columns(q, self.width, head.head * k_dim, k_dim, tokens),
            columns(&kv.keys, n_kv_heads * k_dim, of * k_dim, k_dim, tokens),
            columns(&kv.values, n_kv_heads * v_dim, of * v_dim, v_dim, tokens),
        ]
    }

    /// The weighted sums, `[tokens][n_heads][v_dim]`.
    pub fn forward(
        &self,
        on: Machine,
        queries: &[f32],
        kv: &KeysValues,
    ) -> Result<Vec<f32>, TuneError> {
        let (ops, v_dim) = (on.ops(), self.shape.v_dim);
        let mut parts: Vec<(Head, Vec<f32>)> =
            self.heads().into_iter().map(|head| (head, Vec::new())).collect();
        on.each(&mut parts, |(head, out)| {
            let [q, k, v] = self.inputs(head, queries, kv);
            let (weights, _) = self.weights(ops, head, &q, &k);
            *out = product(ops, &weights, &v, head.tokens.len(), v_dim);
        })?;
        let width = self.op.n_heads * v_dim;
        let n_tokens = self.sequences.last().map_or(0, |last| last.end);
        let mut out = zeros(n_tokens * width)?;
        for (head, sums) in &parts {
            for (t, sum) in head.tokens.clone().zip(sums.chunks_exact(v_dim)) {
                out[t * width + head.head * v_dim..][..v_dim].copy_from_slice(sum);
            }
        }
        Ok(out)
    }

    fn head_back(
        &self,
        ops: &FloatOps,
        head: &Head,
        (q, k, v): (&[f32], &[f32], &[f32]),
        dout: &[f32],
    ) -> HeadGradients {
        let KvShape { k_dim, v_dim, .. } = self.shape;
        let n = head.tokens.len();
        let (weights, slopes) = self.weights(ops, head, q, k);
        let values = product(ops, &turned(&weights, n), dout, n, v_dim);
        let mut dscores = product(ops, dout, &turned(v, v_dim), v_dim, n);
        for (t, row) in dscores.chunks_exact_mut(n).enumerate() {
            let seen = self.seen(t);
            let weights = &weights[t * n..][..n];
            let mean = (ops.dot)(&row[seen.clone()], &weights[seen.clone()]);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            for at in seen {
                row[at] = weights[at] * (row[at] - mean) * self.op.scale;
            }
        }
        dscores.iter_mut().zip(&slopes).for_each(|(d, slope)| *d *= slope);
        let queries = product(ops, &dscores, k, n, k_dim);
        let keys = product(ops, &turned(&dscores, n), q, n, k_dim);
        HeadGradients { queries, keys, values }
    }

    /// The gradients of the inputs from that of the sums.
    pub fn backward(
        &self,
        on: Machine,
        queries: &[f32],
        kv: &KeysValues,
        dout: &[f32],
    ) -> Result<AttentionGradients, TuneError> {
        let KvShape { k_dim, v_dim, n_kv_heads, .. } = self.shape;
        let (ops, width) = (on.ops(), self.op.n_heads * v_dim);
        let mut parts: Vec<(Head, HeadGradients)> =
            self.heads().into_iter().map(|head| (head, HeadGradients::default())).collect();
        on.each(&mut parts, |(head, gradients)| {
            let [q, k, v] = self.inputs(head, queries, kv);
            let dout = columns(dout, width, head.head * v_dim, v_dim, &head.tokens);
            *gradients = self.head_back(ops, head, (&q, &k, &v), &dout);
        })?;
        let mut all = AttentionGradients {
            queries: zeros(queries.len())?,
            kv: KeysValues { keys: zeros(kv.keys.len())?, values: zeros(kv.values.len())? },
        };
        // Heads that share keys add up in their order.
        for (head, of_head) in &parts {
            let of = self.kv_head(head.head);
            for (i, t) in head.tokens.clone().enumerate() {
                let at = t * self.width + head.head * k_dim;
                all.queries[at..at + k_dim].copy_from_slice(&of_head.queries[i * k_dim..][..k_dim]);
                let keys = &mut all.kv.keys[(t * n_kv_heads + of) * k_dim..][..k_dim];
                add(keys, &of_head.keys[i * k_dim..][..k_dim]);
                let values = &mut all.kv.values[(t * n_kv_heads + of) * v_dim..][..v_dim];
                add(values, &of_head.values[i * v_dim..][..v_dim]);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::program::{Buf, Tokens};
    use crate::tune::testing::{check_gradient, draw, machine};

    fn op(softcap: Option<f32>, sinks: bool, slopes: bool) -> Attention {
        Attention {
            qkv: Buf(0),
            n_heads: 4,
            layer: 0,
            scale: 0.7,
            softcap,
            slopes: slopes.then(|| vec![0.1, 0.2, 0.3, 0.4]),
            sinks: sinks.then(|| vec![0.5, -0.5, 1.0, 0.0]),
            out: Buf(1),
            rows: Tokens::All,
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let on = machine();
        let (k_dim, v_dim, width) = (6, 5, 40);
        for (softcap, window, sinks, slopes) in [
            (None, None, false, false),
            (Some(1.5), None, false, false),
            (None, Some(3), true, false),
            (Some(2.0), Some(2), true, true),
        ] {
            let op = op(softcap, sinks, slopes);
            let shape = KvShape { n_kv_heads: 2, k_dim, v_dim, window };
            let heads = Heads { op: &op, shape, sequences: &[0..7, 7..12], width };
            let q = draw(1, 12 * width);
            let kv = KeysValues { keys: draw(2, 12 * 2 * k_dim), values: draw(3, 12 * 2 * v_dim) };
            let dout = draw(4, 12 * 4 * v_dim);
            let of = |q: &[f32], kv: &KeysValues| heads.forward(on, q, kv).unwrap();
            let found = heads.backward(on, &q, &kv, &dout).unwrap();
            check_gradient(&q, &found.queries, &dout, |q| of(q, &kv));
            let with = |keys: &[f32], values: &[f32]| KeysValues {
                keys: keys.to_vec(),
                values: values.to_vec(),
            };
            check_gradient(&kv.keys, &found.kv.keys, &dout, |k| of(&q, &with(k, &kv.values)));
            check_gradient(&kv.values, &found.kv.values, &dout, |v| of(&q, &with(&kv.keys, v)));
        }
    }
}
