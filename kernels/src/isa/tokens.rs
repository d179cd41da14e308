//! Decoding's loops over tokens: a few at a time, so many that registers hold their sums.

use crate::act::{Acts, SUMS};
use std::ops::Range;

/// Tokens `first..first + N` at a time.
macro_rules! few_tokens {
    ($n_tokens:expr, |$N:ident, $first:ident| $kernel:expr) => {
        for tokens in parts_of($n_tokens) {
            let $first = tokens.start;
            match tokens.len() {
                1 => {
                    const $N: usize = 1;
                    $kernel
                }
                2 => {
                    const $N: usize = 2;
                    $kernel
                }
                3 => {
                    const $N: usize = 3;
                    $kernel
                }
                _ => {
                    const $N: usize = 4;
                    $kernel
                }
            }
        }
    };
}
pub(super) use few_tokens;

/// A product of interleaved rows ([`crate::interleave`]): `name<parameters>, CPU features, rows of a group,
/// |group, inputs of tokens, their number| sums, what writes those`.
///
/// The product is safe where only a level's table has it, which is reached by a token that proves the features.
#[cfg(target_arch = "x86_64")]
macro_rules! interleaved_matmul {
    (
        $(#[$attribute:meta])*
        $visible:vis fn $name:ident<$($generic:ident: $bound:ident),*>, $features:literal,
        $lanes:expr, |$group:ident, $x:ident, $N:ident| $sums:expr, $write:path
    ) => {
        $(#[$attribute])*
        $visible fn $name<$($generic: $bound),*>(
            w: &[u8],
            group_bytes: usize,
            skip: usize,
            acts: &Acts<'_>,
            y: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            fn kernel<$($generic: $bound),*>(
                w: &[u8],
                group_bytes: usize,
                skip: usize,
                acts: &Acts<'_>,
                y: &mut [f32],
            ) {
                let n_rows = y.len() / acts.plan.n_tokens;
                for ($group, place) in groups(w, $lanes, group_bytes, skip, n_rows) {
                    few_tokens!(acts.plan.n_tokens, |$N, first| {
                        let $x = Rows::<$N>::new(acts, first);
                        $write(&place, $sums, first, y);
                    });
                }
            }
            // SAFETY: the CPU has the features, as the entry's table is the level's.
            unsafe { kernel::<$($generic),*>(w, group_bytes, skip, acts, y) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use interleaved_matmul;

/// Even parts of at most four tokens, which is what registers hold the sums of.
pub(super) fn parts_of(n_tokens: usize) -> impl Iterator<Item = Range<usize>> {
    let size = n_tokens.div_ceil(n_tokens.div_ceil(4).max(1)).max(1);
    (0..n_tokens).step_by(size).map(move |first| first..n_tokens.min(first + size))
}

/// The activations of `N` tokens, block by block.
pub(super) struct Rows<'a, const N: usize> {
    pub q: [&'a [[i8; 32]]; N],
    pub d: [&'a [f32]; N],
    pub s: [&'a [[i16; SUMS]]; N],
}

impl<'a, const N: usize> Rows<'a, N> {
    /// Tokens `first..first + N`.
    #[inline(always)]
    pub fn new(acts: &Acts<'a>, first: usize) -> Self {
        let (plan, n) = (acts.plan, acts.plan.blocks());
        let mut rows = Rows { q: [&[]; N], d: [&[]; N], s: [&[]; N] };
        for i in 0..N {
            let t = first + i;
            rows.q[i] = &acts.q[t * plan.q_len()..].as_chunks().0[..n];
            rows.d[i] = &acts.d[t * plan.d_len()..][..n];
            rows.s[i] = &acts.s[t * plan.s_len()..].as_chunks().0[..n];
        }
        rows
    }
}

impl<const N: usize> Rows<'_, N> {
    /// The first `n` blocks, all there are: said again where the compiler is to know it.
    #[inline(always)]
    pub fn as_long_as(&self, n: usize) -> Self {
        self.blocks(0, n)
    }

    /// Blocks `first..first + n`.
    #[inline(always)]
    pub fn blocks(&self, first: usize, n: usize) -> Self {
        let Rows { mut q, mut d, mut s } = *self;
        for t in 0..N {
            (q[t], d[t], s[t]) = (&q[t][first..][..n], &d[t][first..][..n], &s[t][first..][..n]);
        }
        Rows { q, d, s }
    }
}
