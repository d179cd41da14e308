//! Prefill: panels of eight tokens against weights unpacked once per call.
//!
//! Tiles are [`R`] weight rows by a panel: eight registers of four f32 chains each, eight of sums
//! of products, and the operands, which all stay in registers. What a level multiplies with is its
//! [`Dot`]; the order of rows and panels follows from that, and a level whose loads are its bound
//! may have tiles of rows of two groups of [`R`].
//!
//! Blocking: [`BLOCK_ROWS`] rows by [`BLOCK_COLS`] columns are unpacked into L2, a panel of that
//! depth is brought into the tiles' order in L1, f32 sums of [`BLOCK_UNITS`] panels are in L2.

use super::dot::{Dot, MAGIC};
use super::unpack::{Codes16, Codes32, Codes256, FourScales};
use super::vector::*;
use crate::act::{Acts, PANEL_TOKENS, SUMS};
use crate::block::{Block, as_blocks};

/// Weight rows of a tile.
const R: usize = 4;
/// Rows unpacked at a time: bringing panels into order then costs little.
const BLOCK_ROWS: usize = 24 * R;
/// Columns unpacked at a time: what a tile reads of a panel of this depth is a quarter of a 32 KiB
/// L1, the rows are about 100 KiB of an L2, which on small boards all cores share.
const BLOCK_COLS: usize = 512;
/// Panels before weights are unpacked again: 256 tokens, 96 KiB of sums.
const BLOCK_UNITS: usize = 32;
/// Registers of sums of the largest tile.
pub(in crate::isa) const REGISTERS_MAX: usize = 12;

/// The f32 sums of a tile, register by register: see [`Dot::AV`].
pub(in crate::isa) type Sums = [[f32; 4]; 8];

/// Scratch of a thread: unpacked weights, ordered panels and sums.
#[derive(Debug)]
pub(in crate::isa) struct PanelScratch {
    of_32: Vec<Rows32>,
    of_256: Vec<Rows256>,
    panel: Vec<PanelBlock>,
    sums: Vec<Sums>,
}

impl Default for PanelScratch {
    fn default() -> PanelScratch {
        let blocks = BLOCK_ROWS / R * BLOCK_COLS / 32;
        PanelScratch {
            of_32: vec![Rows32::default(); blocks],
            of_256: vec![Rows256::default(); blocks / 8],
            panel: vec![PanelBlock::default(); BLOCK_COLS / 32],
            sums: vec![Sums::default(); BLOCK_ROWS / R * BLOCK_UNITS],
        }
    }
}

/// 32 codes of four rows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(in crate::isa) struct Rows32 {
    codes: [[i8; 16]; 8],
    d: [[f32; 4]; 4],
    /// Minimums, or the scales of the second 16.
    m: [[f32; 4]; 4],
}

/// 256 codes of four rows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(in crate::isa) struct Rows256 {
    codes: [[[i8; 16]; 8]; 8],
    /// One per group.
    scales: [[[f32; 4]; 4]; 16],
    /// `-MAGIC` times them, of each 32 codes the first, for every register of a tile: in memory
    /// because loads are cheaper than moves.
    starts: [[[f32; 4]; 8]; 8],
    mins: [[[f32; 4]; 4]; 16],
    d: [[f32; 4]; 4],
    dmin: [[f32; 4]; 4],
}

/// 32 activations of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::isa) struct PanelBlock {
    q: [[i8; 16]; 16],
    /// What the sums of either half start with: in memory, because loads are cheaper than moves.
    start: [[[i32; 4]; REGISTERS_MAX]; 2],
    d: [[f32; 4]; 4],
    /// What [`Minimums`] says.
    sums: [[[f32; 4]; 4]; 2],
}

impl Default for PanelBlock {
    fn default() -> PanelBlock {
        PanelBlock {
            q: Default::default(),
            start: [[[MAGIC.to_bits().cast_signed(); 4]; REGISTERS_MAX]; 2],
            d: Default::default(),
            sums: Default::default(),
        }
    }
}

/// What minimums are multiplied with.
#[derive(Clone, Copy, PartialEq)]
enum Minimums {
    /// A type without.
    None,
    /// The sum of 32 codes.
    Sum,
    /// That times their scale.
    Scaled,
    /// The sums of the two 16 codes times their scale.
    ScaledHalves,
}

