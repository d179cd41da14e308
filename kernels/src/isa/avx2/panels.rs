//! Prefill: panels of eight tokens, a token per lane, against weights unpacked once per call.
//!
//! For each group of four k a weight word is broadcast and multiplied with the panels' words,
//! `vpmaddubsw(act + 128, w)`; products add up in i16 as long as they fit, then `vpmaddwd` widens
//! them with the block's scale. No lane is ever added to another.
//!
//! The 128 goes out at the start of each i16 run: its lanes begin at `-128 * sum(w)`. i16 addition
//! wraps, so only the run's true sum has to fit: 16 products of codes up to 16 or 8 of codes up to
//! 32 (`127 * 16 * 16 = 32512`); and a pair of products must not saturate (codes up to 64).
//!
//! Tiles are [`R`] weight rows by two panels: 12 accumulators, two panel registers, one weight.
//! Blocking: [`BLOCK_ROWS`] rows by [`BLOCK_COLS`] columns are unpacked into L2, a pair of panels
//! of that depth stays in L1, f32 sums of [`BLOCK_UNITS`] panels in L2.

mod wide;

use super::mem::{load, load_ps, pin, store, store_ps};
use super::sum::{pairs_8, pairs_by_half, sum_lanes};
use super::unpack::{Codes32, Codes256, Scales, half, scale};
use crate::act::{Acts, PANEL_TOKENS, SUMS};
use crate::block::{Block, F16, as_blocks};
use std::arch::x86_64::*;

pub(super) use wide::wide_256;

/// Weight rows of a tile.
const R: usize = 6;
/// Rows unpacked at a time: eight tiles.
const BLOCK_ROWS: usize = 8 * R;
/// Columns unpacked at a time: two panels of this depth are half of a 32 KiB L1.
const BLOCK_COLS: usize = 1024;
/// Panels before weights are unpacked again: 512 tokens, 96 KiB of sums.
const BLOCK_UNITS: usize = 64;

/// The f32 sums of a tile.
type Sums = [[[f32; PANEL_TOKENS]; 2]; R];

/// Where a thread unpacks weights, and sums.
#[derive(Debug)]
pub(crate) struct PanelScratch {
    of_32: Vec<Row32>,
    of_32_wide: Vec<Row32Wide>,
    of_256: Vec<Row256>,
    of_256_wide: Vec<wide::Row256Wide>,
    sums: Vec<Sums>,
}

impl PanelScratch {
    pub fn new() -> PanelScratch {
        let rows_32 = BLOCK_ROWS * BLOCK_COLS / 32;
        let rows_256 = rows_32 / 8;
        PanelScratch {
            of_32: vec![Row32::default(); rows_32],
            of_32_wide: vec![Row32Wide::default(); rows_32],
            of_256: vec![Row256::default(); rows_256],
            of_256_wide: vec![wide::Row256Wide::default(); rows_256],
            sums: vec![Sums::default(); BLOCK_ROWS / R * BLOCK_UNITS / 2],
        }
    }
}

/// 32 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row32 {
    /// Codes less the type's offset, four to a word.
    codes: [i32; 8],
    /// Where the i16 run begins.
    start: i32,
    /// What is added per unit of the tokens' sums.
    d: f32,
    m: f32,
}

/// 32 codes of 8 bits of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row32Wide {
    /// Of each four codes, the first and third as i16.
    even: [i32; 8],
    /// The second and fourth.
    odd: [i32; 8],
    /// `-128 * sum(codes)`.
    start: i32,
    d: f32,
}

/// 256 codes of one row.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Row256 {
    /// Codes less the type's offset, four to a word.
    codes: [[i32; 8]; 8],
    /// Where the i16 runs begin: one per 16 codes, or per 32 in the first eight.
    start: [[i32; 8]; 2],
    /// Scales likewise, as pairs of the same i16.
    scales: [[i32; 8]; 2],
    /// What is to be added per unit of the tokens' sums for codes stored less too much: the scales
    /// of 32 times that.
    restored: [f32; 8],
    /// Minimums, one per 16 codes, or per 32 in the first eight.
    mins: [[f32; 8]; 2],
    d: f32,
    dmin: f32,
}

impl Default for Row256 {
    fn default() -> Row256 {
        let zeros = [0; 8];
        let (codes, pairs) = ([zeros; 8], [zeros; 2]);
        let (restored, mins) = ([0.0; 8], [[0.0; 8]; 2]);
        Row256 { codes, start: pairs, scales: pairs, restored, mins, d: 0.0, dmin: 0.0 }
    }
}

