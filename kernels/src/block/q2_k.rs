//! Q2_K: blocks of 256.

use super::F16;

/// One block of Q2_K: 256 elements in 84 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ2K {
    /// Per 16 elements: scale in the low nibble, minimum in the high one.
    pub scales: [u8; 16],
    /// 2-bit codes.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
}

const _: () = assert!(size_of::<BlockQ2K>() == 84 && align_of::<BlockQ2K>() == 1);