/// Products of types in blocks of 32.
#[inline(always)]
pub(in crate::isa) fn blocks_32<B: Codes32, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
) {
    let minimums = if B::HAS_MIN { Minimums::Sum } else { Minimums::None };
    let tile = match (B::HAS_MIN, B::SMALL) {
        (false, false) => D::tile_32::<32, false, false>,
        (false, true) => D::tile_32::<32, false, true>,
        (true, false) => D::tile_32::<32, true, false>,
        (true, true) => D::tile_32::<32, true, true>,
    };
    matmul::<B, D, Rows32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32, &mut scratch.panel, &mut scratch.sums),
        y,
        minimums,
        1,
        unpack_32::<B, D>,
        |n, rows, panel, sums| each(tile, n, rows, panel, sums),
    );
}

/// Types in blocks of several times 32 with scales of their own.
#[inline(always)]
pub(in crate::isa) fn blocks_16<B: Codes16, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
) {
    matmul::<B, D, Rows32>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_32, &mut scratch.panel, &mut scratch.sums),
        y,
        Minimums::None,
        B::LEN / 32,
        unpack_16::<B, D>,
        |n, rows, panel, sums| each(D::tile_32::<16, false, true>, n, rows, panel, sums),
    );
}

/// Types in super-blocks of 256.
#[inline(always)]
pub(in crate::isa) fn blocks_256<B: Codes256, D: Dot>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    scratch: &mut PanelScratch,
    y: &mut [f32],
) {
    let minimums = match (B::HAS_MIN, B::GROUP) {
        (false, _) => Minimums::None,
        (true, 32) => Minimums::Scaled,
        (true, _) => Minimums::ScaledHalves,
    };
    let tiles = match (B::GROUP, B::HAS_MIN, B::SMALL) {
        (32, false, false) => D::tiles_256::<32, false, false>,
        (32, false, true) => D::tiles_256::<32, false, true>,
        (32, true, false) => D::tiles_256::<32, true, false>,
        (32, true, true) => D::tiles_256::<32, true, true>,
        (_, false, false) => D::tiles_256::<16, false, false>,
        (_, false, true) => D::tiles_256::<16, false, true>,
        (_, true, false) => D::tiles_256::<16, true, false>,
        (_, true, true) => D::tiles_256::<16, true, true>,
    };
    matmul::<B, D, Rows256>(
        as_blocks(w),
        n_rows,
        acts,
        (&mut scratch.of_256, &mut scratch.panel, &mut scratch.sums),
        y,
        minimums,
        1,
        unpack_256::<B, D>,
        tiles,
    );
}

/// The loops around the tiles: rows, tokens, columns, panels, tiles. A block is unpacked to `parts`
/// of a tile's.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a loop nest with its bodies")]
fn matmul<B: Block, D: Dot, W>(
    w: &[B],
    n_rows: usize,
    acts: &Acts<'_>,
    (unpacked, panel, sums): (&mut [W], &mut [PanelBlock], &mut [Sums]),
    y: &mut [f32],
    minimums: Minimums,
    parts: usize,
    unpack: fn([&B; R], &mut [W]),
    tiles: impl Fn(usize, &[W], &[PanelBlock], &mut [Sums]),
) {
    let (blocks, units) = (acts.plan.cols / B::LEN, acts.plan.units());
    let per_block = B::LEN / 32;
    for first_row in (0..n_rows).step_by(BLOCK_ROWS) {
        let groups = BLOCK_ROWS.min(n_rows - first_row).div_ceil(R);
        for first_unit in (0..units).step_by(BLOCK_UNITS) {
            let n_units = BLOCK_UNITS.min(units - first_unit);
            let sums = &mut sums[..n_units * groups];
            sums.fill(Sums::default());
            for first in (0..blocks).step_by(BLOCK_COLS / B::LEN) {
                let n = (BLOCK_COLS / B::LEN).min(blocks - first);
                let unpacked = &mut unpacked[..groups * n * parts];
                for (i, to) in unpacked.chunks_exact_mut(parts).enumerate() {
                    let (row, b) = (first_row + i / n * R, first + i % n);
                    let block = |r: usize| &w[(row + r).min(n_rows - 1) * blocks + b];
                    unpack([block(0), block(1), block(2), block(3)], to);
                }
                for (u, sums) in sums.chunks_exact_mut(groups).enumerate() {
                    let panel = &mut panel[..n * per_block];
                    order::<D>(acts, first_unit + u, first * per_block, minimums, panel);
                    tiles(n * parts, unpacked, panel, sums);
                }
            }
            for (u, sums) in sums.chunks_exact(groups).enumerate() {
                for (g, sums) in sums.iter().enumerate() {
                    write::<D>(sums, acts, first_unit + u, first_row + g * R, n_rows, y);
                }
            }
        }
    }
}

