//! Float operations of every level this CPU has, against the scalar level and against f64; and the
//! promise that no element's bits depend on what is computed beside it.

use teff_kernels::{Activation, KernelTable, Level, RopePairing, float};

/// Every level of this CPU.
fn tables() -> Vec<&'static KernelTable> {
    let mut tables: Vec<_> = Level::ALL.into_iter().map(KernelTable::at_most).collect();
    tables.dedup_by_key(|table| table.level());
    tables
}

/// `n` numbers in -1..1, another sequence per `seed`.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn halves(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn assert_near(got: &[f32], want: &[f32], bound: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = bound * want.abs().max(1.0);
        assert!((got - want).abs() <= allowed, "{what}: element {i} is {got}, not {want}");
    }
}

/// Lengths around whole registers, and long ones.
const LENGTHS: [usize; 9] = [1, 2, 7, 8, 9, 24, 31, 64, 576];

const ACTIVATIONS: [Activation; 8] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluErf,
    Activation::GeluQuick,
    Activation::Relu,
    Activation::ReluSqr,
    Activation::Tanh,
    Activation::Sigmoid,
];

#[test]
fn norms_are_near_scalar() {
    for table in tables() {
        let ops = table.float();
        for n in LENGTHS {
            let (x, weight, bias) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            for weight in [None, Some(&weight[..])] {
                let (mut got, mut want) = (vec![9.0; n], vec![0.0; n]);
                (ops.rms_norm)(&x, weight, 1e-5, &mut got);
                float::rms_norm(&x, weight, 1e-5, &mut want);
                assert_near(&got, &want, 1e-6, "rms_norm");
                for bias in [None, Some(&bias[..])] {
                    (ops.layer_norm)(&x, weight, bias, 1e-2, &mut got);
                    float::layer_norm(&x, weight, bias, 1e-2, &mut want);
                    assert_near(&got, &want, 1e-5, "layer_norm");
                }
            }
        }
    }
}

#[test]
fn activations_are_near_scalar_and_cut_anywhere() {
    for table in tables() {
        let ops = table.float();
        for f in ACTIVATIONS {
            let mut x: Vec<f32> = numbers(203, 4).iter().map(|x| x * 12.0).collect();
            x.extend([0.0, -0.0, 88.0, -88.0, 104.0, -104.0, 1e30, -1e30, 1e-30]);
            let (mut got, mut want) = (x.clone(), x.clone());
            (ops.act)(f, &mut got);
            float::act(f, &mut want);
            let finite = |x: &[f32]| x.iter().map(|x| x.clamp(-1e36, 1e36)).collect::<Vec<_>>();
            assert_near(&finite(&got), &finite(&want), 1e-6, &format!("{f:?}"));

            let up = numbers(x.len(), 5);
            let mut gated = vec![0.0; x.len()];
            (ops.glu)(f, &x, &up, &mut gated);
            for cut in [1, 3, 8, 13, 100] {
                let (mut a, mut b) = (vec![0.0; cut], vec![0.0; x.len() - cut]);
                (ops.glu)(f, &x[..cut], &up[..cut], &mut a);
                (ops.glu)(f, &x[cut..], &up[cut..], &mut b);
                assert_eq!(bits(&gated), bits(&[a, b].concat()), "{f:?} cut at {cut}");
            }
            let mut nan = [1.0, f32::NAN, 2.0];
            (ops.act)(f, &mut nan);
            assert!(nan[1].is_nan() && !nan[0].is_nan() && !nan[2].is_nan(), "{f:?} of NaN");
        }
    }
}

