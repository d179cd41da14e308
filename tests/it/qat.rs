//! Grids that floats lie on: drawn at random they are found and their codes recovered, in every type of
//! floats, for all bits and groups; floats that were drawn as such are on none.

use gguf_rs_lite::GgmlType;
use half::{bf16, f16};
use teff::grid::{Found, Precision, TYPES, find};
use teff_kernels::KernelTable;

/// Numbers of a seed.
struct Draw(u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

fn round(precision: Precision, x: f32) -> f32 {
    match precision {
        Precision::F32 => x,
        Precision::F16 => f16::from_f32(x).to_f32(),
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

fn grid_of(values: &[f32], cols: usize, precision: Precision, types: &[GgmlType]) -> Option<Found> {
    let mut rows = |take: &mut teff::grid::Take<'_>| {
        values.chunks(cols).all(&mut *take);
        Ok::<(), ()>(())
    };
    find(cols, precision, types, &mut rows).unwrap()
}

/// How scales are drawn.
#[derive(Clone, Copy, Debug)]
enum Scale {
    F16,
    Bf16,
    F32,
    PowerOfTwo,
    /// The same of all groups.
    One,
}

const SCALES: [Scale; 5] = [Scale::F16, Scale::Bf16, Scale::F32, Scale::PowerOfTwo, Scale::One];

impl Scale {
    fn draw(self, draw: &mut Draw) -> f32 {
        let x = (0.01 * (draw.normal() * 0.7).exp()) as f32;
        match self {
            Scale::F16 => f16::from_f32(x).to_f32(),
            Scale::Bf16 => bf16::from_f32(x).to_f32(),
            Scale::F32 => x,
            Scale::PowerOfTwo => x.log2().round().exp2(),
            Scale::One => 0.012_345_67,
        }
    }
}

/// A matrix on a grid.
struct Drawn {
    cols: usize,
    group: usize,
    /// Steps from zero, for each element.
    steps: Vec<i16>,
    /// For each group.
    scales: Vec<f32>,
    values: Vec<f32>,
}

/// The codes that a quantizer of this kind has: least and most, zero among them.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ternary,
    Symmetric(u32),
    /// From -(2^bits - 1) to 2^bits - 1, one less than there might be.
    Narrow(u32),
    Asymmetric(u32),
}

impl Kind {
    fn range(self, draw: &mut Draw) -> (i64, i64) {
        match self {
            Kind::Ternary => (-1, 1),
            Kind::Symmetric(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            Kind::Narrow(bits) => (1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1),
            Kind::Asymmetric(bits) => {
                let zero = draw.below(1 << bits) as i64;
                (-zero, (1 << bits) - 1 - zero)
            }
        }
    }
}

const KINDS: [Kind; 7] = [
    Kind::Ternary,
    Kind::Symmetric(2),
    Kind::Symmetric(4),
    Kind::Narrow(4),
    Kind::Asymmetric(4),
    Kind::Symmetric(8),
    Kind::Narrow(8),
];

fn drawn(
    draw: &mut Draw,
    kind: Kind,
    precision: Precision,
    (cols, group): (usize, usize),
    scale: Scale,
) -> Drawn {
    let rows = 8;
    let is_uniform = draw.below(2) == 0;
    let mut all = Drawn { cols, group, steps: Vec::new(), scales: Vec::new(), values: Vec::new() };
    for _ in 0..rows {
        for n in (0..cols).step_by(group).map(|from| group.min(cols - from)) {
            let (low, high) = kind.range(draw);
            let scale = scale.draw(draw);
            all.scales.push(scale);
            for _ in 0..n {
                let step = match is_uniform {
                    true => low + draw.below((high - low + 1) as u64) as i64,
                    false => {
                        let middle = (low + high) as f64 / 2.0;
                        (middle + draw.normal() * (high - low + 1) as f64 / 6.0).round() as i64
                    }
                };
                let step = step.clamp(low, high) as i16;
                all.steps.push(step);
                all.values.push(round(precision, scale * f32::from(step)));
            }
        }
    }
    all
}

fn divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Codes and scales of the blocks are those that were drawn.
fn check(drawn: &Drawn, found: &Found, precision: Precision) -> Result<(), String> {
    let kernels = KernelTable::detect().types(found.ty).unwrap();
    let encoder = kernels.encoder().unwrap();
    let n_blocks = drawn.values.len() / encoder.len;
    let mut blocks = vec![0; n_blocks * found.ty.block_bytes()];
    if !found.rows(encoder).encode(&drawn.values, &mut blocks) {
        return Err("not encoded".into());
    }
    let mut values = vec![0.0; drawn.values.len()];
    kernels.dequantize(&blocks, &mut values);
    let groups = drawn.values.chunks(drawn.cols).flat_map(|row| row.chunks(drawn.group));
    let mut at = 0;
    for (group, (values_then, &scale)) in groups.zip(&drawn.scales).enumerate() {
        let steps = &drawn.steps[at..at + values_then.len()];
        let values_now = &values[at..at + values_then.len()];
        at += values_then.len();
        let common = steps.iter().fold(0, |a, step| divisor(a, step.unsigned_abs()));
        let is_min = matches!(found.ty, GgmlType::Q4_1 | GgmlType::Q5_1);
        // The values are so many steps of what was drawn, to what f16 has of a scale or a minimum.
        let most = steps.iter().map(|step| step.unsigned_abs()).max().unwrap_or(0);
        let slack = f32::from(most) * scale / if is_min { 1000.0 } else { 2000.0 };
        for ((&step, &then), &now) in steps.iter().zip(values_then).zip(values_now) {
            if (now / scale - f32::from(step)).abs() > 0.45 {
                return Err(format!("group {group}: {now} for step {step} of {scale}"));
            }
            let ulp = match precision {
                Precision::F32 => 0.0,
                Precision::F16 => then.abs() / 1024.0,
                Precision::Bf16 => then.abs() / 128.0,
            };
            if (now - then).abs() > slack + ulp / 2.0 {
                return Err(format!("group {group}: {now}, not {then}"));
            }
            if found.is_exact() && round(precision, now) != then {
                return Err(format!("group {group}: {now}, not exactly {then}"));
            }
        }
        if common == 1 && !is_min {
            let unit = values_now.iter().zip(steps).find(|(_, step)| **step != 0).unwrap();
            let found_scale = unit.0 / f32::from(*unit.1);
            // Of one step there is no more than its value.
            let slack = if precision == Precision::Bf16 { 1.0 / 250.0 } else { 1.0 / 2000.0 };
            if (found_scale / scale - 1.0).abs() > slack {
                return Err(format!("group {group}: scale {found_scale}, not {scale}"));
            }
        }
    }
    Ok(())
}

#[test]
fn grids_drawn_at_random_are_recovered() {
    let mut draw = Draw(1);
    let shapes = [(256, 32), (192, 64), (512, 128), (576, 128), (256, 256), (320, 320)];
    for kind in KINDS {
        for precision in PRECISIONS {
            for (cols, group) in shapes {
                for scale in SCALES {
                    let matrix = drawn(&mut draw, kind, precision, (cols, group), scale);
                    let what = format!("{kind:?} {precision:?} {cols}/{group} {scale:?}");
                    let found = grid_of(&matrix.values, cols, precision, TYPES);
                    let found = found.unwrap_or_else(|| panic!("{what}: no grid"));
                    let is_wide = group == cols || matches!(scale, Scale::One);
                    let wanted = match kind {
                        Kind::Ternary if is_wide && cols.is_multiple_of(256) => GgmlType::TQ2_0,
                        Kind::Ternary | Kind::Symmetric(2 | 4) | Kind::Narrow(4) => GgmlType::Q4_0,
                        Kind::Asymmetric(4) => GgmlType::Q4_1,
                        _ => GgmlType::Q8_0,
                    };
                    assert_eq!(found.ty, wanted, "{what}: {found:?}");
                    let is_half = match scale {
                        Scale::F16 | Scale::PowerOfTwo => true,
                        // Rounding leaves room for one.
                        Scale::Bf16 => true,
                        _ => false,
                    };
                    if is_half && wanted != GgmlType::Q4_1 {
                        assert!(found.is_exact(), "{what}: {found:?}");
                    }
                    assert!(found.distance < 6e-4, "{what}: {found:?}");
                    check(&matrix, &found, precision).unwrap_or_else(|e| panic!("{what}: {e}"));
                }
            }
        }
    }
}

#[test]
fn plain_floats_are_on_no_grid() {
    let mut draw = Draw(2);
    type Value = fn(&mut Draw) -> f64;
    let kinds: &[(&str, Value)] = &[
        ("normal", |draw| 0.02 * draw.normal()),
        ("uniform", |draw| draw.unit() - 0.5),
        ("wide", |draw| draw.normal() * (4.0 * draw.normal()).exp()),
        ("one binade", |draw| (1.0 + draw.unit()) * [1.0, -1.0][draw.below(2) as usize]),
        ("above one", |draw| 1.0 + draw.unit()),
        ("sparse", |draw| if draw.below(16) == 0 { draw.normal() } else { 0.0 }),
        ("small", |draw| 1e-6 * draw.normal()),
        ("two sizes", |draw| draw.normal() * [1.0, 0.01][draw.below(2) as usize]),
        ("constant", |_| 0.037),
        ("zero", |_| 0.0),
        ("mask", |draw| draw.below(2) as f64),
    ];
    for (name, value) in kinds {
        for precision in PRECISIONS {
            for (cols, rows) in [(32, 4), (256, 16), (576, 40)] {
                let values: Vec<f32> =
                    (0..cols * rows).map(|_| round(precision, value(&mut draw) as f32)).collect();
                let found = grid_of(&values, cols, precision, TYPES);
                assert_eq!(found, None, "{name} {precision:?} {cols}");
                // Wider than they were.
                let found = grid_of(&values, cols, Precision::F32, TYPES);
                assert_eq!(found, None, "{name} {precision:?} as F32, {cols}");
            }
        }
    }
}

#[test]
fn dequantized_blocks_are_recovered_bit_for_bit() {
    let mut draw = Draw(3);
    let values: Vec<f32> = (0..64 * 512).map(|_| 0.02 * draw.normal() as f32).collect();
    for ty in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0] {
        let kernels = KernelTable::detect().types(ty).unwrap();
        let mut blocks = vec![0; values.len() / 32 * ty.block_bytes()];
        kernels.quantize(&values, None, &mut blocks).unwrap();
        let mut wide = vec![0.0; values.len()];
        kernels.dequantize(&blocks, &mut wide);
        for precision in PRECISIONS {
            let then: Vec<f32> = wide.iter().map(|&x| round(precision, x)).collect();
            let what = format!("{ty} {precision:?}");
            let found = grid_of(&then, 512, precision, TYPES);
            // A minimum and sixteen codes in eight bits are any floats.
            let Some(found) = found else {
                let may_miss = matches!(ty, GgmlType::Q5_1)
                    || ty == GgmlType::Q4_1 && precision == Precision::Bf16;
                assert!(may_miss, "{what}");
                continue;
            };
            assert_eq!(found.ty, ty, "{what}");
            let mut again = vec![0; blocks.len()];
            let mut rows = found.rows(kernels.encoder().unwrap());
            assert!(rows.encode(&then, &mut again), "{what}");
            let mut back = vec![0.0; values.len()];
            kernels.dequantize(&again, &mut back);
            let same = back.iter().zip(&then).filter(|&(&x, &then)| round(precision, x) == then);
            let lost = values.len() - same.count();
            // In so few bits there is a coarser grid now and then, whose scales are no f16.
            let may_lose = if precision == Precision::Bf16 { values.len() / 500 } else { 0 };
            assert_eq!(lost == 0, found.is_exact(), "{what}: {found:?}");
            assert!(lost <= may_lose, "{what}: {found:?}, {lost} differ");
        }
    }
}
