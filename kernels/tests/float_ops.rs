//! Float operations: against f64, against their stated order, at the edges.

use gguf_rs_lite::GgmlType;
use proptest::collection::vec;
use proptest::prelude::*;
use teff_kernels::float::{self, Activation, RopePairing};
use teff_kernels::{KernelTable, Level};

/// Unit roundoff of f32.
const EPS: f64 = 1.0 / (1 << 24) as f64;

/// Lengths on both sides of the groups of eight.
const LENGTHS: std::ops::Range<usize> = 0..70;

fn floats(n: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(-3f32..3.0, n)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn assert_close(got: f32, expected: f64, relative: f64, absolute: f64, what: &str) {
    let error = (f64::from(got) - expected).abs();
    assert!(error <= relative * expected.abs() + absolute, "{what}: {got:e}, not {expected:e}");
}

/// `erf` by its series of positive terms, `2 / sqrt(pi) exp(-x^2) sum(2^n x^(2n+1) / (2n+1)!!)`.
fn erf_f64(x: f64) -> f64 {
    let (mut term, mut sum) = (x, 0.0);
    for n in 0..300 {
        sum += term;
        term *= 2.0 * x * x / (2 * n + 3) as f64;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn activation_f64(f: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match f {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf_f64(x / 2f64.sqrt())),
        Activation::GeluQuick => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ReluSqr => x.max(0.0).powi(2),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Softplus => x.exp().ln_1p(),
    }
}

#[test]
fn every_half_converts_exactly_and_back() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let mut singles = vec![0.0; halves.len()];
    float::f16_to_f32(&halves, &mut singles);
    let mut back = vec![0; halves.len()];
    float::f32_to_f16(&singles, &mut back);
    for (i, &single) in singles.iter().enumerate() {
        let expected = half::f16::from_bits(halves[i]);
        if expected.is_nan() {
            assert!(single.is_nan() && half::f16::from_bits(back[i]).is_nan(), "{i:04x}");
        } else {
            assert_eq!(single.to_bits(), expected.to_f32().to_bits(), "{i:04x}");
            assert_eq!(back[i], halves[i]);
        }
    }
}

#[test]
fn halves_round_to_even_and_overflow_to_infinity() {
    let ulp = 1.0 / 1024.0;
    let x = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, 65519.9, 65520.0, -1e30, 2f32.powi(-25), 3e-8];
    let mut got = [0; 7];
    float::f32_to_f16(&x, &mut got);
    assert_eq!(got, [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0xfc00, 0, 1]);
}

#[test]
fn erf_is_within_a_few_ulp() {
    let mut worst = 0.0f64;
    for i in -50_000..=50_000 {
        let x = i as f32 * 1e-4;
        let expected = erf_f64(f64::from(x));
        let ulp = 2.0 * EPS * 2f64.powf(expected.abs().log2().floor());
        if expected != 0.0 {
            worst = worst.max((f64::from(float::erf(x)) - expected).abs() / ulp);
        }
    }
    println!("erf: {worst:.2} ulp");
    assert!(worst <= 2.0, "{worst} ulp");
    assert_eq!([4.0, 1e10, f32::INFINITY].map(float::erf), [1.0; 3]);
    assert_eq!(float::erf(f32::NEG_INFINITY), -1.0);
    assert_eq!(float::erf(-0.0), 0.0);
    assert!(float::erf(f32::NAN).is_nan());
}

#[test]
fn activations_agree_with_f64() {
    for f in Activation::ALL {
        for i in -2000..=2000 {
            let x = i as f32 * 0.01;
            let mut got = [x];
            float::act(f, &mut got);
            // 1 + erf and 1 + tanh cancel for negative x: absolute to x there.
            let absolute = match f {
                Activation::Gelu | Activation::GeluErf => 4.0 * EPS * f64::from(x).abs(),
                _ => 1e-37,
            };
            // An exponent of 34 in f32 costs 34 EPS of relative error.
            let relative = (6.0 + 2.0 * f64::from(x).abs()) * EPS;
            let expected = activation_f64(f, f64::from(x));
            assert_close(got[0], expected, relative, absolute, &format!("{f:?}({x})"));
        }
    }
}

