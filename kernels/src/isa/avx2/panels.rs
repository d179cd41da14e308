//! Prefill: panels of eight tokens, a token per lane, against weights unpacked once per call.
//!
//! Weight codes are kept unsigned, `vpmaddubsw(code, act)`: for each group of four k a weight word
//! is broadcast and multiplied with the panels' words; products add up in i16 as long as they fit,
//! then `vpmaddwd` widens them with the block's scales. No lane is ever added to another.
//!
//! A word holds two k of the first half of a block and two of the second ([`PanelOrder::ByHalves`]), so
//! that the i16 of a lane belong to one half each: types with a scale per 16 take both in the one
//! `vpmaddwd`.
//!
//! A type's offset goes out at the start of a run, whose lanes begin at `-OFFSET` times the sum of
//! the activations they will hold. i16 addition wraps, so only the run's true sum has to fit: 16
//! products of codes up to 16 off zero, or 8 of codes up to 32 (`127 * 16 * 16 = 32512`), for which
//! a block is two runs; and a pair of products must not saturate (codes up to 128). Q5_1 takes 16
//! off and adds it again. Codes of 8 bits are two of 4 bits, a run each. (One run with both in the
//! halves of a lane was no faster: the products are what takes the time.)
//!
//! Tiles are [`R`] weight rows by two panels: 12 accumulators, two panel registers, one weight. So
//! all f32 sums are in memory, read and written once per block of 32. The compiler would rather
//! hold them in registers it then spills, and load weights early. Fences forbid it, once
//! `black_box` has made it forget that nobody else has the references.
//!
//! Blocking: [`BLOCK_ROWS`] rows by [`BLOCK_COLS`] columns are unpacked into L2; a pair of panels
//! of that depth is in L1, with what a type makes of its scales and sums; f32 sums of
//! [`BLOCK_UNITS`] panels are in L2. Such a block is a few hundred bytes of each row, which no
//! hardware follows: tiles ask for the next block's rows, so that memory works while they multiply.

pub(in crate::isa) mod fours;
mod wide;

use super::mem::{fence, load, load_ps, pin, pin_both, pin_ps, prefetch, store, store_ps};
use super::pack::transpose;
use super::unpack::{Codes16, Codes32, Codes256, Scales, half, scale};
use crate::act::{Acts, PANEL_TOKENS, PanelOrder, SUMS};
use crate::block::{Block, Block256, F16, as_blocks};
use std::arch::x86_64::*;
use std::hint::black_box;

pub(super) use wide::wide_256;

/// Weight rows of a tile.
const R: usize = 6;
/// Rows unpacked at a time: sixteen tiles, which share a pair of panels in L1.
const BLOCK_ROWS: usize = 16 * R;
/// Columns unpacked at a time: two panels of this depth are under half of a 32 KiB L1, which two
/// threads of a core may share.
const BLOCK_COLS: usize = 512;
/// Panels before weights are unpacked again: 512 tokens, 192 KiB of sums.
const BLOCK_UNITS: usize = 64;
/// Rows that are asked for ahead of the one that is unpacked: a dozen lines or two, as many as a core
/// has under way.
const AHEAD_ROWS: usize = 4;

/// The f32 sums of a tile.
type Sums = [[[f32; PANEL_TOKENS]; 2]; R];

/// Scratch of a thread: unpacked weights, panels and sums.
#[derive(Debug)]
pub(in crate::isa) struct PanelScratch {
    of_16: Vec<Row16>,
    of_32: Vec<Row32>,
    of_32_wide: Vec<Row32Wide>,
    of_256: Vec<Row256>,
    of_256_wide: Vec<wide::Row256Wide>,
    pair: Vec<PairBlock>,
    tile: Box<TileScratch>,
    sums: Vec<Sums>,
}

/// Intermediate sums of a tile, kept within a block or a super-block.
#[derive(Debug, Default)]
#[repr(C, align(32))]
struct TileScratch {
    /// Sums of the first of two runs.
    firsts: [[[i32; PANEL_TOKENS]; 2]; R],
    /// Sums of the first of two runs times their scale.
    firsts_scaled: Sums,
    products: Sums,
}

