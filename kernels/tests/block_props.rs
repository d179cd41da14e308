//! Properties of every block type, on random bits and random rows.

use gguf_rs_lite::GgmlType;
use proptest::collection::vec;
use proptest::prelude::*;
use teff_kernels::block::{
    self, Act32, Block, Block16, Block32, Block256, Float, Quantize, as_blocks, dequantize_row,
};

/// Unit roundoff of f32.
const EPS: f64 = 1.0 / (1 << 24) as f64;

/// Calls the generic test for each type of a family.
macro_rules! each {
    (32 $f:ident($($arg:expr),*)) => {
        $f::<block::BlockQ4_0>($($arg),*);
        $f::<block::BlockQ4_1>($($arg),*);
        $f::<block::BlockQ5_0>($($arg),*);
        $f::<block::BlockQ5_1>($($arg),*);
        $f::<block::BlockQ8_0>($($arg),*);
        $f::<block::BlockIQ4NL>($($arg),*);
        $f::<block::BlockMXFP4>($($arg),*);
    };
    (256 $f:ident($($arg:expr),*)) => {
        $f::<block::BlockQ2K>($($arg),*);
        $f::<block::BlockQ3K>($($arg),*);
        $f::<block::BlockQ4K>($($arg),*);
        $f::<block::BlockQ5K>($($arg),*);
        $f::<block::BlockQ6K>($($arg),*);
        $f::<block::BlockIQ4XS>($($arg),*);
        $f::<block::BlockTQ1_0>($($arg),*);
        $f::<block::BlockTQ2_0>($($arg),*);
    };
    (16 $f:ident($($arg:expr),*)) => {
        $f::<block::BlockQ1_0>($($arg),*);
        $f::<block::BlockQ2_0>($($arg),*);
        $f::<block::BlockNVFP4>($($arg),*);
    };
    (codebook $f:ident($($arg:expr),*)) => {
        $f::<block::BlockIQ1S>($($arg),*);
        $f::<block::BlockIQ1M>($($arg),*);
        $f::<block::BlockIQ2XXS>($($arg),*);
        $f::<block::BlockIQ2XS>($($arg),*);
        $f::<block::BlockIQ2S>($($arg),*);
        $f::<block::BlockIQ3XXS>($($arg),*);
        $f::<block::BlockIQ3S>($($arg),*);
    };
    (all $f:ident($($arg:expr),*)) => {
        each!(32 $f($($arg),*));
        each!(256 $f($($arg),*));
        each!(16 $f($($arg),*));
        $f::<block::F32>($($arg),*);
        $f::<block::F16>($($arg),*);
        $f::<block::Bf16>($($arg),*);
        $f::<block::BlockQ8_1>($($arg),*);
        $f::<block::BlockQ8K>($($arg),*);
    };
}

fn quantize<B: Quantize>(x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xa5; x.len() / B::LEN * size_of::<B>()];
    block::quantize_row::<B>(x, importance, &mut bytes);
    bytes
}

fn dequantize<B: Block>(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / size_of::<B>() * B::LEN];
    dequantize_row::<B>(bytes, &mut values);
    values
}

/// `n` whole blocks cut from random bytes.
fn cut<B: Block>(bytes: &[u8], n: usize) -> &[u8] {
    &bytes[..n * size_of::<B>()]
}

/// Activations of a row, from random codes and scales.
fn acts(q: &[i8], d: &[f32]) -> Vec<Act32> {
    q.as_chunks().0.iter().zip(d).map(|(&q, &d)| Act32::new(q, d)).collect()
}

#[test]
fn blocks_are_as_long_as_their_type_says() {
    fn check<B: Block>() {
        assert_eq!((B::LEN, size_of::<B>()), (B::TY.block_len(), B::TY.block_bytes()), "{}", B::TY);
    }
    each!(all check());
    each!(codebook check());
}

#[test]
#[should_panic(expected = "whole blocks of Q4_0")]
fn a_cut_block_is_a_broken_invariant() {
    as_blocks::<block::BlockQ4_0>(&[0; 35]);
}

