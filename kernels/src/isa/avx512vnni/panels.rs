//! Prefill: two panels of eight tokens in a register, a token per lane, against weights unpacked
//! once per call.
//!
//! For each group of four k a weight word is the broadcast memory operand of one
//! `vpdpbusd(act + 128, w)` on both panels; products add up in i32, where nothing overflows. The
//! 128 goes out at the start of each sum: its lanes begin at `-128 * sum(w)`.
//!
//! Scales of a super-block cost as much as the products of 32 codes do in some types, so those
//! whose codes times scales fit 8 bits are unpacked to these products: Q2_K to at most `3 * 15`,
//! Q3_K to `-4 * -32 = 128`, which fits negated; so all such weights are negated.
//!
//! Tiles are [`R`] weight rows by two panels, or by the last one alone. Blocking: [`BLOCK_ROWS`]
//! rows by [`BLOCK_COLS`] columns are unpacked into L2, a pair of panels of that depth stays in
//! L1, f32 sums of [`BLOCK_UNITS`] panels in L2.

use super::VnniScratch;
use super::mem::{load_ps, store_ps};
use super::vector::{
    all, codes, dot_add, float, minus_mul_add, mul, mul_add, pair_sums, scales, sums, times,
    times_add,
};
use crate::act::{Acts, PANEL_TOKENS, PanelOrder};
use crate::block::*;
use crate::isa::avx2::mem;
use crate::isa::avx2::pack::transpose;
use crate::isa::avx2::panels::Panel;
use crate::isa::avx2::panels::fours::Super;
use crate::isa::avx2::sum::{sum_4, sum_8, sum_lanes};
use crate::isa::avx2::unpack::{Codes16, Codes32, Codes256, Scales, Wide256, half, halves_swapped};
use std::arch::x86_64::*;

/// Weight rows of a tile.
const R: usize = 8;
/// Rows unpacked at a time: six tiles.
const BLOCK_ROWS: usize = 6 * R;
/// Columns unpacked at a time: two panels of this depth are half of a 32 KiB L1.
const BLOCK_COLS: usize = 1024;
/// Panels before weights are unpacked again: 512 tokens, 96 KiB of sums.
const BLOCK_UNITS: usize = 64;

/// The f32 sums of a tile, `[row][token]`.
type Sums = [[f32; 2 * PANEL_TOKENS]; R];

/// Scratch of a thread: unpacked weights and sums.
#[derive(Debug)]
pub(super) struct PanelScratch {
    of_16: Vec<Row16>,
    of_32: Vec<Row32>,
    of_256: Vec<Row256>,
    sums: Vec<Sums>,
}

impl Default for PanelScratch {
    fn default() -> PanelScratch {
        PanelScratch {
            of_16: vec![Row16::default(); BLOCK_ROWS * BLOCK_COLS / 32],
            of_32: vec![Row32::default(); BLOCK_ROWS * BLOCK_COLS / 32],
            of_256: vec![Row256::default(); BLOCK_ROWS * BLOCK_COLS / 256],
            sums: vec![Sums::default(); BLOCK_ROWS / R * BLOCK_UNITS / 2],
        }
    }
}

/// 32 codes of one row, with a scale per 16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row16 {
    /// Codes less the type's offset, four to a word.
    codes: [i32; 8],
    /// `-128 * sum(codes)` of each 16.
    start: [i32; 2],
    d: [f32; 2],
}

/// 32 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row32 {
    /// Codes less the type's offset, four to a word.
    codes: [i32; 8],
    /// `-128 * sum(codes)`.
    start: i32,
    d: f32,
    /// Minimum, added per unit of the tokens' sums.
    m: f32,
}

/// 256 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row256 {
    /// Codes less the type's offset, four to a word; if [`Super::FOLDED`] times minus the scales.
    codes: [[i32; 8]; 8],
    /// `-128 * sum(codes)`, one per 16 codes, or per 32 in the first eight.
    start: [[i32; 8]; 2],
    /// Scales likewise, unless folded.
    scales: [[f32; 8]; 2],
    /// Minimums, one per 16 codes, or per 32 in the first eight.
    mins: [[f32; 8]; 2],
    d: f32,
    minus_dmin: f32,
}

/// The scale and the minimum of a block.
#[inline]
#[target_feature(enable = "f16c")]
pub(super) fn halves<B: Codes32>(block: &B) -> [f32; 2] {
    let [d, m] = block.scales();
    [half(d), half(m)]
}

/// Codes less an offset.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn less(codes: __m256i, offset: i32) -> __m256i {
    _mm256_sub_epi8(codes, _mm256_set1_epi8(offset as i8))
}