/// A tile for every `R` rows, `n` blocks long.
#[inline(always)]
pub(in crate::isa) fn each<W>(
    tile: fn(&[W], &[PanelBlock], &mut Sums),
    n: usize,
    rows: &[W],
    panel: &[PanelBlock],
    sums: &mut [Sums],
) {
    for (rows, sums) in rows.chunks_exact(n).zip(sums) {
        tile(rows, panel, sums);
    }
}

/// The sums of `R` rows to their tokens in `y`, rows `row..row + R`.
#[inline(always)]
fn write<D: Dot>(
    sums: &Sums,
    acts: &Acts<'_>,
    unit: usize,
    row: usize,
    n_rows: usize,
    y: &mut [f32],
) {
    for (t, sums) in acts.plan.tokens_of(unit).zip(D::tokens(sums)) {
        let y = &mut y[t * n_rows..][row..n_rows.min(row + R)];
        match y.first_chunk_mut() {
            Some(y) => store_f32(y, sums),
            None => {
                let mut lanes = [0.0; R];
                store_f32(&mut lanes, sums);
                y.copy_from_slice(&lanes[..y.len()]);
            }
        }
    }
}

/// Brings a panel's blocks `first..` into the tiles' order.
#[inline(always)]
fn order<D: Dot>(
    acts: &Acts<'_>,
    unit: usize,
    first: usize,
    minimums: Minimums,
    panel: &mut [PanelBlock],
) {
    let plan = acts.plan;
    let q = acts.q[unit * plan.q_len()..].as_chunks::<16>().0.as_chunks::<16>().0;
    let d = acts.d[unit * plan.d_len()..].as_chunks::<PANEL_TOKENS>().0;
    let s = acts.s[unit * plan.s_len()..].as_chunks::<SUMS>().0.as_chunks::<PANEL_TOKENS>().0;
    let minus_128 = vdupq_n_s8(-128);
    for (to, ((q, d), s)) in
        panel.iter_mut().zip(q[first..].iter().zip(&d[first..]).zip(&s[first..]))
    {
        for half in 0..2 {
            for quad in 0..2 {
                let word = |k: usize| veorq_s8(load(&q[8 * half + 2 * k + quad]), minus_128);
                let words = D::order_panel([word(0), word(1), word(2), word(3)]);
                for (i, register) in words.into_iter().enumerate() {
                    store(&mut to.q[D::place(quad, half, i)], register);
                }
            }
        }
        let d = F32x8::load(d);
        put(&mut to.d, D::by_token(d.0));
        let mut put_sums = |half: usize, sum: fn(&[i16; SUMS]) -> i16, scaled: bool| {
            let sums = F32x8::load(&std::array::from_fn(|t| f32::from(sum(&s[t]))));
            put(&mut to.sums[half], D::by_token(if scaled { sums.times(d) } else { sums }.0));
        };
        match minimums {
            Minimums::None => {}
            Minimums::Sum => put_sums(0, |s| s[0] + s[1], false),
            Minimums::Scaled => put_sums(0, |s| s[0] + s[1], true),
            Minimums::ScaledHalves => {
                put_sums(0, |s| s[0], true);
                put_sums(1, |s| s[1], true);
            }
        }
    }
}

#[inline(always)]
fn put(to: &mut [[f32; 4]; 4], x: [float32x4_t; 4]) {
    for (to, x) in to.iter_mut().zip(x) {
        store_f32(to, x);
    }
}

#[inline(always)]
fn put_codes<D: Dot>(to: &mut [[i8; 16]; 8], codes: [[int8x16_t; 2]; 4]) {
    for (to, codes) in to.iter_mut().zip(D::order_rows(codes)) {
        store(to, codes);
    }
}

fn unpack_32<B: Codes32, D: Dot>(blocks: [&B; R], to: &mut [Rows32]) {
    let to = &mut to[0];
    let mut codes = [[vdupq_n_s8(0); 2]; R];
    for r in 0..R {
        codes[r] = blocks[r].codes();
    }
    put_codes::<D>(&mut to.codes, codes);
    let [d, m] = B::scales(blocks);
    put(&mut to.d, D::by_row(d));
    if B::HAS_MIN {
        put(&mut to.m, D::by_row(m));
    }
}

