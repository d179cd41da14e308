//! Float operations of every level this CPU has, bit for bit against the scalar level, and the
//! promise that no element's bits depend on what is computed beside it. How near the scalar level
//! is to the truth is the business of `float_ops.rs`.

mod common;

use common::{Random, tables};
use gguf_rs_lite::GgmlType;
use teff_kernels::{
    ActFormat, Activation, Acts, Ahead, KernelTable, Level, RopePairing, Scratch, float,
};

impl Random {
    fn numbers(&mut self, n: usize, kind: Kind) -> Vec<f32> {
        let number = |random: &mut Random| match kind {
            Kind::Tame => 4.0 * random.float(),
            Kind::Tiny => 1e-22 * random.float(),
            Kind::Signs => ODD[(random.next() >> 32) as usize % 2],
            Kind::Odd if random.next() >> 62 == 0 => {
                ODD[(random.next() >> 32) as usize % ODD.len()]
            }
            Kind::Odd => 100.0 * random.float(),
            Kind::Any => f32::from_bits((random.next() >> 32) as u32),
        };
        (0..n).map(|_| number(self)).collect()
    }
}

/// What numbers are drawn.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// In -4..4.
    Tame,
    /// Products of two are subnormal or underflow to either zero.
    Tiny,
    /// 0 and -0.
    Signs,
    /// A quarter of [`ODD`], the others in -100..100.
    Odd,
    /// Random bits: any exponent, NaN and infinity.
    Any,
}

const KINDS: [Kind; 5] = [Kind::Tame, Kind::Tiny, Kind::Signs, Kind::Odd, Kind::Any];

const ODD: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    -1e-39,
    f32::MAX,
    f32::MIN,
    88.73,
    -87.5,
    -103.9,
    1e19,
    f32::EPSILON,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// On both sides of whole groups, and long ones.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=70).chain([96, 203, 576, 1023])
}

fn halves(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect()
}

/// All NaN alike.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(bits(*got) == bits(*want), "{what}: element {i} is {got:e}, not {want:e}");
    }
}

/// Runs both on copies of `y`.
fn compare(y: &[f32], got: impl Fn(&mut [f32]), want: impl Fn(&mut [f32]), what: &str) {
    let (mut a, mut b) = (y.to_vec(), y.to_vec());
    got(&mut a);
    want(&mut b);
    assert_same(&a, &b, what);
}

/// For every level, kind and length.
fn for_all(f: impl Fn(&KernelTable, &mut dyn FnMut() -> Vec<f32>, usize, &str)) {
    for table in tables() {
        let mut random = Random(1);
        for kind in KINDS {
            for n in lengths() {
                let what = format!("{}, {n} {kind:?}", table.level());
                f(table, &mut || random.numbers(n, kind), n, &what);
            }
        }
    }
}

#[test]
fn norms_equal_scalar() {
    for_all(|table, numbers, n, what| {
        let ops = table.float();
        let (x, weight, bias) = (numbers(), numbers(), numbers());
        let out = vec![9.0; n];
        for weight in [None, Some(&weight[..])] {
            for eps in [0.0, 1e-5] {
                let got = |y: &mut [f32]| (ops.rms_norm)(&x, weight, eps, y);
                compare(&out, got, |y| float::rms_norm(&x, weight, eps, y), what);
            }
            for bias in [None, Some(&bias[..])] {
                let got = |y: &mut [f32]| (ops.layer_norm)(&x, weight, bias, 1e-5, y);
                compare(&out, got, |y| float::layer_norm(&x, weight, bias, 1e-5, y), what);
            }
        }
    });
}

#[test]
fn activations_equal_scalar() {
    for_all(|table, numbers, n, what| {
        let ops = table.float();
        let (x, up) = (numbers(), numbers());
        for f in Activation::ALL {
            let what = &format!("{f:?}, {what}");
            compare(&x, |x| (ops.act)(f, x), |x| float::act(f, x), what);
            let out = vec![9.0; n];
            let got = |y: &mut [f32]| (ops.glu)(f, &x, &up, y);
            compare(&out, got, |y| float::glu(f, &x, &up, y), what);
        }
    });
}

