//! Function pointers per weight type, and those of the float operations: what a table is, and what
//! its callers may do with it. The tables themselves are in `isa`, one per level.
//!
//! Every pointer a caller can reach was put into its table against the token of the table's level,
//! and every call of a kernel goes through a method here that has asserted the lengths; a wrong
//! length is a broken invariant and panics.
//!
//! A level's list of types is the one of the level below with its own kernels laid over it
//! (`overlaid`); the lowest is scalar and made from the list of all types in `block`. So a type
//! that a level has no kernel for runs through the level below.

use crate::act::{ActFormat, ActPlan, ActUnit, Acts, Layout, PanelOrder, ROWS_MAX};
use crate::block::Encoder;
use crate::float::FloatOps;
use crate::isa::detect::Level;
use gguf_rs_lite::GgmlType;
use std::any::Any;
use std::ops::Range;

/// Chunks of rows that are a multiple of this leave no lane of any kernel idle.
pub const ROW_STEP: usize = 24;

/// All kernels of one level.
#[derive(Debug)]
pub struct KernelTable {
    pub(crate) level: Level,
    pub(crate) types: &'static [TypeKernels],
    /// Kernels of types whose interleaved form leaves zeros out.
    pub(crate) sparse: &'static [TypeKernels],
    pub(crate) float: FloatOps,
    pub(crate) pack: PackFn,
    pub(crate) order: PanelOrder,
    /// The most tokens that are laid out as rows for interleaved weights.
    pub(crate) interleaved_rows_max: usize,
}

pub(crate) type PackFn = fn(&ActPlan, &[f32], ActUnit<'_>);
/// `(groups of interleaved rows, bytes of a group, rows to skip, activations, outputs)`.
pub(crate) type InterleavedFn = fn(&[u8], usize, usize, &Acts<'_>, &mut [f32]);
/// `(type, from, to)`: from one order of bytes to another.
pub(crate) type ReorderFn = fn(GgmlType, &[u8], &mut [u8]);
/// A [`ReorderFn`] that tells whether the rows have such a form.
pub(crate) type InterleaveFn = fn(GgmlType, &[u8], &mut [u8]) -> bool;
pub(crate) type QuantizeFn = fn(&[f32], Option<&[f32]>, &mut [u8]);
pub(crate) type MatmulFn = fn(&[u8], usize, &Acts<'_>, &mut Scratch, &mut [f32]);

impl KernelTable {
    /// The level of the table; single types may run below it: [`TypeKernels::level`].
    pub fn level(&self) -> Level {
        self.level
    }

    /// The kernels of a weight type; `None` if it has none.
    pub fn types(&self, ty: GgmlType) -> Option<&TypeKernels> {
        self.types.iter().find(|kernels| kernels.ty == ty)
    }

    /// The kernels of a weight type whose interleaved forms leave zeros out, where that is faster, the
    /// best first: forms of two of every four neighbours, or of half of a group's codes.
    /// [`TypeKernels::interleave`] tells which rows have one.
    pub fn sparse(&self, ty: GgmlType) -> impl Iterator<Item = &TypeKernels> {
        self.sparse.iter().filter(move |kernels| kernels.ty == ty)
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
        ActPlan::new(format, cols, n_tokens, (self.order, ROWS_MAX))
    }

    /// [`KernelTable::plan`] for weights of the file in types that share the input: panels begin where
    /// they are faster for one of them.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks.
    pub fn plan_of<'k>(
        &self,
        types: impl IntoIterator<Item = &'k TypeKernels>,
        format: ActFormat,
        cols: usize,
        n_tokens: usize,
    ) -> ActPlan {
        let rows_max = types.into_iter().map(|kernels| kernels.rows_max).min().unwrap_or(ROWS_MAX);
        ActPlan::new(format, cols, n_tokens, (self.order, rows_max))
    }

    /// [`KernelTable::plan`] for weights that are all interleaved: panels begin later, since these
    /// have to be taken apart for them.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks.
    pub fn plan_interleaved(&self, format: ActFormat, cols: usize, n_tokens: usize) -> ActPlan {
        ActPlan::new(format, cols, n_tokens, (self.order, self.interleaved_rows_max))
    }

    /// Quantizes and lays out one unit of a plan; `x` is `[tokens of the unit][cols]`. Costs about
    /// 0.1 to 0.3 ns per element with AVX2.
    pub fn pack(&self, plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
        unit.check(plan, x);
        (self.pack)(plan, x, unit);
    }
}

/// The kernels of one level for one weight type.
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
    pub(crate) encoder: Option<Encoder>,
    pub(crate) interleaved: Option<Interleaved>,
    /// The most tokens that are faster as rows than as panels for weights of the file: at most
    /// [`ROWS_MAX`].
    pub(crate) rows_max: usize,
}

/// Interleaved form of a type at a level, and its kernel for decoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interleaved {
    /// Rows of a group.
    pub lanes: usize,
    pub matmul: InterleavedFn,
    /// Interleaves one group of rows.
    pub interleave: InterleaveFn,
    /// Takes a group apart into its rows.
    pub restore: ReorderFn,
    /// Blocks of a group: the file's or others.
    pub blocks: GroupBlocks,
}

