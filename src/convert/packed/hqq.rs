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
    let params = |name: &str| parts.quantization.pointer(&format!("/quant_config/{name}"));
    for name in ["scale_quant_params", "zero_quant_params"] {
        if params(name).is_some_and(|value| !value.is_null()) {
            return Err(ConvertError::Quantized(format!("hqq with `{name}`")));
        }
    }
    parts.bases("W_q").map(|base| Ok(Packed::matrix(base, matrix(parts, base)?))).collect()
}

fn matrix(parts: &Parts<'_>, base: &str) -> Result<Hqq, ConvertError> {
    let [packed, scale, zero] = ["W_q", "scale", "zero"].map(|part| parts.need(base, part));
    let (packed, scale, zero) = (packed?, scale?, zero?);
    let [bits, axis] = ["nbits", "axis"].map(|part| {
        let tensor = parts.need(base, part)?;
        Ok::<usize, ConvertError>(parts.tensors.integers(&tensor)?.first().copied().unwrap_or(9))
    });
    let (bits, axis) = (bits?, axis?);
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
    let own = Hqq { rows, cols, bits, group, axis, packed, scale, zero };
    let dtype = if bits == 3 { Dtype::I32 } else { Dtype::U8 };
    let ([lines, across], fields) = (two(&own.packed)?, own.fields());
    let [high, wide] = own.shape();
    let is_there = [1, 2, 3, 4, 8].contains(&bits) && own.packed.dtype == dtype;
    if !is_there || across != wide || lines != high.div_ceil(fields) {
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
            kind: Kind::Integers(mask(self.bits)),
            place,
            scales: tensors.floats(&self.scale)?,
            zeros: Zeros::Each(tensors.floats(&self.zero)?),
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let words = match self.bits {
            3 => tensors.words(&self.packed)?,
            _ => tensors.whole(&self.packed)?.into_iter().map(u32::from).collect(),
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