/// A million floats from all over, NaN included.
#[test]
fn exp_and_activations_equal_scalar_everywhere() {
    const STRIDE: usize = 4099;
    let x: Vec<f32> = (0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).collect();
    for table in tables() {
        let ops = table.float();
        compare(&x, |x| _ = (ops.exp_sum)(x, 0.0), |x| _ = float::exp_sum(x, 0.0), "exp");
        // Whole groups, in which each lane has one number and a weight of zero.
        for x in x.iter().step_by(16) {
            let x: [f32; 16] = std::array::from_fn(|i| [*x, -200.0][i % 2]);
            let moments = (ops.exp_moments)(&x, 0.0);
            assert_same(&moments, &float::exp_moments(&x, 0.0), "exp_moments");
        }
        for f in Activation::ALL {
            compare(&x, |x| (ops.act)(f, x), |x| float::act(f, x), &format!("{f:?}"));
        }
    }
}

#[test]
fn activations_cut_anywhere() {
    for table in tables() {
        let (ops, mut random) = (table.float(), Random(2));
        let (x, up) = (random.numbers(203, Kind::Odd), random.numbers(203, Kind::Tame));
        for f in Activation::ALL {
            let mut gated = vec![0.0; x.len()];
            (ops.glu)(f, &x, &up, &mut gated);
            for cut in [1, 3, 8, 13, 100] {
                let (mut a, mut b) = (vec![0.0; cut], vec![0.0; x.len() - cut]);
                (ops.glu)(f, &x[..cut], &up[..cut], &mut a);
                (ops.glu)(f, &x[cut..], &up[cut..], &mut b);
                assert_same(&[a, b].concat(), &gated, &format!("{f:?} cut at {cut}"));
            }
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
fn softmax_and_its_parts_equal_scalar() {
    for_all(|table, numbers, _, what| {
        let (ops, x) = (table.float(), numbers());
        let max = float::max(&x);
        assert_same(&[(ops.max)(&x)], &[max], what);
        for max in [max, 0.0, 3.7] {
            let (mut got, mut want) = (x.clone(), x.clone());
            let sums = [(ops.exp_sum)(&mut got, max), float::exp_sum(&mut want, max)];
            assert_same(&got, &want, what);
            assert_same(&sums[..1], &sums[1..], what);
            let moments = (ops.exp_moments)(&x, max);
            assert_same(&moments, &float::exp_moments(&x, max), what);
        }
        compare(&x, ops.softmax, float::softmax, what);
    });
    for table in tables() {
        assert_eq!((table.float().max)(&[]), f32::NEG_INFINITY);
        assert_eq!((table.float().max)(&[1.0, f32::NAN, 0.5, -3.0]), 1.0);
    }
}

#[test]
fn linear_operations_equal_scalar() {
    for_all(|table, numbers, _, what| {
        let ops = table.float();
        let (x, y, f) = (numbers(), numbers(), numbers().first().copied().unwrap_or(0.3));
        compare(&y, |y| (ops.add)(y, &x), |y| float::add(y, &x), what);
        compare(&y, |y| (ops.scale)(y, f), |y| float::scale(y, f), what);
        let got = |y: &mut [f32]| (ops.add_scaled)(y, &x, f);
        compare(&y, got, |y| float::add_scaled(y, &x, f), what);
        assert_same(&[(ops.dot)(&x, &y)], &[float::dot(&x, &y)], what);
    });
    // Every product underflows to -0, which a zero added behind the end would turn into 0.
    for table in tables() {
        for n in 0..=17 {
            let (x, y) = (vec![1e-30; n], vec![-1e-30; n]);
            assert_same(&[(table.float().dot)(&x, &y)], &[float::dot(&x, &y)], &format!("{n}"));
        }
    }
}

#[test]
fn rope_equals_scalar() {
    for_all(|table, numbers, pairs, what| {
        let rope = table.float().rope;
        let (cos, sin) = (numbers(), numbers());
        // Five dimensions behind the rotated ones stay as they are.
        let x = [numbers(), numbers(), vec![7.0; 5]].concat();
        for pairing in [RopePairing::Norm, RopePairing::Neox] {
            let what = &format!("{pairing:?}, {what}");
            let want = |x: &mut [f32]| float::rope(x, &cos, &sin, pairing);
            compare(&x, |x| rope(x, &cos, &sin, pairing), want, what);
            let mut turned = x.clone();
            rope(&mut turned, &cos, &sin, pairing);
            assert_eq!(turned[2 * pairs..], [7.0; 5], "{what}");
        }
    });
}

#[test]
fn products_of_attention_equal_scalar_whatever_the_batch() {
    for table in tables() {
        let mut random = Random(3);
        for k in (1..=40).chain([64, 70, 80, 96, 128, 256]) {
            for (i, (n, cols)) in [
                (1, 1),
                (1, 32),
                (2, 43),
                (3, 32),
                (4, 33),
                (5, 16),
                (6, 64),
                (9, 7),
                (13, 40),
                (0, 8),
            ]
            .into_iter()
            .enumerate()
            {
                let kind = KINDS[(k + i) % KINDS.len()];
                product_equals_scalar(table, &mut random, kind, n, k, cols);
            }
        }
    }
}

fn product_equals_scalar(
    table: &KernelTable,
    random: &mut Random,
    kind: Kind,
    n: usize,
    k: usize,
    cols: usize,
) {
    let ops = table.float();
    // Rows with something behind them, which stays as it is.
    let (a_stride, c_stride) = (k + 3, cols + 5);
    let a = random.numbers(n * a_stride, kind);
    let (b, c) = (random.numbers(k * cols, kind), random.numbers(n * c_stride, kind));
    let half = halves(&b);
    let what = &format!("{}: {kind:?} {n} by {k} by {cols}", table.level());
    let (rows, ahead) = ((&a[..], a_stride), Ahead::of(&a));
    let got = |y: &mut [f32]| (ops.add_product_f16)(n, rows, &half, cols, (y, c_stride), ahead);
    let want = |y: &mut [f32]| float::add_product_f16(n, rows, &half, cols, (y, c_stride));
    compare(&c, got, want, what);
    let got = |y: &mut [f32]| (ops.add_product_f32)(n, rows, &b, cols, (y, c_stride), ahead);
    let want = |y: &mut [f32]| float::add_product_f32(n, rows, &b, cols, (y, c_stride));
    compare(&c, got, want, what);
    let mut sums = c.clone();
    got(&mut sums);
    for i in 0..n {
        // One row alone, `k` in two calls.
        let mut alone = c[i * c_stride..][..cols].to_vec();
        let (a, cut) = (&a[i * a_stride..][..k], k / 2);
        for (a, b) in [(a, &b[..cut * cols]), (&a[cut..], &b[cut * cols..])] {
            (ops.add_product_f32)(1, (a, k), b, cols, (&mut alone, cols), Ahead::NONE);
        }
        assert_same(&alone, &sums[i * c_stride..][..cols], what);
        assert_same(&sums[i * c_stride + cols..][..5], &c[i * c_stride + cols..][..5], what);
    }
}

#[test]
fn soft_cap_equals_scalar() {
    for_all(|table, numbers, _, what| {
        let x = numbers();
        for cap in [30.0, 50.0, 1.0] {
            compare(&x, |x| (table.float().soft_cap)(x, cap), |x| float::soft_cap(x, cap), what);
        }
    });
}

#[test]
fn quantized_keys_and_values_equal_scalar() {
    for table in tables() {
        let (ops, mut random) = (table.float(), Random(5));
        for dim in (1..=70).chain([80, 96, 128, 256]) {
            for n in [1, 5, 8, 32] {
                let blocks = usize::div_ceil(dim, 32);
                let codes: Vec<u8> = (0..n * blocks * 32).map(|_| random.next() as u8).collect();
                let nibbles = &codes[..codes.len() / 2];
                let kind = KINDS[dim % KINDS.len()];
                let scales = halves(&random.numbers(n * blocks, kind));
                let what = &format!("{}: {kind:?} {n} of {dim}", table.level());
                let out = vec![9.0; n * dim];
                let got = |y: &mut [f32]| (ops.widen_lanes_q8_0)(&codes, &scales, n, y);
                compare(&out, got, |y| float::widen_lanes_q8_0(&codes, &scales, n, y), what);
                let got = |y: &mut [f32]| (ops.widen_lanes_q4_0)(nibbles, &scales, n, y);
                compare(&out, got, |y| float::widen_lanes_q4_0(nibbles, &scales, n, y), what);
                let got = |y: &mut [f32]| (ops.widen_rows_q8_0)(&codes, &scales, dim, y);
                compare(&out, got, |y| float::widen_rows_q8_0(&codes, &scales, dim, y), what);
                let got = |y: &mut [f32]| (ops.widen_rows_q4_0)(nibbles, &scales, dim, y);
                compare(&out, got, |y| float::widen_rows_q4_0(nibbles, &scales, dim, y), what);
            }
        }
    }
}

#[test]
fn hadamard_equals_scalar() {
    for_all(|table, numbers, n, what| {
        let x = numbers();
        if n > 0 {
            compare(&x, table.float().hadamard, float::hadamard, what);
        }
        let power = [x, numbers(), numbers(), numbers()].concat();
        for n in [8, 16, 32, 64, 128, 256] {
            if let Some(x) = power.get(..n) {
                compare(x, table.float().hadamard, float::hadamard, what);
            }
        }
    });
}

/// Matrices of float weights.
#[test]
fn products_of_float_weights_equal_scalar() {
    let scalar = KernelTable::at_most(Level::Scalar);
    for table in tables() {
        let mut random = Random(4);
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
            for (i, cols) in (1..=70).chain([96, 576, 1023]).enumerate() {
                let (rows, n) = (1 + i * 7 % 13, 1 + i * 5 % 9);
                for kind in KINDS {
                    let w = random.numbers(rows * cols, kind);
                    let mut bytes = vec![0; rows * cols * ty.block_bytes()];
                    scalar.types(ty).unwrap().quantize(&w, None, &mut bytes).unwrap();
                    let x = random.numbers(n * cols, kind);
                    let plan = table.plan(ActFormat::F32, cols, n);
                    let acts = Acts { plan: &plan, q: &[], d: &[], s: &[], x: &x };
                    let product = |table: &KernelTable, y: &mut [f32]| {
                        let kernels = table.types(ty).unwrap();
                        kernels.matmul(&bytes, rows, &acts, &mut Scratch::default(), y);
                    };
                    let what = &format!("{}: {ty} {rows}x{cols} by {n}, {kind:?}", table.level());
                    let out = vec![7.0; rows * n];
                    compare(&out, |y| product(table, y), |y| product(scalar, y), what);
                }
            }
        }
    }
}

#[test]
fn conversions_equal_scalar() {
    for_all(|table, numbers, n, what| {
        let (ops, x) = (table.float(), numbers());
        let (mut got, mut want) = (vec![9; n], vec![9; n]);
        (ops.f32_to_f16)(&x, &mut got);
        float::f32_to_f16(&x, &mut want);
        assert_eq!(got, want, "{what}");
        let got = |y: &mut [f32]| (ops.f16_to_f32)(&want, y);
        compare(&vec![9.0; n], got, |y| float::f16_to_f32(&want, y), what);
    });
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
    }
}
