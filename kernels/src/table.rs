//! Function pointers per weight type and per float operation, one table per level.
//!
//! Only this file and `isa` know what may run where. Every pointer a caller can reach was put into
//! its table against the token of the table's level, and every call of a kernel goes through a
//! method here that has asserted the lengths; a wrong length is a broken invariant and panics.

use crate::act::{self, ActFormat, ActPlan, ActUnit, Acts, Layout, Words};
use crate::block::{self, Block, Block16, Block32, Block256, Float, Quantize};
use crate::float::{self, Activation, Ahead, RopePairing};
use crate::isa::{Level, UnknownLevel, scalar};
use gguf_rs_lite::GgmlType;
use std::ops::Range;

/// Chunks of rows that are a multiple of this leave no lane of any kernel idle.
pub const ROW_STEP: usize = 24;

/// The name of the environment variable that lowers the level.
const TEFF_ISA: &str = "TEFF_ISA";

/// All kernels of one level.
#[derive(Debug)]
pub struct KernelTable {
    pub(crate) level: Level,
    pub(crate) types: &'static [TypeKernels],
    pub(crate) float: FloatOps,
    pub(crate) pack: PackFn,
    pub(crate) words: Words,
}

/// Of [`FloatOps::add_product_f32`].
pub type ProductFn<B> = fn(usize, (&[f32], usize), &[B], usize, (&mut [f32], usize), Ahead);
pub(crate) type PackFn = fn(&ActPlan, &[f32], ActUnit<'_>);
/// Groups of interleaved rows, bytes of a group, rows to skip, activations, outputs.
pub(crate) type InterleavedFn = fn(&[u8], usize, usize, &Acts<'_>, &mut [f32]);
/// Of a type, from one order to another.
pub(crate) type ReorderFn = fn(GgmlType, &[u8], &mut [u8]);
pub(crate) type QuantizeFn = fn(&[f32], Option<&[f32]>, &mut [u8]);
pub(crate) type MatmulFn = fn(&[u8], usize, &Acts<'_>, &mut Scratch, &mut [f32]);

impl KernelTable {
    /// The best this CPU has, unless the environment variable `TEFF_ISA` names a lower level. A
    /// name that is no level's is passed over: [`KernelTable::from_env`] tells.
    pub fn detect() -> &'static KernelTable {
        KernelTable::from_env().unwrap_or_else(|_| KernelTable::at_most(Level::BEST))
    }

    /// As [`KernelTable::detect`], with an error if `TEFF_ISA` names no level.
    pub fn from_env() -> Result<&'static KernelTable, UnknownLevel> {
        match std::env::var_os(TEFF_ISA) {
            None => Ok(KernelTable::at_most(Level::BEST)),
            Some(name) => Ok(KernelTable::at_most(name.to_string_lossy().parse()?)),
        }
    }

    /// The best level of this CPU that is not above `level`.
    pub fn at_most(level: Level) -> &'static KernelTable {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::isa::{avx2, avx512vnni, detect, sse41};
            if level >= Level::Avx512Vnni
                && let Some(token) = detect::Avx512Vnni::new()
            {
                return avx512vnni::table(token);
            }
            if level >= Level::Avx2
                && let Some(token) = detect::Avx2::new()
            {
                return avx2::table(token);
            }
            if level >= Level::Sse41
                && let Some(token) = detect::Sse41::new()
            {
                return sse41::table(token);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use crate::isa::{detect, neon, neon_dot, neon_i8mm};
            if level >= Level::NeonI8mm
                && let Some(token) = detect::NeonI8mm::new()
            {
                return neon_i8mm::table(token);
            }
            if level >= Level::NeonDot
                && let Some(token) = detect::NeonDot::new()
            {
                return neon_dot::table(token);
            }
            if level >= Level::Neon {
                return neon::table();
            }
        }
        let _ = level;
        &SCALAR
    }

    /// The level of the table; single types may run below it: [`TypeKernels::level`].
    pub fn level(&self) -> Level {
        self.level
    }

    /// The kernels of a weight type; `None` if it has none.
    pub fn types(&self, ty: GgmlType) -> Option<&TypeKernels> {
        self.types.iter().find(|kernels| kernels.ty == ty)
    }

    /// The float operations.
    pub fn float(&self) -> &FloatOps {
        &self.float
    }

    /// The layout of `n_tokens` input rows of `cols` elements for this table's kernels.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks.
    pub fn plan(&self, format: ActFormat, cols: usize, n_tokens: usize) -> ActPlan {
        ActPlan::new(format, cols, n_tokens, self.words)
    }

    /// Quantizes and lays out one unit of a plan; `x` is `[tokens of the unit][cols]`. Costs about
    /// 0.1 to 0.3 ns per element with AVX2.
    pub fn pack(&self, plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
        unit.check(plan, x);
        (self.pack)(plan, x, unit);
    }
}