#[test]
fn activation_blocks_carry_their_sums() {
    let x: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 30.0) / 7.0).collect();
    let bytes = quantize::<block::BlockQ8_1>(&x, None);
    for block in as_blocks::<block::BlockQ8_1>(&bytes) {
        let sum: i32 = block.qs.iter().map(|&q| i32::from(q)).sum();
        let expected = sum as f32 * block.d.to_f32();
        assert!((block.s.to_f32() - expected).abs() <= 2e-3 * expected.abs(), "{expected}");
    }
    let bytes = quantize::<block::BlockQ8K>(&x, None);
    let block = &as_blocks::<block::BlockQ8K>(&bytes)[0];
    for (codes, &sum) in block.qs.chunks(16).zip(&block.bsums) {
        assert_eq!(codes.iter().map(|&q| i16::from(q)).sum::<i16>(), i16::from_le_bytes(sum));
    }
    assert_eq!(block.qs.iter().min(), Some(&-127), "the extreme weight");
}

#[test]
fn bfloats_round_to_even() {
    let ulp = 1.0 / 128.0;
    let x = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, -1.0 - 0.6 * ulp, f32::MAX, f32::NAN];
    let got = x.map(|x| block::Bf16::from_f32(x).to_f32());
    assert_eq!(got[..4], [1.0, 1.0 + 2.0 * ulp, -1.0 - ulp, f32::INFINITY]);
    assert!(got[4].is_nan());
}

/// Whether a bound is no NaN or infinity and far above where f32 loses relative precision.
fn is_moderate(x: f64) -> bool {
    x == 0.0 || (1e-30..1e30).contains(&x)
}

fn unpack32_agrees<B: Block32>(bytes: &[u8]) {
    let bytes = cut::<B>(bytes, 3);
    for (block, values) in as_blocks::<B>(bytes).iter().zip(dequantize::<B>(bytes).chunks(32)) {
        let u = block.unpack();
        assert!(B::HAS_MIN || u.m == 0.0);
        let (d, m) = (f64::from(u.d), f64::from(u.m));
        for (&code, &value) in u.codes.iter().zip(values) {
            let product = d * f64::from(code);
            let bound = 2.0 * EPS * (product.abs() + m.abs());
            let error = (product + m - f64::from(value)).abs();
            assert!(error <= bound || !is_moderate(bound), "{}: {error:e} > {bound:e}", B::TY);
        }
    }
}

fn unpack16_agrees<B: Block16>(bytes: &[u8]) {
    let bytes = cut::<B>(bytes, 3);
    let parts = B::LEN / 32;
    for (i, values) in dequantize::<B>(bytes).chunks(32).enumerate() {
        let u = as_blocks::<B>(bytes)[i / parts].unpack(i % parts);
        for (i, &value) in values.iter().enumerate() {
            let want = u.d[i / 16] * f32::from(u.codes[i]);
            assert!(want == value || want.is_nan() && value.is_nan(), "{}", B::TY);
        }
    }
}

fn unpack256_agrees<B: Block256>(bytes: &[u8]) {
    let bytes = cut::<B>(bytes, 2);
    for (block, values) in as_blocks::<B>(bytes).iter().zip(dequantize::<B>(bytes).chunks(256)) {
        let u = block.unpack();
        assert!(B::HAS_MIN || (u.dmin == 0.0 && u.mins == [0; 16]));
        for (i, &value) in values.iter().enumerate() {
            let product = f64::from(u.d) * f64::from(u.scales[i / 16]) * f64::from(u.codes[i]);
            let min = f64::from(u.dmin) * f64::from(u.mins[i / 16]);
            let bound = 3.0 * EPS * (product.abs() + min.abs());
            let error = (product - min - f64::from(value)).abs();
            assert!(error <= bound || !is_moderate(bound), "{}: {error:e} > {bound:e}", B::TY);
        }
    }
}

type Dot<B> = fn(&[B], &[Act32]) -> f32;

