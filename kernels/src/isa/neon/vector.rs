//! NEON's instructions as safe functions, loads and stores between arrays and registers, and eight
//! floats at a time.
//!
//! NEON is part of every 64-bit ARM target this is compiled for, so its intrinsics may be called
//! anywhere. As ordinary functions they are inlined into callers of more features, too, which
//! `#[target_feature]` functions without them are not: so one generic kernel serves all levels.

use crate::block::{Bf16, F16, F32};
use std::arch::aarch64;
pub(in crate::isa) use std::arch::aarch64::{
    float32x2_t, float32x4_t, int8x8_t, int8x16_t, int16x8_t, int32x4_t, uint8x16_t, uint16x8_t,
    uint32x4_t,
};

const _: () = assert!(cfg!(target_feature = "neon"), "64-bit ARM without NEON is not supported");

macro_rules! intrinsics {
    ($($name:ident$(<$n:ident>)?($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {$(
        #[doc = concat!("The intrinsic `", stringify!($name), "`.")]
        #[inline(always)]
        pub(in crate::isa) fn $name$(<const $n: i32>)?($($arg: $ty),*) -> $out {
            // SAFETY: the target has NEON, see above.
            unsafe { aarch64::$name$(::<$n>)?($($arg),*) }
        }
    )*};
}

intrinsics! {
    vrndnq_f32(x: float32x4_t) -> float32x4_t;
    vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vsubq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vdivq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vnegq_f32(a: float32x4_t) -> float32x4_t;
    vabsq_f32(a: float32x4_t) -> float32x4_t;
    vfmaq_f32(sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vfmsq_f32(sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vdupq_n_f32(x: f32) -> float32x4_t;
    vcgtq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t;
    vbslq_f32(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vcvtq_f32_s32(x: int32x4_t) -> float32x4_t;
    vcvtq_s32_f32(x: float32x4_t) -> int32x4_t;
    vcvtnq_s32_f32(x: float32x4_t) -> int32x4_t;
    vreinterpretq_u32_f32(x: float32x4_t) -> uint32x4_t;
    vreinterpretq_f32_s32(x: int32x4_t) -> float32x4_t;
    vmaxq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vmaxvq_u32(x: uint32x4_t) -> u32;
    vdupq_n_u32(x: u32) -> uint32x4_t;
    vget_low_f32(x: float32x4_t) -> float32x2_t;
    vget_high_f32(x: float32x4_t) -> float32x2_t;
    vadd_f32(a: float32x2_t, b: float32x2_t) -> float32x2_t;
    vpadds_f32(x: float32x2_t) -> f32;
    vpaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vzip1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vzip2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vuzp1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vuzp2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vtrn1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vtrn2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vdupq_laneq_f32<N>(x: float32x4_t) -> float32x4_t;
    vdupq_n_s32(x: i32) -> int32x4_t;
    vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vshlq_n_s32<N>(x: int32x4_t) -> int32x4_t;
    vshrq_n_s32<N>(x: int32x4_t) -> int32x4_t;
    vpaddq_s16(a: int16x8_t, b: int16x8_t) -> int16x8_t;
    vpaddlq_s16(x: int16x8_t) -> int32x4_t;
    vpadalq_s16(sum: int32x4_t, x: int16x8_t) -> int32x4_t;
    vmlal_high_s8(sum: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t;
    vmull_s8(a: int8x8_t, b: int8x8_t) -> int16x8_t;
    vmlal_s8(sum: int16x8_t, a: int8x8_t, b: int8x8_t) -> int16x8_t;
    vaddlvq_s8(x: int8x16_t) -> i16;
    vdupq_n_s16(x: i16) -> int16x8_t;
    vdupq_n_u16(x: u16) -> uint16x8_t;
    vsliq_n_u16<N>(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t;
    vshrq_n_u16<N>(x: uint16x8_t) -> uint16x8_t;
    vshlq_u16(x: uint16x8_t, by: int16x8_t) -> uint16x8_t;
    vreinterpretq_u16_s8(x: int8x16_t) -> uint16x8_t;
    vreinterpretq_u16_u8(x: uint8x16_t) -> uint16x8_t;
    vreinterpretq_u8_u16(x: uint16x8_t) -> uint8x16_t;
    vdup_n_s8(x: i8) -> int8x8_t;
    vmovl_s8(x: int8x8_t) -> int16x8_t;
    vmovl_high_s8(x: int8x16_t) -> int16x8_t;
    vget_low_s8(x: int8x16_t) -> int8x8_t;
    vdupq_n_s8(x: i8) -> int8x16_t;
    vsubq_s8(a: int8x16_t, b: int8x16_t) -> int8x16_t;
    vqsubq_s8(a: int8x16_t, b: int8x16_t) -> int8x16_t;
    vextq_s8<N>(a: int8x16_t, b: int8x16_t) -> int8x16_t;
    veorq_s8(a: int8x16_t, b: int8x16_t) -> int8x16_t;
    vbslq_s8(mask: uint8x16_t, a: int8x16_t, b: int8x16_t) -> int8x16_t;
    vceqq_s8(a: int8x16_t, b: int8x16_t) -> uint8x16_t;
    vqtbl1q_s8(table: int8x16_t, index: uint8x16_t) -> int8x16_t;
    vreinterpretq_s8_u8(x: uint8x16_t) -> int8x16_t;
    vreinterpretq_u8_s8(x: int8x16_t) -> uint8x16_t;
    vdupq_n_u8(x: u8) -> uint8x16_t;
    vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vorrq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vbicq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vmulq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vcltq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vcgeq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vuzp1q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vuzp2q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vshlq_n_u8<N>(x: uint8x16_t) -> uint8x16_t;
    vtstq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vshlq_u8(x: uint8x16_t, by: int8x16_t) -> uint8x16_t;
    vshrq_n_u8<N>(x: uint8x16_t) -> uint8x16_t;
}

/// Four i32 of the low and of the high half.
#[inline(always)]
pub(in crate::isa) fn widen(x: int16x8_t) -> [int32x4_t; 2] {
    // SAFETY: the target has NEON.
    unsafe { [aarch64::vmovl_s16(aarch64::vget_low_s16(x)), aarch64::vmovl_high_s16(x)] }
}

/// The low bytes.
#[inline(always)]
pub(in crate::isa) fn narrow(x: [int32x4_t; 4]) -> int8x16_t {
    // SAFETY: the target has NEON.
    unsafe {
        let low = aarch64::vmovn_high_s32(aarch64::vmovn_s32(x[0]), x[1]);
        let high = aarch64::vmovn_high_s32(aarch64::vmovn_s32(x[2]), x[3]);
        aarch64::vmovn_high_s16(aarch64::vmovn_s16(low), high)
    }
}

/// Words of `a` and `b` by turns: the low halves, then the high ones.
#[inline(always)]
pub(in crate::isa) fn zip_words(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: the target has NEON.
    unsafe {
        let (a, b) = (aarch64::vreinterpretq_s32_s8(a), aarch64::vreinterpretq_s32_s8(b));
        [aarch64::vzip1q_s32(a, b), aarch64::vzip2q_s32(a, b)]
            .map(|x| aarch64::vreinterpretq_s8_s32(x))
    }
}

/// The low halves of `a` and `b`, then the high ones.
#[inline(always)]
pub(in crate::isa) fn zip_halves(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: the target has NEON.
    unsafe {
        let (a, b) = (aarch64::vreinterpretq_s64_s8(a), aarch64::vreinterpretq_s64_s8(b));
        [aarch64::vzip1q_s64(a, b), aarch64::vzip2q_s64(a, b)]
            .map(|x| aarch64::vreinterpretq_s8_s64(x))
    }
}

/// As [`zip_halves`].
#[inline(always)]
pub(in crate::isa) fn zip_halves_f32(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
    // SAFETY: the target has NEON.
    unsafe {
        let (a, b) = (aarch64::vreinterpretq_f64_f32(a), aarch64::vreinterpretq_f64_f32(b));
        [aarch64::vzip1q_f64(a, b), aarch64::vzip2q_f64(a, b)]
            .map(|x| aarch64::vreinterpretq_f32_f64(x))
    }
}

/// Bytes of `a` and `b` by turns: the low halves, then the high ones.
#[inline(always)]
pub(in crate::isa) fn zip_bytes(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: the target has NEON.
    unsafe { [aarch64::vzip1q_s8(a, b), aarch64::vzip2q_s8(a, b)] }
}

/// Eight bytes, then eight others.
#[inline(always)]
pub(in crate::isa) fn join(low: u64, high: u64) -> int8x16_t {
    // SAFETY: the target has NEON.
    unsafe { aarch64::vcombine_s8(aarch64::vcreate_s8(low), aarch64::vcreate_s8(high)) }
}

/// Four words.
#[inline(always)]
pub(in crate::isa) fn words(x: [u32; 4]) -> int8x16_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vreinterpretq_s8_u32(aarch64::vld1q_u32(x.as_ptr())) }
}

/// Eight bytes as words.
#[inline(always)]
pub(in crate::isa) fn widen_bytes(x: u64) -> uint16x8_t {
    // SAFETY: the target has NEON.
    unsafe { aarch64::vmovl_u8(aarch64::vcreate_u8(x)) }
}

/// Four words, then four others.
#[inline(always)]
pub(in crate::isa) fn halves_of_words(x: uint16x8_t) -> [u64; 2] {
    // SAFETY: the target has NEON.
    unsafe {
        let x = aarch64::vreinterpretq_u64_u16(x);
        [aarch64::vgetq_lane_u64::<0>(x), aarch64::vgetq_lane_u64::<1>(x)]
    }
}

/// Four bytes four times.
#[inline(always)]
pub(in crate::isa) fn repeat(x: &[u8; 4]) -> int8x16_t {
    // SAFETY: the target has NEON.
    unsafe { aarch64::vreinterpretq_s8_u32(aarch64::vdupq_n_u32(u32::from_le_bytes(*x))) }
}

/// 16 bytes.
#[inline(always)]
pub(in crate::isa) fn load(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vld1q_s8(x.as_ptr()) }
}

/// 8 bytes.
#[inline(always)]
pub(in crate::isa) fn load_8(x: &[i8; 8]) -> int8x8_t {
    // SAFETY: 8 bytes; the load takes any alignment.
    unsafe { aarch64::vld1_s8(x.as_ptr()) }
}

/// 16 bytes.
#[inline(always)]
pub(in crate::isa) fn load_u8(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vld1q_u8(x.as_ptr()) }
}

/// Eight integers.
#[inline(always)]
pub(in crate::isa) fn load_s16(x: &[i16; 8]) -> int16x8_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vld1q_s16(x.as_ptr()) }
}

/// Four integers.
#[inline(always)]
pub(in crate::isa) fn load_s32(x: &[i32; 4]) -> int32x4_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vld1q_s32(x.as_ptr()) }
}

