//! Types of a checkpoint's elements, and their values.

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the format's")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Codes of a quantized matrix; no name of the format.
    Packed,
}

impl Dtype {
    pub(super) fn named(name: &str) -> Option<Dtype> {
        Some(match name {
            "F64" => Dtype::F64,
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            "F8_E4M3" => Dtype::F8E4M3,
            "F8_E5M2" => Dtype::F8E5M2,
            "I64" | "U64" => Dtype::I64,
            "I32" | "U32" => Dtype::I32,
            "I16" | "U16" => Dtype::I16,
            "I8" => Dtype::I8,
            "U8" | "F8_E8M0" => Dtype::U8,
            "BOOL" => Dtype::Bool,
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::I8 | Dtype::U8 => 1,
            Dtype::Bool | Dtype::Packed => 1,
        }
    }

    /// Whether elements are floats, or read as such.
    pub fn is_float(self) -> bool {
        use Dtype::{BF16, F8E4M3, F8E5M2, F16, F32, F64, Packed};
        matches!(self, F64 | F32 | F16 | BF16 | F8E4M3 | F8E5M2 | Packed)
    }

    /// Elements in f32, exactly but for those of 64 bits, behind those that are in `out`; `false`
    /// for types that no weights have.
    pub fn widen(self, bytes: &[u8], out: &mut Vec<f32>) -> bool {
        fn all<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, number: impl Fn([u8; N]) -> f32) {
            out.extend(bytes.chunks_exact(N).map(|x| {
                let mut element = [0; N];
                element.copy_from_slice(x);
                number(element)
            }));
        }
        match self {
            Dtype::F64 => all(bytes, out, |x| f64::from_le_bytes(x) as f32),
            Dtype::F32 => all(bytes, out, f32::from_le_bytes),
            Dtype::F16 => all(bytes, out, |x| half::f16::from_le_bytes(x).to_f32()),
            Dtype::BF16 => all(bytes, out, |x| half::bf16::from_le_bytes(x).to_f32()),
            Dtype::F8E4M3 => all(bytes, out, |[x]| f8(x, 4, 3)),
            Dtype::F8E5M2 => all(bytes, out, |[x]| f8(x, 5, 2)),
            Dtype::I8 => all(bytes, out, |[x]| f32::from(x as i8)),
            _ => return false,
        }
        true
    }
}

/// A power of two, which is a float of 8 bits of exponent (E8M0, OCP Microscaling 1.0): all ones is no number.
pub fn power(exponent: u8) -> f32 {
    match exponent {
        // 2^-127 is subnormal in f32.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// A float of 8 bits: with 4 bits of exponent there is no infinity, and only all ones is no number.
fn f8(x: u8, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let sign = if x & 0x80 == 0 { 1.0 } else { -1.0 };
    let mantissa = f32::from(x & ((1 << mantissa_bits) - 1));
    let exponent = i32::from((x & 0x7f) >> mantissa_bits);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let steps = (1 << mantissa_bits) as f32;
    let is_top = exponent == (1 << exponent_bits) - 1;
    match (exponent_bits, exponent) {
        (4, _) if x & 0x7f == 0x7f => f32::NAN,
        (5, _) if is_top && mantissa != 0.0 => f32::NAN,
        (5, _) if is_top => sign * f32::INFINITY,
        (_, 0) => sign * mantissa / steps * 2f32.powi(1 - bias),
        _ => sign * (1.0 + mantissa / steps) * 2f32.powi(exponent - bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits_are_the_formats() {
        let e4m3 = |x| f8(x, 4, 3);
        assert_eq!(
            [0x00, 0x01, 0x08, 0x38, 0x7e, 0xb8].map(e4m3),
            [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 448.0, -1.0]
        );
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let e5m2 = |x| f8(x, 5, 2);
        assert_eq!(
            [0x01, 0x3c, 0x7b, 0x7c].map(e5m2),
            [2f32.powi(-16), 1.0, 57344.0, f32::INFINITY]
        );
        assert!(e5m2(0x7d).is_nan());
        assert_eq!([0, 1, 127, 128, 254].map(power), [-127, -126, 0, 1, 127].map(|e| 2f32.powi(e)));
        assert!(power(255).is_nan());
    }
}
