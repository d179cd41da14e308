//! Activations: how the input rows of a matrix product are quantized and laid out.
//!
//! Up to [`ROWS_MAX`] tokens, as in decoding, a *unit* is the row of one token in its natural
//! order. More tokens, as in prefill, go into panels (from fewer tokens on where a type's are faster,
//! from more if weights are interleaved, which panels would have to be undone for): a unit is [`PANEL_TOKENS`] tokens side by
//! side, so that a vector register holds one token per lane and no kernel ever adds across lanes.
//! Float weights always take rows.
//!
//! **Quantization** of a block of 32: `d = amax / 127`, `q = x * (127 / amax)` rounded to nearest,
//! ties to even; so `-127 <= q <= 127`. A block of zeros, or of numbers so small (`amax` below
//! about 4e-37) that `127 / amax` overflows, has `d = 0` and `q = 0`. A block with a NaN or an
//! infinity has `d = NaN` and `q = 0`: its products are NaN, not silently finite.
//!
//! Weights in super-blocks of 256 take the same blocks of 32: inputs of a feed-forward layer's
//! second matrix are heavy-tailed, and one scale per 256 would be most of a model's whole error.
//!
//! **Buffers of a unit**, `b` counting blocks; `s` are the sums of a block's two 16 codes:
//!
//! | | `q` | `d` | `s` |
//! |---|---|---|---|
//! | Rows | `[cols]` | `[b]` | `[b][2]` |
//! | Panels | `[cols / 4][8 tokens][4]` | `[b][8]` | `[b][8][2]` |
//!
//! Each level chooses which four codes a word of a panel holds, and whether plus 128: see
//! `PanelOrder`. The padding of a last panel is tokens of zeros.

use crate::block::{Act32, nearest};
use gguf_rs_lite::GgmlType;
use std::ops::Range;

/// The most tokens that are laid out as rows for weights of the file, of any type: behind it panels are
/// faster.
pub const ROWS_MAX: usize = 8;

/// Tokens in a panel: the 32-bit lanes of a 256-bit register.
pub const PANEL_TOKENS: usize = 8;

/// Sums that go with a block of one token.
pub(crate) const SUMS: usize = 2;

/// Format of a quantized input row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// Not at all.
    F32,
    /// 8 bits with a scale per 32.
    Q8x32,
}

impl ActFormat {
    /// Elements under one scale.
    pub const fn block_len(self) -> usize {
        match self {
            ActFormat::F32 => 1,
            ActFormat::Q8x32 => 32,
        }
    }

    /// The format that rows of a weight type are multiplied with.
    pub fn of(ty: GgmlType) -> ActFormat {
        match ty.block_len() {
            1 => ActFormat::F32,
            _ => ActFormat::Q8x32,
        }
    }
}

/// The kind of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One token.
    Rows,
    /// [`PANEL_TOKENS`] tokens.
    Panels,
}

/// The order of a token's block in a panel: eight words of four codes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PanelOrder {
    /// Codes in order, plus 128: for instructions that add up four products and want one operand
    /// unsigned.
    Plus128,
    /// Two codes of the first 16 and two of the last by turns: for instructions that add up two
    /// products, so that each half of a word has its own sum.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX2's order"))]
    ByHalves,
}

impl PanelOrder {
    /// Where the word is that holds code `k` of a block, and where the code is in it.
    fn place(self, k: usize) -> (usize, usize) {
        match self {
            PanelOrder::Plus128 => (k / 4, k % 4),
            PanelOrder::ByHalves => (k % 16 / 2, k / 16 * 2 + k % 2),
        }
    }

    /// A code as a word holds it, and the other way round.
    fn flip(self, code: i8) -> i8 {
        match self {
            PanelOrder::Plus128 => code ^ -128,
            PanelOrder::ByHalves => code,
        }
    }
}

/// The layout of `n_tokens` input rows of `cols` elements. Lengths are in elements, per unit.
///
/// [`KernelTable::plan`](crate::KernelTable::plan) makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActPlan {
    /// Format of each row.
    pub format: ActFormat,
    /// Elements of a row, a multiple of `format.block_len()`.
    pub cols: usize,
    /// Rows.
    pub n_tokens: usize,
    /// The order of codes in panels.
    pub(crate) order: PanelOrder,
    /// The kind of units.
    pub(crate) layout: Layout,
}