/// Four floats.
#[inline(always)]
pub(in crate::isa) fn load_f32(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: 16 bytes; the load takes any alignment.
    unsafe { aarch64::vld1q_f32(x.as_ptr()) }
}

/// 16 bytes.
#[inline(always)]
pub(in crate::isa) fn store(x: &mut [i8; 16], value: int8x16_t) {
    // SAFETY: 16 bytes; the store takes any alignment.
    unsafe { aarch64::vst1q_s8(x.as_mut_ptr(), value) }
}

/// Four floats.
#[inline(always)]
pub(in crate::isa) fn store_f32(x: &mut [f32; 4], value: float32x4_t) {
    // SAFETY: 16 bytes; the store takes any alignment.
    unsafe { aarch64::vst1q_f32(x.as_mut_ptr(), value) }
}

/// Four halves as floats, exactly.
#[inline(always)]
pub(in crate::isa) fn halves(x: [F16; 4]) -> float32x4_t {
    let bits = x.map(|h| u16::from_le_bytes(h.0));
    // SAFETY: 8 bytes; the target has NEON.
    unsafe {
        aarch64::vcvt_f32_f16(aarch64::vreinterpret_f16_u16(aarch64::vld1_u16(bits.as_ptr())))
    }
}

/// 16 bytes as the floats whose halves they are but for the lowest seven bits, exactly.
#[inline(always)]
pub(in crate::isa) fn halves_of(x: uint8x16_t) -> [float32x4_t; 4] {
    // SAFETY: the target has NEON.
    unsafe {
        let low = aarch64::vshll_n_u8::<7>(aarch64::vget_low_u8(x));
        let low = aarch64::vreinterpretq_f16_u16(low);
        let high = aarch64::vreinterpretq_f16_u16(aarch64::vshll_high_n_u8::<7>(x));
        [
            aarch64::vcvt_f32_f16(aarch64::vget_low_f16(low)),
            aarch64::vcvt_high_f32_f16(low),
            aarch64::vcvt_f32_f16(aarch64::vget_low_f16(high)),
            aarch64::vcvt_high_f32_f16(high),
        ]
    }
}