/// One panel from some block of 32 on.
#[derive(Clone, Copy)]
struct Panel<'a> {
    /// `[block][word of four k]`
    q: &'a [[[i8; 4 * PANEL_TOKENS]; 8]],
    d: &'a [[f32; PANEL_TOKENS]],
    s: &'a [[[i16; SUMS]; PANEL_TOKENS]],
}

impl<'a> Panel<'a> {
    fn new(acts: &Acts<'a>, unit: usize, first: usize, n: usize) -> Self {
        let plan = acts.plan;
        let q = &acts.q[unit * plan.q_len()..][..plan.q_len()];
        let d = &acts.d[unit * plan.d_len()..][..plan.d_len()];
        let s = &acts.s[unit * plan.s_len()..][..plan.s_len()];
        Panel {
            q: &q.as_chunks().0.as_chunks().0[first..first + n],
            d: &d.as_chunks().0[first..first + n],
            s: &s.as_chunks().0.as_chunks().0[first..first + n],
        }
    }

    /// The eight blocks of super-block `b`.
    #[inline(always)]
    fn eight(self, b: usize) -> EightBlocks<'a> {
        EightBlocks {
            q: &self.q.as_chunks().0[b],
            d: &self.d.as_chunks().0[b],
            s: &self.s.as_chunks().0[b],
        }
    }
}

/// A panel's part of a super-block.
#[derive(Clone, Copy)]
struct EightBlocks<'a> {
    q: &'a [[[i8; 4 * PANEL_TOKENS]; 8]; 8],
    d: &'a [[f32; PANEL_TOKENS]; 8],
    s: &'a [[[i16; SUMS]; PANEL_TOKENS]; 8],
}

/// Types in blocks of 32 with codes of at most 5 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_32<B: Codes32>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
) {
    matmul::<B, Row32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32, &mut scratch.sums),
        y,
        |block, row| unpack_32(block, codes(block), row),
        |w, [a, b], sums| tile_32::<B, 2>(w, [a, b], sums),
        |w, a, sums| tile_32::<B, 1>(w, [a], sums),
    );
}

/// Types in blocks of 32 with signed codes of 8 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn wide_32<B: Block>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
    d: impl Fn(&B) -> F16,
) {
    matmul::<B, Row32Wide>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32_wide, &mut scratch.sums),
        y,
        |block, row| unpack_wide(codes(block), d(block), row),
        |w, [a, b], sums| tile_wide::<2>(w, [a, b], sums),
        |w, a, sums| tile_wide::<1>(w, [a], sums),
    );
}

/// Types in blocks of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_256<B: Codes256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&B) -> Scales,
) {
    matmul::<B, Row256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_256, &mut scratch.sums),
        y,
        |block, row| unpack_256(block, &codes, scales(block), row),
        |w, [a, b], sums| tile_256::<B, 2>(w, [a, b], sums),
        |w, a, sums| tile_256::<B, 1>(w, [a], sums),
    );
}