/// The dot against one in f64 of the dequantized weights, within what the roundings of the values
/// and of the chain can add up to.
fn dot_agrees<B: Block>(
    bytes: &[u8],
    acts: &[Act32],
    dot: Dot<B>,
    magnitude: impl Fn(&B, usize) -> f64,
) {
    let blocks = as_blocks::<B>(bytes);
    let values = dequantize::<B>(bytes);
    let (mut exact, mut terms) = (0.0, 0.0);
    for (i, &value) in values.iter().enumerate() {
        let act = f64::from(acts[i / 32].d) * f64::from(acts[i / 32].q[i % 32]);
        exact += f64::from(value) * act;
        terms += magnitude(&blocks[i / B::LEN], i % B::LEN) * act.abs();
    }
    let got = f64::from(dot(blocks, acts));
    // Three roundings in a value, one in a scale times the activations' or their sum, up to 16 in
    // a super-block's own chain, two per block in the row's.
    let bound = EPS * (20 + 2 * blocks.len()) as f64 * terms * 1.0001 + 1e-30;
    assert!((got - exact).abs() <= bound, "{}: {got} {exact} {bound:e}", B::TY);
}

/// Moderate scales in place of those the random bytes hold.
fn with_scales<B: Block>(bytes: &[u8], n: usize, scale: f32) -> Vec<u8> {
    let at: &[usize] = match B::TY {
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::MXFP4 | GgmlType::NVFP4 | GgmlType::IQ1_M => &[],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        GgmlType::Q6_K => &[208],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        _ => &[0],
    };
    let mut bytes = cut::<B>(bytes, n).to_vec();
    for (b, block) in bytes.chunks_mut(size_of::<B>()).enumerate() {
        for (i, &at) in at.iter().enumerate() {
            let scale = scale * (1.0 + b as f32 / 3.0 - i as f32 / 5.0);
            block[at..at + 2].copy_from_slice(&block::F16::from_f32(scale).0);
        }
        match B::TY {
            GgmlType::MXFP4 => block[0] = 120 + b as u8,
            // A half whose exponent is neither all ones nor all zeros.
            GgmlType::IQ1_M => block[55] = 0x20 | block[55] & 0x8f,
            _ => {}
        }
    }
    bytes
}

fn dot32_agrees<B: Block32>(bytes: &[u8], acts: &[Act32], scale: f32) {
    let bytes = with_scales::<B>(bytes, 3, scale);
    dot_agrees::<B>(&bytes, &acts[..3], block::dot32, |block, i| {
        let u = block.unpack();
        f64::from(u.d.abs()) * f64::from(u.codes[i]).abs() + f64::from(u.m.abs())
    });
}

fn dot16_agrees<B: Block16>(bytes: &[u8], acts: &[Act32], scale: f32) {
    let bytes = with_scales::<B>(bytes, 3, scale);
    dot_agrees::<B>(&bytes, &acts[..3 * B::LEN / 32], block::dot16, |block, i| {
        let u = block.unpack(i / 32);
        f64::from(u.d[i % 32 / 16].abs()) * f64::from(u.codes[i % 32]).abs()
    });
}

fn dot256_agrees<B: Block256>(bytes: &[u8], acts: &[Act32], scale: f32) {
    let bytes = with_scales::<B>(bytes, 3, scale);
    dot_agrees::<B>(&bytes, acts, block::dot256, |block, i| {
        let u = block.unpack();
        let product = f64::from(u.scales[i / 16]) * f64::from(u.codes[i]);
        f64::from(u.d.abs()) * product.abs() + f64::from(u.dmin.abs()) * f64::from(u.mins[i / 16])
    });
}