impl Default for PanelScratch {
    fn default() -> PanelScratch {
        let rows_32 = BLOCK_ROWS * BLOCK_COLS / 32;
        let rows_256 = rows_32 / 8;
        PanelScratch {
            of_16: vec![Row16::default(); rows_32],
            of_32: vec![Row32::default(); rows_32],
            of_32_wide: vec![Row32Wide::default(); rows_32],
            of_256: vec![Row256::default(); rows_256],
            of_256_wide: vec![wide::Row256Wide::default(); rows_256],
            pair: vec![PairBlock::default(); BLOCK_COLS / 32],
            tile: Box::default(),
            sums: vec![Sums::default(); BLOCK_ROWS / R * BLOCK_UNITS / 2],
        }
    }
}

impl TileScratch {
    /// Adds `isum * d`, what block `j` of a super-block comes to.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(&mut self, j: usize, (r, t): (usize, usize), isum: __m256, d: __m256) {
        let product = &mut self.products[r][t];
        // The first is not added to zero: only the sign of a zero tells.
        let sum = match j {
            0 => _mm256_mul_ps(isum, d),
            _ => _mm256_fmadd_ps(isum, d, load_ps(product)),
        };
        store_ps(product, sum);
    }
}

/// 32 codes of one row, with a scale per 16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row16 {
    /// Unsigned codes in [`interleave`]'s order, four to a word.
    codes: [i32; 8],
    d: [f32; 2],
}

/// 32 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row32 {
    /// Unsigned codes in [`interleave`]'s order, four to a word.
    codes: [i32; 8],
    d: f32,
    m: f32,
}

/// 32 codes of 8 bits of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row32Wide {
    /// The high four bits plus 8, the low four bits.
    codes: [[i32; 8]; 2],
    d: f32,
}

/// 256 codes of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Row256 {
    /// Unsigned codes in [`interleave`]'s order, four to a word.
    codes: [[i32; 8]; 8],
    /// The two i16 scales of each 32 codes.
    scales: [i32; 8],
    ends: Ends,
}

/// The factors at the end of a super-block of one row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Ends {
    /// Minimums, one per 16 codes, or per 32 in the first eight.
    mins: [[f32; 8]; 2],
    d: f32,
    dmin: f32,
}

/// 32 codes of a panel's tokens, four to a word.
pub(in crate::isa) type Codes = [[i8; 4 * PANEL_TOKENS]; 8];

/// One panel from some block of 32 on.
#[derive(Clone, Copy)]
pub(in crate::isa) struct Panel<'a> {
    /// `[block][word]`
    pub q: &'a [Codes],
    pub d: &'a [[f32; PANEL_TOKENS]],
    pub s: &'a [[[i16; SUMS]; PANEL_TOKENS]],
}

impl<'a> Panel<'a> {
    pub fn new(acts: &Acts<'a>, unit: usize, first: usize, n: usize) -> Self {
        let plan = acts.plan;
        let q = &acts.q[unit * plan.q_len()..][..plan.q_len()];
        let d = &acts.d[unit * plan.d_len()..][..plan.d_len()];
        let s = &acts.s[unit * plan.s_len()..][..plan.s_len()];
        Panel {
            q: &q.as_chunks().0.as_chunks().0[first..][..n],
            d: &d.as_chunks().0[first..][..n],
            s: &s.as_chunks().0.as_chunks().0[first..][..n],
        }
    }

    /// Asks for block `b`, if there is one.
    #[inline]
    #[target_feature(enable = "sse")]
    fn ask(&self, b: usize) {
        if let Some(codes) = self.q.get(b) {
            for line in 0..size_of::<Codes>() / 64 {
                prefetch::<_MM_HINT_T0, _>(codes, 64 * line);
            }
            prefetch::<_MM_HINT_T0, _>(&self.d[b], 0);
            prefetch::<_MM_HINT_T0, _>(&self.s[b], 0);
        }
    }
}

/// Scales and sums that go with 32 codes of two panels, or of one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
struct PairBlock {
    d: [[f32; PANEL_TOKENS]; 2],
    /// Where the one or two runs of a block begin.
    start: [[[i16; 2 * PANEL_TOKENS]; 2]; 2],
    /// Factors of minimums: see [`Minimums`].
    sums: [[[f32; PANEL_TOKENS]; 2]; 2],
}

