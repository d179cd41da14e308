//! Errors of all encoders on drawn matrices, against those of ggml's reference quantizers.
//!
//! `tests/golden/encoder_errors.tsv` has, for each matrix and type, the root mean square error without
//! importances and the one with them, weighted by them. The matrices are drawn by a rule, so that no
//! weights are kept: sums of twelve uniform numbers, ratios of these, outliers in some columns, values
//! on a grid, very small ones, and constants.

use gguf_rs_lite::GgmlType;
use std::path::Path;
use teff_kernels::KernelTable;

const SEED: u64 = 20261;
const ROWS: usize = 64;
const COLS: usize = 1024;

/// Largest error, as a multiple of the reference's.
const BAR: f64 = 1.01;

/// `n` uniform numbers in -1..1: splitmix64 from the seed and the name's FNV-1a hash.
fn uniform(name: &str, n: usize) -> Vec<f64> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let draw = |i: u64| {
        let mut z = SEED.wrapping_add(hash).wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (1..=n as u64).map(draw).collect()
}

/// Nearly normal numbers.
fn normal(name: &str) -> Vec<f64> {
    let u = uniform(name, 12 * ROWS * COLS);
    u.as_chunks::<12>().0.iter().map(|u| u.iter().sum::<f64>() / 2.0).collect()
}

fn matrix(name: &str) -> Vec<f32> {
    let place = |i: usize| (i / COLS, i % COLS);
    let of = |values: Vec<f64>, f: &dyn Fn(usize, f64) -> f64| -> Vec<f32> {
        values.into_iter().enumerate().map(|(i, x)| f(i, x) as f32).collect()
    };
    match name {
        "gaussian" => of(normal(name), &|_, g| 0.05 * g),
        "student_t" => {
            let parts: Vec<_> = (0..4).map(|k| normal(&format!("{name}#{k}"))).collect();
            let square = |i: usize| parts.iter().map(|part| part[i] * part[i]).sum::<f64>();
            of(normal(name), &|i, g| 0.05 * (g / (square(i) / 4.0).sqrt()))
        }
        "outlier_channels" => {
            of(normal(name), &|i, g| 0.05 * g * if place(i).1 % 97 == 5 { 12.0 } else { 1.0 })
        }
        "on_grid" => of(uniform("on_grid#q", ROWS * COLS), &|i, u| {
            let scale = (1.0 + ((place(i).1 / 32) % 5) as f64 / 8.0) / 64.0;
            (((u + 1.0) * 8.0).floor() - 8.0) * scale
        }),
        "tiny" => of(normal(name), &|_, g| 1e-6 * g),
        "constants" => of(normal(name), &|i, g| match place(i) {
            (row, _) if row % 4 == 0 => 0.0,
            (row, _) if row % 4 == 1 => 0.03,
            (row, col) if row % 4 == 2 => {
                if col % 256 == 17 {
                    -0.5
                } else {
                    0.02
                }
            }
            _ => 0.05 * g,
        }),
        _ => panic!("no matrix {name}"),
    }
}

fn importance(name: &str) -> Vec<f32> {
    let u = uniform(&format!("{name}#importance"), COLS);
    let large = |c: usize| if c % 61 == 7 { 30.0 } else { 1.0 };
    u.iter().enumerate().map(|(c, u)| ((0.01 + u * u) * large(c)) as f32).collect()
}

/// The root mean square error, weighted by importances where they are used.
fn error(ty: GgmlType, x: &[f32], importance: Option<&[f32]>) -> f64 {
    let kernels = KernelTable::detect().types(ty).expect("a weight type");
    let mut blocks = vec![0; COLS / ty.block_len() * ty.block_bytes()];
    let mut y = vec![0.0; COLS];
    let (mut error2, mut weights) = (0.0, 0.0);
    for x in x.chunks_exact(COLS) {
        kernels.quantize(x, importance, &mut blocks).expect("a type that can be written");
        kernels.dequantize(&blocks, &mut y);
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            let weight = importance.map_or(1.0, |w| f64::from(w[i]));
            error2 += weight * (f64::from(*x) - f64::from(*y)).powi(2);
            weights += weight;
        }
    }
    (error2 / weights).sqrt()
}

#[test]
fn errors_are_no_larger_than_the_references() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/encoder_errors.tsv");
    let table = std::fs::read_to_string(root).expect("the reference's errors");
    let (mut compared, mut misses) = (0, Vec::new());
    let mut drawn: Option<(String, Vec<f32>, Vec<f32>)> = None;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [name, ty, plain, weighted] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line}")
        };
        if drawn.as_ref().is_none_or(|(own, ..)| own != name) {
            drawn = Some((name.to_owned(), matrix(name), importance(name)));
        }
        let (_, x, w) = drawn.as_ref().expect("just drawn");
        let ty = GgmlType::from_name(ty).expect("a type");
        for (bar, importance) in [(plain, None), (weighted, Some(&w[..]))] {
            // Types that the reference refuses to write without importances.
            let Ok(bar) = bar.parse::<f64>() else { continue };
            let error = error(ty, x, importance);
            compared += 1;
            if error > BAR * bar {
                let kind = importance.map_or("plain", |_| "weighted");
                misses.push(format!("{name} {ty} {kind}: {error:e}, {:.4} times", error / bar));
            }
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
    assert_eq!(compared, 306, "errors");
}
