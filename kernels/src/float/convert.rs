//! Half precision to single and back.

/// The value of a half's bits, exact; NaN stays NaN. Selects instead of branches, so that loops
/// vectorize (after F. Giesen, "half_to_float_fast5").
#[inline]
pub fn half_to_f32(bits: u16) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    // The difference of the two exponent biases.
    const REBIAS: u32 = (127 - 15) << 23;
    // The smallest normal half.
    const SUBNORMAL: f32 = f32::from_bits(113 << 23);

    let magnitude = (u32::from(bits) & 0x7fff) << 13;
    let exponent = magnitude & EXPONENT;
    let normal = magnitude + REBIAS;
    let special = normal + REBIAS;
    // One unit of exponent more makes the implicit bit that is then taken away again.
    let subnormal = (f32::from_bits(normal + (1 << 23)) - SUBNORMAL).to_bits();
    let value = match exponent {
        EXPONENT => special,
        0 => subnormal,
        _ => normal,
    };
    f32::from_bits(value | (u32::from(bits) & 0x8000) << 16)
}

/// The bits of the nearest half, ties to even; beyond 65504 infinity; NaN keeps its upper bits.
/// Selects instead of branches, likewise.
#[inline(always)]
pub fn half_of_f32(x: f32) -> u16 {
    /// The smallest number that is a normal half.
    const NORMAL: u32 = 113 << 23;
    /// 65536, the first power of two that is none.
    const BEYOND: u32 = 143 << 23;
    const INFINITY: u32 = 255 << 23;

    let magnitude = x.to_bits() & 0x7fff_ffff;
    let odd = magnitude >> 13 & 1;
    let normal = (magnitude + 0xfff + odd).wrapping_sub((127 - 15) << 23) >> 13;
    // Next to a half, singles are as far apart as subnormal halves.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let is_nan = magnitude > INFINITY;
    let special = 0x7c00 | if is_nan { 0x200 | magnitude >> 13 & 0x3ff } else { 0 };
    let finite = if magnitude < NORMAL { subnormal } else { normal };
    let value = if magnitude >= BEYOND { special } else { finite };
    (x.to_bits() >> 16 & 0x8000 | value) as u16
}

/// Halves as bits to singles, exact.
pub fn f16_to_f32(x: &[u16], out: &mut [f32]) {
    assert!(x.len() == out.len(), "slices of one length");
    for (y, &x) in out.iter_mut().zip(x) {
        *y = half_to_f32(x);
    }
}

/// Singles to the bits of the nearest halves, ties to even; beyond 65504 infinity.
pub fn f32_to_f16(x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len(), "slices of one length");
    for (y, &x) in out.iter_mut().zip(x) {
        *y = half_of_f32(x);
    }
}
