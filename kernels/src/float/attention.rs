//! The arithmetic of attention: products of a few rows with a page of keys or values.
//!
//! Scores and weighted sums are one operation, `c += a b` with the `k` of `b` in order: queries by
//! keys that lie dimension by dimension, weights by values that lie key by key. An element is one
//! chain of `fma`s, so it depends neither on the other rows nor on where a sum over `k` is cut.

use super::exp::exp;
use super::{fma, half_to_f32};

/// Memory that is read next, asked for while a product runs. The requests are spread over the
/// product: a CPU has room for some twenty at a time and waits if there are more.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Address that it begins at; any will do.
    pub(crate) address: *const u8,
    /// Cache lines of it.
    pub(crate) lines: usize,
}

impl Ahead {
    /// Bytes of a cache line of most CPUs.
    pub(crate) const LINE_BYTES: usize = 64;
    /// Nothing.
    pub const NONE: Ahead = Ahead { address: std::ptr::null(), lines: 0 };

    /// All of `x`.
    pub fn of<T>(x: &[T]) -> Ahead {
        Ahead::at(x.as_ptr().cast(), size_of_val(x))
    }

    /// Memory that need not be readable yet.
    pub fn at(address: *const u8, bytes: usize) -> Ahead {
        Ahead { address, lines: bytes.div_ceil(Ahead::LINE_BYTES) }
    }

    /// The first `lines` cache lines of it, or all; the rest is left.
    pub fn split_off(&mut self, lines: usize) -> Ahead {
        let lines = lines.min(self.lines);
        let first = Ahead { lines, ..*self };
        self.address = self.address.wrapping_add(lines * Ahead::LINE_BYTES);
        self.lines -= lines;
        first
    }
}

/// Its cache lines' addresses.
impl Iterator for Ahead {
    type Item = *const u8;

    #[inline]
    fn next(&mut self) -> Option<*const u8> {
        self.lines = self.lines.checked_sub(1)?;
        let address = self.address;
        self.address = address.wrapping_add(Ahead::LINE_BYTES);
        Some(address)
    }
}

/// `c[i][j] += sum over k of a[i][k] * b[k][j]` for `n` rows of `a` and `c`, which begin every
/// `a_stride` and `c_stride` elements; `b: [k][cols]` is contiguous.
pub fn add_product_f32(
    n: usize,
    a: (&[f32], usize),
    b: &[f32],
    cols: usize,
    c: (&mut [f32], usize),
) {
    add_product(n, a, b, cols, c, |a, b, c| add_scaled(a, b, c, |b| b));
}

/// As [`add_product_f32`] with `b` as the bits of halves.
pub fn add_product_f16(
    n: usize,
    a: (&[f32], usize),
    b: &[u16],
    cols: usize,
    c: (&mut [f32], usize),
) {
    add_product(n, a, b, cols, c, |a, b, c| add_scaled(a, b, c, half_to_f32));
}

/// The loops of [`add_product_f32`] around `(a, b, c)`: `c += a * b`.
#[inline(always)]
pub(crate) fn add_product<B>(
    n: usize,
    (a, a_stride): (&[f32], usize),
    b: &[B],
    cols: usize,
    (c, c_stride): (&mut [f32], usize),
    add_scaled: impl Fn(f32, &[B], &mut [f32]),
) {
    check_product(n, (a.len(), a_stride), b.len(), cols, (c.len(), c_stride));
    for i in 0..n {
        let (a, c) = (&a[i * a_stride..], &mut c[i * c_stride..][..cols]);
        for (&a, b) in a.iter().zip(b.chunks_exact(cols)) {
            add_scaled(a, b, c);
        }
    }
}

fn add_scaled<B: Copy>(a: f32, b: &[B], c: &mut [f32], widen: impl Fn(B) -> f32) {
    for (c, &b) in c.iter_mut().zip(b) {
        *c = fma(a, widen(b), *c);
    }
}

/// Asserts that `n` rows of `k` and of `cols` elements are there and do not overlap.
pub(crate) fn check_product(
    n: usize,
    (a_len, a_stride): (usize, usize),
    b_len: usize,
    cols: usize,
    (c_len, c_stride): (usize, usize),
) {
    assert!(cols > 0 && b_len.is_multiple_of(cols), "whole rows of {cols}");
    let k = b_len / cols;
    let fits = |len: usize, stride: usize, row: usize| {
        n == 0 || row <= stride && (n - 1) * stride + row <= len
    };
    assert!(fits(a_len, a_stride, k) && fits(c_len, c_stride, cols), "rows fit their strides");
}

/// `x = cap * tanh(x / cap)` (arXiv:2408.00118, section 2), the tanh by way of the `exp` of this room: within
/// 2e-7 of `cap`.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (1.0 - 2.0 / (exp(2.0 * (*x / cap)) + 1.0));
    }
}