/// One half as a float.
#[inline(always)]
pub(in crate::isa) fn half(h: F16) -> f32 {
    let bits = u16::from_le_bytes(h.0);
    // SAFETY: the target has NEON.
    unsafe {
        let x = aarch64::vcvt_f32_f16(aarch64::vreinterpret_f16_u16(aarch64::vdup_n_u16(bits)));
        aarch64::vgetq_lane_f32::<0>(x)
    }
}

/// Eight floats: the sums of [`crate::float`]'s lanes.
#[derive(Clone, Copy)]
pub(in crate::isa) struct F32x8(pub [float32x4_t; 2]);

impl F32x8 {
    #[inline(always)]
    pub fn splat(x: f32) -> F32x8 {
        F32x8([vdupq_n_f32(x); 2])
    }

    #[inline(always)]
    pub fn load(x: &[f32; 8]) -> F32x8 {
        let (halves, _) = x.as_chunks();
        F32x8([load_f32(&halves[0]), load_f32(&halves[1])])
    }

    /// Loads up to eight floats, zeros behind them.
    #[inline(always)]
    pub fn load_some(x: &[f32]) -> F32x8 {
        let mut lanes = [0.0; 8];
        lanes[..x.len()].copy_from_slice(x);
        F32x8::load(&lanes)
    }

