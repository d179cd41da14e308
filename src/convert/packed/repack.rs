//! Codes of a checkpoint as codes of a GGUF type: the type whose grid has them, and its blocks.

use super::grid::{Grid, Groups, Kind, Place, Zeros};
use crate::convert::ConvertError;
use crate::convert::plan::Output;
use crate::convert::safetensors::Tensors;
use crate::convert::stream::Sink;
use crate::grid::{Levels, scales};
use crate::model::checkpoint::Op;
use crate::receipt::{Loss, loss_of};
use gguf_rs_lite::GgmlType::{self, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ2_0};
use half::f16;
use teff_kernels::{Encoder, KernelTable, Scales};

/// Bytes that are handed on at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// Fate of the codes of a tensor of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repack {
    /// They are codes of this type.
    Codes(GgmlType),
    /// No type has their grid: values are rounded to one that loses less than the checkpoint has lost.
    Rounded(GgmlType),
}

/// Repacking of the codes of a tensor of the result; `None` if it is not of codes alone, `floats` is
/// the type for what eight bits do not hold.
///
/// # Errors
/// A file cannot be read, or a scale is no number.
pub fn repack(
    tensors: &Tensors,
    output: &Output,
    floats: GgmlType,
) -> Result<Option<Repack>, ConvertError> {
    let mut fate: Option<Repack> = None;
    for piece in &output.pieces {
        let Some(packed) = tensors.packed(&tensors.all()[piece.tensor]) else { return Ok(None) };
        let groups = packed.groups(tensors)?;
        check(&groups, &packed.name)?;
        let cols = piece.cols() as usize;
        let is_plain = piece.columns.is_none() && piece.scale == 1.0 && output.op == Op::Same;
        let own = type_of(&groups, cols).filter(|_| is_plain);
        let own =
            own.map_or_else(|| Repack::Rounded(rounded(&groups, cols, floats)), Repack::Codes);
        fate = Some(fate.map_or(own, |other| both(other, own)));
    }
    Ok(fate)
}

/// One fate for matrices of two. A minimum may be that of a symmetric grid.
fn both(a: Repack, b: Repack) -> Repack {
    match (a, b) {
        _ if a == b => a,
        (Repack::Codes(Q4_0 | Q4_1), Repack::Codes(Q4_0 | Q4_1)) => Repack::Codes(Q4_1),
        (Repack::Codes(Q5_0 | Q5_1), Repack::Codes(Q5_0 | Q5_1)) => Repack::Codes(Q5_1),
        (Repack::Rounded(ty), Repack::Codes(_)) | (Repack::Codes(_), Repack::Rounded(ty)) => {
            Repack::Rounded(ty)
        }
        _ => Repack::Rounded(Q8_0),
    }
}

fn check(groups: &Groups, name: &str) -> Result<(), ConvertError> {
    let zeros = match &groups.zeros {
        Zeros::All(zero) => std::slice::from_ref(zero),
        Zeros::Each(zeros) => zeros,
    };
    match groups.scales.iter().chain(zeros).find(|x| !x.is_finite()) {
        None => Ok(()),
        Some(x) => Err(ConvertError::Unpackable {
            tensor: name.into(),
            problem: format!("a scale or zero point is {x}"),
        }),
    }
}

