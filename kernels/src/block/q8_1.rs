//! Q8_1: blocks of 32.

use super::F16;

/// One block of Q8_1: 32 elements in 36 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ8_1 {
    /// Scale.
    pub d: F16,
    /// D * sum of the codes.
    pub s: F16,
    /// Value = d * code.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_1>() == 36 && align_of::<BlockQ8_1>() == 1);
