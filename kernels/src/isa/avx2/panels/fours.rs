//! Prefill of levels that add four products of bytes to an i32 at once ([`Dot::FOUR`]).
//!
//! Nothing overflows, so a type is no more than codes of at most 8 bits, and a block is one run:
//! activations plus 128 are the unsigned operand, weights the signed one. The 128 goes out at the
//! start of each sum: its lanes begin at `-128 * sum(w)`.
//!
//! Scales of a super-block cost as much as the products of 32 codes do in some types, so those whose
//! codes times scales fit 8 bits are unpacked to these products: Q2_K to at most `3 * 15`, Q3_K to
//! `-4 * -32 = 128`, which fits negated; so all such weights are negated.
//!
//! Tiles, blocking and the loops around them are the parent's.

use super::super::dot::Dot;
use super::super::mem::{fence, load, load_ps, pin_ps, store, store_ps};
use super::super::sum::{sum_4, sum_8, sum_lanes};
use super::super::unpack::{
    Codes16, Codes32, Codes256, Scales, Wide256, half, halves_swapped, scale,
};
use super::{
    BLOCK_COLS, BLOCK_ROWS, BLOCK_UNITS, Codes, Ends, Minimums, PairBlock, Panels, R, Sums,
    TileScratch, Wants, finish_256, matmul,
};
use crate::act::Acts;
use crate::block::expanded::{Codebook, Expanded};
use crate::block::*;
use std::arch::x86_64::*;
use std::hint::black_box;

/// Scratch of a thread: unpacked weights, panels and sums.
#[derive(Debug)]
pub(in crate::isa) struct FoursScratch {
    of_16: Vec<Row16>,
    of_32: Vec<Row32>,
    of_256: Vec<Row256>,
    pair: Vec<PairBlock>,
    tile: Box<TileScratch>,
    sums: Vec<Sums>,
}

impl Default for FoursScratch {
    fn default() -> FoursScratch {
        let rows_32 = BLOCK_ROWS * BLOCK_COLS / 32;
        FoursScratch {
            of_16: vec![Row16::default(); rows_32],
            of_32: vec![Row32::default(); rows_32],
            of_256: vec![Row256::default(); rows_32 / 8],
            pair: vec![PairBlock::default(); BLOCK_COLS / 32],
            tile: Box::default(),
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
    ends: Ends,
}

/// A type in super-blocks.
pub(in crate::isa) trait Super: Block256 {
    /// Whether minus the codes times their scales fit an i8.
    const FOLDED: bool = false;
    /// Elements under one sum.
    const RUN: usize = if Self::FOLDED { 32 } else { Self::GROUP };
}

impl Super for BlockQ2K {
    const FOLDED: bool = true;
}
impl Super for BlockQ3K {
    const FOLDED: bool = true;
}
impl Super for BlockTQ1_0 {
    const FOLDED: bool = true;
}
impl Super for BlockTQ2_0 {
    const FOLDED: bool = true;
}
impl Super for BlockQ4K {}
impl Super for BlockQ5K {}
impl Super for BlockQ6K {}
impl Super for BlockIQ4XS {}
impl Super for BlockIQ1S {}
impl Super for BlockIQ1M {}
impl Super for BlockIQ2XXS {}
impl Super for BlockIQ2XS {}
impl Super for BlockIQ2S {}
impl Super for BlockIQ3XXS {}
impl Super for BlockIQ3S {}
impl<B: Codebook, const S: usize> Super for Expanded<B, S> {}

/// Types in blocks of `PARTS` times 32 with codes of at most 5 bits; `scales` are the two of a part.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn blocks_16<B: Codes16, D: Dot, const PARTS: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&B, usize) -> [f32; 2],
) {
    const { assert!(PARTS == B::PARTS) }
    matmul::<B, [Row16; PARTS]>(
        as_blocks(w),
        n_rows,
        acts,
        (scratch.of_16.as_chunks_mut().0, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        wants::<D>(Minimums::None),
        |block, parts| {
            for j in 0..PARTS {
                let codes = less(codes(block, j), B::OFFSET);
                unpack_16::<D>(codes, scales(block, j), &mut parts[j]);
            }
        },
        |w, panels, _, sums| tile_16::<B, D, PARTS, 2>(w, panels, sums),
        |w, panels, _, sums| tile_16::<B, D, PARTS, 1>(w, panels, sums),
    );
}

/// Types in blocks of 32 with codes of at most 5 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn blocks_32<B: Codes32, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
) {
    signed_32::<B, D>(w, n_rows, acts, scratch, y, |block, row| {
        let [d, m] = block.scales();
        let scales = [scale::<B>(d), scale::<B>(m)];
        unpack_32::<D>(less(codes(block), B::OFFSET), scales, row);
    });
}

/// Types in blocks of 32 with signed codes of 8 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn wide_32<B: Block32, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    codes: impl Fn(&B) -> __m256i,
    d: impl Fn(&B) -> F16,
) {
    signed_32::<B, D>(w, n_rows, acts, scratch, y, |block, row| {
        unpack_32::<D>(codes(block), [half(d(block)), 0.0], row);
    });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_32<B: Block32, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Row32),
) {
    matmul::<B, Row32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        wants::<D>(if B::HAS_MIN { Minimums::Sum } else { Minimums::None }),
        unpack,
        |w, panels, _, sums| tile_32::<B, D, 2>(w, panels, sums),
        |w, panels, _, sums| tile_32::<B, D, 1>(w, panels, sums),
    );
}

