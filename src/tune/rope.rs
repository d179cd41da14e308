//! Norms of heads and rotation of queries and keys, and their gradients.

use super::TuneError;
use super::attention::KeysValues;
use super::machine::{Machine, add, zeros};
use super::norm::NormValues;
use crate::backend::program::{KvShape, Program, Rope, RopeKv};
use std::ops::Range;
use teff_kernels::RopePairing;

/// Norms of a [`RopeKv`] with the factors that they have now.
#[derive(Clone, Copy)]
pub(super) struct HeadNorms<'a> {
    pub q: Option<NormValues<'a>>,
    pub k: Option<NormValues<'a>>,
    pub v: Option<NormValues<'a>>,
}

/// An operation with what it needs to know.
#[derive(Clone, Copy)]
pub(super) struct Rotation<'a> {
    pub op: &'a RopeKv,
    pub program: &'a Program,
    pub sequences: &'a [Range<usize>],
    pub norms: HeadNorms<'a>,
}

/// Gradients of the factors of the norms; empty where there are none.
#[derive(Default)]
pub(super) struct FactorGradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// Sine and cosine of every pair at a position, by the magnitude.
fn angles(rope: &Rope, position: usize) -> Vec<(f32, f32)> {
    let magnitude = f64::from(rope.magnitude);
    let of = |freq: &f64| {
        let (sin, cos) = (position as f64 * freq).sin_cos();
        ((magnitude * sin) as f32, (magnitude * cos) as f32)
    };
    rope.inv_freq.iter().map(of).collect()
}

/// Turns the pairs of a head's first dimensions; back: by the transposed matrix.
fn rotate(x: &mut [f32], angles: &[(f32, f32)], pairing: RopePairing, back: bool) {
    let n = angles.len();
    for (i, &(sin, cos)) in angles.iter().enumerate() {
        let sin = if back { -sin } else { sin };
        let (a, b) = match pairing {
            RopePairing::Norm => (2 * i, 2 * i + 1),
            RopePairing::Neox => (i, i + n),
        };
        let (x_a, x_b) = (x[a], x[b]);
        x[a] = x_a * cos - x_b * sin;
        x[b] = x_b * cos + x_a * sin;
    }
}

impl Rotation<'_> {
    fn shape(&self) -> KvShape {
        self.program.kv[self.op.layer]
    }

    /// Elements of queries, keys and values in a row.
    fn lengths(&self) -> [usize; 3] {
        let shape = self.shape();
        let n_kv_heads = if self.op.stores { shape.n_kv_heads } else { 0 };
        [self.op.n_heads * shape.k_dim, n_kv_heads * shape.k_dim, n_kv_heads * shape.v_dim]
    }

    /// Rotates queries and keys of all rows `[q | k | v]`.
    fn turn(&self, rows: &mut [f32], width: usize, back: bool) {
        let Some((rope, pairing)) = self.op.rope else { return };
        let rope = &self.program.ropes[rope.0];
        let [q_len, k_len, _] = self.lengths();
        for tokens in self.sequences {
            for (position, t) in tokens.clone().enumerate() {
                let angles = angles(rope, position);
                let heads = rows[t * width..][..q_len + k_len].chunks_mut(self.shape().k_dim);
                heads.for_each(|head| {
                    rotate(&mut head[self.op.rope_from..], &angles, pairing, back);
                });
            }
        }
    }

    /// Multiplies queries by their temperatures.
    fn heat(&self, rows: &mut [f32], width: usize) {
        let Some(temperature) = self.op.temperature else { return };
        for tokens in self.sequences {
            for (position, t) in tokens.clone().enumerate() {
                let factor = temperature.at(position as u32);
                rows[t * width..][..self.lengths()[0]].iter_mut().for_each(|x| *x *= factor);
            }
        }
    }

    /// Normalizes queries and keys.
    fn normalize(&self, rows: &mut [f32], width: usize) {
        let [q_len, k_len, _] = self.lengths();
        for row in rows.chunks_exact_mut(width) {
            let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
            for (norm, x) in [(self.norms.q, q), (self.norms.k, k)] {
                if let Some(norm) = norm {
                    let old = x.to_vec();
                    norm.row(&old, x);
                }
            }
        }
    }

    /// Changes rows `[q | k | v]` and returns the layer's keys and values, empty if it stores none.
    pub fn forward(&self, rows: &mut [f32], width: usize) -> KeysValues {
        let [q_len, k_len, v_len] = self.lengths();
        if !self.op.norm_after_rope {
            self.normalize(rows, width);
        }
        self.turn(rows, width, false);
        if self.op.norm_after_rope {
            self.normalize(rows, width);
        }
        self.heat(rows, width);
        let mut kv = KeysValues::default();
        if !self.op.stores {
            return kv;
        }
        for row in rows.chunks_exact_mut(width) {
            let v = &mut row[q_len + k_len..][..v_len];
            if let Some(norm) = self.norms.v {
                let old = v.to_vec();
                norm.row(&old, v);
            }
            kv.values.extend_from_slice(v);
            kv.keys.extend_from_slice(&row[q_len..][..k_len]);
        }
        kv
    }

    /// Turns the gradient of the rows behind the operation, and of keys and values, into that of the rows
    /// `x` before it.
    pub fn backward(
        &self,
        on: Machine,
        x: &[f32],
        rows: &mut [f32],
        width: usize,
        kv: &KeysValues,
    ) -> Result<FactorGradients, TuneError> {
        let [q_len, k_len, v_len] = self.lengths();
        if self.op.stores && !kv.keys.is_empty() {
            let own = kv.keys.chunks_exact(k_len).zip(kv.values.chunks_exact(v_len));
            for (row, (keys, values)) in rows.chunks_exact_mut(width).zip(own) {
                add(&mut row[q_len..][..k_len], keys);
                add(&mut row[q_len + k_len..][..v_len], values);
            }
        }
        self.heat(rows, width);
        let mut factors = FactorGradients::default();
        if self.op.norm_after_rope && !x.is_empty() {
            let mut turned = zeros(x.len())?;
            turned.copy_from_slice(x);
            self.turn(&mut turned, width, false);
            self.normalize_back(on, &turned, rows, width, &mut factors)?;
        }
        self.turn(rows, width, true);
        if !self.op.norm_after_rope {
            self.normalize_back(on, x, rows, width, &mut factors)?;
        }
        if self.op.stores {
            let at = q_len + k_len..q_len + k_len + v_len;
            factors.v = part_back(on, self.norms.v, (x, rows), width, at)?;
        }
        Ok(factors)
    }

    fn normalize_back(
        &self,
        on: Machine,
        x: &[f32],
        rows: &mut [f32],
        width: usize,
        factors: &mut FactorGradients,
    ) -> Result<(), TuneError> {
        let [q_len, k_len, _] = self.lengths();
        factors.q = part_back(on, self.norms.q, (x, rows), width, 0..q_len)?;
        factors.k = part_back(on, self.norms.k, (x, rows), width, q_len..q_len + k_len)?;
        Ok(())
    }
}