/// The order of the chain, spelled out: two steps per block from the exact sums.
fn dot32_is_one_chain<B: Block32>(bytes: &[u8], acts: &[Act32]) {
    let bytes = cut::<B>(bytes, 3);
    let mut acc = 0f32;
    for (block, act) in as_blocks::<B>(bytes).iter().zip(acts) {
        let u = block.unpack();
        let isum: i64 = (0..32).map(|i| i64::from(u.codes[i]) * i64::from(act.q[i])).sum();
        acc = f32::mul_add(u.d * act.d, isum as f32, acc);
        if B::HAS_MIN {
            let sum: i64 = act.q.iter().map(|&q| i64::from(q)).sum();
            acc = f32::mul_add(u.m * act.d, sum as f32, acc);
        }
    }
    let got = block::dot32(as_blocks::<B>(bytes), &acts[..3]);
    assert!(got.to_bits() == acc.to_bits() || got.is_nan() && acc.is_nan(), "{}", B::TY);
}

/// The same with a scale per 16.
fn dot16_is_one_chain<B: Block16>(bytes: &[u8], acts: &[Act32]) {
    let (bytes, acts) = (cut::<B>(bytes, 3), &acts[..3 * B::LEN / 32]);
    let (blocks, parts) = (as_blocks::<B>(bytes), B::LEN / 32);
    let mut acc = 0f32;
    for (i, act) in acts.iter().enumerate() {
        let u = blocks[i / parts].unpack(i % parts);
        for h in 0..2 {
            let isum: i32 =
                (16 * h..16 * h + 16).map(|i| i32::from(u.codes[i]) * i32::from(act.q[i])).sum();
            acc = f32::mul_add(u.d[h] * act.d, isum as f32, acc);
        }
    }
    let got = block::dot16(blocks, acts);
    assert!(got.to_bits() == acc.to_bits() || got.is_nan() && acc.is_nan(), "{}", B::TY);
}

/// The same for super-blocks: a chain of products and one of minimums in each.
fn dot256_is_one_chain<B: Block256>(bytes: &[u8], acts: &[Act32]) {
    let bytes = cut::<B>(bytes, 3);
    let mut acc = 0f32;
    for (b, block) in as_blocks::<B>(bytes).iter().enumerate() {
        let u = block.unpack();
        let (mut t, mut mins) = (0f32, 0f32);
        for (j, act) in acts[8 * b..][..8].iter().enumerate() {
            let isum: i64 = (0..32)
                .map(|i| (32 * j + i, i64::from(act.q[i])))
                .map(|(i, q)| i64::from(u.scales[i / 16]) * i64::from(u.codes[i]) * q)
                .sum();
            assert!(isum.abs() <= 1 << 24, "{}", B::TY);
            t = f32::mul_add(isum as f32, act.d, t);
            if B::HAS_MIN {
                for (g, q) in act.q.chunks(B::GROUP).enumerate() {
                    let sum: i64 = q.iter().map(|&q| i64::from(q)).sum();
                    let min = f32::from(u.mins[2 * j + g]);
                    mins = f32::mul_add(min, act.d * sum as f32, mins);
                }
            }
        }
        acc = f32::mul_add(u.d, t, acc);
        if B::HAS_MIN {
            acc = f32::mul_add(-u.dmin, mins, acc);
        }
    }
    let got = block::dot256(as_blocks::<B>(bytes), acts);
    assert!(got.to_bits() == acc.to_bits() || got.is_nan() && acc.is_nan(), "{}", B::TY);
}

/// Whatever the numbers: no panic, and the bytes depend on the numbers alone.
fn survives<B: Quantize>(bits: &[u32], importance: &[u32]) {
    let x: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
    let importance: Vec<f32> = importance.iter().copied().map(f32::from_bits).collect();
    for importance in [None, Some(&importance[..])] {
        let bytes = quantize::<B>(&x, importance);
        assert_eq!(bytes, quantize::<B>(&x, importance), "{}", B::TY);
        dequantize::<B>(&bytes);
    }
}