/// `exp` by way of `exp_sum`: within 2 ulp of f64 over the whole range, subnormals included.
#[test]
fn exp_is_within_two_ulp() {
    for table in tables() {
        let ops = table.float();
        for i in 0..40_000 {
            let x = -104.0 + 192.0 * (i as f32 + 0.37) / 40_000.0;
            let mut y = [x];
            let sum = (ops.exp_sum)(&mut y, 0.0);
            let want = f64::from(x).exp();
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - want as f32 as f64;
            let error = (f64::from(y[0]) - want).abs() / ulp;
            assert!(error <= 2.0, "exp({x}) is {}, {error} ulp from {want}", y[0]);
            assert_eq!(sum.to_bits(), y[0].to_bits());
        }
        let mut ends = [f32::NEG_INFINITY, -200.0, 100.0, f32::INFINITY, f32::NAN, 0.0];
        (ops.exp_sum)(&mut ends, 0.0);
        assert_eq!(ends[..4], [0.0, 0.0, f32::INFINITY, f32::INFINITY], "{}", table.level());
        assert!(ends[4].is_nan() && ends[5] == 1.0);
    }
}

#[test]
fn softmax_and_its_parts_are_near_scalar() {
    for table in tables() {
        let ops = table.float();
        for n in LENGTHS {
            let mut x: Vec<f32> = numbers(n, 6).iter().map(|x| x * 20.0).collect();
            if n > 4 {
                (x[1], x[3]) = (f32::NEG_INFINITY, 19.0);
            }
            assert_eq!((ops.max)(&x), float::max(&x));
            let max = float::max(&x);
            let (mut got, mut want) = (x.clone(), x.clone());
            let sums = [(ops.exp_sum)(&mut got, max), float::exp_sum(&mut want, max)];
            assert_near(&got, &want, 1e-6, "exp_sum's elements");
            assert_near(&sums[..1], &sums[1..], 1e-6, "exp_sum");
            let (mut got, mut want) = (x.clone(), x.clone());
            (ops.softmax)(&mut got);
            float::softmax(&mut want);
            assert_near(&got, &want, 1e-6, "softmax");
        }
        assert_eq!((ops.max)(&[]), f32::NEG_INFINITY);
        assert_eq!((ops.max)(&[1.0, f32::NAN, 0.5, -3.0]), 1.0);
    }
}

#[test]
fn linear_operations_are_near_scalar() {
    for table in tables() {
        let ops = table.float();
        for n in LENGTHS {
            let (x, y) = (numbers(n, 7), numbers(n, 8));
            let both = |f: &dyn Fn(&mut [f32]), g: &dyn Fn(&mut [f32]), what: &str| {
                let (mut got, mut want) = (y.clone(), y.clone());
                f(&mut got);
                g(&mut want);
                assert_near(&got, &want, 1e-6, what);
            };
            both(&|y| (ops.add)(y, &x), &|y| float::add(y, &x), "add");
            both(&|y| (ops.scale)(y, 1.7), &|y| float::scale(y, 1.7), "scale");
            both(
                &|y| (ops.add_scaled)(y, &x, 0.3),
                &|y| float::add_scaled(y, &x, 0.3),
                "add_scaled",
            );
            let dots = [(ops.dot)(&x, &y), float::dot(&x, &y)];
            assert_near(&dots[..1], &dots[1..], 1e-5, "dot");
        }
    }
}

#[test]
fn rope_is_near_scalar() {
    for table in tables() {
        let ops = table.float();
        for pairing in [RopePairing::Norm, RopePairing::Neox] {
            for pairs in [1, 3, 4, 8, 9, 32, 64] {
                let angles: Vec<f32> = numbers(pairs, 9).iter().map(|x| x * 100.0).collect();
                let cos: Vec<f32> = angles.iter().map(|x| x.cos()).collect();
                let sin: Vec<f32> = angles.iter().map(|x| x.sin()).collect();
                // Five dimensions behind the rotated ones stay as they are.
                let x = numbers(2 * pairs + 5, 10);
                let (mut got, mut want) = (x.clone(), x.clone());
                (ops.rope)(&mut got, &cos, &sin, pairing);
                float::rope(&mut want, &cos, &sin, pairing);
                assert_near(&got, &want, 1e-6, &format!("rope {pairing:?} {pairs}"));
                assert_eq!(bits(&got[2 * pairs..]), bits(&x[2 * pairs..]));
            }
        }
    }
}