/// Types in blocks of `PARTS` times 32; `codes` are without the offset, `scales` the two of a part.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_16<B: Codes16, const PARTS: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut VnniScratch,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&B, usize) -> [f32; 2],
) {
    const { assert!(PARTS == B::PARTS) }
    matmul::<B, [Row16; PARTS]>(
        as_blocks(w),
        n_rows,
        acts,
        (scratch.panels.of_16.as_chunks_mut().0, &mut scratch.panels.sums),
        y,
        |block, parts| {
            for j in 0..PARTS {
                unpack_16(less(codes(block, j), B::OFFSET), scales(block, j), &mut parts[j]);
            }
        },
        |w, pair, sums| tile_16::<B, PARTS, 2>(w, &pair, sums),
        |w, last, sums| tile_16::<B, PARTS, 1>(w, &[last], sums),
    );
}

/// Types in blocks of 32; `codes` are signed, `scales` are `d` and `m`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_32<B: Block32>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut VnniScratch,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
    scales: impl Fn(&B) -> [f32; 2],
) {
    matmul::<B, Row32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.panels.of_32, &mut scratch.panels.sums),
        y,
        |block, row| unpack_32(codes(block), scales(block), row),
        |w, pair, sums| tile_32::<B, 2>(w, &pair, sums),
        |w, last, sums| tile_32::<B, 1>(w, &[last], sums),
    );
}

/// Types in blocks of 256; `codes` are without the offset.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks_256<B: Super + Codes256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut VnniScratch,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&B) -> Scales,
) {
    matmul::<B, Row256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.panels.of_256, &mut scratch.panels.sums),
        y,
        |block, row| unpack_256(block, &codes, scales(block), row),
        |w, pair, sums| tile_256::<B, 2>(w, &pair, sums),
        |w, last, sums| tile_256::<B, 1>(w, &[last], sums),
    );
}

/// Types in blocks of 256 with signed codes and no minimum.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn wide_256<B: Super>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut VnniScratch,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Wide256),
) {
    const { assert!(!B::HAS_MIN) }
    matmul::<B, Row256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.panels.of_256, &mut scratch.panels.sums),
        y,
        |block, row| {
            let mut wide = Wide256::default();
            unpack(block, &mut wide);
            in_order::<B>(&wide, row);
        },
        |w, pair, sums| tile_256::<B, 2>(w, &pair, sums),
        |w, last, sums| tile_256::<B, 1>(w, &[last], sums),
    );
}

/// The loops around the tiles: rows, tokens, columns, pairs of panels, tiles.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
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
    assert!(acts.plan.order == PanelOrder::Plus128, "panels of this level");
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
                    let b = (unit + 1 < units).then(|| panel(unit + 1));
                    for (tiles, sums) in tiles.chunks_exact(n).zip(sums) {
                        match b {
                            Some(b) => tile_2(tiles, [a, b], sums),
                            None => tile_1(tiles, a, sums),
                        }
                    }
                }
            }
            for (pair, sums) in sums.chunks_exact(groups).enumerate() {
                let unit = first_unit + 2 * pair;
                for (g, sums) in sums.iter().enumerate() {
                    for p in 0..2.min(units - unit) {
                        write(sums, p, acts, unit + p, first_row + g * R, n_rows, y);
                    }
                }
            }
        }
    }
}

