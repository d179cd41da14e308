//! Q8_K: blocks of 256.

/// One block of Q8_K: 256 elements in 292 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockQ8K {
    /// Scale, little-endian f32.
    pub d: [u8; 4],
    /// Value = d * code.
    pub qs: [i8; 256],
    /// Sums of 16 codes, little-endian i16.
    pub bsums: [[u8; 2]; 16],
}

const _: () = assert!(size_of::<BlockQ8K>() == 292 && align_of::<BlockQ8K>() == 1);