    #[inline(always)]
    pub fn store(self, x: &mut [f32; 8]) {
        let (halves, _) = x.as_chunks_mut();
        store_f32(&mut halves[0], self.0[0]);
        store_f32(&mut halves[1], self.0[1]);
    }

    /// The first ones.
    #[inline(always)]
    pub fn store_some(self, x: &mut [f32]) {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        x.copy_from_slice(&lanes[..x.len()]);
    }

    /// Both halves by one instruction each.
    #[inline(always)]
    pub fn each(self, f: impl Fn(float32x4_t) -> float32x4_t) -> F32x8 {
        F32x8([f(self.0[0]), f(self.0[1])])
    }

    /// As [`F32x8::each`].
    #[inline(always)]
    pub fn with(self, b: F32x8, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> F32x8 {
        F32x8([f(self.0[0], b.0[0]), f(self.0[1], b.0[1])])
    }

    #[inline(always)]
    pub fn plus(self, b: F32x8) -> F32x8 {
        self.with(b, vaddq_f32)
    }

    #[inline(always)]
    pub fn minus(self, b: F32x8) -> F32x8 {
        self.with(b, vsubq_f32)
    }

    #[inline(always)]
    pub fn times(self, b: F32x8) -> F32x8 {
        self.with(b, vmulq_f32)
    }

    #[inline(always)]
    pub fn over(self, b: F32x8) -> F32x8 {
        self.with(b, vdivq_f32)
    }

    #[inline(always)]
    pub fn negative(self) -> F32x8 {
        self.each(vnegq_f32)
    }

    /// `self + a * b`, rounded once.
    #[inline(always)]
    pub fn plus_product(self, a: F32x8, b: F32x8) -> F32x8 {
        let half = |i: usize| vfmaq_f32(self.0[i], a.0[i], b.0[i]);
        F32x8([half(0), half(1)])
    }

    /// `self - a * b`, rounded once.
    #[inline(always)]
    pub fn minus_product(self, a: F32x8, b: F32x8) -> F32x8 {
        let half = |i: usize| vfmsq_f32(self.0[i], a.0[i], b.0[i]);
        F32x8([half(0), half(1)])
    }

    /// Lanes of `a` where `x > y` and of `b` elsewhere, as for NaN.
    #[inline(always)]
    pub fn if_greater(x: F32x8, y: F32x8, a: F32x8, b: F32x8) -> F32x8 {
        let half = |i: usize| vbslq_f32(vcgtq_f32(x.0[i], y.0[i]), a.0[i], b.0[i]);
        F32x8([half(0), half(1)])
    }

    /// The magnitudes with the signs of `x`.
    #[inline(always)]
    pub fn with_sign_of(self, x: F32x8) -> F32x8 {
        let sign = vdupq_n_u32(1 << 31);
        self.with(x, |a, x| vbslq_f32(sign, x, a))
    }

    /// Rounds to the nearest halves, ties to even.
    #[inline(always)]
    pub fn narrow(self, out: &mut [u16; 8]) {
        let [low, high] = self.0;
        // SAFETY: the target has NEON; 16 bytes, of any alignment.
        unsafe {
            let half = aarch64::vcvt_high_f16_f32(aarch64::vcvt_f16_f32(low), high);
            aarch64::vst1q_u16(out.as_mut_ptr(), aarch64::vreinterpretq_u16_f16(half));
        }
    }

    /// [`crate::float`]'s tree.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        let x = vaddq_f32(self.0[0], self.0[1]);
        vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
    }
}

