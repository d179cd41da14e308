//! The exponential function, the logarithm and powers in plain f64 arithmetic.
//!
//! The system's functions differ between platforms in the last bit, and one different bit can change
//! which token is drawn. These are the same everywhere. Relative error of the exponential below 1e-15,
//! of the logarithm below 1e-14.

/// `e^x` for `x <= 0`; 0 for `x` below -700 (and negative infinity), where the weight is nothing.
pub fn exp(x: f64) -> f64 {
    debug_assert!(x <= 0.0, "candidates are relative to the best one, got {x}");
    if x < -700.0 {
        return 0.0;
    }
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that n * LN2_HIGH is exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding 1.5 * 2^52 leaves no fraction bits: rounds to the nearest even integer.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let n = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor to degree 13, in halves that the CPU can overlap; the next term is below 2^-53.
    let (r2, c) = (r * r, &INVERSE_FACTORIALS);
    let (r4, quad) = (r2 * r2, |k: usize| (c[k] + c[k + 1] * r) + (c[k + 2] + c[k + 3] * r) * r2);
    let sum = (quad(0) + quad(4) * r4) + (quad(8) + (c[12] + c[13] * r) * r4) * (r4 * r4);
    // n is in -1010..=0, so the scale is a normal number.
    sum * f64::from_bits(((1023 + n as i64) as u64) << 52)
}

/// The natural logarithm of a positive normal number.
pub fn ln(x: f64) -> f64 {
    debug_assert!(x >= f64::MIN_POSITIVE && x.is_finite(), "no logarithm of {x}");
    // x = m 2^n with m from sqrt(1/2) to sqrt(2).
    let bits = x.to_bits();
    let mut n = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        (m, n) = (0.5 * m, n + 1);
    }
    // ln m = 2 artanh f, whose series has odd powers; f is below 0.172.
    let f = (m - 1.0) / (m + 1.0);
    let square = f * f;
    let series = (0..LN_TERMS).rev().fold(0.0, |sum, k| sum * square + 1.0 / (2 * k + 1) as f64);
    2.0 * f * series + n as f64 * std::f64::consts::LN_2
}

/// Terms of the logarithm's series: the next one is below 2^-60.
const LN_TERMS: usize = 12;

/// `x^y` for `x` from 0 to 1 and `y >= 0`.
pub fn pow(x: f64, y: f64) -> f64 {
    match x {
        _ if y == 0.0 => 1.0,
        x if x < f64::MIN_POSITIVE => 0.0,
        x => exp((y * ln(x.min(1.0))).min(0.0)),
    }
}

/// `x^n` by multiplications.
pub fn power(x: f64, n: u32) -> f64 {
    let (mut square, mut left, mut product) = (x, n, 1.0);
    while left > 0 {
        if left & 1 == 1 {
            product *= square;
        }
        (square, left) = (square * square, left >> 1);
    }
    product
}

/// 1 / k!
const INVERSE_FACTORIALS: [f64; 14] = {
    let mut inverse = [1.0; 14];
    let (mut k, mut factorial) = (1, 1.0);
    while k < 14 {
        factorial *= k as f64;
        inverse[k] = 1.0 / factorial;
        k += 1;
    }
    inverse
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_system() {
        for i in 0..70_000 {
            let x = -0.01 * f64::from(i);
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours - theirs).abs() <= 1e-15 * theirs, "exp({x}) = {ours}, not {theirs}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }
    #[test]
    fn logarithms_and_powers_agree_with_the_system() {
        for i in 1..70_000 {
            for x in [1e-4 * f64::from(i), 37.5 * f64::from(i), 1e-300 * f64::from(i)] {
                let (ours, theirs) = (ln(x), x.ln());
                let bound = 1e-14 * theirs.abs().max(1e-2);
                assert!((ours - theirs).abs() <= bound, "ln({x}) = {ours}, not {theirs}");
            }
            let (x, y) = (f64::from(i) / 7e4, f64::from(i % 50) / 10.0);
            assert!((pow(x, y) - x.powf(y)).abs() < 1e-13, "{x}^{y}");
        }
        assert_eq!((ln(1.0), pow(0.0, 2.0), pow(0.0, 0.0)), (0.0, 0.0, 1.0));
        assert_eq!((power(1.5, 3), power(9.0, 0), power(2.0, 100)), (3.375, 1.0, 2f64.powi(100)));
    }
}