impl ActPlan {
    /// Rows for at most `rows_max` tokens and for floats, else panels.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks.
    pub(crate) fn new(
        format: ActFormat,
        cols: usize,
        n_tokens: usize,
        (order, rows_max): (PanelOrder, usize),
    ) -> ActPlan {
        assert!(cols.is_multiple_of(format.block_len()), "rows of whole {format:?} blocks");
        let layout = match format {
            ActFormat::F32 => Layout::Rows,
            _ if n_tokens <= rows_max => Layout::Rows,
            _ => Layout::Panels,
        };
        ActPlan { format, cols, n_tokens, order, layout }
    }

    /// The kind of the plan's units.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Units that hold all tokens.
    pub fn units(&self) -> usize {
        self.n_tokens.div_ceil(self.unit_tokens())
    }

    /// The tokens of a unit; the last panel may have fewer than [`PANEL_TOKENS`].
    pub fn tokens_of(&self, unit: usize) -> Range<usize> {
        let first = unit * self.unit_tokens();
        first..self.n_tokens.min(first + self.unit_tokens())
    }

    /// Codes.
    pub fn q_len(&self) -> usize {
        match self.format {
            ActFormat::F32 => 0,
            _ => self.cols * self.unit_tokens(),
        }
    }

    /// Scales.
    pub fn d_len(&self) -> usize {
        match self.format {
            ActFormat::F32 => 0,
            _ => self.blocks() * self.unit_tokens(),
        }
    }

    /// Sums.
    pub fn s_len(&self) -> usize {
        match self.format {
            ActFormat::F32 => 0,
            ActFormat::Q8x32 => self.blocks() * self.unit_tokens() * SUMS,
        }
    }

    /// Floats.
    pub fn x_len(&self) -> usize {
        match self.format {
            ActFormat::F32 => self.cols,
            _ => 0,
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.cols / self.format.block_len()
    }

    /// The unit of a token and its place there.
    fn place(&self, token: usize) -> (usize, usize) {
        (token / self.unit_tokens(), token % self.unit_tokens())
    }

    fn unit_tokens(&self) -> usize {
        match self.layout() {
            Layout::Rows => 1,
            Layout::Panels => PANEL_TOKENS,
        }
    }
}

/// The four buffers of one unit, to be written; those a format does not use are empty.
#[derive(Debug)]
pub struct ActUnit<'a> {
    /// Codes, `plan.q_len()`.
    pub q: &'a mut [i8],
    /// Scales, `plan.d_len()`.
    pub d: &'a mut [f32],
    /// Sums of codes, `plan.s_len()`.
    pub s: &'a mut [i16],
    /// Floats, `plan.x_len()`.
    pub x: &'a mut [f32],
}

impl ActUnit<'_> {
    /// Panics unless the buffers have the plan's lengths and `x` holds the tokens of one unit.
    pub(crate) fn check(&self, plan: &ActPlan, x: &[f32]) {
        assert!(self.q.len() == plan.q_len(), "codes of a unit");
        assert!(self.d.len() == plan.d_len(), "scales of a unit");
        assert!(self.s.len() == plan.s_len(), "sums of a unit");
        assert!(self.x.len() == plan.x_len(), "floats of a unit");
        let tokens = 1..=plan.unit_tokens();
        assert!(tokens.into_iter().any(|n| x.len() == n * plan.cols), "rows of the unit's tokens");
    }
}

/// Packed inputs: all units of a plan, each buffer contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Acts<'a> {
    /// The layout.
    pub plan: &'a ActPlan,
    /// Codes.
    pub q: &'a [i8],
    /// Scales.
    pub d: &'a [f32],
    /// Sums of codes.
    pub s: &'a [i16],
    /// Floats.
    pub x: &'a [f32],
}