/// What one level does with one weight type.
#[derive(Clone, Copy, Debug)]
pub struct TypeKernels {
    /// The weight type.
    pub ty: GgmlType,
    /// The level its matrix product runs at.
    pub level: Level,
    /// The format of its activations.
    pub act: ActFormat,
    pub(crate) matmul: MatmulFn,
    pub(crate) dequantize: fn(&[u8], &mut [f32]),
    pub(crate) quantize: Option<QuantizeFn>,
    pub(crate) interleaved: Option<Interleaved>,
}

/// How a level decodes from interleaved rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interleaved {
    /// Rows of a group.
    pub lanes: usize,
    pub matmul: InterleavedFn,
    /// Interleaves one group of rows.
    pub interleave: ReorderFn,
    /// Takes a group apart into its rows.
    pub restore: ReorderFn,
    /// If these rows' blocks are not the native ones.
    pub expanded: Option<ExpandedRows>,
}

/// Rows of [`crate::block::expanded`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpandedRows {
    pub block_bytes: usize,
    /// For more tokens than `Interleaved::matmul` is for.
    pub matmul: MatmulFn,
    pub dequantize: fn(&[u8], &mut [f32]),
}

impl TypeKernels {
    /// The values of whole blocks.
    pub fn dequantize(&self, blocks: &[u8], out: &mut [f32]) {
        (self.dequantize)(blocks, out);
    }

    /// Writes the whole blocks of one row `x`; `imatrix` weighs the columns' errors, if given. An
    /// error if the type can only be read.
    pub fn quantize(
        &self,
        x: &[f32],
        imatrix: Option<&[f32]>,
        blocks: &mut [u8],
    ) -> Result<(), NoQuantizer> {
        self.quantize.ok_or(NoQuantizer(self.ty))?(x, imatrix, blocks);
        Ok(())
    }

    /// `y[t * n_rows + r] = W[r] . x[t]` for all tokens of `acts`; `w` is `n_rows` contiguous rows
    /// of `acts.plan.cols` elements as in the file.
    ///
    /// The bits of an element do not depend on the other rows and tokens of the call. Chunks that
    /// are a multiple of [`ROW_STEP`] rows are the fastest.
    pub fn matmul(
        &self,
        w: &[u8],
        n_rows: usize,
        acts: &Acts<'_>,
        scratch: &mut Scratch,
        y: &mut [f32],
    ) {
        let plan = acts.plan;
        assert!(plan.format == self.act, "activations in the type's format");
        assert!(plan.cols.is_multiple_of(self.ty.block_len()), "rows of whole {} blocks", self.ty);
        let row_bytes = plan.cols / self.ty.block_len() * self.ty.block_bytes();
        assert!(w.len() == n_rows * row_bytes, "whole rows");
        assert!(y.len() == n_rows * plan.n_tokens, "an output per row and token");
        acts.check();
        if !y.is_empty() {
            (self.matmul)(w, n_rows, acts, scratch, y);
        }
    }
}

/// A type that can be read but not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoQuantizer(pub GgmlType);

impl std::fmt::Display for NoQuantizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no method to quantize to {} yet", self.0)
    }
}

impl std::error::Error for NoQuantizer {}

/// Interleaved rows: see the module `interleave`.
impl TypeKernels {
    /// Rows of a group, if the level has kernels for interleaved rows of this type.
    pub fn lanes(&self) -> Option<usize> {
        self.interleaved.map(|interleaved| interleaved.lanes)
    }

    /// Bytes that a row of `row_bytes` has in a group: as many, but for codebook types more.
    pub fn interleaved_row_bytes(&self, row_bytes: usize) -> usize {
        let block_bytes = self.ty.block_bytes();
        assert!(row_bytes.is_multiple_of(block_bytes), "rows of whole {} blocks", self.ty);
        let expanded = self.interleaved_form().expanded;
        row_bytes / block_bytes * expanded.map_or(block_bytes, |expanded| expanded.block_bytes)
    }