/// The blocks of a group.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other level interleaves"))]
pub(crate) enum GroupBlocks {
    /// Blocks of the file.
    Native,
    /// Written out, as the restored rows are.
    Expanded(ExpandedRows),
    /// So many bytes each without zeros; restored rows are native.
    Sparse(usize),
}

/// Rows of [`crate::block::expanded`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpandedRows {
    pub block_bytes: usize,
    /// Kernel for more tokens than `Interleaved::matmul` is for.
    pub matmul: MatmulFn,
    pub dequantize: fn(&[u8], &mut [f32]),
}

impl TypeKernels {
    /// The values of whole blocks.
    pub fn dequantize(&self, blocks: &[u8], out: &mut [f32]) {
        (self.dequantize)(blocks, out);
    }

    /// Writes the whole blocks of one row `x`; `imatrix` weighs the columns' errors, if given.
    ///
    /// # Errors
    /// [`NoQuantizer`] if the type can only be read.
    pub fn quantize(
        &self,
        x: &[f32],
        imatrix: Option<&[f32]>,
        blocks: &mut [u8],
    ) -> Result<(), NoQuantizer> {
        self.quantize.ok_or(NoQuantizer(self.ty))?(x, imatrix, blocks);
        Ok(())
    }

    /// The two halves of [`TypeKernels::quantize`], for those who bring one of them.
    ///
    /// # Errors
    /// The type has no codes and scales, or can only be read.
    pub fn encoder(&self) -> Result<&Encoder, NoEncoder> {
        self.encoder.as_ref().ok_or(NoEncoder(self.ty))
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

/// A type without an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEncoder(pub GgmlType);

impl std::fmt::Display for NoEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.block_len() {
            1 => write!(f, "{} has no codes and scales to encode with", self.0),
            _ => write!(f, "no method to encode {} yet", self.0),
        }
    }
}

impl std::error::Error for NoEncoder {}

/// Interleaved rows: see the module `interleave`.
impl TypeKernels {
    /// Rows of a group, if the level has kernels for interleaved rows of this type.
    pub fn lanes(&self) -> Option<usize> {
        self.interleaved.map(|interleaved| interleaved.lanes)
    }

    /// Bytes that a row of `row_bytes` has in a group: as many, but for codebook types more, and less
    /// without zeros.
    pub fn interleaved_row_bytes(&self, row_bytes: usize) -> usize {
        let native = self.ty.block_bytes();
        self.blocks_of(row_bytes)
            * match self.interleaved_form().blocks {
                GroupBlocks::Native => native,
                GroupBlocks::Expanded(expanded) => expanded.block_bytes,
                GroupBlocks::Sparse(bytes) => bytes,
            }
    }

    /// Bytes that a row of `row_bytes` has once its group is restored.
    fn restored_row_bytes(&self, row_bytes: usize) -> usize {
        match self.interleaved_form().blocks {
            GroupBlocks::Native | GroupBlocks::Sparse(_) => row_bytes,
            GroupBlocks::Expanded(expanded) => self.blocks_of(row_bytes) * expanded.block_bytes,
        }
    }

