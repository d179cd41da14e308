//! Encoders in two halves: together they are `quantize`, each alone does what it says, and blocks are
//! taken apart without losing a bit.

use gguf_rs_lite::GgmlType;
use proptest::collection::vec;
use proptest::prelude::*;
use teff_kernels::{Encoder, Group, KernelTable, Level, NoEncoder, Scales};

/// Elements of the tests' rows: two of the longest blocks.
const COLS: usize = 512;

fn encoders() -> impl Iterator<Item = &'static Encoder> {
    let table = KernelTable::detect();
    GgmlType::all().filter_map(|ty| table.types(ty)?.encoder().ok())
}

fn row_bytes(encoder: &Encoder) -> usize {
    COLS / encoder.len * encoder.ty.block_bytes()
}

fn dequantize(encoder: &Encoder, blocks: &[u8]) -> Vec<f32> {
    let kernels = KernelTable::detect().types(encoder.ty).expect("a type with an encoder");
    let mut values = vec![f32::NAN; COLS];
    kernels.dequantize(blocks, &mut values);
    values
}

fn take_apart(encoder: &Encoder, blocks: &[u8]) -> (Vec<u8>, Vec<Scales>) {
    let (mut codes, mut scales) = (vec![0xa5; COLS], vec![Scales::default(); COLS / encoder.len]);
    encoder.take_apart(blocks, &mut codes, &mut scales);
    (codes, scales)
}

fn assemble(encoder: &Encoder, codes: &[u8], scales: &[Scales]) -> Vec<u8> {
    let mut blocks = vec![0xa5; row_bytes(encoder)];
    encoder.assemble(codes, scales, &mut blocks);
    blocks
}

/// Scales of random bytes that are numbers of moderate size; those that are not, become one.
fn tame(scales: &mut Scales) {
    for half in [&mut scales.d, &mut scales.m] {
        // With an exponent of -4.
        half.0[1] = half.0[1] & 0x83 | 0x2c;
    }
}

#[test]
fn types_with_codes_that_can_be_written_have_an_encoder() {
    let table = KernelTable::detect();
    let with: Vec<_> = encoders().map(|encoder| encoder.ty).collect();
    assert_eq!(with.len(), 18, "{with:?}");
    for ty in GgmlType::all() {
        let Some(kernels) = table.types(ty) else { continue };
        let mut block = vec![0; ty.block_bytes()];
        let written = kernels.quantize(&vec![0.5; ty.block_len()], None, &mut block).is_ok();
        assert!(written, "{ty}");
        let is_codebook = ty.name().starts_with("IQ") && !ty.name().starts_with("IQ4");
        let has_codes = ty.block_len() > 1 && !is_codebook;
        assert_eq!(kernels.encoder().is_ok(), has_codes, "{ty}");
    }
    let of = |ty| table.types(ty).expect("a weight type").encoder().map(|encoder| encoder.ty);
    assert_eq!(of(GgmlType::IQ2_XS), Err(NoEncoder(GgmlType::IQ2_XS)));
    let errors = [GgmlType::IQ2_XS, GgmlType::F16].map(|ty| of(ty).unwrap_err().to_string());
    assert_eq!(errors[0], "no method to encode IQ2_XS yet");
    assert_eq!(errors[1], "F16 has no codes and scales to encode with");
}

/// Rows of all sizes of numbers, with zeros, repetitions, ties of rounding and a grid among them.
fn rows() -> Vec<Vec<f32>> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut rows: Vec<Vec<f32>> = [1e-30, 1e-8, 0.05, 1.0, 3e4, 1e12]
        .into_iter()
        .flat_map(|size| [size; 4])
        .map(|size| (0..COLS).map(|_| size * (next() + next() + next())).collect())
        .collect();
    rows.push(vec![0.0; COLS]);
    rows.push(vec![-0.25; COLS]);
    rows.push((0..COLS).map(|i| (i % 17) as f32 * 0.5 - 4.0).collect());
    rows.push((0..COLS).map(|i| if i % 97 == 5 { 12.0 } else { 0.05 * next() }).collect());
    rows.push((0..COLS).map(|i| if i / 64 % 2 == 0 { 0.0 } else { next() }).collect());
    rows
}