fn unpack_16<B: Codes16, D: Dot>(blocks: [&B; R], to: &mut [Rows32]) {
    let scales = B::scales(blocks);
    for (j, to) in to.iter_mut().enumerate() {
        let mut codes = [[vdupq_n_s8(0); 2]; R];
        for r in 0..R {
            codes[r] = blocks[r].codes(j);
        }
        put_codes::<D>(&mut to.codes, codes);
        put(&mut to.d, D::by_row(scales[2 * j]));
        put(&mut to.m, D::by_row(scales[2 * j + 1]));
    }
}

fn unpack_256<B: Codes256, D: Dot>(blocks: [&B; R], to: &mut [Rows256]) {
    let to = &mut to[0];
    let mut scales = FourScales::default();
    scales.set(blocks);
    for (j, to) in to.codes.iter_mut().enumerate() {
        let mut codes = [[vdupq_n_s8(0); 2]; R];
        for r in 0..R {
            codes[r] = blocks[r].codes(j);
        }
        put_codes::<D>(to, codes);
    }
    for g in 0..B::LEN / B::GROUP {
        let scale = load_f32(&scales.scales[g]);
        put(&mut to.scales[g], D::by_row(scale));
        if g % (32 / B::GROUP) == 0 {
            let starts = D::by_row(vmulq_f32(scale, vdupq_n_f32(-MAGIC)));
            for (v, to) in to.starts[g * B::GROUP / 32].iter_mut().enumerate() {
                store_f32(to, starts[v / D::AV]);
            }
        }
        if B::HAS_MIN {
            put(&mut to.mins[g], D::by_row(load_f32(&scales.mins[g])));
        }
    }
    put(&mut to.d, D::by_row(load_f32(&scales.d)));
    put(&mut to.dmin, D::by_row(load_f32(&scales.dmin)));
}

/// `R` rows by a panel, some blocks of 32: `sums += w . q`.
#[inline(always)]
pub(in crate::isa) fn tile_32<D: Dot, const GROUP: usize, const MIN: bool, const SMALL: bool>(
    rows: &[Rows32],
    panel: &[PanelBlock],
    sums: &mut Sums,
) {
    part_32::<D, 0, GROUP, MIN, SMALL>(rows, panel, sums);
    if D::PARTS > 1 {
        part_32::<D, 1, GROUP, MIN, SMALL>(rows, panel, sums);
    }
}

#[inline(always)]
fn part_32<D: Dot, const PART: usize, const GROUP: usize, const MIN: bool, const SMALL: bool>(
    rows: &[Rows32],
    panel: &[PanelBlock],
    sums: &mut Sums,
) {
    let magic = vdupq_n_f32(MAGIC);
    let mut acc = [vdupq_n_f32(0.0); 8];
    for v in (PART..8).step_by(D::PARTS) {
        acc[v] = load_f32(&sums[v]);
    }
    for (w, a) in rows.iter().zip(panel) {
        let codes = [&w.codes; 2];
        let first = match GROUP {
            16 => D::isums::<PART, 0, 8, 0, 1, SMALL>(codes, &a.q, &a.start[0]),
            _ => D::isums::<PART, 0, 8, 0, 2, SMALL>(codes, &a.q, &a.start[0]),
        };
        for v in (PART..8).step_by(D::PARTS) {
            let (i, j) = (v / D::AV, v % D::AV);
            let da = load_f32(&a.d[j]);
            let isum = vsubq_f32(vreinterpretq_f32_s32(first[v]), magic);
            acc[v] = vfmaq_f32(acc[v], vmulq_f32(load_f32(&w.d[i]), da), isum);
            if MIN {
                let m = vmulq_f32(load_f32(&w.m[i]), da);
                acc[v] = vfmaq_f32(acc[v], m, load_f32(&a.sums[0][j]));
            }
        }
        if GROUP == 16 {
            let second = D::isums::<PART, 0, 8, 1, 2, SMALL>(codes, &a.q, &a.start[1]);
            for v in (PART..8).step_by(D::PARTS) {
                let (i, j) = (v / D::AV, v % D::AV);
                let isum = vsubq_f32(vreinterpretq_f32_s32(second[v]), magic);
                let d = vmulq_f32(load_f32(&w.m[i]), load_f32(&a.d[j]));
                acc[v] = vfmaq_f32(acc[v], d, isum);
            }
        }
    }
    for v in (PART..8).step_by(D::PARTS) {
        store_f32(&mut sums[v], acc[v]);
    }
}