/// The factors that minimums are multiplied with.
#[derive(Clone, Copy, PartialEq)]
enum Minimums {
    /// A type without.
    None,
    /// The sum of 32 codes; and that times what runs take off.
    Sum,
    /// That times their scale.
    Scaled,
    /// The sums of the two 16 codes times their scale.
    ScaledHalves,
}

/// Some blocks of one or two panels.
#[derive(Clone, Copy)]
struct Panels<'a, const T: usize> {
    q: [&'a [Codes]; T],
    blocks: &'a [PairBlock],
}

impl<'a, const T: usize> Panels<'a, T> {
    /// The codes of block `b`.
    #[inline]
    fn codes(&self, b: usize) -> [&'a Codes; T] {
        let mut codes = [&self.q[0][b]; T];
        for t in 1..T {
            codes[t] = &self.q[t][b];
        }
        codes
    }
}

impl Minimums {
    /// The factors of a type in super-blocks.
    const fn of_256<B: Block256>() -> Minimums {
        match (B::HAS_MIN, B::GROUP) {
            (false, _) => Minimums::None,
            (true, 32) => Minimums::Scaled,
            (true, _) => Minimums::ScaledHalves,
        }
    }
}

/// Requirements of a type on panels.
#[derive(Clone, Copy)]
struct Wants {
    order: PanelOrder,
    offset: i32,
    two_runs: bool,
    minimums: Minimums,
}

/// Whether a run of 16 products of codes in `-offset..=max - offset` may not fit an i16.
const fn two_runs(offset: i32, max: i32) -> bool {
    let most = if offset > max - offset { offset } else { max - offset };
    assert!(most <= 32, "8 products of a lane fit");
    most > 16
}

/// The offset that a run takes off the codes: codes of 5 bits fit one run only less 16, which types without
/// an offset get back.
const fn run_offset<B: Codes32>() -> i32 {
    if B::OFFSET == 0 && B::MAX > 15 { 16 } else { B::OFFSET }
}