#[test]
fn levels_write_and_read_the_same_bytes() {
    let importance: Vec<f32> = (0..COLS).map(|i| 0.01 + (i * 37 % 101) as f32 / 50.0).collect();
    let lowest = KernelTable::at_most(Level::Scalar);
    let mut compared = 0;
    for ty in GgmlType::all() {
        let Some(plain) = lowest.types(ty) else { continue };
        let mut expected = vec![0xa5; COLS / ty.block_len() * ty.block_bytes()];
        let (mut blocks, mut x, mut y) = (expected.clone(), vec![0.0; COLS], vec![0.0; COLS]);
        for &level in &Level::ALL[1..] {
            let table = KernelTable::at_most(level);
            let kernels = table.types(ty).expect("a type of every level");
            for (number, row) in rows().iter().enumerate() {
                for importance in [None, Some(&importance[..])] {
                    plain.quantize(row, importance, &mut expected).expect("a type to write");
                    kernels.quantize(row, importance, &mut blocks).expect("a type to write");
                    let is_weighted = importance.is_some();
                    assert!(blocks == expected, "{ty}, {level}, {number}, {is_weighted}");
                    plain.dequantize(&expected, &mut x);
                    kernels.dequantize(&blocks, &mut y);
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert!(bits(&y) == bits(&x), "{ty}, {level}, {number}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared % rows().len(), 0);
    assert!(compared > 0 || Level::ALL.len() == 1, "levels");
}

#[test]
#[should_panic(expected = "codes of Q4_K")]
fn a_code_of_another_type_is_a_broken_invariant() {
    let encoder = KernelTable::detect().types(GgmlType::Q4_K).unwrap().encoder().unwrap();
    encoder.assemble(&[16; 256], &[Scales::default()], &mut [0; 144]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_halves_are_what_quantize_writes(
        x in vec(-1f32..1.0, COLS),
        importance in vec(0f32..1.0, COLS),
    ) {
        for encoder in encoders() {
            let kernels = KernelTable::detect().types(encoder.ty).unwrap();
            for importance in [None, Some(&importance[..])] {
                let mut want = vec![0; row_bytes(encoder)];
                kernels.quantize(&x, importance, &mut want).unwrap();
                let mut scales = vec![Scales::default(); COLS / encoder.len];
                encoder.fit(&x, importance, &mut scales);
                let mut got = vec![0xa5; want.len()];
                encoder.encode(&x, &scales, &mut got);
                assert_eq!(got, want, "{}", encoder.ty);

                // Column by column it is the same, with the values at hand.
                let mut codes = Vec::new();
                for ((i, &x), want) in x.iter().enumerate().zip(dequantize(encoder, &want)) {
                    let scales = &scales[i / encoder.len];
                    let (code, value) = encoder.code(scales, i % encoder.len, x);
                    assert_eq!(value.to_bits(), want.to_bits(), "{} {i}", encoder.ty);
                    codes.push(code);
                }
                assert_eq!(assemble(encoder, &codes, &scales), want, "{}", encoder.ty);
            }
        }
    }

    #[test]
    fn blocks_of_any_bits_are_taken_apart_and_put_together(bytes in vec(any::<u8>(), 2 * 292)) {
        for encoder in encoders() {
            let blocks: Vec<u8> =
                bytes.iter().copied().cycle().take(row_bytes(encoder)).collect();
            let (codes, scales) = take_apart(encoder, &blocks);
            let mut again = assemble(encoder, &codes, &scales);
            if encoder.ty == GgmlType::TQ1_0 {
                // Bytes that no five trits have come back as those that mean the same.
                assert_eq!(take_apart(encoder, &again).0, codes);
                again = blocks.clone();
            }
            assert_eq!(again, blocks, "{}", encoder.ty);
            for (i, value) in dequantize(encoder, &blocks).into_iter().enumerate() {
                let g = i % encoder.len / encoder.group;
                let group = encoder.group_of(&scales[i / encoder.len], g);
                let got = group.value(encoder.level(codes[i]));
                let same = got.to_bits() == value.to_bits() || got.is_nan() && value.is_nan();
                assert!(same, "{} {i}: {got} instead of {value}", encoder.ty);
            }
        }
    }

    /// Values that codes stand for are encoded to codes that stand for them.
    #[test]
    fn values_of_a_block_keep_their_values(bytes in vec(any::<u8>(), 2 * 292)) {
        for encoder in encoders() {
            let blocks: Vec<u8> =
                bytes.iter().copied().cycle().take(row_bytes(encoder)).collect();
            let (codes, mut scales) = take_apart(encoder, &blocks);
            scales.iter_mut().for_each(tame);
            let values = dequantize(encoder, &assemble(encoder, &codes, &scales));
            let mut again = vec![0; blocks.len()];
            encoder.encode(&values, &scales, &mut again);
            for (i, (value, again)) in values.iter().zip(dequantize(encoder, &again)).enumerate() {
                let group = encoder.group_of(&scales[i / encoder.len], i % encoder.len / encoder.group);
                // The fourth code of TQ2_0 is not one that weights get.
                let unused = encoder.ty == GgmlType::TQ2_0 && codes[i] == 3;
                // Tiny steps on a large minimum are lost in its rounding.
                let lost = 1e-5 * (value.abs() + group.min.abs());
                let same = (again - value).abs() <= lost;
                assert!(same || unused || !value.is_finite(), "{} {i}: {again} instead of {value}, {group:?}", encoder.ty);
            }
        }
    }

    /// Codes are the nearest of all, for any weight and scales as stored.
    #[test]
    fn codes_are_the_nearest(bytes in vec(any::<u8>(), 2 * 292), x in -8f32..8.0) {
        for encoder in encoders() {
            let blocks: Vec<u8> =
                bytes.iter().copied().cycle().take(row_bytes(encoder)).collect();
            let mut scales = take_apart(encoder, &blocks).1[0];
            tame(&mut scales);
            for g in 0..encoder.len / encoder.group {
                let group = encoder.group_of(&scales, g);
                let (_, got) = encoder.code(&scales, g * encoder.group, x);
                let ternary = encoder.ty == GgmlType::TQ2_0;
                let codes = 0..if ternary { 3 } else { encoder.codes as u16 };
                let error = |value: f32| (value - x).abs();
                let values = codes.map(|code| group.value(encoder.level(code as u8)));
                let best = values.map(error).fold(f32::INFINITY, f32::min);
                let bound = best + 1e-5 * (x.abs() + group.min.abs() + group.scale.abs());
                let says = format!("{} {x}: {got}, {group:?}", encoder.ty);
                assert!(error(got) <= bound || !best.is_finite(), "{says}");
            }
        }
    }

    /// Real scales come back as near as the type has any.
    #[test]
    fn composed_scales_are_near(scales in vec(0.5f32..1.0, 16), mins in vec(0.5f32..1.0, 16)) {
        for encoder in encoders() {
            let n = encoder.len / encoder.group;
            let groups: Vec<Group> = (0..n).map(|g| Group { scale: scales[g], min: mins[g] }).collect();
            let composed = encoder.compose(&groups);
            // Half a step of scales of 4 bits, of 6 and 8 bits, of halves, of floats of 3 bits, of powers.
            let part = match encoder.ty {
                GgmlType::Q2_K => 0.5 / 15.0,
                GgmlType::Q4_K | GgmlType::Q5_K => 0.5 / 63.0,
                GgmlType::Q3_K | GgmlType::IQ4_XS => 0.5 / 31.0,
                GgmlType::Q6_K => 0.5 / 127.0,
                GgmlType::NVFP4 => 0.5 / 8.0,
                GgmlType::MXFP4 => 0.5,
                _ => 0.0,
            };
            for (g, want) in groups.iter().enumerate() {
                let got = encoder.group_of(&composed, g);
                let bound = part + 1e-3;
                assert!((got.scale - want.scale).abs() <= bound, "{} {got:?} {want:?}", encoder.ty);
                let has_min = got.min != 0.0;
                assert!(!has_min || (got.min - want.min).abs() <= bound, "{} {got:?}", encoder.ty);
            }
        }
    }
}
