//! Q4_1: blocks of 32.

use super::F16;

/// One block of Q4_1: 32 elements in 20 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16,
    /// Minimum.
    pub m: F16,
    /// Codes: low nibbles are elements 0..16, high nibbles 16..32; value = d * code + m.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20 && align_of::<BlockQ4_1>() == 1);