/// The gradient of a norm of some columns, in the place of that of the normed ones; returns the factors'.
fn part_back(
    on: Machine,
    norm: Option<NormValues<'_>>,
    (x, rows): (&[f32], &mut [f32]),
    width: usize,
    at: Range<usize>,
) -> Result<Vec<f32>, TuneError> {
    let Some(norm) = norm.filter(|_| !at.is_empty()) else { return Ok(Vec::new()) };
    let of = |rows: &[f32]| -> Vec<f32> {
        rows.chunks_exact(width).flat_map(|row| &row[at.clone()]).copied().collect()
    };
    let (dx, factors) = norm.backward(on, &of(x), &of(rows), at.len())?;
    for (row, dx) in rows.chunks_exact_mut(width).zip(dx.chunks_exact(at.len())) {
        row[at.clone()].copy_from_slice(dx);
    }
    Ok(factors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::program::{Buf, NormKind, RopeId, Temperature};
    use crate::tune::testing::{check_gradient, draw, machine};

    fn op(pairing: RopePairing, norm_after_rope: bool) -> RopeKv {
        RopeKv {
            qkv: Buf(0),
            n_heads: 4,
            layer: 0,
            clamp: None,
            q_norm: None,
            k_norm: None,
            norm_after_rope,
            v_norm: None,
            stores: true,
            rope: Some((RopeId(0), pairing)),
            rope_from: 2,
            temperature: Some(Temperature { scale: 0.3, period: 2 }),
        }
    }

    fn rotation<'a>(
        op: &'a RopeKv,
        program: &'a Program,
        sequences: &'a [Range<usize>],
        (wq, wk): (&'a [f32], &'a [f32]),
    ) -> Rotation<'a> {
        let norm = |dim, weight| {
            Some(NormValues { kind: NormKind::Rms, eps: 1e-2, dim, weight, bias: None })
        };
        let norms =
            HeadNorms { q: norm(wq.len(), Some(wq)), k: norm(6, Some(wk)), v: norm(4, None) };
        Rotation { op, program, sequences, norms }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let on = machine();
        let rope = Rope { inv_freq: vec![1.0, 0.3], magnitude: 1.1 };
        let kv = vec![KvShape { n_kv_heads: 2, k_dim: 6, v_dim: 4, window: None }];
        let program = Program { ropes: vec![rope], kv, ..Program::default() };
        let (q_len, k_len, v_len, width) = (24, 12, 8, 46);
        for (pairing, after, whole) in [
            (RopePairing::Norm, false, false),
            (RopePairing::Neox, true, false),
            (RopePairing::Neox, false, true),
        ] {
            let op = op(pairing, after);
            let sequences = [0..5, 5..8];
            let (x, wq, wk) =
                (draw(1, 8 * width), draw(2, if whole { q_len } else { 6 }), draw(3, 6));
            // All that is read behind the operation: queries, then keys and values.
            let run = |x: &[f32], wq: &[f32]| {
                let mut rows = x.to_vec();
                let own = rotation(&op, &program, &sequences, (wq, &wk));
                let kv = own.forward(&mut rows, width);
                let queries = rows.chunks_exact(width).flat_map(|row| row[..q_len].to_vec());
                [queries.collect(), kv.keys, kv.values].concat()
            };
            let dy = draw(4, 8 * (q_len + k_len + v_len));
            let (dq, dkv) = dy.split_at(8 * q_len);
            let (dk, dv) = dkv.split_at(8 * k_len);
            let kv = KeysValues { keys: dk.to_vec(), values: dv.to_vec() };
            let mut rows = vec![0.0; x.len()];
            for (row, dq) in rows.chunks_exact_mut(width).zip(dq.chunks_exact(q_len)) {
                row[..q_len].copy_from_slice(dq);
            }
            let own = rotation(&op, &program, &sequences, (&wq, &wk));
            let factors = own.backward(on, &x, &mut rows, width, &kv).unwrap();
            check_gradient(&x, &rows, &dy, |x| run(x, &wq));
            check_gradient(&wq, &factors.q, &dy, |wq| run(&x, wq));
        }
    }
}