/// The loops around the tiles: rows, tokens, columns, pairs of panels, tiles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[expect(clippy::too_many_arguments, reason = "a loop nest with its three bodies")]
fn matmul<B: Block, W>(
    w: &[B],
    n_rows: usize,
    acts: &Acts<'_>,
    (unpacked, sums): (&mut [W], &mut [Sums]),
    y: &mut [f32],
    unpack: impl Fn(&B, &mut W),
    tile_2: impl Fn(&[[W; R]], [Panel<'_>; 2], &mut Sums),
    tile_1: impl Fn(&[[W; R]], Panel<'_>, &mut Sums),
) {
    let (blocks, units) = (acts.plan.cols / B::LEN, acts.plan.units());
    let per_block = B::LEN / 32;
    for first_row in (0..n_rows).step_by(BLOCK_ROWS) {
        let groups = BLOCK_ROWS.min(n_rows - first_row).div_ceil(R);
        for first_unit in (0..units).step_by(BLOCK_UNITS) {
            let pairs = BLOCK_UNITS.min(units - first_unit).div_ceil(2);
            let sums = &mut sums[..pairs * groups];
            sums.fill(Sums::default());
            for first in (0..blocks).step_by(BLOCK_COLS / B::LEN) {
                let n = (BLOCK_COLS / B::LEN).min(blocks - first);
                let unpacked = &mut unpacked[..groups * n * R];
                for r in 0..groups * R {
                    let row = (first_row + r).min(n_rows - 1) * blocks;
                    for (b, block) in w[row + first..row + first + n].iter().enumerate() {
                        unpack(block, &mut unpacked[(r / R * n + b) * R + r % R]);
                    }
                }
                let (tiles, _) = unpacked.as_chunks::<R>();
                for (pair, sums) in sums.chunks_exact_mut(groups).enumerate() {
                    let unit = first_unit + 2 * pair;
                    let panel = |unit| Panel::new(acts, unit, first * per_block, n * per_block);
                    let a = panel(unit);
                    if unit + 1 < units {
                        let b = panel(unit + 1);
                        for (tiles, sums) in tiles.chunks_exact(n).zip(sums) {
                            tile_2(tiles, [a, b], sums);
                        }
                    } else {
                        for (tiles, sums) in tiles.chunks_exact(n).zip(sums) {
                            tile_1(tiles, a, sums);
                        }
                    }
                }
            }
            for (pair, sums) in sums.chunks_exact(groups).enumerate() {
                let unit = first_unit + 2 * pair;
                for (g, sums) in sums.iter().enumerate() {
                    let row = first_row + g * R;
                    let rows = row..n_rows.min(row + R);
                    for p in 0..2.min(units - unit) {
                        for (lane, t) in acts.plan.tokens_of(unit + p).enumerate() {
                            let y = &mut y[t * n_rows..][rows.clone()];
                            for (y, sums) in y.iter_mut().zip(sums) {
                                *y = sums[p][lane];
                            }
                        }
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_32<B: Codes32>(block: &B, codes: __m256i, row: &mut Row32) {
    let offset = stored_offset::<B>();
    let codes = _mm256_sub_epi8(codes, _mm256_set1_epi8(offset as i8));
    store(&mut row.codes, codes);
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let x = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let x = _mm_add_epi16(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_add_epi16(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    row.start = _mm_cvtsi128_si32(times_minus_128_sse(x));
    let [d, m] = block.scales();
    row.d = scale::<B>(d);
    row.m = scale::<B>(m);
}

/// Codes of 0..=31 are stored less 16, so that 16 products of them fit an i16.
const fn stored_offset<B: Codes32>() -> i32 {
    if B::MAX > 24 { 16 } else { B::OFFSET }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_wide(codes: __m256i, d: F16, row: &mut Row32Wide) {
    let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes));
    let odd = _mm256_srai_epi16::<8>(codes);
    store(&mut row.even, even);
    store(&mut row.odd, odd);
    let sums = _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1));
    row.start = -128 * sum_lanes(sums);
    row.d = half(d);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_256<B: Codes256>(
    block: &B,
    codes: &impl Fn(&B, usize) -> __m256i,
    Scales { scales, mins }: Scales,
    row: &mut Row256,
) {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for j in 0..8 {
        let codes = _mm256_sub_epi8(codes(block, j), _mm256_set1_epi8(B::PANEL_OFFSET as i8));
        store(&mut row.codes[j], codes);
        pairs[j] = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    }
    if B::GROUP == 32 {
        store(&mut row.start[0], times_minus_128(pairs_8(&pairs)));
        // Each scale and minimum is there twice: already pairs of the same.
        store(&mut row.scales[0], scales);
        let restored = _mm256_srai_epi32::<16>(_mm256_slli_epi16::<4>(scales));
        store_ps(&mut row.restored, _mm256_cvtepi32_ps(restored));
        store_ps(&mut row.mins[0], _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(mins)));
    } else {
        // Words 0..4 of the low and high half of `a` belong to registers 0..4, 16 codes each.
        let [a, b] = pairs_by_half(&pairs);
        store(&mut row.start[0], interleave_halves(times_minus_128(a)));
        store(&mut row.start[1], interleave_halves(times_minus_128(b)));
        let low = _mm256_unpacklo_epi16(scales, scales);
        let high = _mm256_unpackhi_epi16(scales, scales);
        store(&mut row.scales[0], _mm256_permute2x128_si256::<0x20>(low, high));
        store(&mut row.scales[1], _mm256_permute2x128_si256::<0x31>(low, high));
        let low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(mins));
        let high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(mins));
        store_ps(&mut row.mins[0], _mm256_cvtepi32_ps(low));
        store_ps(&mut row.mins[1], _mm256_cvtepi32_ps(high));
    }
    let [d, dmin] = block.d();
    row.d = half(d);
    row.dmin = half(dmin);
}

/// Word 0 of the low half, word 0 of the high half, word 1 of the low one, ...
#[inline]
#[target_feature(enable = "avx2")]
fn interleave_halves(x: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

#[inline]
#[target_feature(enable = "avx2")]
fn times_minus_128(x: __m256i) -> __m256i {
    _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16::<7>(x))
}

#[inline]
#[target_feature(enable = "sse2")]
fn times_minus_128_sse(x: __m128i) -> __m128i {
    _mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16::<7>(x))
}

/// `R` rows by `T` panels, some blocks of 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_32<B: Codes32, const T: usize>(w: &[[Row32; R]], panels: [Panel<'_>; T], sums: &mut Sums) {
    let ones = _mm256_set1_epi16(1);
    let offset = B::OFFSET - stored_offset::<B>();
    for (b, w) in w.iter().enumerate() {
        let mut run = [[_mm256_setzero_si256(); T]; R];
        for r in 0..R {
            run[r] = [_mm256_set1_epi32(w[r].start); T];
        }
        for k in 0..8 {
            let mut q = [_mm256_setzero_si256(); T];
            for t in 0..T {
                q[t] = load(&panels[t].q[b][k]);
            }
            for r in 0..R {
                let codes = _mm256_set1_epi32(w[r].codes[k]);
                for t in 0..T {
                    let products = _mm256_maddubs_epi16(q[t], codes);
                    run[r][t] = pin(_mm256_add_epi16(run[r][t], products));
                }
            }
        }
        for t in 0..T {
            let panel = panels[t];
            let da = load_ps(&panel.d[b]);
            let sum = _mm256_madd_epi16(load(&panel.s[b]), ones);
            for r in 0..R {
                let mut isum = _mm256_madd_epi16(run[r][t], ones);
                if offset != 0 {
                    isum = _mm256_add_epi32(isum, _mm256_slli_epi32::<4>(sum));
                }
                let d = _mm256_mul_ps(_mm256_set1_ps(w[r].d), da);
                let out = &mut sums[r][t];
                let mut acc = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum), load_ps(out));
                if B::HAS_MIN {
                    let m = _mm256_mul_ps(_mm256_set1_ps(w[r].m), da);
                    acc = _mm256_fmadd_ps(m, _mm256_cvtepi32_ps(sum), acc);
                }
                store_ps(out, acc);
            }
        }
    }
}

/// `R` rows by `T` panels, some blocks of 32 with codes of 8 bits: products in i32.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_wide<const T: usize>(w: &[[Row32Wide; R]], panels: [Panel<'_>; T], sums: &mut Sums) {
    let low = _mm256_set1_epi16(0xff);
    for (b, w) in w.iter().enumerate() {
        let mut isum = [[_mm256_setzero_si256(); T]; R];
        for r in 0..R {
            isum[r] = [_mm256_set1_epi32(w[r].start); T];
        }
        for k in 0..8 {
            let mut even = [_mm256_setzero_si256(); T];
            for t in 0..T {
                even[t] = _mm256_and_si256(load(&panels[t].q[b][k]), low);
            }
            for r in 0..R {
                let codes = _mm256_set1_epi32(w[r].even[k]);
                for t in 0..T {
                    let products = _mm256_madd_epi16(even[t], codes);
                    isum[r][t] = pin(_mm256_add_epi32(isum[r][t], products));
                }
            }
            let mut odd = [_mm256_setzero_si256(); T];
            for t in 0..T {
                odd[t] = _mm256_srli_epi16::<8>(load(&panels[t].q[b][k]));
            }
            for r in 0..R {
                let codes = _mm256_set1_epi32(w[r].odd[k]);
                for t in 0..T {
                    let products = _mm256_madd_epi16(odd[t], codes);
                    isum[r][t] = pin(_mm256_add_epi32(isum[r][t], products));
                }
            }
        }
        for t in 0..T {
            let da = load_ps(&panels[t].d[b]);
            for r in 0..R {
                let d = _mm256_mul_ps(_mm256_set1_ps(w[r].d), da);
                let out = &mut sums[r][t];
                let acc = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(isum[r][t]), load_ps(out));
                store_ps(out, acc);
            }
        }
    }
}