    /// Interleaves whole groups of rows of `row_bytes` each into `out`, whose rows have
    /// [`TypeKernels::interleaved_row_bytes`].
    pub fn interleave(&self, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
        let Interleaved { lanes, interleave, .. } = self.interleaved_form();
        let (rows_bytes, group_bytes) = (lanes * row_bytes, self.group_bytes(row_bytes));
        assert!(rows.len().is_multiple_of(rows_bytes), "whole groups");
        assert!(rows.len() / rows_bytes * group_bytes == out.len(), "the groups' length");
        let groups = out.chunks_exact_mut(group_bytes);
        rows.chunks_exact(rows_bytes)
            .zip(groups)
            .for_each(|(from, to)| interleave(self.ty, from, to));
    }

    /// The rows of whole groups: the inverse of [`TypeKernels::interleave`], except that codebook
    /// types stay written out.
    pub(crate) fn restore(&self, groups: &[u8], row_bytes: usize, rows: &mut [u8]) {
        let (restore, group_bytes) = (self.interleaved_form().restore, self.group_bytes(row_bytes));
        assert!(
            groups.len() == rows.len() && rows.len().is_multiple_of(group_bytes),
            "whole groups"
        );
        let rows = rows.chunks_exact_mut(group_bytes);
        groups
            .chunks_exact(group_bytes)
            .zip(rows)
            .for_each(|(from, to)| restore(self.ty, from, to));
    }

    /// The values of row `row` of a matrix from the group it lies in. `rows` is scratch and grows to
    /// the group's length.
    pub fn dequantize_lane(
        &self,
        group: &[u8],
        row_bytes: usize,
        row: usize,
        rows: &mut Vec<u8>,
        out: &mut [f32],
    ) {
        let Interleaved { lanes, expanded, .. } = self.interleaved_form();
        rows.resize(group.len(), 0);
        self.restore(group, row_bytes, rows);
        let row_bytes = self.interleaved_row_bytes(row_bytes);
        let dequantize = expanded.map_or(self.dequantize, |expanded| expanded.dequantize);
        dequantize(&rows[row % lanes * row_bytes..][..row_bytes], out);
    }

    /// As [`TypeKernels::matmul`] with the interleaved groups that rows `rows` lie in.
    pub fn matmul_interleaved(
        &self,
        groups: &[u8],
        rows: Range<usize>,
        acts: &Acts<'_>,
        scratch: &mut Scratch,
        y: &mut [f32],
    ) {
        let plan = acts.plan;
        assert!(plan.format == self.act, "activations in the type's format");
        assert!(plan.cols.is_multiple_of(self.ty.block_len()), "rows of whole {} blocks", self.ty);
        let row_bytes = plan.cols / self.ty.block_len() * self.ty.block_bytes();
        let group_bytes = self.group_bytes(row_bytes);
        let lanes = self.interleaved_form().lanes;
        let (first, skip) = (rows.start / lanes, rows.start % lanes);
        let n_groups = rows.end.div_ceil(lanes) - first;
        assert!(groups.len() == n_groups * group_bytes, "the groups of the rows");
        assert!(y.len() == rows.len() * plan.n_tokens, "an output per row and token");
        acts.check();
        let Interleaved { matmul, expanded, .. } = self.interleaved_form();
        if y.is_empty() {
            // No row, or no token.
        } else if plan.layout() == Layout::Rows {
            matmul(groups, group_bytes, skip, acts, y);
        } else {
            let mut native = std::mem::take(&mut scratch.native);
            native.resize(native.len().max(groups.len()), 0);
            self.restore(groups, row_bytes, &mut native[..groups.len()]);
            let row_bytes = self.interleaved_row_bytes(row_bytes);
            let w = &native[skip * row_bytes..][..rows.len() * row_bytes];
            let matmul = expanded.map_or(self.matmul, |expanded| expanded.matmul);
            matmul(w, rows.len(), acts, scratch, y);
            scratch.native = native;
        }
    }

    fn interleaved_form(&self) -> Interleaved {
        self.interleaved.expect("the level interleaves this type")
    }

    fn group_bytes(&self, row_bytes: usize) -> usize {
        self.interleaved_form().lanes * self.interleaved_row_bytes(row_bytes)
    }
}

