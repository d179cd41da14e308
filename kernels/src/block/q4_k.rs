//! Q4_K: blocks of 256.

use super::F16;

/// One block of Q4_K: 256 elements in 144 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minimums.
    pub dmin: F16,
    /// 6-bit scales and minimums of 32 elements each.
    pub scales: [u8; 12],
    /// 4-bit codes.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144 && align_of::<BlockQ4K>() == 1);
