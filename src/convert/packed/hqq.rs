//! HQQ (mobiusml/hqq): zero points are real numbers, and groups are runs of elements (axis 1) or every
//! n-th element (axis 0).
//!
//! `W_q` is the matrix in another shape: a row for each group of axis 1, a column for each of axis 0. It
//! is cut into as many slabs of rows as a byte, or a word for 3 bits, has fields, the first slab in the
//! highest bits.

use super::fields::mask;
use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, refuse, two};
use crate::convert::dtype::Dtype;

struct Hqq {
    rows: usize,
    cols: usize,
    /// The largest code.
    max: u8,
    /// Bits that a code has room for.
    bits: usize,
    /// Elements of a group.
    group: usize,
    axis: usize,
    packed: Tensor,
    scale: Tensor,
    zero: Tensor,
}

/// Every module that has `W_q`.
pub(super) fn find(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    parts.bases("W_q").map(|base| Ok(Packed::matrix(base, matrix(parts, base)?))).collect()
}

/// Scales or zero points; what says how these are quantized themselves is ignored by recent releases, which
/// keep floats all the same.
fn plain(parts: &Parts<'_>, base: &str, part: &str) -> Result<Tensor, ConvertError> {
    let name = format!("{part}_quant_params");
    let params = parts.quantization.pointer(&format!("/quant_config/{name}"));
    match parts.part(base, part).filter(|tensor| tensor.dtype.is_float()) {
        None if params.is_some_and(|params| !params.is_null()) => {
            Err(ConvertError::Quantized(format!("hqq with `{name}`")))
        }
        None => parts.need(base, part),
        Some(tensor) => Ok(tensor),
    }
}

/// A number of bits, which is no integer for ternary codes: the largest code, and the bits that it has room for.
fn bits(parts: &Parts<'_>, tensor: &Tensor) -> Result<(u8, usize), ConvertError> {
    let bits = match tensor.dtype.is_float() {
        true => parts.tensors.floats(tensor)?.first().copied(),
        false => parts.tensors.integers(tensor)?.first().map(|&bits| bits as f32),
    };
    let bits = bits.unwrap_or_default();
    let room = match bits {
        1.0 => 1,
        // log2 of 3, nearly.
        1.58 | 2.0 => 2,
        3.0 | 4.0 => bits as usize,
        5.0 | 6.0 | 8.0 => 8,
        other => return Err(refuse(tensor, format!("{other} bits"))),
    };
    Ok(((bits.exp2() - 1.0).round() as u8, room))
}

fn matrix(parts: &Parts<'_>, base: &str) -> Result<Hqq, ConvertError> {
    let packed = parts.need(base, "W_q")?;
    let (scale, zero) = (plain(parts, base, "scale")?, plain(parts, base, "zero")?);
    let (max, bits) = bits(parts, &parts.need(base, "nbits")?)?;
    let axis = parts.tensors.integers(&parts.need(base, "axis")?)?.first().copied().unwrap_or(2);
    let shape = parts.need(base, "shape")?;
    let &[rows, cols] = &parts.tensors.integers(&shape)?[..] else {
        return Err(refuse(&shape, "no two dimensions"));
    };
    let n_groups: usize = scale.shape.iter().product::<u64>() as usize;
    let elements = rows.checked_mul(cols).filter(|&n| n > 0 && n_groups > 0);
    let elements = elements.ok_or_else(|| refuse(&shape, "no elements"))?;
    let group = elements / n_groups;
    if zero.shape != scale.shape || group * n_groups != elements || axis > 1 {
        return Err(refuse(&scale, format!("no groups along axis {axis} of {elements} elements")));
    }
    let own = Hqq { rows, cols, max, bits, group, axis, packed, scale, zero };
    let dtype = if bits == 3 { Dtype::I32 } else { Dtype::U8 };
    let [lines, across] = two(&own.packed)?;
    let [high, wide] = own.shape();
    // Bytes may be kept as floats (`view_as_float`).
    let is_there = own.packed.dtype == dtype || own.packed.dtype.is_float();
    let line_bytes = across.saturating_mul(own.packed.dtype.bytes());
    if !is_there || line_bytes != wide * dtype.bytes() || lines != high.div_ceil(own.fields()) {
        let problem = format!("not {elements} codes of {bits} bits in groups of {group}");
        return Err(refuse(&own.packed, problem));
    }
    Ok(own)
}

impl Hqq {
    /// Fields of a byte or word.
    fn fields(&self) -> usize {
        if self.bits == 3 { 10 } else { 8 / self.bits.clamp(1, 8) }
    }

    /// Rows and columns of the other shape.
    fn shape(&self) -> [usize; 2] {
        let others = self.rows * self.cols / self.group;
        if self.axis == 1 { [others, self.group] } else { [self.group, others] }
    }
}

impl Codes for Hqq {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let len = self.group;
        let place = match self.axis {
            0 => Place::Turns(self.rows * self.cols / len),
            _ if self.cols.is_multiple_of(len) => Place::Rows { len, across: self.cols / len },
            _ => Place::Flat(len),
        };
        Ok(Groups {
            kind: Kind::Integers(self.max),
            place,
            scales: tensors.floats(&self.scale)?,
            zeros: Zeros::Each(tensors.floats(&self.zero)?),
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let bytes = tensors.whole(&self.packed)?;
        let words: Vec<u32> = match self.bits {
            3 => bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect(),
            _ => bytes.into_iter().map(u32::from).collect(),
        };
        let [high, wide] = self.shape();
        let lines = words.len() / wide;
        let mut codes = Vec::with_capacity(high * wide);
        for row in 0..high {
            let shift = (self.fields() - 1 - row / lines) * self.bits;
            let line = &words[row % lines * wide..][..wide];
            codes.extend(line.iter().map(|&word| (word >> shift) as u8 & mask(self.bits)));
        }
        Ok(codes)
    }
}
