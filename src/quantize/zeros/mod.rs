//! Zeros that stay zeros: blocks in which weights that are exactly zero have a code that stands for it.
//!
//! Types with levels on both sides of zero have such a code, and only the code is changed where a method
//! chose another. Types with a minimum (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K) have one where the minimum is a
//! multiple of the scale: blocks without are fitted anew to such scales ([`grid`]). Types of codebooks
//! have none. Blocks without zeros among their weights, or whose zeros are kept, are not touched.

mod census;
mod grid;

pub use census::zeros_of;

use gguf_rs_lite::GgmlType;
use teff_kernels::{Encoder, Group, Scales, TypeKernels};

/// Elements of a block at most.
const LEN_MAX: usize = 256;

/// The part of a row's weights that are zero from which on they are meant to be, by default: a
/// quarter. Rows of trained weights have hardly any.
const MEANT: usize = 4;

/// Whose zeros stay zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepZeros {
    /// Those of rows of which a quarter or more is zero, in types that have a zero.
    #[default]
    Auto,
    /// All; a type that has no zero is refused.
    On,
    /// Nobody's.
    Off,
}

impl KeepZeros {
    /// All, the default first.
    pub const ALL: [KeepZeros; 3] = [KeepZeros::Auto, KeepZeros::On, KeepZeros::Off];

    /// Name that users say.
    pub fn name(self) -> &'static str {
        match self {
            KeepZeros::Auto => "auto",
            KeepZeros::On => "on",
            KeepZeros::Off => "off",
        }
    }

    /// Whether the zeros of a row are kept.
    pub(super) fn keeps(self, x: &[f32]) -> bool {
        match self {
            KeepZeros::Off => false,
            KeepZeros::On => true,
            KeepZeros::Auto => MEANT * count(x) >= x.len(),
        }
    }
}

/// How many weights are zero.
pub fn count(x: &[f32]) -> usize {
    x.iter().filter(|x| **x == 0.0).count()
}

/// A type that has no zero in a block of other weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoZero(pub GgmlType);

/// Whether a type can have zeros among other weights.
pub(super) fn has_zero(kernels: &TypeKernels) -> bool {
    let Ok(encoder) = kernels.encoder() else { return kernels.ty.block_len() == 1 };
    (0..encoder.codes).any(|code| encoder.level(code as u8) == 0)
}

/// Changes the blocks of a row so that weights that are zero are read as zero.
///
/// # Errors
/// The type has no zero, and a weight is one.
pub(super) fn keep(
    kernels: &TypeKernels,
    x: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) -> Result<(), NoZero> {
    let (len, bytes) = (kernels.ty.block_len(), kernels.ty.block_bytes());
    if len == 1 {
        return Ok(());
    }
    let mut y = [0.0; LEN_MAX];
    let y = &mut y[..len];
    for (number, (x, block)) in x.chunks_exact(len).zip(blocks.chunks_exact_mut(bytes)).enumerate()
    {
        kernels.dequantize(block, y);
        if is_kept(x, y) {
            continue;
        }
        let encoder = kernels.encoder().map_err(|_| NoZero(kernels.ty))?;
        let importance = importance.map(|all| &all[number * len..][..len]);
        mend(encoder, x, importance, block)?;
        kernels.dequantize(block, y);
        if !is_kept(x, y) {
            return Err(NoZero(kernels.ty));
        }
    }
    Ok(())
}

/// Whether all weights that are zero are read as zero.
pub(super) fn is_kept(x: &[f32], y: &[f32]) -> bool {
    x.iter().zip(y).all(|(x, y)| *x != 0.0 || *y == 0.0)
}

/// Has a block's zeros get the code of zero, with other scales where these have none.
fn mend(
    encoder: &Encoder,
    x: &[f32],
    importance: Option<&[f32]>,
    block: &mut [u8],
) -> Result<(), NoZero> {
    let mut codes = [0; LEN_MAX];
    let codes = &mut codes[..encoder.len];
    let mut scales = [Scales::default()];
    encoder.take_apart(block, codes, &mut scales);
    if !set_zeros(encoder, x, &scales[0], codes) {
        let new = with_zeros(encoder, x, importance).ok_or(NoZero(encoder.ty))?;
        encoder.encode(x, &[new], block);
        encoder.take_apart(block, codes, &mut scales);
        if !set_zeros(encoder, x, &scales[0], codes) {
            return Err(NoZero(encoder.ty));
        }
    }
    encoder.assemble(codes, &scales, block);
    Ok(())
}

/// Gives weights that are zero the code of zero; false if one of them has none by these scales.
fn set_zeros(encoder: &Encoder, x: &[f32], scales: &Scales, codes: &mut [u8]) -> bool {
    let groups = x.chunks_exact(encoder.group).zip(codes.chunks_exact_mut(encoder.group));
    for (g, (x, codes)) in groups.enumerate() {
        if x.iter().all(|x| *x != 0.0) {
            continue;
        }
        let Some(zero) = zero_code(encoder, &encoder.group_of(scales, g)) else { return false };
        x.iter().zip(codes).filter(|(x, _)| **x == 0.0).for_each(|(_, code)| *code = zero);
    }
    true
}

/// The code of a group that is read as zero: of the least level, if there are several.
pub(super) fn zero_code(encoder: &Encoder, group: &Group) -> Option<u8> {
    let is_zero = |code: &u8| group.value(encoder.level(*code)) == 0.0;
    let codes = (0..encoder.codes).map(|code| code as u8).filter(is_zero);
    codes.min_by_key(|code| encoder.level(*code).unsigned_abs())
}