#[test]
fn activations_end_well() {
    for f in Activation::ALL {
        let mut x = [1e4, -1e4, f32::NAN, 0.0];
        float::act(f, &mut x);
        let high = match f {
            Activation::Tanh | Activation::Sigmoid => 1.0,
            Activation::ReluSqr => 1e8,
            _ => 1e4,
        };
        assert_eq!(x[0], high, "{f:?}");
        let low = if f == Activation::Tanh { -1.0 } else { 0.0 };
        assert_eq!(x[1].abs(), f32::abs(low), "{f:?}");
        assert!(x[2].is_nan(), "{f:?}");
        let at_zero = match f {
            Activation::Sigmoid => 0.5,
            Activation::Softplus => std::f32::consts::LN_2,
            _ => 0.0,
        };
        assert_eq!(x[3], at_zero, "{f:?}");
    }
}

#[test]
fn norms_of_edges() {
    let mut out = [9.0; 3];
    float::rms_norm(&[0.0; 3], None, 1e-6, &mut out);
    assert_eq!(out, [0.0; 3]);
    float::layer_norm(&[5.0; 3], None, Some(&[1.0, 2.0, 3.0]), 1e-6, &mut out);
    assert_eq!(out, [1.0, 2.0, 3.0]);
    float::rms_norm(&[f32::NAN, 1.0, f32::INFINITY], None, 1e-6, &mut out);
    float::rms_norm(&[], None, 1e-6, &mut []);
}

#[test]
fn rope_pairs_and_turns() {
    let (cos, sin) = ([0.0, -1.0], [1.0, 0.0]);
    let x = [1.0, 2.0, 3.0, 4.0, 5.0];
    let mut norm = x;
    float::rope(&mut norm, &cos, &sin, RopePairing::Norm);
    assert_eq!(norm, [-2.0, 1.0, -3.0, -4.0, 5.0]);
    let mut neox = x;
    float::rope(&mut neox, &cos, &sin, RopePairing::Neox);
    assert_eq!(neox, [-3.0, -2.0, 1.0, -4.0, 5.0]);
}

