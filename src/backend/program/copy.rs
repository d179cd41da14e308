//! Pieces of rows that are copied to other places.

use super::{Buf, Norm, Tokens};
use teff_kernels::Activation;

/// Copies pieces of rows of buffers to other places in rows of another.
#[derive(Debug)]
pub struct CopyPieces {
    /// The pieces, which do not overlap in the destination.
    pub pieces: Vec<Piece>,
    /// Destination; what no piece covers stays.
    pub out: Buf,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// `n` pieces of `len` elements: of the source at `from`, `from + from_stride`, ... in the
/// destination at `to`, `to + to_stride`, ...
#[derive(Debug)]
pub struct Piece {
    /// Source.
    pub input: Buf,
    /// First element.
    pub from: usize,
    /// Elements from one to the next; 0: it is one that is copied several times.
    pub from_stride: usize,
    /// First element in the destination.
    pub to: usize,
    /// Elements from one to the next.
    pub to_stride: usize,
    /// Elements of each.
    pub len: usize,
    /// Number.
    pub n: usize,
    /// Applied to each.
    pub norm: Option<Norm>,
    /// Applied last.
    pub act: Option<Activation>,
}

impl Piece {
    /// `n` pieces of `len`, `from_stride` apart from `from` on, put one behind the other.
    pub fn heads(input: Buf, from: usize, from_stride: usize, len: usize, n: usize) -> Piece {
        let (to_stride, norm, act) = (len, None, None);
        Piece { input, from, from_stride, to: 0, to_stride, len, n, norm, act }
    }
}
