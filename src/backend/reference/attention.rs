//! Rotation, the cache, and attention by their definitions.

use super::Step;
use super::float::{dot, normalize_by};
use crate::backend::program::{Attention, HeadNorm, Rope, RopeKv, Tokens};
use std::ops::Range;
use teff_kernels::RopePairing;

impl Step<'_> {
    pub(super) fn rope_kv(&mut self, op: &RopeKv) {
        let shape = self.program.kv[op.layer];
        let q_len = op.n_heads * shape.k_dim;
        let k_len = if op.stores { shape.n_kv_heads * shape.k_dim } else { 0 };
        for t in self.selected(Tokens::All) {
            let mut row = self.row(op.qkv, t).to_vec();
            if let Some(clamp) = op.clamp {
                row.iter_mut().for_each(|x| *x = x.clamp(-clamp, clamp));
            }
            let (qk, v) = row.split_at_mut(q_len + k_len);
            if !op.norm_after_rope {
                normalize_heads(op.q_norm.as_ref(), &mut qk[..q_len]);
                normalize_heads(op.k_norm.as_ref(), &mut qk[q_len..]);
            }
            if let Some((rope, pairing)) = op.rope {
                let rope = &self.program.ropes[rope.0];
                for head in qk.chunks_mut(shape.k_dim) {
                    rotate(&mut head[op.rope_from..], rope, pairing, self.first + t);
                }
            }
            if op.norm_after_rope {
                normalize_heads(op.q_norm.as_ref(), &mut qk[..q_len]);
                normalize_heads(op.k_norm.as_ref(), &mut qk[q_len..]);
            }
            if let Some(temperature) = op.temperature {
                let factor = temperature.at((self.first + t) as u32);
                qk[..q_len].iter_mut().for_each(|x| *x *= factor);
            }
            if op.stores {
                normalize_heads(op.v_norm.as_ref(), v);
                self.sequence.keys[op.layer].extend_from_slice(&qk[q_len..]);
                self.sequence.values[op.layer].extend_from_slice(v);
            }
            self.set(op.qkv, t, &row);
        }
    }

    /// The positions that a token sees in a layer.
    fn seen(&self, layer: usize, t: usize) -> Range<usize> {
        let at = self.first + t;
        let window = self.program.kv[layer].window.unwrap_or(usize::MAX);
        let end = match self.program.bidirectional {
            true => at.saturating_add(window).min(self.first + self.tokens.len()),
            false => at + 1,
        };
        (at + 1).saturating_sub(window)..end
    }

    pub(super) fn attention(&mut self, op: &Attention) {
        let shape = self.program.kv[op.layer];
        for t in self.selected(op.rows) {
            let mut out = Vec::new();
            for head in 0..op.n_heads {
                let kv_head = head / (op.n_heads / shape.n_kv_heads);
                let q = &self.row(op.qkv, t)[head * shape.k_dim..][..shape.k_dim];
                let of_head = |position: usize, dim: usize| {
                    let first = (position * shape.n_kv_heads + kv_head) * dim;
                    first..first + dim
                };
                let mut scores = Vec::new();
                for key in self.seen(op.layer, t) {
                    let k = &self.sequence.keys[op.layer][of_head(key, shape.k_dim)];
                    let mut score = f64::from(op.scale) * dot(q, k);
                    if let Some(cap) = op.softcap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    if let Some(slopes) = &op.slopes {
                        let distance = (self.first + t).abs_diff(key);
                        score -= f64::from(slopes[head]) * distance as f64;
                    }
                    scores.push(score);
                }
                let sink = op.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
                let max = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let total = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - max).exp());
                let mut sum = vec![0.0; shape.v_dim];
                for (key, weight) in self.seen(op.layer, t).zip(weights) {
                    let v = &self.sequence.values[op.layer][of_head(key, shape.v_dim)];
                    sum.iter_mut().zip(v).for_each(|(sum, &v)| *sum += weight * f64::from(v));
                }
                out.extend(sum.into_iter().map(|sum| (sum / total) as f32));
            }
            self.set(op.out, t, &out);
        }
    }
}

fn normalize_heads(norm: Option<&HeadNorm>, x: &mut [f32]) {
    let Some(HeadNorm { norm, dim }) = norm else { return };
    for (i, x) in x.chunks_mut(*dim).enumerate() {
        let of_head = |values: &Option<Vec<f32>>| {
            let values = values.as_ref()?;
            let first = if values.len() == *dim { 0 } else { i * dim };
            Some(values[first..][..*dim].to_vec())
        };
        let (weight, bias) = (of_head(&norm.weight), of_head(&norm.bias));
        let normed = normalize_by(norm, weight.as_deref(), bias.as_deref(), x);
        x.copy_from_slice(&normed);
    }
}

/// Turns the pairs of a head's first dimensions.
fn rotate(x: &mut [f32], rope: &Rope, pairing: RopePairing, position: usize) {
    let n = rope.inv_freq.len();
    for (i, freq) in rope.inv_freq.iter().enumerate() {
        let (a, b) = match pairing {
            RopePairing::Norm => (2 * i, 2 * i + 1),
            RopePairing::Neox => (i, i + n),
        };
        let (sin, cos) = (position as f64 * freq).sin_cos();
        let (x_a, x_b) = (f64::from(x[a]), f64::from(x[b]));
        let magnitude = f64::from(rope.magnitude);
        x[a] = (magnitude * (x_a * cos - x_b * sin)) as f32;
        x[b] = (magnitude * (x_b * cos + x_a * sin)) as f32;
    }
}
