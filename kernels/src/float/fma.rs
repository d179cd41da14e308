//! The fused multiply-add of the specification, on CPUs with and without the instruction.
//!
//! Without it `f32::mul_add` is a call of the C library, 4 ns; this is below one. A product of two
//! f32 is exact in f64, and so nearly is the sum: rounding that to f32 is rounding twice, which
//! goes wrong only where the f64 lies halfway between two f32 and was rounded itself.

/// `a * b + c`, rounded once: the bits of [`f32::mul_add`] (of NaN, that it is one).
#[inline]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    let product = f64::from(a) * f64::from(b);
    let sum = product + f64::from(c);
    if is_settled(sum.to_bits() as u32) {
        sum as f32
    } else {
        to_odd(product, c.into(), sum) as f32
    }
}

/// Whether a sum in f64 with these low bits rounds to f32 as the exact one does: between f32s, and
/// between subnormal ones all the more, halfway is where the last 28 bits are 0.
#[inline]
pub(crate) const fn is_settled(low: u32) -> bool {
    low & HALFWAY != 0
}

/// The bits that are 0 halfway between two f32, and on them.
pub(crate) const HALFWAY: u32 = (1 << 28) - 1;

/// `a + b`, of which `sum` is the rounded value, with the last bit set if it is not exact: on the
/// right side of halfway then (S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums",
/// 2008).
#[cold]
fn to_odd(a: f64, b: f64, sum: f64) -> f64 {
    // The error of the sum, exactly (D. Knuth's TwoSum); NaN if the sum is no number.
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    let bits = sum.to_bits();
    if bits & 1 == 1 || error == 0.0 || error.is_nan() {
        sum
    } else if (error > 0.0) == (sum > 0.0) {
        f64::from_bits(bits + 1)
    } else {
        f64::from_bits(bits - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: f32, b: f32, c: f32) {
        let (got, want) = (fma(a, b, c), a.mul_add(b, c));
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{a:e} * {b:e} + {c:e} = {want:e}, not {got:e}");
    }

    /// Random bits; then numbers of few bits near each other, so that sums cancel and tie.
    #[test]
    fn bits_are_those_of_mul_add() {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for _ in 0..2_000_000 {
            check(f32::from_bits(next()), f32::from_bits(next()), f32::from_bits(next()));
            // Exponents within `spread` of each other and a few low bits of mantissa.
            let spread = 1 << (next() % 6);
            let mut near = |base: u32| {
                let exponent = base + next() % spread;
                let mantissa = (next() & next() & next() & 0x7f_ffff) | (next() % 2);
                f32::from_bits(next() & 0x8000_0000 | exponent << 23 | mantissa)
            };
            check(near(110), near(110), near(93));
            // Results below the least normal number.
            check(near(40), near(60), near(0));
            check(near(64), near(64), f32::from_bits(1));
        }
    }

    #[test]
    fn edges() {
        let edges = [
            0.0,
            1.0,
            1.0 + f32::EPSILON,
            3.0,
            f32::MIN_POSITIVE,
            1e-45,
            f32::MAX,
            4096.0,
            f32::INFINITY,
            f32::NAN,
            1.0 / 3.0,
            16_777_215.0,
            5.960_464_5e-8,
        ];
        let edges = edges.map(|x: f32| [x, -x]).concat();
        for &a in &edges {
            for &b in &edges {
                for &c in &edges {
                    check(a, b, c);
                }
            }
        }
        // Halfway but for a term that f64 cannot hold.
        for tiny in [1e-30f32, -1e-30, 1e-45, -1e-45] {
            for odd in [1.0 + f32::EPSILON, 1.0] {
                check(tiny, 1.0, odd);
                check(f32::EPSILON, 0.5 + tiny, odd);
                check(odd, 1.0 + f32::EPSILON, tiny);
            }
        }
    }
}