impl Acts<'_> {
    /// Panics unless the buffers have the plan's lengths.
    pub(crate) fn check(&self) {
        let (plan, units) = (self.plan, self.plan.units());
        assert!(plan.cols.is_multiple_of(plan.format.block_len()), "rows of whole blocks");
        assert!(self.q.len() == units * plan.q_len(), "codes of all units");
        assert!(self.d.len() == units * plan.d_len(), "scales of all units");
        assert!(self.s.len() == units * plan.s_len(), "sums of all units");
        assert!(self.x.len() == units * plan.x_len(), "floats of all units");
    }

    /// The codes of panels in the order `order`, to `q`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn reorder(&self, order: PanelOrder, q: &mut [i8]) {
        let (from, to) = (self.plan.order, order);
        let panels = self.q.as_chunks::<{ 32 * PANEL_TOKENS }>().0;
        for (panel, q) in panels.iter().zip(q.as_chunks_mut::<{ 32 * PANEL_TOKENS }>().0) {
            for k in 0..32 {
                let ((word, at), (to_word, to_at)) = (from.place(k), to.place(k));
                for lane in 0..PANEL_TOKENS {
                    let code = from.flip(panel[(word * PANEL_TOKENS + lane) * 4 + at]);
                    q[(to_word * PANEL_TOKENS + lane) * 4 + to_at] = to.flip(code);
                }
            }
        }
    }

    /// One block of one token.
    pub(crate) fn block(&self, token: usize, block: usize) -> Act32 {
        let (unit, lane) = self.plan.place(token);
        let tokens = self.plan.unit_tokens();
        let q = &self.q[unit * self.plan.q_len() + block * 32 * tokens..][..32 * tokens];
        let q = match self.plan.layout() {
            Layout::Rows => std::array::from_fn(|k| q[k]),
            Layout::Panels => std::array::from_fn(|k| {
                let (word, at) = self.plan.order.place(k);
                self.plan.order.flip(q[(word * tokens + lane) * 4 + at])
            }),
        };
        let d = self.d[unit * self.plan.d_len() + block * tokens + lane];
        let s = &self.s[unit * self.plan.s_len() + (block * tokens + lane) * SUMS..];
        Act32 { q, d, sums: std::array::from_fn(|i| s[i]) }
    }
}

/// Quantizes and lays out the tokens of one unit; [`ActUnit::check`] has passed.
pub(crate) fn pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    match (plan.format, plan.layout()) {
        (ActFormat::F32, _) => unit.x.copy_from_slice(x),
        (ActFormat::Q8x32, Layout::Rows) => pack_row(x, unit),
        (ActFormat::Q8x32, Layout::Panels) => pack_panel(plan, x, unit),
    }
}

fn pack_row(x: &[f32], unit: ActUnit<'_>) {
    let (x, _) = x.as_chunks();
    let (q, _) = unit.q.as_chunks_mut::<32>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>();
    for (((x, q), d), s) in x.iter().zip(q).zip(unit.d).zip(s) {
        let block = quantize_block(x);
        (*q, *d, *s) = (block.q, block.d, block.sums);
    }
}

fn pack_panel(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    unit.q.fill(plan.order.flip(0));
    unit.d.fill(0.0);
    unit.s.fill(0);
    for (lane, x) in x.chunks_exact(plan.cols).enumerate() {
        for (b, x) in x.as_chunks().0.iter().enumerate() {
            let block = quantize_block(x);
            let place = b * PANEL_TOKENS + lane;
            unit.d[place] = block.d;
            unit.s[place * SUMS..][..SUMS].copy_from_slice(&block.sums);
            let panel = &mut unit.q[b * 32 * PANEL_TOKENS..][..32 * PANEL_TOKENS];
            for (k, &q) in block.q.iter().enumerate() {
                let (word, at) = plan.order.place(k);
                panel[(word * PANEL_TOKENS + lane) * 4 + at] = plan.order.flip(q);
            }
        }
    }
}

fn quantize_block(x: &[f32; 32]) -> Act32 {
    // As integers magnitudes order as floats do, with infinity and NaN on top.
    let amax = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let (d, factor) = scale_of(f32::from_bits(amax));
    let q = x.map(|x| if factor == 0.0 { 0 } else { nearest(x * factor) as i8 });
    Act32::new(q, d)
}

/// The scale `d` of a block and the factor from its elements to codes; 0 if all codes are 0.
pub(crate) fn scale_of(amax: f32) -> (f32, f32) {
    let factor = 127.0 / amax;
    if !amax.is_finite() {
        (f32::NAN, 0.0)
    } else if factor.is_finite() {
        (amax / 127.0, factor)
    } else {
        (0.0, 0.0)
    }
}