/// Types in blocks of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn blocks_256<B: Super + Codes256, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    codes: impl Fn(&B, usize) -> __m256i,
    scales: impl Fn(&B) -> Scales,
) {
    super_blocks::<B, D>(w, n_rows, acts, scratch, y, |block, row| {
        unpack_256::<B, D>(block, &codes, scales(block), row);
    });
}

/// Types in blocks of 256 with signed codes of 8 bits and no minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn wide_256<B: Super, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Wide256),
) {
    const { assert!(!B::HAS_MIN) }
    super_blocks::<B, D>(w, n_rows, acts, scratch, y, |block, row| {
        let mut wide = Wide256::default();
        unpack(block, &mut wide);
        in_order::<B, D>(&wide, row);
    });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn super_blocks<B: Super, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut FoursScratch,
    y: &mut [f32],
    unpack: impl Fn(&B, &mut Row256),
) {
    matmul::<B, Row256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_256, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        wants::<D>(Minimums::of_256::<B>()),
        unpack,
        |w, panels, tile, sums| tile_256::<B, D, 2>(w, panels, tile, sums),
        |w, panels, tile, sums| tile_256::<B, D, 1>(w, panels, tile, sums),
    );
}

/// No offset: the codes are without theirs.
const fn wants<D: Dot>(minimums: Minimums) -> Wants {
    Wants { order: D::ORDER, offset: 0, two_runs: false, minimums }
}

/// Codes less an offset.
#[inline]
#[target_feature(enable = "avx2")]
fn less(codes: __m256i, offset: i32) -> __m256i {
    _mm256_sub_epi8(codes, _mm256_set1_epi8(offset as i8))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_16<D: Dot>(codes: __m256i, d: [f32; 2], row: &mut Row16) {
    store(&mut row.codes, codes);
    let sums = times_128::<D>(codes);
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
    row.start = [-_mm256_extract_epi32::<0>(sums), -_mm256_extract_epi32::<4>(sums)];
    row.d = d;
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_32<D: Dot>(codes: __m256i, [d, m]: [f32; 2], row: &mut Row32) {
    store(&mut row.codes, codes);
    row.start = -sum_lanes(times_128::<D>(codes));
    row.d = d;
    row.m = m;
}

/// `128 * sum(codes)`, four by four.
#[inline]
#[target_feature(enable = "avx2")]
fn times_128<D: Dot>(codes: __m256i) -> __m256i {
    D::dot(_mm256_setzero_si256(), _mm256_set1_epi8(-128), codes)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_256<B: Super + Codes256, D: Dot>(
    block: &B,
    codes: &impl Fn(&B, usize) -> __m256i,
    Scales { scales, mins }: Scales,
    row: &mut Row256,
) {
    let none = _mm256_setzero_si256();
    let mut sums = [none; 8];
    let minus = _mm256_sub_epi16(none, scales);
    let eights = [
        _mm256_permute2x128_si256::<0x00>(minus, minus),
        _mm256_permute2x128_si256::<0x11>(minus, minus),
    ];
    for j in 0..8 {
        let mut codes = less(codes(block, j), B::OFFSET);
        if B::FOLDED {
            codes = times_scales(codes, _mm256_shuffle_epi8(eights[j / 4], load(&TWO[j % 4])));
        }
        store(&mut row.codes[j], codes);
        sums[j] = times_128::<D>(codes);
    }
    put_starts::<B>(&sums, row);
    put_factors::<B>(scales, &mut row.scales);
    put_factors::<B>(mins, &mut row.ends.mins);
    let [d, dmin] = block.d();
    row.ends.d = half(d);
    row.ends.dmin = half(dmin);
}

/// A super-block in the order of its elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order<B: Super, D: Dot>(block: &Wide256, row: &mut Row256) {
    let mut sums = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        let codes = halves_swapped([block.codes(i, 0), block.codes(i, 1)]);
        for k in 0..2 {
            store(&mut row.codes[2 * i + k], codes[k]);
            sums[2 * i + k] = times_128::<D>(codes[k]);
        }
    }
    put_starts::<B>(&sums, row);
    put_factors::<B>(block.all_scales::<B>(), &mut row.scales);
    row.ends.d = block.d;
}

/// Scales or minimums as floats.
#[inline]
#[target_feature(enable = "avx2")]
fn put_factors<B: Super>(from: __m256i, to: &mut [[f32; 8]; 2]) {
    if B::GROUP == 32 {
        // Each is there twice.
        store_ps(&mut to[0], _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(from)));
    } else {
        let (low, high) = (_mm256_castsi256_si128(from), _mm256_extracti128_si256::<1>(from));
        store_ps(&mut to[0], _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(low)));
        store_ps(&mut to[1], _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(high)));
    }
}

