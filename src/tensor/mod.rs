//! Weights as the rest of the program sees them: a type, a shape, and bytes of the mapped file; and
//! memory that may be refused.

pub mod memory;

use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};
use std::sync::Arc;

/// A matrix `[rows][cols]` in a file's own block format, or a stack of `n` such matrices.
#[derive(Clone)]
pub struct Weight {
    /// The tensor's name in the file.
    pub name: String,
    /// Block format.
    pub ty: GgmlType,
    /// Outputs of the product `y = W x`, of one matrix of the stack.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Matrices in the stack: the experts of a mixture, otherwise 1.
    pub n: usize,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Mapped(Arc<GgufFile>, TensorInfo),
    /// Not a slice: to make one of a `Vec` takes the memory twice.
    Owned(Arc<Vec<u8>>),
}

/// A memory map that a weight lies in.
#[derive(Clone, Copy, Debug)]
pub struct WeightMap<'a> {
    /// Owner of the map.
    pub file: &'a Arc<GgufFile>,
    /// The whole map, which begins with a page of the system's.
    pub bytes: &'a [u8],
    /// The weight's first byte.
    pub offset: usize,
}

impl Weight {
    /// A view of a tensor of a file with 1 to 3 dimensions; the third counts the matrices.
    pub fn mapped(file: &Arc<GgufFile>, info: &TensorInfo) -> Weight {
        let dim = |i: usize| info.dims.get(i).map_or(1, |&d| d as usize);
        let bytes = Bytes::Mapped(file.clone(), info.clone());
        let (cols, rows, n) = (dim(0), dim(1), dim(2) * dim(3));
        Weight { name: info.name.clone(), ty: info.ty, rows, cols, n, bytes }
    }

    /// A weight with bytes of its own.
    ///
    /// # Panics
    /// If the bytes are not those of `n` matrices of this shape.
    pub fn owned(name: &str, ty: GgmlType, [n, rows, cols]: [usize; 3], bytes: Vec<u8>) -> Weight {
        let expected = ty.bytes_of((n * rows * cols) as u64);
        assert_eq!(expected, Some(bytes.len() as u64), "bytes of {name}");
        let (name, bytes) = (name.to_string(), Bytes::Owned(Arc::new(bytes)));
        Weight { name, ty, rows, cols, n, bytes }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(file, info) => file.data(info),
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// The memory map that the bytes lie in; `None` if they lie in none.
    pub fn map(&self) -> Option<WeightMap<'_>> {
        let Bytes::Mapped(file, info) = &self.bytes else { return None };
        let (bytes, offset) = file.map_of(info)?;
        Some(WeightMap { file, bytes, offset })
    }

    /// Gives memory of `part` of the bytes back to the system, which has them in the file.
    pub fn release(&self, part: std::ops::Range<usize>) {
        if let Bytes::Mapped(file, info) = &self.bytes {
            file.release(info, part);
        }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_len() * self.ty.block_bytes()
    }

    /// The bytes of rows `rows` of matrix `index`.
    pub fn rows_of(&self, index: usize, rows: std::ops::Range<usize>) -> &[u8] {
        assert!(index < self.n && rows.end <= self.rows, "rows of {}", self.name);
        let row_bytes = self.row_bytes();
        let first = (index * self.rows + rows.start) * row_bytes;
        &self.bytes()[first..][..rows.len() * row_bytes]
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Weight { name, ty, rows, cols, n, .. } = self;
        write!(f, "{name} {ty} [{n}][{rows}][{cols}]")
    }
}
