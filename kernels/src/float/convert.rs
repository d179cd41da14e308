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
        *y = half::f16::from_f32(x).to_bits();
    }
}