/// Types in blocks of `PARTS` times 32 with codes of at most 5 bits; `scales` are the two of a part.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks_16<B: Codes16, const PARTS: usize>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
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
        Wants {
            order: PanelOrder::ByHalves,
            offset: B::OFFSET,
            two_runs: false,
            minimums: Minimums::None,
        },
        |block, parts| {
            for j in 0..PARTS {
                store(&mut parts[j].codes, interleave(codes(block, j)));
                parts[j].d = scales(block, j);
            }
        },
        |w, panels, _, sums| tile_16::<B, PARTS, 2>(w, panels, sums),
        |w, panels, _, sums| tile_16::<B, PARTS, 1>(w, panels, sums),
    );
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
    let wants = Wants {
        order: PanelOrder::ByHalves,
        offset: run_offset::<B>(),
        two_runs: const { two_runs(run_offset::<B>(), B::MAX) },
        minimums: if B::HAS_MIN { Minimums::Sum } else { Minimums::None },
    };
    matmul::<B, Row32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        wants,
        |block, row| unpack_32(block, codes(block), row),
        |w, panels, _, sums| tile_32::<B, 2>(w, panels, sums),
        |w, panels, _, sums| tile_32::<B, 1>(w, panels, sums),
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
        (&mut scratch.of_32_wide, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        Wants { order: PanelOrder::ByHalves, offset: 8, two_runs: false, minimums: Minimums::None },
        |block, row| unpack_wide(codes(block), d(block), row),
        |w, panels, tile, sums| tile_wide::<2>(w, panels, tile, sums),
        |w, panels, tile, sums| tile_wide::<1>(w, panels, tile, sums),
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
    let wants = Wants {
        order: PanelOrder::ByHalves,
        offset: B::OFFSET,
        two_runs: const { two_runs(B::OFFSET, B::MAX) },
        minimums: Minimums::of_256::<B>(),
    };
    matmul::<B, Row256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_256, &mut scratch.pair, &mut scratch.tile, &mut scratch.sums),
        y,
        wants,
        |block, row| unpack_256(block, &codes, scales(block), row),
        |w, panels, tile, sums| tile_256::<B, 2>(w, panels, tile, sums),
        |w, panels, tile, sums| tile_256::<B, 1>(w, panels, tile, sums),
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
    (unpacked, pair, tile, sums): (&mut [W], &mut [PairBlock], &mut TileScratch, &mut [Sums]),
    y: &mut [f32],
    wants: Wants,
    unpack: impl Fn(&B, &mut W),
    tile_2: impl Fn(&[[W; R]], Panels<'_, 2>, &mut TileScratch, &mut Sums),
    tile_1: impl Fn(&[[W; R]], Panels<'_, 1>, &mut TileScratch, &mut Sums),
) {
    assert!(acts.plan.order == wants.order, "panels of this level");
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
                    ask::<_MM_HINT_T0, _>(w, row + AHEAD_ROWS * blocks + first, n);
                    for (b, block) in w[row + first..row + first + n].iter().enumerate() {
                        unpack(block, &mut unpacked[(r / R * n + b) * R + r % R]);
                    }
                }
                // The next columns of these rows, or the first of the next ones.
                let (next_row, next_first) = match first + n < blocks {
                    true => (first_row, first + n),
                    false => (first_row + BLOCK_ROWS, 0),
                };
                let per_tile = BLOCK_ROWS.div_ceil(pairs * groups);
                let ask_next = |tile: usize| {
                    for r in (tile * per_tile..BLOCK_ROWS).take(per_tile) {
                        ask::<_MM_HINT_T1, _>(w, (next_row + r) * blocks + next_first, n);
                    }
                };
                let (tiles, _) = unpacked.as_chunks::<R>();
                let panel = |unit| Panel::new(acts, unit, first * per_block, n * per_block);
                for (p, sums) in sums.chunks_exact_mut(groups).enumerate() {
                    let unit = first_unit + 2 * p;
                    let blocks = &mut pair[..n * per_block];
                    let a = panel(unit);
                    prepare(a, wants, 0, blocks);
                    if unit + 1 < units {
                        let b = panel(unit + 1);
                        prepare(b, wants, 1, blocks);
                        let panels = Panels { q: [a.q, b.q], blocks };
                        let next = [2, 3].map(|ahead| panel((unit + ahead).min(units - 1)));
                        for (g, (tiles, sums)) in tiles.chunks_exact(n).zip(sums).enumerate() {
                            next.iter().for_each(|panel| panel.ask(g));
                            ask_next(p * groups + g);
                            tile_2(tiles, panels, tile, sums);
                        }
                    } else {
                        let panels = Panels { q: [a.q], blocks };
                        for (g, (tiles, sums)) in tiles.chunks_exact(n).zip(sums).enumerate() {
                            ask_next(p * groups + g);
                            tile_1(tiles, panels, tile, sums);
                        }
                    }
                }
            }
            for (pair, sums) in sums.chunks_exact(groups).enumerate() {
                let unit = first_unit + 2 * pair;
                for (g, sums) in sums.iter().enumerate() {
                    for p in 0..2.min(units - unit) {
                        let (tokens, row) = (acts.plan.tokens_of(unit + p), first_row + g * R);
                        let y = &mut y[tokens.start * n_rows + row..];
                        write(sums, p, y, n_rows, R.min(n_rows - row), tokens.len());
                    }
                }
            }
        }
    }
}

/// Asks for blocks `first..first + n`, as far as they exist.
#[inline]
#[target_feature(enable = "sse")]
fn ask<const HINT: i32, B>(w: &[B], first: usize, n: usize) {
    let blocks = w.get(first..).unwrap_or_default();
    let bytes = size_of_val(&blocks[..n.min(blocks.len())]);
    if let Some(block) = blocks.first() {
        for line in (0..bytes).step_by(64) {
            prefetch::<HINT, _>(block, line);
        }
    }
}

/// The sums of panel `p`, `n` rows of `tokens`, to `y`, where tokens are `n_rows` apart.
#[inline]
#[target_feature(enable = "avx2")]
fn write(sums: &Sums, p: usize, y: &mut [f32], n_rows: usize, n: usize, tokens: usize) {
    let mut rows = [_mm256_setzero_si256(); 8];
    for r in 0..R {
        rows[r] = _mm256_castps_si256(load_ps(&sums[r][p]));
    }
    for (t, column) in transpose(rows).into_iter().enumerate().take(tokens) {
        let mut lanes = [0.0; 8];
        store_ps(&mut lanes, _mm256_castsi256_ps(column));
        let y = &mut y[t * n_rows..][..n];
        match y.first_chunk_mut::<R>() {
            Some(y) => y.copy_from_slice(&lanes[..R]),
            None => y.copy_from_slice(&lanes[..n]),
        }
    }
}

