//! Q4_0: blocks of 32.

use super::F16;

/// One block of Q4_0: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * (code - 8).
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18 && align_of::<BlockQ4_0>() == 1);
