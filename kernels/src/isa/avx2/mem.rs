//! Loads and stores between arrays and registers: the only unsafe code of the kernels. Lengths
//! are in the types, so nothing can be out of bounds; alignment is free.

use crate::block::{Bf16, Block, F16, F32};
use std::arch::x86_64::*;

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn load<T: Bytes32>(x: &T) -> __m256i {
    // SAFETY: `Bytes32` types are 32 bytes without padding; the load takes any alignment.
    unsafe { _mm256_loadu_si256(std::ptr::from_ref(x).cast()) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn store<T: Bytes32>(x: &mut T, value: __m256i) {
    // SAFETY: `Bytes32` types are 32 bytes and take any bits; the store takes any alignment.
    unsafe { _mm256_storeu_si256(std::ptr::from_mut(x).cast(), value) }
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load_16<T: Bytes16>(x: &T) -> __m128i {
    // SAFETY: `Bytes16` types are 16 bytes without padding; the load takes any alignment.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(x).cast()) }
}

/// 8 bytes, zeros above them.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load_8(x: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*x))
}

/// Read by a load of its own. Indices into a table would otherwise be loaded together into a
/// register, only to be taken out of it one by one.
#[inline(always)]
pub(super) fn alone(x: &u8) -> u8 {
    // SAFETY: a reference can be read.
    unsafe { std::ptr::from_ref(x).read_volatile() }
}

/// The first 16 bytes of a block.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load_head<B: Block>(x: &B) -> __m128i {
    const { assert!(size_of::<B>() >= 16) }
    // SAFETY: blocks are nothing but bytes, and these 16 are its own.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(x).cast()) }
}

/// The last 16 bytes of a block.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load_tail<B: Block>(x: &B) -> __m128i {
    const { assert!(size_of::<B>() >= 16) }
    let end = size_of::<B>() - 16;
    // SAFETY: blocks are nothing but bytes, and these 16 are its own.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(x).cast::<u8>().add(end).cast()) }
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn store_16<T: Bytes16>(x: &mut T, value: __m128i) {
    // SAFETY: `Bytes16` types are 16 bytes and take any bits; the store takes any alignment.
    unsafe { _mm_storeu_si128(std::ptr::from_mut(x).cast(), value) }
}

/// Four bytes, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn spread<T: Bytes4>(x: &T) -> __m256i {
    // SAFETY: `Bytes4` types are 4 bytes without padding; the read takes any alignment.
    _mm256_set1_epi32(unsafe { std::ptr::from_ref(x).cast::<i32>().read_unaligned() })
}

/// Eight bytes, in every two lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn spread_8(x: &[i8; 8]) -> __m256i {
    // SAFETY: eight bytes; the read takes any alignment.
    _mm256_set1_epi64x(unsafe { x.as_ptr().cast::<i64>().read_unaligned() })
}

/// Eight floats.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn load_ps(x: &[f32; 8]) -> __m256 {
    // SAFETY: eight floats are 32 bytes; the load takes any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// Eight floats.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn store_ps(x: &mut [f32; 8], value: __m256) {
    // SAFETY: eight floats are 32 bytes; the store takes any alignment.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), value) }
}

/// Four floats.
#[inline]
#[target_feature(enable = "sse")]
pub(in crate::isa) fn store_16_ps(x: &mut [f32; 4], value: __m128) {
    // SAFETY: four floats are 16 bytes; the store takes any alignment.
    unsafe { _mm_storeu_ps(x.as_mut_ptr(), value) }
}

/// Loads up to eight floats, zeros behind them.
#[inline]
#[target_feature(enable = "avx")]
pub(in crate::isa) fn load_some(x: &[f32]) -> __m256 {
    let mut lanes = [0.0; 8];
    lanes[..x.len()].copy_from_slice(x);
    load_ps(&lanes)
}

/// The first of eight floats.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn store_some(x: &mut [f32], value: __m256) {
    let mut lanes = [0.0; 8];
    store_ps(&mut lanes, value);
    x.copy_from_slice(&lanes[..x.len()]);
}

