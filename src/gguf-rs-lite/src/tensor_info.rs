//! The table of tensors: name, type, shape, and where the bytes are. Everything a later reader
//! of the bytes relies on is checked here: the range is inside the file and no other tensor's.

use crate::cursor::{Cursor, Encoding};
use crate::error::{Error, Fault, Item, Located, cut};
use crate::ggml_type::GgmlType;
use crate::limits::Limits;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique among all shards.
    pub name: String,
    /// Type of the elements.
    pub ty: GgmlType,
    /// 1 to 4 lengths, none zero, in GGUF order: `dims[0]` is the row length.
    pub dims: Vec<u64>,
    /// Number of the file in a split model, counted from 0.
    pub shard: usize,
    /// First byte, absolute in the shard.
    pub offset: u64,
    /// Bytes of all elements.
    pub bytes: u64,
}

impl TensorInfo {
    /// Elements of a row: `dims[0]`.
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// Rows: the product of the dimensions behind the first.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

/// The format's limit; ggml's tensors have four dimensions.
pub(crate) const DIMS_MAX: u32 = 4;

/// The least bytes of a table row: a name of one byte and no dimensions.
pub(crate) fn info_bytes_min(encoding: Encoding) -> u64 {
    encoding.length_bytes() + 1 + 4 + 4 + 8
}

/// The tensors of one file, and where their table rows stand (for errors).
#[derive(Default)]
pub(crate) struct Table {
    pub tensors: Vec<TensorInfo>,
    pub info_at: Vec<u64>,
}

/// Reads `n` rows at the cursor. `n` must have passed [`Cursor::check_count`].
pub(crate) fn read_table(
    c: &mut Cursor<'_>,
    n: u64,
    alignment: u32,
    file_bytes: u64,
    limits: &Limits,
) -> Result<Table, Error> {
    let mut table =
        Table { tensors: Vec::with_capacity(n as usize), info_at: Vec::with_capacity(n as usize) };
    for number in 0..n {
        table.info_at.push(c.offset());
        table.tensors.push(read_info(c, number, alignment, limits)?);
    }
    // Cannot overflow: an offset in memory plus at most 2^31.
    let data_at = c.offset().next_multiple_of(alignment.into());
    for (tensor, &info_at) in table.tensors.iter_mut().zip(&table.info_at) {
        let start = data_at.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                let fault = Fault::OutOfFile { start, bytes: tensor.bytes, file_bytes };
                return Err(Located::new(info_at, fault).of(Item::tensor(&tensor.name)));
            }
        }
    }
    check_overlap(&table)?;
    Ok(table)
}

/// One row; `offset` is still relative to the data section.
fn read_info(
    c: &mut Cursor<'_>,
    number: u64,
    alignment: u32,
    limits: &Limits,
) -> Result<TensorInfo, Error> {
    let start = c.offset();
    let name = c
        .string("name bytes", limits.name_bytes_max)
        .map_err(|located| located.of(Item::TensorNumber(number)))?;
    if name.is_empty() {
        return Err(Located::new(start, Fault::Empty).of(Item::TensorNumber(number)));
    }
    read_shape(c, alignment)
        .map(|(ty, dims, offset, bytes)| TensorInfo {
            name: name.to_owned(),
            ty,
            dims,
            shard: 0,
            offset,
            bytes,
        })
        .map_err(|located| located.of(Item::tensor(name)))
}

/// Type, dims, offset in the data section, bytes.
fn read_shape(
    c: &mut Cursor<'_>,
    alignment: u32,
) -> Result<(GgmlType, Vec<u64>, u64, u64), Located> {
    let at = c.offset();
    let n_dims = c.u32()?;
    if n_dims > DIMS_MAX {
        return Err(Located::new(at, Fault::DimCount(n_dims)));
    }
    let dims_at = c.offset();
    // ggml reads a tensor without dimensions as one element.
    let mut dims = vec![1; (n_dims as usize).max(1)];
    for dim in &mut dims[..n_dims as usize] {
        *dim = c.length()?;
    }
    let type_at = c.offset();
    let id = c.u32()?;
    let ty = GgmlType::from_id(id).ok_or(Located::new(type_at, Fault::TensorType(id)))?;
    let bytes = size_of(ty, &dims).map_err(|fault| Located::new(dims_at, fault))?;
    let offset_at = c.offset();
    let offset = c.u64()?;
    if !offset.is_multiple_of(alignment.into()) {
        return Err(Located::new(offset_at, Fault::Misaligned { offset, alignment }));
    }
    Ok((ty, dims, offset, bytes))
}

/// Bytes of a tensor of this shape: no dimension is zero, rows are whole blocks, no overflow.
pub(crate) fn size_of(ty: GgmlType, dims: &[u64]) -> Result<u64, Fault> {
    if let Some(dim) = dims.iter().position(|&n| n == 0) {
        return Err(Fault::ZeroDim(dim));
    }
    let cols = dims[0];
    if !cols.is_multiple_of(ty.block_len() as u64) {
        return Err(Fault::RowLength { ty, cols });
    }
    let elements = dims.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    elements.and_then(|n| ty.bytes_of(n)).ok_or(Fault::Overflow)
}

fn check_overlap(table: &Table) -> Result<(), Error> {
    let tensors = &table.tensors;
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (tensors[i as usize].offset, i));
    for pair in order.windows(2) {
        let (first, second) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if first.offset + first.bytes > second.offset {
            let fault = Fault::Overlap { other: cut(&first.name), at: second.offset };
            let located = Located::new(table.info_at[pair[1] as usize], fault);
            return Err(located.of(Item::tensor(&second.name)));
        }
    }
    Ok(())
}