/// Scales of a block by which its groups that have zeros have a code for them: those that it has, or new
/// ones if these do not.
pub(super) fn refit(
    encoder: &Encoder,
    x: &[f32],
    importance: Option<&[f32]>,
    scales: Scales,
) -> Scales {
    let has_code = |(g, x): (usize, &[f32])| {
        count(x) == 0 || zero_code(encoder, &encoder.group_of(&scales, g)).is_some()
    };
    match x.chunks_exact(encoder.group).enumerate().all(has_code) {
        true => scales,
        false => with_zeros(encoder, x, importance).unwrap_or(scales),
    }
}

/// Scales of a block by which each of its groups has a code for zero; `None` if the type has none.
fn with_zeros(encoder: &Encoder, x: &[f32], importance: Option<&[f32]>) -> Option<Scales> {
    match encoder.ty {
        GgmlType::Q4_1 | GgmlType::Q5_1 => grid::block(encoder, x, importance),
        GgmlType::Q2_K => grid::super_block(encoder, x, importance, 15, &[2, 1, 3]),
        GgmlType::Q4_K => grid::super_block(encoder, x, importance, 63, &[8, 4, 15]),
        GgmlType::Q5_K => grid::super_block(encoder, x, importance, 63, &[16, 8, 31]),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::super::method::Method;
    use super::*;
    use crate::random::SplitMix64;
    use teff_kernels::KernelTable;

    /// Sums of draws, of which those become zero that `is_zero` says.
    fn row(seed: u64, n: usize, is_zero: impl Fn(usize) -> bool) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut x: Vec<f32> = (0..n).map(|_| 0.05 * (draw() + draw() + draw())).collect();
        x.iter_mut().enumerate().filter(|(i, _)| is_zero(*i)).for_each(|(_, x)| *x = 0.0);
        x
    }

    fn error(x: &[f32], y: &[f32]) -> f64 {
        let error = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        (error / x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()).sqrt()
    }

    /// In every type that has a zero all zeros are read as such, however a row is made, and the others
    /// lose little more than they do without.
    #[test]
    fn zeros_survive_in_each_type_that_has_one() {
        let mut kept = Vec::new();
        for ty in GgmlType::all() {
            let Some(kernels) = KernelTable::detect().types(ty) else { continue };
            let can_be_made = Method::from_name("search").unwrap().supports(kernels);
            if !can_be_made || ty.block_len() == 1 {
                continue;
            }
            let rows = [
                row(1, 512, |i| i % 2 == 0),
                row(2, 512, |i| i % 4 < 2),
                row(3, 512, |i| i < 300),
                row(4, 512, |i| i % 7 != 0).iter().map(|x| x.abs()).collect(),
                row(5, 512, |i| i % 3 == 0).iter().map(|x| -x.abs()).collect(),
                row(6, 512, |i| i % 2 == 1).iter().map(|x| x * 1e-5).collect(),
                row(7, 512, |i| i % 2 == 1).iter().map(|x| x * 1e4).collect(),
                row(8, 512, |i| i % 2 == 1).iter().map(|x| x + 0.02 * x.signum()).collect(),
                vec![0.0; 512],
            ];
            let importance: Vec<f32> = (0..512).map(|i| 1.0 + (i % 5) as f32).collect();
            for (number, x) in rows.iter().enumerate() {
                for importance in [None, Some(&importance[..])] {
                    let mut blocks = vec![0; 512 / ty.block_len() * ty.block_bytes()];
                    kernels.quantize(x, importance, &mut blocks).unwrap();
                    let (mut plain, mut y) = (vec![0.0; 512], vec![0.0; 512]);
                    kernels.dequantize(&blocks, &mut plain);
                    let result = keep(kernels, x, importance, &mut blocks);
                    if !has_zero(kernels) {
                        assert_eq!(result.is_err(), !is_kept(x, &plain), "{ty} {number}");
                        continue;
                    }
                    result.unwrap();
                    kernels.dequantize(&blocks, &mut y);
                    assert!(is_kept(x, &y), "{ty} {number}");
                    let (before, after) = (error(x, &plain), error(x, &y));
                    // Far from zero a minimum would have been worth more than zeros are.
                    let most = if number == 7 { 2.5 } else { 1.6 };
                    assert!(
                        number == 8 || after < most * before.max(1e-4),
                        "{ty} {number}: {before} {after}"
                    );
                    // Once more changes nothing.
                    let again = blocks.clone();
                    keep(kernels, x, importance, &mut blocks).unwrap();
                    assert!(blocks == again, "{ty} {number}");
                }
            }
            if has_zero(kernels) {
                kept.push(ty.name());
            }
        }
        for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
        {
            assert!(kept.contains(&name), "{name} of {kept:?}");
        }
        assert!(!kept.iter().any(|name| name.starts_with("IQ")), "{kept:?}");
    }

    /// By default the zeros of sparse rows are kept, and those that happen to be there are not.
    #[test]
    fn rows_are_sparse_from_a_quarter_on() {
        let of = |n: usize| row(9, 64, |i| i < n);
        assert!(KeepZeros::Auto.keeps(&of(16)) && !KeepZeros::Auto.keeps(&of(15)));
        assert!(KeepZeros::On.keeps(&of(1)) && !KeepZeros::Off.keeps(&of(64)));
    }
}
