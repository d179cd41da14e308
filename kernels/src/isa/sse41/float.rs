//! Dots and products of attention, where its time is spent, in [`crate::float`]'s order.

use super::fma::fma_ps;
use super::mem::{load_ps, store_ps};
use crate::float::attention::add_product;
use crate::float::{Ahead, LANES, fma, half_to_f32};
use std::arch::x86_64::*;

/// `a . b`.
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len(), "vectors of one length");
    dot_of(a, b, |a| a)
}

/// [`crate::float::dot_of`].
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn dot_of<A: Copy>(a: &[A], b: &[f32], widen: impl Fn(A) -> f32) -> f32 {
    let (a_groups, a_tail) = a.as_chunks::<LANES>();
    let (b_groups, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = [_mm_setzero_ps(); 2];
    for (a, b) in a_groups.iter().zip(b_groups) {
        add_products(&a.map(&widen), b, &mut lanes);
    }
    if !a_tail.is_empty() {
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        for (to, &a) in a.iter_mut().zip(a_tail) {
            *to = widen(a);
        }
        b[..b_tail.len()].copy_from_slice(b_tail);
        add_products(&a, &b, &mut lanes);
    }
    let mut sums = [0.0; 4];
    store_ps(&mut sums, _mm_add_ps(lanes[0], lanes[1]));
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn add_products(a: &[f32; LANES], b: &[f32; LANES], lanes: &mut [__m128; 2]) {
    let (a, b) = (a.as_chunks().0, b.as_chunks().0);
    lanes[0] = fma_ps(load_ps(&a[0]), load_ps(&b[0]), lanes[0]);
    lanes[1] = fma_ps(load_ps(&a[1]), load_ps(&b[1]), lanes[1]);
}

/// `acc += p * v`.
#[inline]
#[target_feature(enable = "sse4.1,ssse3")]
fn add_scaled<V: Copy>(p: f32, v: &[V], acc: &mut [f32], to_f32: impl Fn(V) -> f32) {
    let (v_groups, v_tail) = v.as_chunks::<4>();
    let (acc_groups, acc_tail) = acc.as_chunks_mut::<4>();
    for (acc, v) in acc_groups.iter_mut().zip(v_groups) {
        let sum = fma_ps(_mm_set1_ps(p), load_ps(&v.map(&to_f32)), load_ps(acc));
        store_ps(acc, sum);
    }
    for (acc, &v) in acc_tail.iter_mut().zip(v_tail) {
        *acc = fma(p, to_f32(v), *acc);
    }
}

/// [`crate::float::add_product_f32`].
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn add_product_f32(
    n: usize,
    a: (&[f32], usize),
    b: &[f32],
    cols: usize,
    c: (&mut [f32], usize),
    _: Ahead,
) {
    add_product(n, a, b, cols, c, |a, b, c| add_scaled(a, b, c, |b| b));
}

/// [`crate::float::add_product_f16`].
#[target_feature(enable = "sse4.1,ssse3")]
pub(super) fn add_product_f16(
    n: usize,
    a: (&[f32], usize),
    b: &[u16],
    cols: usize,
    c: (&mut [f32], usize),
    _: Ahead,
) {
    add_product(n, a, b, cols, c, |a, b, c| add_scaled(a, b, c, half_to_f32));
}