/// `R` rows by `T` panels, some blocks of 256: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_256<B: Codes256, const T: usize>(
    w: &[[Row256; R]],
    panels: [Panel<'_>; T],
    sums: &mut Sums,
) {
    const { assert!(B::PANEL_OFFSET == B::OFFSET || B::PANEL_OFFSET - B::OFFSET == 16) }
    const { assert!(B::PANEL_OFFSET == B::OFFSET || B::GROUP == 32) }
    let ones = _mm256_set1_epi16(1);
    for (b, w) in w.iter().enumerate() {
        let panels = panels.map(|panel| panel.eight(b));
        let mut products = [[_mm256_setzero_ps(); T]; R];
        for j in 0..8 {
            let mut isum = run::<B, T>(w, &panels, j, 0);
            if B::GROUP == 16 {
                let second = run::<B, T>(w, &panels, j, 1);
                for r in 0..R {
                    for t in 0..T {
                        isum[r][t] = _mm256_add_epi32(isum[r][t], second[r][t]);
                    }
                }
            }
            for t in 0..T {
                let da = load_ps(&panels[t].d[j]);
                let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(load(&panels[t].s[j]), ones));
                for r in 0..R {
                    let mut isum = _mm256_cvtepi32_ps(isum[r][t]);
                    if B::PANEL_OFFSET != B::OFFSET {
                        // Small integers: exact.
                        isum = _mm256_fmadd_ps(_mm256_set1_ps(w[r].restored[j]), sum, isum);
                    }
                    products[r][t] = _mm256_fmadd_ps(isum, da, products[r][t]);
                }
            }
        }
        let mut mins = [[_mm256_setzero_ps(); T]; R];
        for j in 0..if B::HAS_MIN { 8 } else { 0 } {
            for g in 0..32 / B::GROUP {
                let i = j * (32 / B::GROUP) + g;
                let mut scaled = [_mm256_setzero_ps(); T];
                for t in 0..T {
                    let pair = load(&panels[t].s[j]);
                    let sum = match (B::GROUP, g) {
                        (32, _) => _mm256_madd_epi16(pair, ones),
                        (_, 0) => _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pair)),
                        _ => _mm256_srai_epi32::<16>(pair),
                    };
                    let da = load_ps(&panels[t].d[j]);
                    scaled[t] = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), da);
                }
                for r in 0..R {
                    let min = _mm256_set1_ps(w[r].mins[i / 8][i % 8]);
                    for t in 0..T {
                        mins[r][t] = _mm256_fmadd_ps(min, scaled[t], mins[r][t]);
                    }
                }
            }
        }
        // Loaded before the loops they would take all registers from them.
        let sums = std::hint::black_box(&mut *sums);
        for r in 0..R {
            let (d, dmin) = (_mm256_set1_ps(w[r].d), _mm256_set1_ps(w[r].dmin));
            for t in 0..T {
                let mut acc = _mm256_fmadd_ps(d, products[r][t], load_ps(&sums[r][t]));
                if B::HAS_MIN {
                    acc = _mm256_fnmadd_ps(dmin, mins[r][t], acc);
                }
                store_ps(&mut sums[r][t], acc);
            }
        }
    }
}

