//! Q5_0: blocks of 32.

use super::F16;

/// One block of Q5_0: 32 elements in 22 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16,
    /// Fifth bits, bit `i` of the little-endian word is element `i`.
    pub qh: [u8; 4],
    /// Low four bits as in Q4_0; value = d * (code - 16).
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22 && align_of::<BlockQ5_0>() == 1);