/// Where sums begin, from those of the words of each 32 codes times 128.
#[inline]
#[target_feature(enable = "avx2")]
fn put_starts<B: Super>(sums: &[__m256i; 8], row: &mut Row256) {
    let none = _mm256_setzero_si256();
    if B::RUN == 32 {
        store(&mut row.start[0], _mm256_sub_epi32(none, sum_8(sums)));
    } else {
        let a = sum_4(sums[0], sums[1], sums[2], sums[3]);
        let b = sum_4(sums[4], sums[5], sums[6], sums[7]);
        // From all the low halves and all the high ones to those of a register side by side.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for (start, sums) in row.start.iter_mut().zip([a, b]) {
            let sums = _mm256_permutevar8x32_epi32(sums, order);
            store(start, _mm256_sub_epi32(none, sums));
        }
    }
}

/// The shuffles that take words `2i` and `2i + 1` of the same eight in both halves of a register to
/// all of the low and all of the high half.
static TWO: [[u8; 32]; 4] = {
    let mut order = [[0; 32]; 4];
    let mut i = 0;
    while i < 4 {
        let mut byte = 0;
        while byte < 32 {
            order[i][byte] = (4 * i + 2 * (byte / 16) + byte % 2) as u8;
            byte += 1;
        }
        i += 1;
    }
    order
};

/// Codes times their scales, as words, in 8 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn times_scales(codes: __m256i, scales: __m256i) -> __m256i {
    let odd = _mm256_set1_epi16(0xff00_u16 as i16);
    let even_products = _mm256_mullo_epi16(codes, scales);
    let odd_products = _mm256_mullo_epi16(_mm256_and_si256(codes, odd), scales);
    _mm256_or_si256(_mm256_andnot_si256(odd, even_products), odd_products)
}

/// `R` rows by `T` panels, some blocks of `PARTS` times 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_16<B: Codes16, D: Dot, const PARTS: usize, const T: usize>(
    w: &[[[Row16; PARTS]; R]],
    panels: Panels<'_, T>,
    sums: &mut Sums,
) {
    let (w, panels, sums) = black_box((w, panels, sums));
    for (b, (w, parts)) in w.iter().zip(panels.blocks.as_chunks::<PARTS>().0).enumerate() {
        for (j, a) in parts.iter().enumerate() {
            let q = panels.codes(b * PARTS + j);
            for half in 0..2 {
                let (codes, start) = (|r: usize| &w[r][j].codes, |r: usize| w[r][j].start[half]);
                let run = match half {
                    0 => run::<D, T, 0, 4>(codes, start, q),
                    _ => run::<D, T, 4, 8>(codes, start, q),
                };
                fence();
                for r in 0..R {
                    let d = _mm256_set1_ps(w[r][j].d[if B::ONE_SCALE { 0 } else { half }]);
                    for t in 0..T {
                        let d = _mm256_mul_ps(d, load_ps(&a.d[t]));
                        let isum = _mm256_cvtepi32_ps(run[r][t]);
                        let acc = _mm256_fmadd_ps(isum, d, load_ps(&sums[r][t]));
                        store_ps(&mut sums[r][t], acc);
                    }
                }
                fence();
            }
        }
    }
}