/// `R` rows by a panel, some blocks of 256: `sums += w . q`.
#[inline(always)]
pub(in crate::isa) fn tile_256<D: Dot, const GROUP: usize, const MIN: bool, const SMALL: bool>(
    rows: &[Rows256],
    panel: &[PanelBlock],
    sums: &mut Sums,
) {
    for (w, panel) in rows.iter().zip(panel.as_chunks::<8>().0) {
        part_256::<D, 0, 0, 8, GROUP, MIN, SMALL>([w; 2], panel, sums);
        if D::PARTS > 1 {
            part_256::<D, 1, 0, 8, GROUP, MIN, SMALL>([w; 2], panel, sums);
        }
    }
}

/// One super-block of a tile: `N` registers of sums, which are those from the `FIRST`th of the rows
/// that share registers on, counted through both of `w`.
#[inline(always)]
pub(in crate::isa) fn part_256<
    D: Dot,
    const PART: usize,
    const FIRST: usize,
    const N: usize,
    const GROUP: usize,
    const MIN: bool,
    const SMALL: bool,
>(
    w: [&Rows256; 2],
    panel: &[PanelBlock; 8],
    sums: &mut [[f32; 4]; N],
) {
    // Of register `v`: its `R` rows, which of them, which tokens.
    let place = |v: usize| {
        let (i, j, of_r) = (FIRST + v / D::AV, v % D::AV, 8 / D::AV);
        (w[i / of_r], i % of_r, j)
    };
    let mut products = [vdupq_n_f32(0.0); N];
    for b in 0..8 {
        let a = &panel[b];
        let codes = w.map(|w| &w.codes[b]);
        let first = match GROUP {
            16 => D::isums::<PART, FIRST, N, 0, 1, SMALL>(codes, &a.q, &a.start[0]),
            _ => D::isums::<PART, FIRST, N, 0, 2, SMALL>(codes, &a.q, &a.start[0]),
        };
        // `MAGIC` goes out where the scale comes in. Products and sums of codes and scales are
        // whole numbers below 2^24, and `MAGIC` times a scale is one times a power of two: exact.
        let mut isums = [vdupq_n_f32(0.0); N];
        for v in (PART..N).step_by(D::PARTS) {
            let (w, i, j) = place(v);
            let scale = load_f32(&w.scales[b * 32 / GROUP][i]);
            let start = load_f32(&w.starts[b][i * D::AV + j]);
            isums[v] = vfmaq_f32(start, vreinterpretq_f32_s32(first[v]), scale);
        }
        if GROUP == 16 {
            let second = D::isums::<PART, FIRST, N, 1, 2, SMALL>(codes, &a.q, &a.start[1]);
            for v in (PART..N).step_by(D::PARTS) {
                let (w, i, _) = place(v);
                let isum = vsubq_f32(vreinterpretq_f32_s32(second[v]), vdupq_n_f32(MAGIC));
                isums[v] = vfmaq_f32(isums[v], isum, load_f32(&w.scales[2 * b + 1][i]));
            }
        }
        for v in (PART..N).step_by(D::PARTS) {
            products[v] = vfmaq_f32(products[v], isums[v], load_f32(&a.d[v % D::AV]));
        }
    }
    let mut mins = [vdupq_n_f32(0.0); N];
    if MIN {
        for g in 0..256 / GROUP {
            let sums = &panel[g * GROUP / 32].sums[g % (32 / GROUP)];
            for v in (PART..N).step_by(D::PARTS) {
                let (w, i, j) = place(v);
                mins[v] = vfmaq_f32(mins[v], load_f32(&w.mins[g][i]), load_f32(&sums[j]));
            }
        }
    }
    for v in (PART..N).step_by(D::PARTS) {
        let (w, i, _) = place(v);
        let mut acc = load_f32(&sums[v]);
        acc = vfmaq_f32(acc, load_f32(&w.d[i]), products[v]);
        if MIN {
            acc = vfmsq_f32(acc, load_f32(&w.dmin[i]), mins[v]);
        }
        store_f32(&mut sums[v], acc);
    }
}
