//! Ternary weights as transformers keeps those of BitNet (arXiv:2402.17764): a byte has an element of
//! each quarter of the rows, plus one, and the whole matrix one scale.

use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, refuse, two};
use crate::convert::dtype::Dtype;

/// Rows that share a byte.
const ROWS: usize = 4;

struct Ternary {
    rows: usize,
    cols: usize,
    /// Whether elements are divided by the scale.
    divides: bool,
    weight: Tensor,
    scale: Tensor,
}

/// Every module whose weight is bytes.
pub(super) fn find(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    let divides = match parts.text(&["linear_class"]).unwrap_or("bitlinear") {
        "bitlinear" => true,
        "autobitlinear" => false,
        other => return Err(ConvertError::Quantized(format!("bitnet ({other})"))),
    };
    let is_packed =
        |base: &&str| parts.part(base, "weight").is_some_and(|weight| weight.dtype == Dtype::U8);
    let matrix = |base: &str| {
        let (weight, scale) = (parts.need(base, "weight")?, parts.need(base, "weight_scale")?);
        let [lines, cols] = two(&weight)?;
        if scale.shape.iter().product::<u64>() != 1 {
            return Err(refuse(&scale, "not one scale"));
        }
        let rows = lines * ROWS;
        Ok(Packed::matrix(base, Ternary { rows, cols, divides, weight, scale }))
    };
    parts.bases("weight").filter(is_packed).map(matrix).collect()
}

impl Codes for Ternary {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let scale = tensors.floats(&self.scale)?[0];
        let scale = if self.divides { 1.0 / scale } else { scale };
        Ok(Groups {
            kind: Kind::Integers(2),
            place: Place::Rows { len: self.cols, across: 1 },
            scales: vec![scale; self.rows],
            zeros: Zeros::All(1.0),
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let bytes = tensors.whole(&self.weight)?;
        let codes = |part| bytes.iter().map(move |byte| byte >> (2 * part) & 3);
        let codes: Vec<u8> = (0..ROWS).flat_map(codes).collect();
        match codes.contains(&3) {
            true => Err(refuse(&self.weight, "an element that is none of -1, 0, 1")),
            false => Ok(codes),
        }
    }
}