/// Fills panel `p` of `pair` from a panel, as `wants` says.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn prepare(panel: Panel<'_>, wants: Wants, p: usize, pair: &mut [PairBlock]) {
    let minus_offset = _mm256_set1_epi16(-wants.offset as i16);
    for (to, ((q, d), s)) in pair.iter_mut().zip(panel.q.iter().zip(panel.d).zip(panel.s)) {
        let (d, s) = (load_ps(d), load(s));
        store_ps(&mut to.d[p], d);
        if wants.offset != 0 && wants.two_runs {
            for half in 0..2 {
                let mut sums = _mm256_setzero_si256();
                for k in 4 * half..4 * half + 4 {
                    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load(&q[k]));
                    sums = _mm256_add_epi16(sums, pairs);
                }
                store(&mut to.start[half][p], _mm256_mullo_epi16(sums, minus_offset));
            }
        } else if wants.offset != 0 {
            store(&mut to.start[0][p], _mm256_mullo_epi16(s, minus_offset));
        }
        let ones = _mm256_set1_epi16(1);
        let sum = || _mm256_cvtepi32_ps(_mm256_madd_epi16(s, ones));
        match wants.minimums {
            Minimums::None => {}
            Minimums::Sum => {
                store_ps(&mut to.sums[0][p], sum());
                let offset = _mm256_set1_ps(wants.offset as f32);
                store_ps(&mut to.sums[1][p], _mm256_mul_ps(sum(), offset));
            }
            Minimums::Scaled => store_ps(&mut to.sums[0][p], _mm256_mul_ps(sum(), d)),
            Minimums::ScaledHalves => {
                let halves = [_mm256_slli_epi32::<16>(s), s];
                for half in 0..2 {
                    let sum = _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(halves[half]));
                    store_ps(&mut to.sums[half][p], _mm256_mul_ps(sum, d));
                }
            }
        }
    }
}

/// Two codes of the first 16, two of the last, and so on.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(codes: __m256i) -> __m256i {
    let quarters = _mm256_permute4x64_epi64::<0b11_01_10_00>(codes);
    let order = _mm256_set_epi64x(
        0x0f0e_0706_0d0c_0504,
        0x0b0a_0302_0908_0100,
        0x0f0e_0706_0d0c_0504,
        0x0b0a_0302_0908_0100,
    );
    _mm256_shuffle_epi8(quarters, order)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_32<B: Codes32>(block: &B, codes: __m256i, row: &mut Row32) {
    store(&mut row.codes, interleave(codes));
    let [d, m] = block.scales();
    row.d = scale::<B>(d);
    row.m = scale::<B>(m);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_wide(codes: __m256i, d: F16, row: &mut Row32Wide) {
    let codes = interleave(codes);
    let nibble = _mm256_set1_epi8(15);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
    // Two's complement to plus 8.
    store(&mut row.codes[0], _mm256_xor_si256(high, _mm256_set1_epi8(8)));
    store(&mut row.codes[1], _mm256_and_si256(codes, nibble));
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
    for j in 0..8 {
        store(&mut row.codes[j], interleave(codes(block, j)));
    }
    store(&mut row.scales, scales);
    if B::HAS_MIN && B::GROUP == 32 {
        // Each is there twice.
        store_ps(&mut row.ends.mins[0], _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(mins)));
    } else if B::HAS_MIN {
        let low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(mins));
        let high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(mins));
        store_ps(&mut row.ends.mins[0], _mm256_cvtepi32_ps(low));
        store_ps(&mut row.ends.mins[1], _mm256_cvtepi32_ps(high));
    }
    let [d, dmin] = block.d();
    row.ends.d = half(d);
    row.ends.dmin = half(dmin);
}

