//! Precisions of floats: how far a value may be from the product that it was rounded from.

use half::{bf16, f16};

/// Type of floats that values were rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the formats'")]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// Significant bits, and the exponent of the least normal number.
    fn format(self) -> (i32, i32) {
        match self {
            Precision::F32 => (24, -126),
            Precision::F16 => (11, -14),
            Precision::Bf16 => (8, -126),
        }
    }

    /// Significant bits.
    pub(super) fn bits(self) -> i32 {
        self.format().0
    }

    /// Distance between a value, which is not zero, and its neighbours.
    pub(super) fn ulp(self, value: f32) -> f64 {
        let (bits, least) = self.format();
        let exponent = exponent(value).max(least);
        power(exponent - bits + 1)
    }

    /// The nearest value.
    pub(super) fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::F16 => f16::from_f32(x).to_f32(),
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Whether all values are of this type.
    fn holds(self, values: &[f32]) -> bool {
        values.iter().all(|&x| self.round(x) == x)
    }

    /// The types that hold all values, this one first: values may have been of a coarser one.
    pub(super) fn coarser(self, values: &[f32]) -> Vec<Precision> {
        let others = [Precision::F16, Precision::Bf16].into_iter();
        let held = others.filter(|&other| other != self && other.holds(values));
        std::iter::once(self).chain(held).collect()
    }
}

/// Exponent of a number: 0 of those from 1 to below 2. That of subnormal numbers is the least.
fn exponent(value: f32) -> i32 {
    ((value.to_bits() >> 23 & 0xff) as i32).max(1) - 127
}

/// A power of two that an f64 holds.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_an_ulp_apart() {
        for value in [1.0_f32, 1.75, 0.037, -3.5, 2f32.powi(-130)] {
            let next = f32::from_bits(value.to_bits() + 1);
            let ulp = f64::from(next) - f64::from(value);
            assert_eq!(Precision::F32.ulp(value), ulp.abs(), "{value}");
        }
        assert_eq!(Precision::Bf16.ulp(1.5), 2f64.powi(-7));
        assert_eq!(Precision::F16.ulp(2f32.powi(-20)), 2f64.powi(-24), "subnormal");
    }

    #[test]
    fn coarser_types_are_those_that_hold_all() {
        use Precision::{Bf16, F16, F32};
        assert_eq!(F32.coarser(&[1.0, 0.1]), [F32]);
        assert_eq!(F32.coarser(&[1.0, f16::from_f32(0.1).to_f32()]), [F32, F16]);
        assert_eq!(F16.coarser(&[1.0, 1.0078125]), [F16, Bf16]);
        assert_eq!(Bf16.coarser(&[1e-30]), [Bf16]);
    }
}