/// The sums of the `p`th panel of a tile to its tokens in `y`, rows `row..row + R`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn write(
    sums: &Sums,
    p: usize,
    acts: &Acts<'_>,
    unit: usize,
    row: usize,
    n_rows: usize,
    y: &mut [f32],
) {
    let mut rows = [_mm256_setzero_si256(); R];
    for r in 0..R {
        let (halves, _) = sums[r].as_chunks::<PANEL_TOKENS>();
        rows[r] = _mm256_castps_si256(mem::load_ps(&halves[p]));
    }
    let tokens = transpose(rows);
    for (t, sums) in acts.plan.tokens_of(unit).zip(tokens) {
        let y = &mut y[t * n_rows..][row..n_rows.min(row + R)];
        let sums = _mm256_castsi256_ps(sums);
        match y.first_chunk_mut() {
            Some(y) => mem::store_ps(y, sums),
            None => {
                let mut lanes = [0.0; R];
                mem::store_ps(&mut lanes, sums);
                y.copy_from_slice(&lanes[..y.len()]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn unpack_16(codes: __m256i, d: [f32; 2], row: &mut Row16) {
    mem::store(&mut row.codes, codes);
    let sums = times_128(codes);
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
    row.start = [-_mm256_extract_epi32::<0>(sums), -_mm256_extract_epi32::<4>(sums)];
    row.d = d;
}

#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn unpack_32(codes: __m256i, [d, m]: [f32; 2], row: &mut Row32) {
    mem::store(&mut row.codes, codes);
    row.start = -sum_lanes(times_128(codes));
    row.d = d;
    row.m = m;
}

/// `128 * sum(codes)`, four by four.
#[inline]
#[target_feature(enable = "avx512vnni,avx512vl")]
fn times_128(codes: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(-128), codes)
}

#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn unpack_256<B: Super + Codes256>(
    block: &B,
    codes: &impl Fn(&B, usize) -> __m256i,
    Scales { scales, mins }: Scales,
    row: &mut Row256,
) {
    let none = _mm256_setzero_si256();
    let mut sums = [none; 8];
    for j in 0..8 {
        let mut codes = less(codes(block, j), B::OFFSET);
        if B::FOLDED {
            codes = times_scales(codes, _mm256_sub_epi16(none, scales), j);
        }
        mem::store(&mut row.codes[j], codes);
        sums[j] = times_128(codes);
    }
    put_starts::<B>(&sums, row);
    put_factors::<B>(scales, &mut row.scales);
    put_factors::<B>(mins, &mut row.mins);
    let [d, dmin] = block.d();
    row.d = half(d);
    row.minus_dmin = -half(dmin);
}

/// A super-block in the order of its elements.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn in_order<B: Super>(block: &Wide256, row: &mut Row256) {
    let mut sums = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        let codes = halves_swapped([block.codes(i, 0), block.codes(i, 1)]);
        for k in 0..2 {
            mem::store(&mut row.codes[2 * i + k], codes[k]);
            sums[2 * i + k] = times_128(codes[k]);
        }
    }
    put_starts::<B>(&sums, row);
    put_factors::<B>(block.all_scales::<B>(), &mut row.scales);
    row.d = block.d;
}

/// Scales or minimums as floats.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn put_factors<B: Super>(from: __m256i, to: &mut [[f32; 8]; 2]) {
    if B::GROUP == 32 {
        // Each is there twice.
        mem::store_ps(&mut to[0], _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(from)));
    } else {
        let (low, high) = (_mm256_castsi256_si128(from), _mm256_extracti128_si256::<1>(from));
        mem::store_ps(&mut to[0], _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(low)));
        mem::store_ps(&mut to[1], _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(high)));
    }
}

/// Where sums begin, from those of the words of each 32 codes times 128.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn put_starts<B: Super>(sums: &[__m256i; 8], row: &mut Row256) {
    let none = _mm256_setzero_si256();
    if B::RUN == 32 {
        mem::store(&mut row.start[0], _mm256_sub_epi32(none, sum_8(sums)));
    } else {
        let a = sum_4(sums[0], sums[1], sums[2], sums[3]);
        let b = sum_4(sums[4], sums[5], sums[6], sums[7]);
        // From all the low halves and all the high ones to those of a register side by side.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for (start, sums) in row.start.iter_mut().zip([a, b]) {
            let sums = _mm256_permutevar8x32_epi32(sums, order);
            mem::store(start, _mm256_sub_epi32(none, sums));
        }
    }
}

/// Codes `32j..32j + 32` times their two scales, in 8 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn times_scales(codes: __m256i, scales: __m256i, j: usize) -> __m256i {
    let two = _mm256_set_m128i(_mm_set1_epi16(2 * j as i16 + 1), _mm_set1_epi16(2 * j as i16));
    let scales = _mm256_permutexvar_epi16(two, scales);
    let odd = _mm256_set1_epi16(0xff00_u16 as i16);
    let even_products = _mm256_mullo_epi16(codes, scales);
    let odd_products = _mm256_mullo_epi16(_mm256_and_si256(codes, odd), scales);
    _mm256_or_si256(_mm256_andnot_si256(odd, even_products), odd_products)
}

/// `R` rows by `P` panels, some blocks of `PARTS` times 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn tile_16<B: Codes16, const PARTS: usize, const P: usize>(
    w: &[[[Row16; PARTS]; R]],
    panels: &[Panel<'_>; P],
    out: &mut Sums,
) {
    let mut acc = [_mm512_setzero_ps(); R];
    for r in 0..R {
        acc[r] = load_ps(&out[r]);
    }
    for (b, w) in w.iter().enumerate() {
        for j in 0..PARTS {
            let b = b * PARTS + j;
            let da = scales(panels, b);
            for half in 0..2 {
                let mut isum = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    isum[r] = all::<P>(w[r][j].start[half]);
                }
                for k in 4 * half..4 * half + 4 {
                    let q = codes(panels, b, k);
                    for r in 0..R {
                        isum[r] = dot_add::<P>(isum[r], q, w[r][j].codes[k]);
                    }
                }
                for r in 0..R {
                    let d = times::<P>(da, w[r][j].d[if B::ONE_SCALE { 0 } else { half }]);
                    acc[r] = mul_add::<P>(d, float::<P>(isum[r]), acc[r]);
                }
            }
        }
    }
    for r in 0..R {
        store_ps(&mut out[r], acc[r]);
    }
}

