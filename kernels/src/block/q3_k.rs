//! Q3_K: blocks of 256.

use super::F16;

/// One block of Q3_K: 256 elements in 110 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ3K {
    /// Third bits.
    pub hmask: [u8; 32],
    /// Low two bits.
    pub qs: [u8; 64],
    /// 6-bit scales of 16 elements each, offset 32.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16,
}

const _: () = assert!(size_of::<BlockQ3K>() == 110 && align_of::<BlockQ3K>() == 1);