/// Floats as weights: the same bits on a little-endian machine, as all with AVX2 are.
pub(super) fn singles(x: &[f32]) -> &[F32] {
    // SAFETY: `F32` is the four bytes of an f32, with a smaller alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// Bits of halves as weights.
pub(super) fn halves(x: &[u16]) -> &[F16] {
    // SAFETY: `F16` is the two bytes of a u16, with a smaller alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// Returns `x` as a value the compiler knows nothing about: so it keeps sums in the order and the
/// registers they were written in, where re-associating them would spill.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn pin(mut x: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    x
}

/// [`pin`] of two values at once: both are there before either is used.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn pin_both(x: &mut __m256i, y: &mut __m256i) {
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!(
            "/* {0} {1} */",
            inout(ymm_reg) * x,
            inout(ymm_reg) * y,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// [`pin`] of floats.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn pin_ps(x: __m256) -> __m256 {
    _mm256_castsi256_ps(pin(_mm256_castps_si256(x)))
}

/// No load, store or prefetch is moved across by the compiler: so what could be loaded again is,
/// rather than kept in registers there are not enough of, and prefetches stay apart. Memory behind
/// a reference it knows to be the only one is exempt, until `black_box` has seen that.
#[inline]
pub(super) fn fence() {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) }
}

/// Asks for the cache line `bytes` after `x`, which need not exist; into L1 for `_MM_HINT_T0`,
/// into L2 for `_MM_HINT_T1`.
#[inline]
#[target_feature(enable = "sse")]
pub(in crate::isa) fn prefetch<const HINT: i32, T>(x: &T, bytes: usize) {
    let address = std::ptr::from_ref(x).cast::<i8>().wrapping_add(bytes);
    _mm_prefetch::<HINT>(address);
}

/// Types that are 32 bytes of numbers.
///
/// # Safety
/// 32 bytes, no padding, every bit pattern a value.
pub(in crate::isa) unsafe trait Bytes32 {}

// SAFETY: arrays of integers, 32 bytes each.
unsafe impl Bytes32 for [i8; 32] {}
// SAFETY: as above.
unsafe impl Bytes32 for [u8; 32] {}
// SAFETY: as above.
unsafe impl Bytes32 for [[u8; 8]; 4] {}
// SAFETY: as above.
unsafe impl Bytes32 for [i16; 16] {}
// SAFETY: as above.
unsafe impl Bytes32 for [[i16; 2]; 8] {}
// SAFETY: as above.
unsafe impl Bytes32 for [i32; 8] {}
// SAFETY: `F32` is four bytes.
unsafe impl Bytes32 for [F32; 8] {}

/// Types that are 16 bytes of numbers.
///
/// # Safety
/// 16 bytes, no padding, every bit pattern a value.
pub(super) unsafe trait Bytes16 {}

// SAFETY: arrays of integers, 16 bytes each.
unsafe impl Bytes16 for [u8; 16] {}
// SAFETY: as above.
unsafe impl Bytes16 for [i8; 16] {}
// SAFETY: as above.
unsafe impl Bytes16 for [i16; 8] {}
// SAFETY: as above.
unsafe impl Bytes16 for [u16; 8] {}
// SAFETY: as above.
unsafe impl Bytes16 for [i32; 4] {}
// SAFETY: `F16` is two bytes.
unsafe impl Bytes16 for [F16; 8] {}
// SAFETY: `Bf16` is two bytes.
unsafe impl Bytes16 for [Bf16; 8] {}

/// Types that are 4 bytes of numbers.
///
/// # Safety
/// 4 bytes, no padding, every bit pattern a value.
pub(super) unsafe trait Bytes4 {}

// SAFETY: arrays of integers, 4 bytes each.
unsafe impl Bytes4 for [i8; 4] {}
// SAFETY: as above.
unsafe impl Bytes4 for [i16; 2] {}