/// `R` rows by `P` panels, some blocks of 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn tile_32<B: Block32, const P: usize>(w: &[[Row32; R]], panels: &[Panel<'_>; P], out: &mut Sums) {
    let mut acc = [_mm512_setzero_ps(); R];
    for r in 0..R {
        acc[r] = load_ps(&out[r]);
    }
    for (b, w) in w.iter().enumerate() {
        let mut isum = [_mm512_setzero_si512(); R];
        for r in 0..R {
            isum[r] = all::<P>(w[r].start);
        }
        for k in 0..8 {
            let q = codes(panels, b, k);
            for r in 0..R {
                isum[r] = dot_add::<P>(isum[r], q, w[r].codes[k]);
            }
        }
        let da = scales(panels, b);
        for r in 0..R {
            let d = times::<P>(da, w[r].d);
            acc[r] = mul_add::<P>(d, float::<P>(isum[r]), acc[r]);
        }
        if B::HAS_MIN {
            let sum = float::<P>(pair_sums(sums(panels, b)));
            for r in 0..R {
                acc[r] = mul_add::<P>(times::<P>(da, w[r].m), sum, acc[r]);
            }
        }
    }
    for r in 0..R {
        store_ps(&mut out[r], acc[r]);
    }
}

/// `R` rows by `P` panels, some blocks of 256: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn tile_256<B: Super, const P: usize>(w: &[[Row256; R]], panels: &[Panel<'_>; P], out: &mut Sums) {
    for (b, w) in w.iter().enumerate() {
        let mut products = [_mm512_setzero_ps(); R];
        let mut mins = [_mm512_setzero_ps(); R];
        for j in 0..8 {
            let da = scales(panels, 8 * b + j);
            if B::RUN == 32 {
                let isum = run::<B, P>(w, panels, b, j, 0);
                for r in 0..R {
                    let isum = float::<P>(isum[r]);
                    products[r] = if B::FOLDED {
                        minus_mul_add::<P>(isum, da, products[r])
                    } else {
                        // Integers below 2^24: exact.
                        mul_add::<P>(times::<P>(isum, w[r].scales[0][j]), da, products[r])
                    };
                }
            } else {
                let (first, second) =
                    (run::<B, P>(w, panels, b, j, 0), run::<B, P>(w, panels, b, j, 1));
                for r in 0..R {
                    let scales = w[r].scales.as_flattened();
                    // Integers below 2^24: exact.
                    let isum = times::<P>(float::<P>(first[r]), scales[2 * j]);
                    let isum = times_add::<P>(float::<P>(second[r]), scales[2 * j + 1], isum);
                    products[r] = mul_add::<P>(isum, da, products[r]);
                }
            }
            if B::HAS_MIN {
                let pairs = sums(panels, 8 * b + j);
                if B::GROUP == 32 {
                    let sum = mul::<P>(float::<P>(pair_sums(pairs)), da);
                    for r in 0..R {
                        mins[r] = times_add::<P>(sum, w[r].mins[0][j], mins[r]);
                    }
                } else {
                    let low = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pairs));
                    let low = mul::<P>(float::<P>(low), da);
                    let high = mul::<P>(float::<P>(_mm512_srai_epi32::<16>(pairs)), da);
                    for r in 0..R {
                        let min = w[r].mins.as_flattened();
                        mins[r] = times_add::<P>(low, min[2 * j], mins[r]);
                        mins[r] = times_add::<P>(high, min[2 * j + 1], mins[r]);
                    }
                }
            }
        }
        for r in 0..R {
            let mut acc = times_add::<P>(products[r], w[r].d, load_ps(&out[r]));
            if B::HAS_MIN {
                acc = times_add::<P>(mins[r], w[r].minus_dmin, acc);
            }
            store_ps(&mut out[r], acc);
        }
    }
}

/// The products of sum `g` of elements `32j..32j + 32`.
#[inline]
#[target_feature(enable = "avx512vnni,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run<B: Super, const P: usize>(
    w: &[Row256; R],
    panels: &[Panel<'_>; P],
    b: usize,
    j: usize,
    g: usize,
) -> [__m512i; R] {
    let mut isum = [_mm512_setzero_si512(); R];
    for r in 0..R {
        isum[r] = all::<P>(w[r].start.as_flattened()[j * (32 / B::RUN) + g]);
    }
    for k in 0..B::RUN / 4 {
        let k = g * 4 + k;
        let q = codes(panels, 8 * b + j, k);
        for r in 0..R {
            isum[r] = dot_add::<P>(isum[r], q, w[r].codes[j][k]);
        }
    }
    isum
}
