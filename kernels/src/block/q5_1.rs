//! Q5_1: blocks of 32.

use super::F16;

/// One block of Q5_1: 32 elements in 24 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_1; value = d * code + m.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24 && align_of::<BlockQ5_1>() == 1);