fn float_dot_agrees<W: Float>(x: &[f32], y: &[f32]) {
    let weights: Vec<W> = x.iter().map(|&x| W::from_f32(x)).collect();
    let (mut exact, mut terms) = (0.0, 0.0);
    for (w, &y) in weights.iter().zip(y) {
        exact += f64::from(w.to_f32()) * f64::from(y);
        terms += (f64::from(w.to_f32()) * f64::from(y)).abs();
    }
    let got = block::dot_float(&weights, y);
    let bound = EPS * (x.len() + 2) as f64 * terms + 1e-40;
    assert!((f64::from(got) - exact).abs() <= bound, "{}: {got} {exact}", W::TY);
    // The order is that of `float::dot`.
    let values: Vec<f32> = weights.iter().map(|w| w.to_f32()).collect();
    assert_eq!(got.to_bits(), teff_kernels::float::dot(&values, y).to_bits(), "{}", W::TY);
}

/// Largest error as a part of the largest magnitude of its block: half a step where codes are
/// plainly rounded (a whole one where the largest code has no opposite), and the rounding of a half.
fn error_is_bounded<B: Quantize>(x: &[f32], part: f32) {
    let values = dequantize::<B>(&quantize::<B>(x, None));
    for (x, y) in x.chunks(B::LEN).zip(values.chunks(B::LEN)) {
        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let error = x.iter().zip(y).fold(0f32, |max, (x, y)| max.max((x - y).abs()));
        assert!(error <= part * largest + 1e-6, "{}: {error} of {largest}", B::TY);
    }
}

/// Error of super-blocks by least squares: RMS as a part of the largest magnitude.
fn rms_is_bounded<B: Quantize>(x: &[f32], importance: &[f32], part: f64) {
    for importance in [None, Some(importance)] {
        let values = dequantize::<B>(&quantize::<B>(x, importance));
        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let square: f64 = x.iter().zip(&values).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let rms = (square / x.len() as f64).sqrt();
        assert!(rms <= part * f64::from(largest) + 1e-6, "{}: {rms} of {largest}", B::TY);
    }
}

/// What was dequantized is quantized to the same bytes again: so for types that keep the extreme
/// weight's code and whose scale is a half; an f32 scale (Q8_K) may move by an ulp, and least squares
/// may prefer another scale.
fn is_idempotent<B: Quantize>(x: &[f32]) {
    let once = quantize::<B>(x, None);
    assert_eq!(quantize::<B>(&dequantize::<B>(&once), None), once, "{}", B::TY);
}

fn floats(n: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(-1f32..1.0, n)
}