/// The type that has the codes as they are.
fn type_of(groups: &Groups, cols: usize) -> Option<GgmlType> {
    let &Place::Rows { len, across } = &groups.place else { return None };
    // Blocks lie within groups.
    let has = |block: usize| cols.is_multiple_of(block) && (across == 1 || len % block == 0);
    let max = match groups.kind {
        Kind::Integers(max) => f32::from(max),
        Kind::Fp4 => {
            let is_power = |scale: &f32| *scale > 0.0 && exponent(*scale).is_some();
            return (has(32) && groups.scales.iter().all(is_power)).then_some(MXFP4);
        }
    };
    if !has(32) || !groups.scales.iter().all(|&scale| is_half(scale)) {
        return None;
    }
    let n = groups.scales.len();
    let within = |low: f32, high: f32| {
        (0..n)
            .map(|group| groups.zero(group))
            .all(|zero| zero.fract() == 0.0 && -zero >= low && max - zero <= high)
    };
    let has_minimums =
        || (0..n).all(|g| (groups.zero(g) * groups.scales[g]).abs() <= f16::MAX.to_f32());
    match () {
        () if has(256) && within(-1.0, 1.0) => Some(TQ2_0),
        () if within(-8.0, 7.0) => Some(Q4_0),
        () if max <= 15.0 && has_minimums() => Some(Q4_1),
        () if within(-16.0, 15.0) => Some(Q5_0),
        () if max <= 31.0 && has_minimums() => Some(Q5_1),
        () if within(-128.0, 127.0) => Some(Q8_0),
        () => None,
    }
}

/// The type for values of a grid that no type has: errors of eight bits are a fraction of those that four
/// or five have made; more are left to floats.
fn rounded(groups: &Groups, cols: usize, floats: GgmlType) -> GgmlType {
    let is_coarse = match groups.kind {
        Kind::Integers(max) => max < 32,
        Kind::Fp4 => true,
    };
    let largest = groups.scales.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    match is_coarse && cols.is_multiple_of(32) && is_half(largest) {
        true => Q8_0,
        false => floats,
    }
}

/// Whether a half holds a scale to its full precision.
fn is_half(scale: f32) -> bool {
    scale == 0.0 || (f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32()).contains(&scale.abs())
}

/// The exponent of a power of two, as MXFP4 keeps it.
fn exponent(scale: f32) -> Option<u8> {
    match scale.to_bits() {
        bits if bits == 1 << 22 => Some(0),
        bits if bits & ((1 << 23) - 1) == 0 => u8::try_from(bits >> 23).ok().filter(|&e| e > 0),
        _ => None,
    }
}

/// Gives all bytes of a tensor of the result whose codes stay. Returns what scales lost in its type, if that is
/// asked.
///
/// # Errors
/// A file cannot be read, or `sink` says so.
pub fn stream(
    tensors: &Tensors,
    output: &Output,
    measures: bool,
    sink: &mut Sink<'_>,
) -> Result<Loss, ConvertError> {
    let kernels = KernelTable::detect().types(output.ty).expect("every type has kernels");
    let encoder = kernels.encoder().expect("types of grids have encoders");
    let (mut lost, mut values, mut back) = (Loss::default(), Vec::new(), Vec::new());
    for piece in &output.pieces {
        let grid = tensors.grid(&tensors.all()[piece.tensor])?;
        let row_bytes = output.ty.bytes_of(grid.cols as u64).expect("whole blocks") as usize;
        let mut blocks = Blocks::new(encoder, &grid, row_bytes);
        let mut bytes = Vec::new();
        let all = (0..grid.rows as u32).collect::<Vec<u32>>();
        for &row in piece.pick.as_ref().unwrap_or(&all) {
            blocks.add(row as usize, &mut bytes);
            if measures {
                values.clear();
                grid.widen(row as usize, &mut values);
                back.resize(values.len(), 0.0);
                kernels.dequantize(&bytes[bytes.len() - row_bytes..], &mut back);
                lost.add(loss_of(&values, &back));
            }
            if bytes.len() >= CHUNK_BYTES {
                sink(&bytes)?;
                bytes.clear();
            }
        }
        sink(&bytes)?;
    }
    Ok(lost)
}

/// Blocks of rows.
struct Blocks<'a> {
    encoder: &'a Encoder,
    grid: &'a Grid,
    levels: Levels,
    codes: Vec<u8>,
    scales: Vec<Scales>,
    row_bytes: usize,
}

