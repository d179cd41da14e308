//! Floats of four bits: MXFP4, whose groups of 32 have a power of two (OCP Microscaling 1.0), and NVFP4,
//! whose groups of 16 have a float of eight bits, and the matrix another scale.

use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, must_be, refuse, two};
use crate::convert::dtype::{Dtype, power};

/// Elements of a byte.
const ELEMENTS: usize = 2;

pub(super) struct Fp4 {
    rows: usize,
    cols: usize,
    /// Columns of a group.
    group: usize,
    packed: Tensor,
    scale: Tensor,
    /// The number that all scales have to do with.
    of_all: Option<(Tensor, OfAll)>,
}

/// Effect of the tensor's one number on its scales.
#[derive(Clone, Copy)]
enum OfAll {
    Divides,
    Multiplies,
}

impl Fp4 {
    /// MXFP4 of compressed-tensors.
    pub(super) fn mx(parts: &Parts<'_>, base: &str) -> Result<Fp4, ConvertError> {
        Fp4::of(parts, base, 32, parts.need(base, "weight_packed")?, None)
    }

    /// NVFP4 of compressed-tensors.
    pub(super) fn nv(parts: &Parts<'_>, base: &str) -> Result<Fp4, ConvertError> {
        let divisor = parts.need(base, "weight_global_scale")?;
        let packed = parts.need(base, "weight_packed")?;
        Fp4::of(parts, base, 16, packed, Some((divisor, OfAll::Divides)))
    }

    /// NVFP4 of ModelOpt.
    fn modelopt(parts: &Parts<'_>, base: &str) -> Result<Fp4, ConvertError> {
        let factor = parts.need(base, "weight_scale_2")?;
        let packed = parts.need(base, "weight")?;
        Fp4::of(parts, base, 16, packed, Some((factor, OfAll::Multiplies)))
    }

    fn of(
        parts: &Parts<'_>,
        base: &str,
        group: usize,
        packed: Tensor,
        of_all: Option<(Tensor, OfAll)>,
    ) -> Result<Fp4, ConvertError> {
        let scale = parts.need(base, "weight_scale")?;
        let [rows, bytes] = two(&packed)?;
        let cols = bytes * ELEMENTS;
        must_be(&scale, &[rows, cols / group])?;
        let own = Fp4 { rows, cols, group, packed, scale, of_all };
        own.check()?;
        Ok(own)
    }

    fn check(&self) -> Result<(), ConvertError> {
        let of_scales = if self.of_all.is_some() { Dtype::F8E4M3 } else { Dtype::U8 };
        if let Some((of_all, _)) = &self.of_all
            && of_all.shape.iter().product::<u64>() != 1
        {
            return Err(refuse(of_all, "not one number"));
        }
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
        let codes = Fp4 { rows, cols, group: 32, packed, scale, of_all: None };
        codes.check()?;
        let shape = vec![experts, cols as u64, outputs];
        Ok(Packed { name: base.into(), shape, turned: true, codes: Box::new(codes) })
    };
    bases.map(stack).collect()
}

/// NVFP4 of ModelOpt, whose floats of eight bits have factors beside them and are read as such.
pub(super) fn find_modelopt(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    let algorithm = parts.text(&["quant_algo"]).unwrap_or("no `quant_algo`");
    if !["FP8", "NVFP4", "W4A16_NVFP4"].contains(&algorithm) {
        return Err(ConvertError::Quantized(format!("modelopt ({algorithm})")));
    }
    let matrix = |base| Ok(Packed::matrix(base, Fp4::modelopt(parts, base)?));
    parts.bases("weight_scale_2").map(matrix).collect()
}

impl Codes for Fp4 {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let scales = match &self.of_all {
            None => tensors.whole(&self.scale)?.into_iter().map(power).collect(),
            Some((of_all, use_of_all)) => {
                let of_all = tensors.floats(of_all)?[0];
                let scales = tensors.floats(&self.scale)?.into_iter();
                match use_of_all {
                    OfAll::Divides => scales.map(|scale| scale / of_all).collect(),
                    OfAll::Multiplies => scales.map(|scale| scale * of_all).collect(),
                }
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