/// The trees of four sums.
#[inline(always)]
pub(in crate::isa) fn sum_4(sums: [F32x8; 4]) -> float32x4_t {
    let [a, b, c, d] = sums.map(|x| vaddq_f32(x.0[0], x.0[1]));
    let [ab_low, ab_high] = zip_halves_f32(a, b);
    let [cd_low, cd_high] = zip_halves_f32(c, d);
    vpaddq_f32(vaddq_f32(ab_low, ab_high), vaddq_f32(cd_low, cd_high))
}

/// Float weights in registers.
pub(in crate::isa) trait Widen: Sized {
    /// Eight numbers of a row, exactly.
    fn widen(x: &[Self; 8]) -> F32x8;
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(x: &[f32; 8]) -> F32x8 {
        F32x8::load(x)
    }
}

impl Widen for F32 {
    #[inline(always)]
    fn widen(x: &[F32; 8]) -> F32x8 {
        F32x8::load(&x.map(|x| f32::from_le_bytes(x.0)))
    }
}

impl Widen for u16 {
    #[inline(always)]
    fn widen(x: &[u16; 8]) -> F32x8 {
        <F16 as Widen>::widen(&x.map(|x| F16(x.to_le_bytes())))
    }
}

impl Widen for F16 {
    #[inline(always)]
    fn widen(x: &[F16; 8]) -> F32x8 {
        let (x, _) = x.as_chunks::<4>();
        F32x8([halves(x[0]), halves(x[1])])
    }
}

impl Widen for Bf16 {
    #[inline(always)]
    fn widen(x: &[Bf16; 8]) -> F32x8 {
        let word = |i: usize| u32::from(u16::from_le_bytes(x[i].0)) << 16;
        let mut words = [[0; 4]; 2];
        for i in 0..8 {
            words[i / 4][i % 4] = word(i).cast_signed();
        }
        F32x8(words.map(|x| vreinterpretq_f32_s32(load_s32(&x))))
    }
}