/// `R` rows by `T` panels, some blocks of `PARTS` times 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_16<B: Codes16, const PARTS: usize, const T: usize>(
    w: &[[[Row16; PARTS]; R]],
    panels: Panels<'_, T>,
    sums: &mut Sums,
) {
    const { assert!(!two_runs(B::OFFSET, B::MAX)) }
    let low = _mm256_set1_epi32(1);
    let (w, panels, sums) = black_box((w, panels, sums));
    for (b, (w, parts)) in w.iter().zip(panels.blocks.as_chunks::<PARTS>().0).enumerate() {
        for (j, a) in parts.iter().enumerate() {
            let q = panels.codes(b * PARTS + j);
            let run = run::<T, 0, 8>(|r| &w[r][j].codes, q, Some(a));
            fence();
            for r in 0..R {
                let [d, d_2] = w[r][j].d;
                for t in 0..T {
                    let da = load_ps(&a.d[t]);
                    let d = _mm256_mul_ps(_mm256_set1_ps(d), da);
                    let d_2 = if B::ONE_SCALE { d } else { _mm256_mul_ps(_mm256_set1_ps(d_2), da) };
                    let isum = _mm256_cvtepi32_ps(_mm256_madd_epi16(run[r][t], low));
                    let isum_2 = _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(run[r][t]));
                    let acc = _mm256_fmadd_ps(isum, d, load_ps(&sums[r][t]));
                    store_ps(&mut sums[r][t], _mm256_fmadd_ps(isum_2, d_2, acc));
                }
            }
            fence();
        }
    }
}

/// `R` rows by `T` panels, some blocks of 32: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_32<B: Codes32, const T: usize>(w: &[[Row32; R]], panels: Panels<'_, T>, sums: &mut Sums) {
    const { assert!(!two_runs(run_offset::<B>(), B::MAX)) }
    const { assert!(B::HAS_MIN || run_offset::<B>() == B::OFFSET) }
    let ones = _mm256_set1_epi16(1);
    let (w, panels, sums) = black_box((w, panels, sums));
    for (b, (w, a)) in w.iter().zip(panels.blocks).enumerate() {
        let start = if run_offset::<B>() != 0 { Some(a) } else { None };
        let run = run::<T, 0, 8>(|r| &w[r].codes, panels.codes(b), start);
        fence();
        for r in 0..R {
            let (d, m) = (_mm256_set1_ps(w[r].d), _mm256_set1_ps(w[r].m));
            for t in 0..T {
                let mut isum = _mm256_cvtepi32_ps(_mm256_madd_epi16(run[r][t], ones));
                if run_offset::<B>() != B::OFFSET {
                    // Small integers: exact.
                    isum = _mm256_add_ps(isum, load_ps(&a.sums[1][t]));
                }
                let da = load_ps(&a.d[t]);
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

/// `R` rows by `T` panels, some blocks of 32 with codes of 8 bits: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_wide<const T: usize>(
    w: &[[Row32Wide; R]],
    panels: Panels<'_, T>,
    tile: &mut TileScratch,
    sums: &mut Sums,
) {
    let (ones, sixteens) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    let (w, panels, sums, tile) = black_box((w, panels, sums, tile));
    for (b, (w, a)) in w.iter().zip(panels.blocks).enumerate() {
        let q = panels.codes(b);
        let first = run::<T, 0, 8>(|r| &w[r].codes[0], q, Some(a));
        for r in 0..R {
            for t in 0..T {
                store(&mut tile.firsts[r][t], _mm256_madd_epi16(first[r][t], sixteens));
            }
        }
        let run = run::<T, 0, 8>(|r| &w[r].codes[1], q, None);
        fence();
        for r in 0..R {
            let d = _mm256_set1_ps(w[r].d);
            for t in 0..T {
                let isum = _mm256_madd_epi16(run[r][t], ones);
                let isum = _mm256_add_epi32(isum, load(&tile.firsts[r][t]));
                let d = _mm256_mul_ps(d, load_ps(&a.d[t]));
                let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), d, load_ps(&sums[r][t]));
                store_ps(&mut sums[r][t], acc);
            }
        }
        fence();
    }
}

