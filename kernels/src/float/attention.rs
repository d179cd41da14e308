//! Scores and weighted sums over the keys of one head: `n_q` query rows share `n_keys` key rows.
//!
//! No key is skipped: masks are the caller's. A score is one dot in the room's order, a component
//! of a weighted sum one chain of `fma`s over the keys in order, so neither depends on `n_q`.

use super::{dot_of, fma, half_to_f32};

/// `out[q][key] = scale * (q[q] . k[key])`; `q: [n_q][dim]`, `k: [n_keys][dim]`,
/// `out: [n_q][n_keys]`.
pub fn scores_f32(q: &[f32], k: &[f32], dim: usize, scale: f32, out: &mut [f32]) {
    scores(q, k, dim, scale, out, |k, q| dot_of(k, q, |k| k));
}

/// As [`scores_f32`] with the keys as halves.
pub fn scores_f16(q: &[f32], k: &[u16], dim: usize, scale: f32, out: &mut [f32]) {
    scores(q, k, dim, scale, out, |k, q| dot_of(k, q, half_to_f32));
}

/// `acc[q] += sum(p[q][key] * v[key])`; `p: [n_q][n_keys]`, `v: [n_keys][dim]`,
/// `acc: [n_q][dim]`.
pub fn weighted_sum_f32(p: &[f32], v: &[f32], dim: usize, acc: &mut [f32]) {
    weighted_sum(p, v, dim, acc, |p, v, acc| add_scaled(p, v, acc, |v| v));
}

/// As [`weighted_sum_f32`] with the values as halves.
pub fn weighted_sum_f16(p: &[f32], v: &[u16], dim: usize, acc: &mut [f32]) {
    weighted_sum(p, v, dim, acc, |p, v, acc| add_scaled(p, v, acc, half_to_f32));
}

/// The loops of [`scores_f32`] around a dot `(key, query)`.
#[inline(always)]
pub(crate) fn scores<K>(
    q: &[f32],
    k: &[K],
    dim: usize,
    scale: f32,
    out: &mut [f32],
    dot: impl Fn(&[K], &[f32]) -> f32,
) {
    let (n_q, n_keys) = (rows(q.len(), dim), rows(k.len(), dim));
    assert!(out.len() == n_q * n_keys, "a score per query and key");
    if out.is_empty() {
        return;
    }
    for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(n_keys)) {
        for (k, score) in k.chunks_exact(dim).zip(out) {
            *score = dot(k, q) * scale;
        }
    }
}

/// The loops of [`weighted_sum_f32`] around `(p, value, acc)`: `acc += p * value`.
#[inline(always)]
pub(crate) fn weighted_sum<V>(
    p: &[f32],
    v: &[V],
    dim: usize,
    acc: &mut [f32],
    add_scaled: impl Fn(f32, &[V], &mut [f32]),
) {
    let (n_q, n_keys) = (rows(acc.len(), dim), rows(v.len(), dim));
    assert!(p.len() == n_q * n_keys, "a weight per query and key");
    if p.is_empty() {
        return;
    }
    for (p, acc) in p.chunks_exact(n_keys).zip(acc.chunks_exact_mut(dim)) {
        for (&p, v) in p.iter().zip(v.chunks_exact(dim)) {
            add_scaled(p, v, acc);
        }
    }
}

fn add_scaled<V: Copy>(p: f32, v: &[V], acc: &mut [f32], to_f32: impl Fn(V) -> f32) {
    for (acc, &v) in acc.iter_mut().zip(v) {
        *acc = fma(p, to_f32(v), *acc);
    }
}

fn rows(len: usize, dim: usize) -> usize {
    assert!(dim > 0 && len.is_multiple_of(dim), "whole rows of {dim}");
    len / dim
}