/// The float operations of a transformer. Lengths that do not fit panic; formulas and the order of
/// sums are those of [`crate::float`]'s functions of the same names.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::type_complexity, reason = "the signatures are the documentation")]
pub struct FloatOps {
    /// `(x, weight, eps, out)`.
    pub rms_norm: fn(&[f32], Option<&[f32]>, f32, &mut [f32]),
    /// `(x, weight, bias, eps, out)`.
    pub layer_norm: fn(&[f32], Option<&[f32]>, Option<&[f32]>, f32, &mut [f32]),
    /// `x = f(x)`.
    pub act: fn(Activation, &mut [f32]),
    /// `(f, gate, up, out)`: `out = f(gate) * up`.
    pub glu: fn(Activation, &[f32], &[f32], &mut [f32]),
    /// `(x, cos, sin, pairing)`: rotates the first `2 * cos.len()` dimensions of one head.
    pub rope: fn(&mut [f32], &[f32], &[f32], RopePairing),
    /// `(y, x)`: `y += x`.
    pub add: fn(&mut [f32], &[f32]),
    /// `(y, f)`: `y *= f`.
    pub scale: fn(&mut [f32], f32),
    /// `(y, x, f)`: `y += x * f`.
    pub add_scaled: fn(&mut [f32], &[f32], f32),
    /// `a . b`.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// `(n, (a, a_stride), b: [k][cols], cols, (c, c_stride), ahead)`: `c += a b`, `n` rows.
    pub add_product_f32: ProductFn<f32>,
    /// As `add_product_f32`, `b` as the bits of halves.
    pub add_product_f16: ProductFn<u16>,
    /// `(codes, scales, lanes, out: [dim][lanes])`: keys of a page, a lane per token.
    pub widen_lanes_q8_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// As `widen_lanes_q8_0`.
    pub widen_lanes_q4_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// `(codes, scales, dim, out: [rows][dim])`: values of a page, a row per token.
    pub widen_rows_q8_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// As `widen_rows_q8_0`.
    pub widen_rows_q4_0: fn(&[u8], &[u16], usize, &mut [f32]),
    /// The normalized Hadamard transform, its own inverse.
    pub hadamard: fn(&mut [f32]),
    /// `(x, cap)`: `x = cap * tanh(x / cap)`.
    pub soft_cap: fn(&mut [f32], f32),
    /// Asks for `(address, bytes)` in the second-level cache; any address will do.
    pub(crate) prefetch: fn(*const u8, usize),
    /// `(x, max)`: `x = exp(x - max)`, returns the sum.
    pub exp_sum: fn(&mut [f32], f32) -> f32,
    /// The largest element; `-inf` of none.
    pub max: fn(&[f32]) -> f32,
    /// `x = exp(x) / sum(exp(x))`.
    pub softmax: fn(&mut [f32]),
    /// Halves to singles.
    pub f16_to_f32: fn(&[u16], &mut [f32]),
    /// Singles to halves.
    pub f32_to_f16: fn(&[f32], &mut [u16]),
}

impl FloatOps {
    /// Asks for memory that is read soon. Worth it for a few KiB some hundred nanoseconds ahead,
    /// where the CPU does not see it coming.
    pub fn prefetch<T>(&self, x: &[T]) {
        self.prefetch_ahead(Ahead::of(x));
    }

    /// As [`FloatOps::prefetch`].
    pub fn prefetch_ahead(&self, ahead: Ahead) {
        (self.prefetch)(ahead.address, ahead.lines * Ahead::LINE_BYTES);
    }
}

/// Where a thread unpacks weights; allocated once.
#[derive(Debug)]
pub struct Scratch {
    /// Rows restored from their interleaved form; grows to what a chunk needs.
    native: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    pub(crate) panels: crate::isa::avx2::PanelScratch,
    #[cfg(target_arch = "x86_64")]
    pub(crate) vnni: crate::isa::avx512vnni::VnniScratch,
    #[cfg(target_arch = "x86_64")]
    pub(crate) dense: crate::isa::avx2::DenseScratch,
    #[cfg(target_arch = "aarch64")]
    pub(crate) panels: crate::isa::neon::PanelScratch,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            native: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            panels: crate::isa::avx2::PanelScratch::new(),
            #[cfg(target_arch = "x86_64")]
            vnni: crate::isa::avx512vnni::VnniScratch::new(),
            #[cfg(target_arch = "x86_64")]
            dense: crate::isa::avx2::DenseScratch::new(),
            #[cfg(target_arch = "aarch64")]
            panels: crate::isa::neon::PanelScratch::new(),
        }
    }
}