#[test]
fn attention_is_near_scalar_whatever_the_batch() {
    for table in tables() {
        let ops = table.float();
        for dim in [1, 8, 30, 64, 80, 96, 300] {
            for (n_q, n_keys) in [(1, 1), (1, 13), (2, 4), (3, 5), (4, 33), (9, 7)] {
                let (q, k) = (numbers(n_q * dim, 11), numbers(n_keys * dim, 12));
                let k_half = halves(&k);
                let what = format!("dim {dim}, {n_q} queries, {n_keys} keys");
                let (mut got, mut want) = (vec![9.0; n_q * n_keys], vec![0.0; n_q * n_keys]);

                (ops.scores_f16)(&q, &k_half, dim, 0.125, &mut got);
                float::scores_f16(&q, &k_half, dim, 0.125, &mut want);
                assert_near(&got, &want, 1e-5, &what);
                (ops.scores_f32)(&q, &k, dim, 0.125, &mut got);
                float::scores_f32(&q, &k, dim, 0.125, &mut want);
                assert_near(&got, &want, 1e-5, &what);
                for (i, got) in got.iter().enumerate() {
                    let (q, k) = (&q[i / n_keys * dim..][..dim], &k[i % n_keys * dim..][..dim]);
                    let mut alone = [0.0];
                    (ops.scores_f32)(q, k, dim, 0.125, &mut alone);
                    assert_eq!(got.to_bits(), alone[0].to_bits(), "{what}: score {i}");
                }

                let (p, acc) = (numbers(n_q * n_keys, 13), numbers(n_q * dim, 14));
                let (mut got, mut want) = (acc.clone(), acc.clone());
                (ops.weighted_sum_f16)(&p, &k_half, dim, &mut got);
                float::weighted_sum_f16(&p, &k_half, dim, &mut want);
                assert_near(&got, &want, 1e-5, &what);
                let (mut got, mut want) = (acc.clone(), acc.clone());
                (ops.weighted_sum_f32)(&p, &k, dim, &mut got);
                float::weighted_sum_f32(&p, &k, dim, &mut want);
                assert_near(&got, &want, 1e-5, &what);
                for (i, got) in got.chunks_exact(dim).enumerate() {
                    // One query alone, its keys in two calls.
                    let mut alone = acc[i * dim..][..dim].to_vec();
                    let (p, cut) = (&p[i * n_keys..][..n_keys], n_keys / 2);
                    (ops.weighted_sum_f32)(&p[..cut], &k[..cut * dim], dim, &mut alone);
                    (ops.weighted_sum_f32)(&p[cut..], &k[cut * dim..], dim, &mut alone);
                    assert_eq!(bits(got), bits(&alone), "{what}: query {i}");
                }
            }
        }
    }
}

#[test]
fn halves_convert_exactly() {
    for table in tables() {
        let ops = table.float();
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0.0; all.len()];
        (ops.f16_to_f32)(&all, &mut wide);
        let mut back = vec![0; all.len()];
        (ops.f32_to_f16)(&wide, &mut back);
        for (&h, (wide, back)) in all.iter().zip(wide.iter().zip(&back)) {
            let want = half::f16::from_bits(h);
            assert!(want.is_nan() && wide.is_nan() || wide.to_bits() == want.to_f32().to_bits());
            assert!(want.is_nan() || *back == h, "{h:#x}");
        }
        let x: Vec<f32> = numbers(1003, 15).iter().map(|x| x * 70_000.0).collect();
        let (mut got, mut want) = (vec![0; x.len()], vec![0; x.len()]);
        (ops.f32_to_f16)(&x, &mut got);
        float::f32_to_f16(&x, &mut want);
        assert_eq!(got, want);
    }
}