    fn blocks_of(&self, row_bytes: usize) -> usize {
        let block_bytes = self.ty.block_bytes();
        assert!(row_bytes.is_multiple_of(block_bytes), "rows of whole {} blocks", self.ty);
        row_bytes / block_bytes
    }

    /// Interleaves whole groups of rows of `row_bytes` each into `out`, whose rows have
    /// [`TypeKernels::interleaved_row_bytes`]. All rows have such a form, unless it leaves zeros out
    /// ([`KernelTable::sparse`]): where they have too few of these, the answer is false, and `out`
    /// holds anything.
    #[must_use]
    pub fn interleave(&self, rows: &[u8], row_bytes: usize, out: &mut [u8]) -> bool {
        let Interleaved { lanes, interleave, .. } = self.interleaved_form();
        let (rows_bytes, group_bytes) = (lanes * row_bytes, self.group_bytes(row_bytes));
        assert!(rows.len().is_multiple_of(rows_bytes), "whole groups");
        assert!(rows.len() / rows_bytes * group_bytes == out.len(), "the groups' length");
        let groups = out.chunks_exact_mut(group_bytes);
        rows.chunks_exact(rows_bytes).zip(groups).all(|(from, to)| interleave(self.ty, from, to))
    }

    /// The rows of whole groups: the inverse of [`TypeKernels::interleave`], except that codebook
    /// types stay written out.
    pub(crate) fn restore(&self, groups: &[u8], row_bytes: usize, rows: &mut [u8]) {
        let Interleaved { lanes, restore, .. } = self.interleaved_form();
        let (group_bytes, rows_bytes) =
            (self.group_bytes(row_bytes), lanes * self.restored_row_bytes(row_bytes));
        assert!(groups.len().is_multiple_of(group_bytes), "whole groups");
        assert!(groups.len() / group_bytes * rows_bytes == rows.len(), "the rows' length");
        let rows = rows.chunks_exact_mut(rows_bytes);
        groups
            .chunks_exact(group_bytes)
            .zip(rows)
            .for_each(|(from, to)| restore(self.ty, from, to));
    }

    /// The values of row `row` of a matrix from the group it lies in. `rows` is scratch and grows to
    /// the length of the group's rows.
    pub fn dequantize_lane(
        &self,
        group: &[u8],
        row_bytes: usize,
        row: usize,
        rows: &mut Vec<u8>,
        out: &mut [f32],
    ) {
        let Interleaved { lanes, blocks, .. } = self.interleaved_form();
        let restored_bytes = self.restored_row_bytes(row_bytes);
        rows.resize(lanes * restored_bytes, 0);
        self.restore(group, row_bytes, rows);
        let dequantize = match blocks {
            GroupBlocks::Native | GroupBlocks::Sparse(_) => self.dequantize,
            GroupBlocks::Expanded(expanded) => expanded.dequantize,
        };
        dequantize(&rows[row % lanes * restored_bytes..][..restored_bytes], out);
    }

    /// [`TypeKernels::matmul`] of rows `rows`, given the interleaved groups that they lie in.
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
        let Interleaved { matmul, blocks, .. } = self.interleaved_form();
        if y.is_empty() {
            // No row, or no token.
        } else if plan.layout() == Layout::Rows {
            matmul(groups, group_bytes, skip, acts, y);
        } else {
            let mut native = std::mem::take(&mut scratch.native);
            let restored_bytes = self.restored_row_bytes(row_bytes);
            let len = n_groups * lanes * restored_bytes;
            native.resize(native.len().max(len), 0);
            self.restore(groups, row_bytes, &mut native[..len]);
            let w = &native[skip * restored_bytes..][..rows.len() * restored_bytes];
            let matmul = match blocks {
                GroupBlocks::Native | GroupBlocks::Sparse(_) => self.matmul,
                GroupBlocks::Expanded(expanded) => expanded.matmul,
            };
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

/// Scratch of a thread: what each level that it runs needs, made when first needed.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Rows restored from their interleaved form; grows to what a chunk needs.
    native: Vec<u8>,
    /// Codes of panels in another order; grows to what a call needs.
    #[cfg(target_arch = "x86_64")]
    q: Vec<i8>,
    /// One value of each type that [`Scratch::of`] was asked for: two or three.
    levels: Vec<Box<dyn Any + Send>>,
}

impl Scratch {
    /// The memory of type `T`, which is a level's own.
    pub(crate) fn of<T: Any + Send + Default>(&mut self) -> &mut T {
        let found = self.levels.iter().position(|memory| memory.is::<T>());
        let at = found.unwrap_or_else(|| {
            self.levels.push(Box::<T>::default());
            self.levels.len() - 1
        });
        self.levels[at].downcast_mut().expect("a value of the type was found or added")
    }