#[test]
fn softmax_of_edges() {
    let mut one = [1e30];
    float::softmax(&mut one);
    assert_eq!(one, [1.0]);
    let mut masked = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY, 3.0];
    float::softmax(&mut masked);
    assert_eq!(masked, [0.0, 0.5, 0.0, 0.5]);
    let mut all_masked = [f32::NEG_INFINITY; 9];
    float::softmax(&mut all_masked);
    assert!(all_masked.iter().all(|x| x.is_nan()));
    float::softmax(&mut []);
    float::softmax(&mut [f32::NAN; 9]);
    assert_eq!(float::max(&[]), f32::NEG_INFINITY);
    assert_eq!(float::max(&[f32::NAN, -1.0, f32::NAN]), -1.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_have_the_stated_order(n in LENGTHS, a in floats(70), b in floats(70)) {
        let mut l = [0f32; 8];
        for i in 0..n {
            l[i % 8] = a[i].mul_add(b[i], l[i % 8]);
        }
        let expected = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
        prop_assert_eq!(float::dot(&a[..n], &b[..n]).to_bits(), expected.to_bits());
    }

    #[test]
    fn norms_agree_with_f64(n in 1..70usize, x in floats(70), w in floats(70), b in floats(70)) {
        let (x, w, b) = (&x[..n], &w[..n], &b[..n]);
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / n as f64
        };
        let mut rms = vec![0.0; n];
        float::rms_norm(x, Some(w), 1e-5, &mut rms);
        let factor = 1.0 / (mean_of(&|x| x * x) + 1e-5).sqrt();
        for i in 0..n {
            let expected = f64::from(x[i]) * factor * f64::from(w[i]);
            assert_close(rms[i], expected, 80.0 * EPS, 1e-30, "rms_norm");
        }
        let mut layer = vec![0.0; n];
        float::layer_norm(x, Some(w), Some(b), 1e-2, &mut layer);
        let mean = mean_of(&|x| x);
        let factor = 1.0 / (mean_of(&|x| (x - mean) * (x - mean)) + 1e-2).sqrt();
        for i in 0..n {
            let expected = (f64::from(x[i]) - mean) * factor * f64::from(w[i]) + f64::from(b[i]);
            assert_close(layer[i], expected, 80.0 * EPS, 3e4 * EPS, "layer_norm");
        }
    }

    #[test]
    fn linear_operations(n in LENGTHS, y in floats(70), x in floats(70), f in -2f32..2.0) {
        let (y, x) = (&y[..n], &x[..n]);
        let mut added = y.to_vec();
        float::add(&mut added, x);
        let mut scaled = y.to_vec();
        float::scale(&mut scaled, f);
        let mut both = y.to_vec();
        float::add_scaled(&mut both, x, f);
        for i in 0..n {
            prop_assert_eq!(added[i], y[i] + x[i]);
            prop_assert_eq!(scaled[i], y[i] * f);
            let exact = f64::from(y[i]) + f64::from(x[i]) * f64::from(f);
            assert_close(both[i], exact, EPS, 16.0 * EPS, "add_scaled");
        }
    }

    #[test]
    fn glu_is_activation_times_up(gate in floats(13), up in floats(13)) {
        for f in Activation::ALL {
            let mut activated = gate.clone();
            float::act(f, &mut activated);
            let mut out = [0.0; 13];
            float::glu(f, &gate, &up, &mut out);
            for i in 0..13 {
                prop_assert_eq!(out[i], activated[i] * up[i]);
            }
        }
    }

    #[test]
    fn rope_keeps_lengths_and_leaves_the_rest(x in floats(24), angles in floats(8)) {
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        for pairing in [RopePairing::Norm, RopePairing::Neox] {
            let mut turned = x.clone();
            float::rope(&mut turned, &cos, &sin, pairing);
            prop_assert_eq!(&turned[16..], &x[16..]);
            for i in 0..8 {
                let (a, b) = match pairing {
                    RopePairing::Norm => (2 * i, 2 * i + 1),
                    RopePairing::Neox => (i, i + 8),
                };
                prop_assert!((turned[a].hypot(turned[b]) - x[a].hypot(x[b])).abs() < 1e-5);
            }
            let back: Vec<f32> = sin.iter().map(|s| -s).collect();
            float::rope(&mut turned, &cos, &back, pairing);
            for (got, expected) in turned.iter().zip(&x) {
                prop_assert!((got - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn softmax_is_a_distribution_and_shifts(n in 1..70usize, x in floats(70), shift in -50f32..50.0) {
        let mut p = x[..n].to_vec();
        float::softmax(&mut p);
        let total: f64 = p.iter().map(|&p| f64::from(p)).sum();
        prop_assert!((total - 1.0).abs() < 1e-6);
        let denominator: f64 = x[..n].iter().map(|&x| f64::from(x).exp()).sum();
        let mut shifted: Vec<f32> = x[..n].iter().map(|x| x + shift).collect();
        float::softmax(&mut shifted);
        for i in 0..n {
            assert_close(p[i], f64::from(x[i]).exp() / denominator, 40.0 * EPS, 0.0, "softmax");
            prop_assert!((shifted[i] - p[i]).abs() <= 2e-5 * p[i]);
        }
        let mut e = x[..n].to_vec();
        let largest = float::max(&e);
        prop_assert_eq!(largest, x[..n].iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum = float::exp_sum(&mut e, largest);
        assert_close(sum, e.iter().map(|&e| f64::from(e)).sum(), 20.0 * EPS, 0.0, "exp_sum");
        let distances = x[..n].iter().map(|&x| f64::from(x - largest));
        let product = e.iter().zip(distances).map(|(&e, d)| f64::from(e) * d).sum();
        let moments = float::exp_moments(&x[..n], largest);
        assert_close(moments[0], sum.into(), 0.0, 1e-36, "exp_moments");
        assert_close(moments[1], product, 40.0 * EPS, 0.0, "exp_moments");
    }

    #[test]
    fn products_of_attention_are_chains(
        n in 0..5usize,
        k in 0..20usize,
        cols in prop_oneof![1..20usize, Just(64usize)],
        a in floats(5 * 20),
        b in vec(any::<u16>().prop_map(|x| (x % 0x4400) | (x & 0x8000)), 20 * 64),
        c in floats(5 * 64),
    ) {
        let (a, b, c) = (&a[..n * k], &b[..k * cols], &c[..n * cols]);
        let mut singles = vec![0.0; b.len()];
        float::f16_to_f32(b, &mut singles);
        let (mut from_halves, mut from_singles) = (c.to_vec(), c.to_vec());
        float::add_product_f16(n, (a, k), b, cols, (&mut from_halves, cols));
        float::add_product_f32(n, (a, k), &singles, cols, (&mut from_singles, cols));
        prop_assert_eq!(bits(&from_halves), bits(&from_singles));
        let mut chains = c.to_vec();
        for i in 0..n {
            for k_at in 0..k {
                let row = &singles[k_at * cols..][..cols];
                float::add_scaled(&mut chains[i * cols..][..cols], row, a[i * k + k_at]);
            }
        }
        prop_assert_eq!(bits(&chains), bits(&from_singles));
    }

    #[test]
    fn soft_cap_is_a_scaled_tanh(x in floats(16), cap in 1f32..100.0) {
        let mut capped = x.clone();
        float::soft_cap(&mut capped, cap);
        for (got, &x) in capped.iter().zip(&x) {
            let expected = f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh();
            prop_assert!((f64::from(*got) - expected).abs() <= 3e-7 * f64::from(cap));
        }
    }

    #[test]
    fn hadamard_undoes_itself_and_keeps_products(
        n in prop_oneof![1..70usize, Just(128usize)],
        x in floats(128),
        y in floats(128),
    ) {
        let (x, y) = (&x[..n], &y[..n]);
        let (mut hx, mut hy) = (x.to_vec(), y.to_vec());
        float::hadamard(&mut hx);
        float::hadamard(&mut hy);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let size = (dot(x, x) * dot(y, y)).sqrt();
        prop_assert!((dot(x, y) - dot(&hx, &hy)).abs() <= 1e-5 * size);
        float::hadamard(&mut hx);
        for (got, expected) in hx.iter().zip(x) {
            prop_assert!((got - expected).abs() <= 1e-5 * dot(x, x).sqrt() as f32);
        }
    }
}

/// An outlier of one dimension becomes the same magnitude in all.
#[test]
fn hadamard_spreads_outliers() {
    let mut x = [0.0; 64];
    x[17] = 8.0;
    float::hadamard(&mut x);
    assert!(x.iter().all(|x| x.abs() == 1.0));
    // Of 80 dimensions, blocks of 16.
    let mut x = [0.0; 80];
    x[20] = 4.0;
    float::hadamard(&mut x);
    assert!(x.iter().enumerate().all(|(i, x)| x.abs() == f32::from((16..32).contains(&i))));
}

#[test]
fn keys_in_lanes_are_values_in_rows() {
    let table = KernelTable::at_most(Level::Scalar);
    for dim in [32, 64, 80, 96] {
        let (n, blocks) = (4, usize::div_ceil(dim, 32));
        let x: Vec<f32> = (0..n * blocks * 32).map(|i| (i as f32 * 0.7).sin()).collect();
        for (ty, bytes) in [(GgmlType::Q8_0, 32), (GgmlType::Q4_0, 16)] {
            let kernels = table.types(ty).unwrap();
            let mut quantized = vec![0; n * blocks * (2 + bytes)];
            kernels.quantize(&x, None, &mut quantized).unwrap();
            let mut expected = vec![0.0; x.len()];
            kernels.dequantize(&quantized, &mut expected);
            // The same blocks as rows and as lanes.
            let (mut codes, mut scales) = (vec![], vec![]);
            for block in quantized.chunks_exact(2 + bytes) {
                scales.push(u16::from_le_bytes([block[0], block[1]]));
                codes.extend_from_slice(&block[2..]);
            }
            let transposed = |i: usize, width: usize| i % n * width + i / n;
            let lane_codes: Vec<u8> =
                (0..codes.len()).map(|i| codes[transposed(i, blocks * bytes)]).collect();
            let lane_scales: Vec<u16> =
                (0..scales.len()).map(|i| scales[transposed(i, blocks)]).collect();
            let (mut rows, mut lanes) = (vec![0.0; n * dim], vec![0.0; n * dim]);
            if ty == GgmlType::Q8_0 {
                float::widen_rows_q8_0(&codes, &scales, dim, &mut rows);
                float::widen_lanes_q8_0(&lane_codes, &lane_scales, n, &mut lanes);
            } else {
                float::widen_rows_q4_0(&codes, &scales, dim, &mut rows);
                float::widen_lanes_q4_0(&lane_codes, &lane_scales, n, &mut lanes);
            }
            for r in 0..n {
                for i in 0..dim {
                    let expected = expected[r * blocks * 32 + i];
                    assert_eq!(rows[r * dim + i], expected, "{ty} {dim}");
                    assert_eq!(lanes[i * n + r], expected, "{ty} {dim}");
                }
            }
        }
    }
}