/// `R` rows by `T` panels, some blocks of 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_32<B: Block32, D: Dot, const T: usize>(
    w: &[[Row32; R]],
    panels: Panels<'_, T>,
    sums: &mut Sums,
) {
    let (w, panels, sums) = black_box((w, panels, sums));
    for (b, (w, a)) in w.iter().zip(panels.blocks).enumerate() {
        let run = run::<D, T, 0, 8>(|r| &w[r].codes, |r| w[r].start, panels.codes(b));
        fence();
        for r in 0..R {
            let (d, m) = (_mm256_set1_ps(w[r].d), _mm256_set1_ps(w[r].m));
            for t in 0..T {
                let (isum, da) = (_mm256_cvtepi32_ps(run[r][t]), load_ps(&a.d[t]));
                let mut acc = _mm256_fmadd_ps(isum, _mm256_mul_ps(d, da), load_ps(&sums[r][t]));
                if B::HAS_MIN {
                    acc = _mm256_fmadd_ps(_mm256_mul_ps(m, da), load_ps(&a.sums[0][t]), acc);
                }
                store_ps(&mut sums[r][t], acc);
            }
        }
        fence();
    }
}

/// `R` rows by `T` panels, some blocks of 256: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_256<B: Super, D: Dot, const T: usize>(
    w: &[[Row256; R]],
    panels: Panels<'_, T>,
    tile: &mut TileScratch,
    sums: &mut Sums,
) {
    let (w, panels, sums, tile) = black_box((w, panels, sums, tile));
    for (b, (w, blocks)) in w.iter().zip(panels.blocks.as_chunks::<8>().0).enumerate() {
        for j in 0..8 {
            let (a, q) = (&blocks[j], panels.codes(8 * b + j));
            let codes = |r: usize| &w[r].codes[j];
            let start = |r: usize, i: usize| w[r].start.as_flattened()[i];
            let scale = |r: usize, i: usize| _mm256_set1_ps(w[r].scales.as_flattened()[i]);
            if B::RUN == 16 {
                let first = run::<D, T, 0, 4>(codes, |r| start(r, 2 * j), q);
                fence();
                for r in 0..R {
                    for t in 0..T {
                        let isum = _mm256_cvtepi32_ps(first[r][t]);
                        let scaled = _mm256_mul_ps(isum, scale(r, 2 * j));
                        store_ps(&mut tile.firsts_scaled[r][t], scaled);
                    }
                }
                fence();
            }
            let run = match B::RUN {
                16 => run::<D, T, 4, 8>(codes, |r| start(r, 2 * j + 1), q),
                _ => run::<D, T, 0, 8>(codes, |r| start(r, j), q),
            };
            fence();
            let mut da = [_mm256_setzero_ps(); T];
            for t in 0..T {
                let d = load_ps(&a.d[t]);
                // Folded codes are negated.
                da[t] = pin_ps(if B::FOLDED { _mm256_xor_ps(d, _mm256_set1_ps(-0.0)) } else { d });
            }
            for r in 0..R {
                for t in 0..T {
                    // Integers below 2^24 in all three: exact.
                    let isum = _mm256_cvtepi32_ps(run[r][t]);
                    let isum = match (B::FOLDED, B::RUN) {
                        (true, _) => isum,
                        (false, 32) => _mm256_mul_ps(isum, scale(r, j)),
                        (false, _) => {
                            let first = load_ps(&tile.firsts_scaled[r][t]);
                            _mm256_fmadd_ps(isum, scale(r, 2 * j + 1), first)
                        }
                    };
                    tile.add(j, (r, t), isum, da[t]);
                }
            }
            fence();
        }
        finish_256::<B, T>(|r| &w[r].ends, blocks, tile, sums);
    }
}

/// The sums of words `FROM..TO` of a block, which begin at `start` of their rows.
#[inline]
#[target_feature(enable = "avx2")]
fn run<'a, D: Dot, const T: usize, const FROM: usize, const TO: usize>(
    codes: impl Fn(usize) -> &'a [i32; 8],
    start: impl Fn(usize) -> i32,
    q: [&Codes; T],
) -> [[__m256i; T]; R] {
    let mut sums = [[_mm256_setzero_si256(); T]; R];
    for r in 0..R {
        sums[r] = [_mm256_set1_epi32(start(r)); T];
    }
    for k in FROM..TO {
        fence();
        let mut words = [_mm256_setzero_si256(); T];
        for t in 0..T {
            words[t] = load(&q[t][k]);
        }
        for r in 0..R {
            let code = _mm256_set1_epi32(codes(r)[k]);
            for t in 0..T {
                sums[r][t] = D::dot(sums[r][t], words[t], code);
            }
        }
    }
    sums
}