/// Random bits, and often those of special values.
fn any_bits(n: usize) -> impl Strategy<Value = Vec<u32>> {
    let special = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, 1e-15];
    let special = prop::sample::select(special.map(f32::to_bits).to_vec());
    let one =
        prop_oneof![2 => any::<u32>(), 1 => special, 2 => (-1f32..1.0).prop_map(f32::to_bits)];
    vec(one, n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn unpacked_values_are_the_dequantized(bytes in vec(any::<u8>(), 3 * 210)) {
        each!(32 unpack32_agrees(&bytes));
        each!(256 unpack256_agrees(&bytes));
        each!(codebook unpack256_agrees(&bytes));
        each!(16 unpack16_agrees(&bytes));
    }

    #[test]
    fn dots_agree_with_f64(
        bytes in vec(any::<u8>(), 3 * 210),
        q in vec(-127i8..=127, 768),
        d in vec(0f32..2.0, 24),
        scale in -4f32..4.0,
    ) {
        let acts = acts(&q, &d);
        each!(32 dot32_agrees(&bytes, &acts, scale));
        each!(256 dot256_agrees(&bytes, &acts, scale));
        each!(codebook dot256_agrees(&bytes, &acts, scale));
        each!(16 dot16_agrees(&bytes, &acts, scale));
    }

    #[test]
    fn dots_are_one_chain(
        bytes in vec(any::<u8>(), 3 * 210),
        q in vec(prop_oneof![any::<i8>(), Just(-128), Just(127)], 768),
        d in vec(any::<f32>(), 24),
    ) {
        let acts = acts(&q, &d);
        each!(32 dot32_is_one_chain(&bytes, &acts));
        each!(256 dot256_is_one_chain(&bytes, &acts));
        each!(codebook dot256_is_one_chain(&bytes, &acts));
        each!(16 dot16_is_one_chain(&bytes, &acts));
    }

    #[test]
    fn no_number_makes_quantizing_panic(x in any_bits(512), importance in any_bits(512)) {
        each!(all survives(&x, &importance));
        each!(codebook survives(&x, &importance));
    }

    #[test]
    fn float_dots_agree_with_f64(n in 0usize..70, x in floats(70), y in floats(70)) {
        float_dot_agrees::<block::F32>(&x[..n], &y[..n]);
        float_dot_agrees::<block::F16>(&x[..n], &y[..n]);
        float_dot_agrees::<block::Bf16>(&x[..n], &y[..n]);
    }

    #[test]
    fn errors_are_bounded(x in floats(512), importance in vec(0.01f32..1.0, 512)) {
        error_is_bounded::<block::F32>(&x, 0.0);
        error_is_bounded::<block::F16>(&x, 1.0 / 2048.0);
        error_is_bounded::<block::Bf16>(&x, 1.0 / 256.0);
        error_is_bounded::<block::BlockQ8_0>(&x, 0.5 / 127.0 + 1.0 / 2048.0);
        error_is_bounded::<block::BlockQ8_1>(&x, 0.5 / 127.0 + 1.0 / 2048.0);
        error_is_bounded::<block::BlockQ8K>(&x, 0.5 / 127.0);
        error_is_bounded::<block::BlockQ4_0>(&x, 1.0 / 8.0 + 1.0 / 2048.0);
        error_is_bounded::<block::BlockQ5_0>(&x, 1.0 / 16.0 + 1.0 / 2048.0);
        // Here the span counts, at most twice the largest magnitude, and the minimum rounds, too.
        error_is_bounded::<block::BlockQ4_1>(&x, 1.0 / 15.0 + 3.0 / 2048.0);
        error_is_bounded::<block::BlockQ5_1>(&x, 1.0 / 31.0 + 3.0 / 2048.0);
        // A uniform row has RMS errors of about step / sqrt(12), steps of 2/3, 1/4, 2/15...
        rms_is_bounded::<block::BlockQ2K>(&x, &importance, 0.25);
        rms_is_bounded::<block::BlockQ3K>(&x, &importance, 0.12);
        rms_is_bounded::<block::BlockQ4K>(&x, &importance, 0.05);
        rms_is_bounded::<block::BlockQ5K>(&x, &importance, 0.025);
        rms_is_bounded::<block::BlockQ6K>(&x, &importance, 0.015);
        rms_is_bounded::<block::BlockIQ4NL>(&x, &importance, 0.06);
        rms_is_bounded::<block::BlockIQ4XS>(&x, &importance, 0.06);
        rms_is_bounded::<block::BlockMXFP4>(&x, &importance, 0.12);
        rms_is_bounded::<block::BlockNVFP4>(&x, &importance, 0.1);
        rms_is_bounded::<block::BlockTQ1_0>(&x, &importance, 0.35);
        rms_is_bounded::<block::BlockTQ2_0>(&x, &importance, 0.35);
        rms_is_bounded::<block::BlockQ2_0>(&x, &importance, 0.35);
        rms_is_bounded::<block::BlockQ1_0>(&x, &importance, 0.35);
    }

    #[test]
    fn quantizing_twice_changes_nothing(x in floats(512)) {
        is_idempotent::<block::F32>(&x);
        is_idempotent::<block::F16>(&x);
        is_idempotent::<block::Bf16>(&x);
        is_idempotent::<block::BlockQ4_0>(&x);
        is_idempotent::<block::BlockQ4_1>(&x);
        is_idempotent::<block::BlockQ5_0>(&x);
        is_idempotent::<block::BlockQ5_1>(&x);
        is_idempotent::<block::BlockQ8_0>(&x);
        is_idempotent::<block::BlockTQ1_0>(&x);
        is_idempotent::<block::BlockTQ2_0>(&x);
        is_idempotent::<block::BlockQ1_0>(&x);
    }
}