    /// Calls `f` with the panels of `acts` in the order `order`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn with_order(
        &mut self,
        acts: &Acts<'_>,
        order: PanelOrder,
        f: impl FnOnce(&Acts<'_>, &mut Scratch),
    ) {
        if acts.plan.order == order || acts.plan.layout() == Layout::Rows {
            return f(acts, self);
        }
        let mut q = std::mem::take(&mut self.q);
        q.resize(q.len().max(acts.q.len()), 0);
        let plan = ActPlan { order, ..*acts.plan };
        acts.reorder(order, &mut q[..acts.q.len()]);
        f(&Acts { plan: &plan, q: &q[..acts.q.len()], ..*acts }, self);
        self.q = q;
    }
}

/// The kernels of a level: those of the level below, with the level's own in their places. A row of
/// a type that is not in `below` does not compile.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) const fn overlaid<const N: usize>(
    level: Level,
    mut below: [TypeKernels; N],
    matmuls: &[(GgmlType, MatmulFn)],
    interleaved: &[(GgmlType, Interleaved)],
) -> [TypeKernels; N] {
    let mut i = 0;
    while i < matmuls.len() {
        let (ty, matmul) = matmuls[i];
        let at = place_of(ty, &below);
        below[at].level = level;
        below[at].matmul = matmul;
        i += 1;
    }
    i = 0;
    while i < interleaved.len() {
        let (ty, form) = interleaved[i];
        below[place_of(ty, &below)].interleaved = Some(form);
        i += 1;
    }
    below
}

/// Kernels of a level, some of which are faster with panels from fewer tokens on: after more than so
/// many.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn with_rows_max<const N: usize>(
    mut types: [TypeKernels; N],
    rows_max: &[(GgmlType, usize)],
) -> [TypeKernels; N] {
    let mut i = 0;
    while i < rows_max.len() {
        let (ty, most) = rows_max[i];
        assert!(most <= ROWS_MAX, "more tokens are never rows");
        let at = place_of(ty, &types);
        types[at].rows_max = most;
        i += 1;
    }
    types
}

/// Kernels of a list with other interleaved forms.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn sparse<const N: usize>(
    types: &[TypeKernels],
    forms: &[(GgmlType, Interleaved); N],
) -> [TypeKernels; N] {
    let mut sparse = [types[0]; N];
    let mut i = 0;
    while i < N {
        let (ty, form) = forms[i];
        sparse[i] = TypeKernels { interleaved: Some(form), ..types[place_of(ty, types)] };
        i += 1;
    }
    sparse
}

/// Readers and writers of a type's blocks at a level.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pub dequantize: fn(&[u8], &mut [f32]),
    pub quantize: QuantizeFn,
}

/// The kernels of a level below with what reads and writes blocks in another form.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn overlaid_blocks<const N: usize>(
    mut below: [TypeKernels; N],
    blocks: &[(GgmlType, Blocks)],
) -> [TypeKernels; N] {
    let mut i = 0;
    while i < blocks.len() {
        let (ty, forms) = blocks[i];
        let at = place_of(ty, &below);
        below[at].dequantize = forms.dequantize;
        below[at].quantize = Some(forms.quantize);
        i += 1;
    }
    below
}

/// The matrix product of a type of a list.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn matmul_of(ty: GgmlType, types: &[TypeKernels]) -> MatmulFn {
    types[place_of(ty, types)].matmul
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const fn place_of(ty: GgmlType, types: &[TypeKernels]) -> usize {
    let mut i = 0;
    while types[i].ty.id() != ty.id() {
        i += 1;
    }
    i
}
