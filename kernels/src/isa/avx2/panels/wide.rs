//! Prefill of super-blocks with codes of 8 bits: codes times their scale as i16, `vpmaddwd` into
//! i32.
//!
//! With the scale in the codes a sum of 32 needs no further factor, so groups of 16 cost what
//! groups of 32 do. Half as many products per instruction as narrow codes get.

use super::super::mem::{fence, load, load_ps, pin, store, store_ps};
use super::super::unpack::{Wide256, halves_swapped, pair_order};
use super::{Minimums, PanelScratch, Panels, R, Sums, TileScratch, Wants, interleave, matmul};
use crate::act::{Acts, PanelOrder};
use crate::block::{Block256, as_blocks};
use std::arch::x86_64::*;
use std::hint::black_box;

/// 256 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Row256Wide {
    /// The first and third of each four codes in [`interleave`]'s order, as i16 times the scale.
    even: [[i32; 8]; 8],
    /// The second and fourth.
    odd: [[i32; 8]; 8],
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
        (&mut scratch.of_256_wide, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        Wants { order: PanelOrder::ByHalves, offset: 0, two_runs: false, minimums: Minimums::None },
        |block, row| {
            let mut wide = Wide256::default();
            unpack(block, &mut wide);
            widen::<B>(&wide, row);
        },
        |w, panels, tile, sums| self::tile::<2>(w, panels, tile, sums),
        |w, panels, tile, sums| self::tile::<1>(w, panels, tile, sums),
    );
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen<B: Block256>(block: &Wide256, row: &mut Row256Wide) {
    let order = pair_order();
    for j in 0..8 {
        let codes = [block.codes(j / 2, 0), block.codes(j / 2, 1)];
        let codes = interleave(halves_swapped(codes)[j % 2]);
        let scale = |half| block.scale::<B>(j / 2, half, order);
        let scale = halves_swapped([scale(0), scale(1)])[j % 2];
        // By turns that of the first and of the second 16, as the codes are.
        let first = _mm256_permute2x128_si256::<0x00>(scale, scale);
        let second = _mm256_permute2x128_si256::<0x11>(scale, scale);
        let scale = _mm256_blend_epi16::<0xaa>(first, second);
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes));
        let odd = _mm256_srai_epi16::<8>(codes);
        store(&mut row.even[j], _mm256_mullo_epi16(even, scale));
        store(&mut row.odd[j], _mm256_mullo_epi16(odd, scale));
    }
    row.d = block.d;
}

/// `R` rows by `T` panels, some super-blocks: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile<const T: usize>(
    w: &[[Row256Wide; R]],
    panels: Panels<'_, T>,
    tile: &mut TileScratch,
    sums: &mut Sums,
) {
    let (w, panels, sums, tile) = black_box((w, panels, sums, tile));
    for (b, (w, blocks)) in w.iter().zip(panels.blocks.as_chunks::<8>().0).enumerate() {
        for (j, a) in blocks.iter().enumerate() {
            let q = panels.codes(8 * b + j);
            let mut isum = [[_mm256_setzero_si256(); T]; R];
            for k in 0..8 {
                let mut even = [_mm256_setzero_si256(); T];
                for t in 0..T {
                    even[t] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(load(&q[t][k])));
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
                    odd[t] = _mm256_srai_epi16::<8>(load(&q[t][k]));
                }
                for r in 0..R {
                    let codes = _mm256_set1_epi32(w[r].odd[j][k]);
                    for t in 0..T {
                        let product = _mm256_madd_epi16(odd[t], codes);
                        isum[r][t] = pin(_mm256_add_epi32(isum[r][t], product));
                    }
                }
            }
            fence();
            for t in 0..T {
                let da = load_ps(&a.d[t]);
                for r in 0..R {
                    tile.add(j, (r, t), _mm256_cvtepi32_ps(isum[r][t]), da);
                }
            }
            fence();
        }
        for r in 0..R {
            let d = _mm256_set1_ps(w[r].d);
            for t in 0..T {
                let acc = _mm256_fmadd_ps(d, load_ps(&tile.products[r][t]), load_ps(&sums[r][t]));
                store_ps(&mut sums[r][t], acc);
            }
        }
    }
}
