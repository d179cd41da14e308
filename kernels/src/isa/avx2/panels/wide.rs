//! Prefill of super-blocks with codes of 8 bits: codes times their scale as i16, `vpmaddwd` into
//! i32.
//!
//! With the scale in the codes a sum of 32 needs no further factor, so groups of 16 cost what
//! groups of 32 do. Half as many products per instruction as narrow codes get.

use super::super::mem::{load, load_ps, pin, store, store_ps};
use super::super::sum::sum_lanes;
use super::super::unpack::{Wide256, halves_swapped, pair_order};
use super::{Panel, PanelScratch, R, Sums, matmul};
use crate::act::Acts;
use crate::block::{Block256, as_blocks};
use std::arch::x86_64::*;

/// 256 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Row256Wide {
    /// Of each four codes, the first and third as i16, times the scale.
    even: [[i32; 8]; 8],
    /// The second and fourth.
    odd: [[i32; 8]; 8],
    /// `-128 * sum(codes * scale)` of each 32.
    start: [i32; 8],
    d: f32,
}

/// Types in blocks of 256 with signed codes of 8 bits and no minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn wide_256<B: Block256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Wide256),
) {
    const { assert!(!B::HAS_MIN) }
    matmul::<B, Row256Wide>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_256_wide, &mut scratch.sums),
        y,
        |block, row| {
            let mut wide = Wide256::default();
            unpack(block, &mut wide);
            widen::<B>(&wide, row);
        },
        |w, [a, b], sums| tile::<2>(w, [a, b], sums),
        |w, a, sums| tile::<1>(w, [a], sums),
    );
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen<B: Block256>(block: &Wide256, row: &mut Row256Wide) {
    let (ones, order) = (_mm256_set1_epi16(1), pair_order());
    for j in 0..8 {
        let [first, last] = &block.codes[j / 2];
        let codes = halves_swapped([load(first), load(last)])[j % 2];
        let scale = |half| block.scale::<B>(j / 2, half, order);
        let scales = [scale(0), scale(1)];
        let scale = halves_swapped(scales)[j % 2];
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes));
        let even = _mm256_mullo_epi16(even, scale);
        let odd = _mm256_mullo_epi16(_mm256_srai_epi16::<8>(codes), scale);
        store(&mut row.even[j], even);
        store(&mut row.odd[j], odd);
        row.start[j] = -128 * sum_lanes(_mm256_madd_epi16(_mm256_add_epi16(even, odd), ones));
    }
    row.d = block.d;
}

/// `R` rows by `T` panels, some super-blocks: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile<const T: usize>(w: &[[Row256Wide; R]], panels: [Panel<'_>; T], sums: &mut Sums) {
    let low = _mm256_set1_epi16(0xff);
    for (b, w) in w.iter().enumerate() {
        let panels = panels.map(|panel| panel.eight(b));
        let mut products = [[_mm256_setzero_ps(); T]; R];
        for j in 0..8 {
            let mut isum = [[_mm256_setzero_si256(); T]; R];
            for r in 0..R {
                isum[r] = [_mm256_set1_epi32(w[r].start[j]); T];
            }
            for k in 0..8 {
                let mut even = [_mm256_setzero_si256(); T];
                for t in 0..T {
                    even[t] = _mm256_and_si256(load(&panels[t].q[j][k]), low);
                }
                for r in 0..R {
                    let codes = _mm256_set1_epi32(w[r].even[j][k]);
                    for t in 0..T {
                        let product = _mm256_madd_epi16(even[t], codes);
                        isum[r][t] = pin(_mm256_add_epi32(isum[r][t], product));
                    }
                }
                let mut odd = [_mm256_setzero_si256(); T];
                for t in 0..T {
                    odd[t] = _mm256_srli_epi16::<8>(load(&panels[t].q[j][k]));
                }
                for r in 0..R {
                    let codes = _mm256_set1_epi32(w[r].odd[j][k]);
                    for t in 0..T {
                        let product = _mm256_madd_epi16(odd[t], codes);
                        isum[r][t] = pin(_mm256_add_epi32(isum[r][t], product));
                    }
                }
            }
            for t in 0..T {
                let da = load_ps(&panels[t].d[j]);
                for r in 0..R {
                    let isum = _mm256_cvtepi32_ps(isum[r][t]);
                    products[r][t] = _mm256_fmadd_ps(isum, da, products[r][t]);
                }
            }
        }
        // Loaded before the loops they would take all registers from them.
        let sums = std::hint::black_box(&mut *sums);
        for r in 0..R {
            let d = _mm256_set1_ps(w[r].d);
            for t in 0..T {
                let acc = _mm256_fmadd_ps(d, products[r][t], load_ps(&sums[r][t]));
                store_ps(&mut sums[r][t], acc);
            }
        }
    }
}