/// `R` rows by `T` panels, some blocks of 256: `sums += w . q`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_256<B: Codes256, const T: usize>(
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
            let two_runs = const { two_runs(B::OFFSET, B::MAX) };
            let start = if B::OFFSET != 0 { Some(a) } else { None };
            if two_runs {
                let first = run::<T, 0, 4>(codes, q, start);
                for r in 0..R {
                    let scale = _mm256_set1_epi32(w[r].scales[j]);
                    for t in 0..T {
                        store(&mut tile.firsts[r][t], _mm256_madd_epi16(first[r][t], scale));
                    }
                }
            }
            let run = if two_runs {
                run::<T, 4, 8>(codes, q, start)
            } else {
                run::<T, 0, 8>(codes, q, start)
            };
            fence();
            let mut da = [_mm256_setzero_ps(); T];
            for t in 0..T {
                da[t] = pin_ps(load_ps(&a.d[t]));
            }
            for r in 0..R {
                let scale = _mm256_set1_epi32(w[r].scales[j]);
                for t in 0..T {
                    let mut isum = _mm256_madd_epi16(run[r][t], scale);
                    if two_runs {
                        isum = _mm256_add_epi32(isum, load(&tile.firsts[r][t]));
                    }
                    tile.add(j, (r, t), _mm256_cvtepi32_ps(isum), da[t]);
                }
            }
            fence();
        }
        finish_256::<B, T>(|r| &w[r].ends, blocks, tile, sums);
    }
}

/// The products of words `FROM..TO` of a block, as i16: the first half's and the last half's. They
/// begin where `start` says.
#[inline]
#[target_feature(enable = "avx2")]
fn run<'a, const T: usize, const FROM: usize, const TO: usize>(
    codes: impl Fn(usize) -> &'a [i32; 8],
    q: [&Codes; T],
    start: Option<&PairBlock>,
) -> [[__m256i; T]; R] {
    let mut run = [[_mm256_setzero_si256(); T]; R];
    for k in FROM..TO {
        fence();
        let mut words = [_mm256_setzero_si256(); T];
        for t in 0..T {
            words[t] = load(&q[t][k]);
        }
        for r in 0..R {
            let code = _mm256_set1_epi32(codes(r)[k]);
            let mut products = [_mm256_setzero_si256(); T];
            for t in 0..T {
                products[t] = _mm256_maddubs_epi16(code, words[t]);
            }
            // Both products before both sums: then more of the sums find a free pipe.
            if let [first, .., last] = &mut products[..] {
                pin_both(first, last);
            }
            for t in 0..T {
                run[r][t] = match (k == FROM, start) {
                    (true, Some(a)) => _mm256_add_epi16(load(&a.start[FROM / 4][t]), products[t]),
                    (true, None) => products[t],
                    (false, _) => pin(_mm256_add_epi16(run[r][t], products[t])),
                };
            }
        }
    }
    run
}

/// The end of a super-block: `sums += d * products - dmin * mins`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn finish_256<'a, B: Block256, const T: usize>(
    ends: impl Fn(usize) -> &'a Ends,
    blocks: &[PairBlock; 8],
    tile: &TileScratch,
    sums: &mut Sums,
) {
    let mut mins = [[_mm256_setzero_ps(); T]; R];
    if B::HAS_MIN {
        for j in 0..8 {
            for half in 0..32 / B::GROUP {
                let i = j * (32 / B::GROUP) + half;
                for r in 0..R {
                    let min = _mm256_set1_ps(ends(r).mins[i / 8][i % 8]);
                    for t in 0..T {
                        let sum = load_ps(&blocks[j].sums[half][t]);
                        mins[r][t] = pin_ps(_mm256_fmadd_ps(min, sum, mins[r][t]));
                    }
                }
            }
        }
        fence();
    }
    for r in 0..R {
        let (d, dmin) = (_mm256_set1_ps(ends(r).d), _mm256_set1_ps(ends(r).dmin));
        for t in 0..T {
            let product = load_ps(&tile.products[r][t]);
            let mut acc = _mm256_fmadd_ps(d, product, load_ps(&sums[r][t]));
            if B::HAS_MIN {
                acc = _mm256_fnmadd_ps(dmin, mins[r][t], acc);
            }
            store_ps(&mut sums[r][t], acc);
        }
        fence();
    }
}
