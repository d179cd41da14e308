//! Floats of four bits: MXFP4, whose groups of 32 have a power of two (OCP Microscaling 1.0), and NVFP4,
//! whose groups of 16 have a float of eight bits, and the matrix another scale.

use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, must_be, refuse, two};
use crate::convert::dtype::Dtype;

/// Elements of a byte.
const ELEMENTS: usize = 2;

pub(super) struct Fp4 {
    rows: usize,
    cols: usize,
    /// Columns of a group.
    group: usize,
    packed: Tensor,
    scale: Tensor,
    /// Divisor of all scales.
    divisor: Option<Tensor>,
}

impl Fp4 {
    /// MXFP4 of compressed-tensors.
    pub(super) fn mx(parts: &Parts<'_>, base: &str) -> Result<Fp4, ConvertError> {
        Fp4::of(parts, base, 32, None)
    }

    /// NVFP4 of compressed-tensors.
    pub(super) fn nv(parts: &Parts<'_>, base: &str) -> Result<Fp4, ConvertError> {
        let divisor = parts.need(base, "weight_global_scale")?;
        if divisor.shape.iter().product::<u64>() != 1 {
            return Err(refuse(&divisor, "not one number"));
        }
        Fp4::of(parts, base, 16, Some(divisor))
    }

    fn of(
        parts: &Parts<'_>,
        base: &str,
        group: usize,
        divisor: Option<Tensor>,
    ) -> Result<Fp4, ConvertError> {
        let packed = parts.need(base, "weight_packed")?;
        let scale = parts.need(base, "weight_scale")?;
        let [rows, bytes] = two(&packed)?;
        let cols = bytes * ELEMENTS;
        must_be(&scale, &[rows, cols / group])?;
        let own = Fp4 { rows, cols, group, packed, scale, divisor };
        own.check()?;
        Ok(own)
    }

    fn check(&self) -> Result<(), ConvertError> {
        let of_scales = if self.divisor.is_some() { Dtype::F8E4M3 } else { Dtype::U8 };
        match () {
            () if self.packed.dtype != Dtype::U8 => Err(refuse(&self.packed, "no bytes")),
            () if !self.cols.is_multiple_of(self.group) => {
                Err(refuse(&self.packed, format!("rows are no groups of {}", self.group)))
            }
            () if self.scale.dtype != of_scales => Err(refuse(&self.scale, "another type")),
            () => Ok(()),
        }
    }
}

/// Experts of GPT-OSS: `_blocks` `[experts][outputs][groups][16]` beside `_scales`. An unquantized
/// checkpoint has inputs as rows.
pub(super) fn find_experts(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    let all = parts.tensors.all().iter();
    let bases = all.filter_map(|tensor| Some((tensor, tensor.name.strip_suffix("_blocks")?)));
    let stack = |(packed, base): (&Tensor, &str)| {
        let scale = parts.tensors.named(&format!("{base}_scales")).cloned();
        let scale = scale.ok_or_else(|| refuse(packed, "`_scales` is missing"))?;
        let &[experts, outputs, groups, 16] = &packed.shape[..] else {
            return Err(refuse(packed, "no groups of 16 bytes"));
        };
        must_be(&scale, &[experts, outputs, groups].map(|n| n as usize))?;
        let (rows, cols) = (experts.saturating_mul(outputs) as usize, groups as usize * 32);
        let packed = packed.clone();
        let codes = Fp4 { rows, cols, group: 32, packed, scale, divisor: None };
        codes.check()?;
        let shape = vec![experts, cols as u64, outputs];
        Ok(Packed { name: base.into(), shape, turned: true, codes: Box::new(codes) })
    };
    bases.map(stack).collect()
}

impl Codes for Fp4 {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let scales = match &self.divisor {
            // 2^(e - 127), the smallest of which is subnormal in f32; all ones is no number.
            None => {
                let power = |e: u8| match e {
                    0 => f32::from_bits(1 << 22),
                    255 => f32::NAN,
                    e => f32::from_bits(u32::from(e) << 23),
                };
                tensors.whole(&self.scale)?.into_iter().map(power).collect()
            }
            Some(divisor) => {
                let divisor = tensors.floats(divisor)?[0];
                tensors.floats(&self.scale)?.into_iter().map(|scale| scale / divisor).collect()
            }
        };
        let (len, across) = (self.group, self.cols / self.group);
        let (kind, zeros) = (Kind::Fp4, Zeros::All(0.0));
        Ok(Groups { kind, place: Place::Rows { len, across }, scales, zeros })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let bytes = tensors.whole(&self.packed)?;
        Ok(bytes.into_iter().flat_map(|byte| [byte & 15, byte >> 4]).collect())
    }
}