/// The products of group `g` of elements `32j..32j + 32`, times its scale.
#[inline]
#[target_feature(enable = "avx2")]
fn run<B: Codes256, const T: usize>(
    w: &[Row256; R],
    panels: &[EightBlocks<'_>; T],
    j: usize,
    g: usize,
) -> [[__m256i; T]; R] {
    let i = j * (32 / B::GROUP) + g;
    let mut run = [[_mm256_setzero_si256(); T]; R];
    for r in 0..R {
        run[r] = [_mm256_set1_epi32(w[r].start[i / 8][i % 8]); T];
    }
    for k in 0..B::GROUP / 4 {
        let k = g * 4 + k;
        let mut q = [_mm256_setzero_si256(); T];
        for t in 0..T {
            q[t] = load(&panels[t].q[j][k]);
        }
        for r in 0..R {
            let codes = _mm256_set1_epi32(w[r].codes[j][k]);
            for t in 0..T {
                let products = _mm256_maddubs_epi16(q[t], codes);
                run[r][t] = pin(_mm256_add_epi16(run[r][t], products));
            }
        }
    }
    for r in 0..R {
        let scale = _mm256_set1_epi32(w[r].scales[i / 8][i % 8]);
        for t in 0..T {
            run[r][t] = _mm256_madd_epi16(run[r][t], scale);
        }
    }
    run
}
