//! AWQ (arXiv:2306.00978) in the packing "gemm": eight outputs of four bits in a word, in an order of
//! its own. What AWQ does to channels is folded into neighbours already.

use super::fields::Fields;
use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, must_be, refuse, two};

const BITS: usize = 4;
/// Outputs of a word.
const OUTPUTS: usize = 8;
/// The field of each output in its word.
const FIELD: [usize; OUTPUTS] = [0, 4, 1, 5, 2, 6, 3, 7];

struct Awq {
    rows: usize,
    cols: usize,
    n_groups: usize,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
}

/// Every module that has `qweight`.
pub(super) fn find(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    let (bits, version) = (parts.int(&["bits", "w_bit"]), parts.text(&["version", "format"]));
    let version = version.unwrap_or("gemm").to_ascii_lowercase();
    if bits != Some(BITS) || version != "gemm" {
        let bits = bits.map_or_else(|| "unknown".into(), |bits| bits.to_string());
        return Err(ConvertError::Quantized(format!("awq ({version}, {bits} bits)")));
    }
    parts.check_words("awq")?;
    let matrix = |base: &str| {
        let [qweight, qzeros, scales] =
            ["qweight", "qzeros", "scales"].map(|part| parts.need(base, part));
        let (qweight, qzeros, scales) = (qweight?, qzeros?, scales?);
        let ([cols, words], [n_groups, rows]) = (two(&qweight)?, two(&scales)?);
        if words.checked_mul(OUTPUTS) != Some(rows) || !cols.is_multiple_of(n_groups) {
            return Err(refuse(&qweight, format!("not {n_groups} groups of {rows} outputs")));
        }
        must_be(&qzeros, &[n_groups, words])?;
        if !parts.agrees(cols, n_groups) {
            return Err(refuse(&scales, "not as many groups as `group_size` makes"));
        }
        Ok(Packed::matrix(base, Awq { rows, cols, n_groups, qweight, qzeros, scales }))
    };
    parts.bases("qweight").map(matrix).collect()
}

impl Awq {
    /// The field of an output in a line of words.
    fn field(&self, words: &[u32], line: usize, output: usize) -> u8 {
        let first = line * (self.rows / OUTPUTS) + output / OUTPUTS;
        Fields { words, first, step: 1, bits: BITS }.get(FIELD[output % OUTPUTS])
    }
}

impl Codes for Awq {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let across = self.n_groups;
        let (words, scales) = (tensors.words(&self.qzeros)?, tensors.floats(&self.scales)?);
        let all = || (0..self.rows).flat_map(|row| (0..across).map(move |group| (group, row)));
        let zero = |(group, row)| f32::from(self.field(&words, group, row));
        Ok(Groups {
            kind: Kind::Integers(15),
            place: Place::Rows { len: self.cols / across, across },
            scales: all().map(|(group, row)| scales[group * self.rows + row]).collect(),
            zeros: Zeros::Each(all().map(zero).collect()),
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        let words = tensors.words(&self.qweight)?;
        let all = (0..self.rows).flat_map(|row| (0..self.cols).map(move |col| (row, col)));
        Ok(all.map(|(row, col)| self.field(&words, col, row)).collect())
    }
}