impl<'a> Blocks<'a> {
    fn new(encoder: &'a Encoder, grid: &'a Grid, row_bytes: usize) -> Blocks<'a> {
        let (codes, scales) = (Vec::with_capacity(grid.cols), Vec::new());
        Blocks { encoder, grid, levels: Levels::new(encoder), codes, scales, row_bytes }
    }

    /// Adds the blocks of a row.
    fn add(&mut self, row: usize, bytes: &mut Vec<u8>) {
        let Grid { cols, groups, .. } = self.grid;
        let has_min = matches!(self.encoder.ty, Q4_1 | Q5_1);
        self.codes.clear();
        self.scales.clear();
        let blocks = self.grid.codes_of(row).chunks_exact(self.encoder.len);
        for (i, block) in blocks.enumerate() {
            let group = groups.of(row, i * self.encoder.len, *cols);
            let (scale, zero) = (groups.scales[group], groups.zero(group));
            match groups.kind {
                Kind::Fp4 => {
                    let mut exponents = [0; _];
                    exponents[0] = exponent(scale).unwrap_or_default();
                    let none = scales([0.0; 2]);
                    self.scales.push(Scales::new(none.d, none.m, exponents, none.mins));
                    self.codes.extend_from_slice(block);
                }
                Kind::Integers(_) if has_min => {
                    self.scales.push(scales([scale, -zero * scale]));
                    self.codes.extend_from_slice(block);
                }
                Kind::Integers(_) => {
                    self.scales.push(scales([scale, 0.0]));
                    let level = |&code: &u8| (f32::from(code) - zero) as i16;
                    self.codes.extend(block.iter().map(|code| self.levels.code(level(code))));
                }
            }
        }
        let at = bytes.len();
        bytes.resize(at + self.row_bytes, 0);
        self.encoder.assemble(&self.codes, &self.scales, &mut bytes[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(max: u8, zeros: &[f32], len: usize) -> Groups {
        Groups {
            kind: Kind::Integers(max),
            place: Place::Rows { len, across: zeros.len() },
            scales: vec![0.25; zeros.len()],
            zeros: Zeros::Each(zeros.to_vec()),
        }
    }

    #[test]
    fn types_are_those_that_have_the_grid() {
        let of = |max, zeros: &[f32], len| type_of(&groups(max, zeros, len), len * zeros.len());
        assert_eq!(of(15, &[8.0, 8.0], 64), Some(Q4_0));
        assert_eq!(of(15, &[8.0, 7.0], 64), Some(Q4_1), "8 is a level too many");
        assert_eq!(of(7, &[4.0, 0.0], 32), Some(Q4_0), "three bits fit wherever they begin");
        assert_eq!(of(3, &[1.5, 2.0], 32), Some(Q4_1));
        assert_eq!(of(31, &[16.0, 16.0], 32), Some(Q5_0));
        assert_eq!(of(31, &[16.0, 3.5], 32), Some(Q5_1));
        assert_eq!(of(255, &[128.0, 128.0], 32), Some(Q8_0));
        assert_eq!(of(255, &[127.0, 128.0], 32), None);
        assert_eq!(of(2, &[1.0], 256), Some(TQ2_0));
        assert_eq!(of(2, &[1.0], 96), Some(Q4_0));
        assert_eq!(of(15, &[8.0, 8.0], 48), None, "blocks cross groups");
        assert_eq!(of(15, &[8.0], 40), None);
        let mut small = groups(15, &[8.0], 32);
        small.scales = vec![1e-6];
        assert_eq!(type_of(&small, 32), None, "a half has it with few bits");
        assert_eq!(rounded(&small, 32, GgmlType::F16), GgmlType::F16);
        assert_eq!(both(Repack::Codes(Q4_0), Repack::Codes(Q4_1)), Repack::Codes(Q4_1));
        let (codes, rounded) = (Repack::Codes(Q4_0), Repack::Rounded(Q8_0));
        assert_eq!((both(codes, rounded), both(rounded, codes)), (rounded, rounded));
    }

    #[test]
    fn powers_of_two_are_exponents() {
        assert_eq!([1.0, 2.0, 0.5, 2f32.powi(-127)].map(exponent), [127, 128, 126, 0].map(Some));
        assert_eq!([1.5, 0.0, f32::INFINITY].map(exponent)[..2], [None, None]);
    }
}