static SCALAR: KernelTable = KernelTable {
    level: Level::Scalar,
    types: &SCALAR_TYPES,
    float: SCALAR_FLOAT,
    pack: act::pack,
    words: Words::Plus128,
};

pub(crate) static SCALAR_TYPES: [TypeKernels; 28] = [
    floats::<block::F32>(),
    floats::<block::F16>(),
    floats::<block::Bf16>(),
    blocks_32::<block::BlockQ4_0>(),
    blocks_32::<block::BlockQ4_1>(),
    blocks_32::<block::BlockQ5_0>(),
    blocks_32::<block::BlockQ5_1>(),
    blocks_32::<block::BlockQ8_0>(),
    blocks_256::<block::BlockQ2K>(),
    blocks_256::<block::BlockQ3K>(),
    blocks_256::<block::BlockQ4K>(),
    blocks_256::<block::BlockQ5K>(),
    blocks_256::<block::BlockQ6K>(),
    blocks_32::<block::BlockIQ4NL>(),
    blocks_256::<block::BlockIQ4XS>(),
    blocks_32::<block::BlockMXFP4>(),
    read_only_256::<block::BlockIQ1S>(),
    read_only_256::<block::BlockIQ1M>(),
    read_only_256::<block::BlockIQ2XXS>(),
    read_only_256::<block::BlockIQ2XS>(),
    read_only_256::<block::BlockIQ2S>(),
    read_only_256::<block::BlockIQ3XXS>(),
    read_only_256::<block::BlockIQ3S>(),
    blocks_256::<block::BlockTQ1_0>(),
    blocks_256::<block::BlockTQ2_0>(),
    blocks_16::<block::BlockQ1_0>(),
    blocks_16::<block::BlockQ2_0>(),
    blocks_16::<block::BlockNVFP4>(),
];

pub(crate) const SCALAR_FLOAT: FloatOps = FloatOps {
    rms_norm: float::rms_norm,
    layer_norm: float::layer_norm,
    act: float::act,
    glu: float::glu,
    rope: float::rope,
    add: float::add,
    scale: float::scale,
    add_scaled: float::add_scaled,
    dot: float::dot,
    add_product_f32: |n, a, b, cols, c, _| float::add_product_f32(n, a, b, cols, c),
    add_product_f16: |n, a, b, cols, c, _| float::add_product_f16(n, a, b, cols, c),
    widen_lanes_q8_0: float::widen_lanes_q8_0,
    widen_lanes_q4_0: float::widen_lanes_q4_0,
    widen_rows_q8_0: float::widen_rows_q8_0,
    widen_rows_q4_0: float::widen_rows_q4_0,
    hadamard: float::hadamard,
    soft_cap: float::soft_cap,
    prefetch: |_, _| (),
    exp_sum: float::exp_sum,
    max: float::max,
    softmax: float::softmax,
    f16_to_f32: float::f16_to_f32,
    f32_to_f16: float::f32_to_f16,
};

pub(crate) const fn floats<W: Float + Quantize>() -> TypeKernels {
    kernels::<W>(ActFormat::F32, scalar::matmul_float::<W>, Some(block::quantize_row::<W>))
}

pub(crate) const fn blocks_16<B: Block16 + Quantize>() -> TypeKernels {
    kernels::<B>(ActFormat::Q8x32, scalar::matmul_16::<B>, Some(block::quantize_row::<B>))
}

pub(crate) const fn blocks_32<B: Block32 + Quantize>() -> TypeKernels {
    kernels::<B>(ActFormat::Q8x32, scalar::matmul_32::<B>, Some(block::quantize_row::<B>))
}

pub(crate) const fn blocks_256<B: Block256 + Quantize>() -> TypeKernels {
    kernels::<B>(ActFormat::Q8x32, scalar::matmul_256::<B>, Some(block::quantize_row::<B>))
}

/// Of a type that can only be read.
pub(crate) const fn read_only_256<B: Block256>() -> TypeKernels {
    kernels::<B>(ActFormat::Q8x32, scalar::matmul_256::<B>, None)
}

const fn kernels<B: Block>(
    act: ActFormat,
    matmul: MatmulFn,
    quantize: Option<QuantizeFn>,
) -> TypeKernels {
    let dequantize = block::dequantize_row::<B>;
    let level = Level::Scalar;
    TypeKernels { ty: B::TY, level, act, matmul, dequantize, quantize, interleaved: None }
}
