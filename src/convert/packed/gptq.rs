//! GPTQ (arXiv:2210.17323) as AutoGPTQ and GPTQModel keep it.
//!
//! `qweight` has the codes of a column of inputs below each other, `qzeros` the zero points of a group
//! side by side, `scales` is `[groups][outputs]`, `g_idx` the group of each input. Format `gptq` keeps
//! zero points less one, subtracted from the whole word: a zero point of 0 borrows from its neighbours.

use super::fields::{Fields, mask};
use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, must_be, refuse, two};

/// Bits of codes that go through words as one stream.
const BITS: [usize; 4] = [2, 3, 4, 8];

struct Gptq {
    rows: usize,
    cols: usize,
    bits: usize,
    /// Columns of a group.
    group: usize,
    n_groups: usize,
    is_less_one: bool,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Option<Tensor>,
}

/// Every module that has `qweight`.
pub(super) fn find(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    let format = parts.text(&["checkpoint_format", "format"]).unwrap_or("gptq");
    let is_less_one = match format {
        "gptq" => true,
        "gptq_v2" => false,
        other => return Err(ConvertError::Quantized(format!("gptq ({other})"))),
    };
    if parts.quantization.get("is_marlin_format").is_some_and(|on| on == true) {
        return Err(ConvertError::Quantized("gptq (`is_marlin_format`)".into()));
    }
    parts.check_words("gptq")?;
    let said = parts.int(&["bits"]).filter(|bits| BITS.contains(bits));
    let said = said.ok_or_else(|| {
        let bits = parts.int(&["bits"]).map_or_else(|| "unknown".into(), |bits| bits.to_string());
        ConvertError::Quantized(format!("gptq ({bits} bits)"))
    })?;
    let is_dynamic = parts.quantization.get("dynamic").is_some_and(|own| !own.is_null());
    let matrix = |base: &str| {
        let [qweight, qzeros, scales] =
            ["qweight", "qzeros", "scales"].map(|part| parts.need(base, part));
        let (qweight, qzeros, scales) = (qweight?, qzeros?, scales?);
        let ([words, rows], [n_groups, outputs]) = (two(&qweight)?, two(&scales)?);
        // Modules may have bits of their own: the zero points tell, of which there is one for each output.
        let has = |bits: usize| qzeros.shape.last() == Some(&(Fields::words_of(rows, bits) as u64));
        let mut others = BITS.into_iter().filter(|&bits| is_dynamic && has(bits));
        let bits = if has(said) { said } else { others.next().unwrap_or(said) };
        let cols = words * 32 / bits;
        if outputs != rows || Fields::words_of(cols, bits) != words {
            return Err(refuse(&qweight, format!("not {bits} bits for each of {outputs} outputs")));
        }
        must_be(&qzeros, &[n_groups, Fields::words_of(rows, bits)])?;
        if !parts.agrees(cols, n_groups) {
            return Err(refuse(&scales, "not as many groups as `group_size` makes"));
        }
        let g_idx = parts.part(base, "g_idx");
        if let Some(g_idx) = &g_idx {
            must_be(g_idx, &[cols])?;
        } else if parts.quantization.get("desc_act").is_some_and(|on| on == true) {
            return Err(refuse(&qweight, "`g_idx` is missing, and `desc_act` is true"));
        }
        let group = cols.div_ceil(n_groups);
        Ok(Packed::matrix(
            base,
            Gptq { rows, cols, bits, group, n_groups, is_less_one, qweight, qzeros, scales, g_idx },
        ))
    };
    parts.bases("qweight").map(matrix).collect()
}

impl Gptq {
    /// Zero points `[group][output]`.
    fn zeros(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let mut words = tensors.words(&self.qzeros)?;
        let bits = self.bits;
        let is_whole = 32 % bits == 0;
        if self.is_less_one && is_whole {
            let ones = u32::MAX / u32::from(mask(bits));
            words.iter_mut().for_each(|word| *word = word.wrapping_add(ones));
        }
        let step = Fields::words_of(self.rows, bits);
        let mut zeros = Vec::with_capacity(self.n_groups * self.rows);
        for group in 0..self.n_groups {
            let fields = Fields { words: &words, first: group * step, step: 1, bits };
            let zero = |row| match self.is_less_one && !is_whole {
                true => fields.get(row).wrapping_add(1) & mask(bits),
                false => fields.get(row),
            };
            zeros.extend((0..self.rows).map(zero));
        }
        Ok(zeros)
    }
}

impl Codes for Gptq {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let across = self.n_groups;
        let zeros = self.zeros(tensors)?;
        let scales = tensors.floats(&self.scales)?;
        let place = Place::of(tensors, self.g_idx.as_ref(), self.group, across)?;
        let turned =
            || (0..self.rows).flat_map(|row| (0..across).map(move |group| group * self.rows + row));
        Ok(Groups {
            kind: Kind::Integers(mask(self.bits)),
            place,
            scales: turned().map(|at| scales[at]).collect(),
            zeros: Zeros::Each(turned().map(|at| f32::from(zeros[at])).collect()),
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let words = tensors.words(&self.qweight)?;
        let mut codes = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            let fields = Fields { words: &words, first: row, step: self.rows, bits: self.bits };
            codes.extend((0..self.cols).map(|col| fields.get(col)));
        }
        Ok(codes)
    }
}
