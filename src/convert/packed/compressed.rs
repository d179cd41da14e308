//! compressed-tensors, as llm-compressor writes it: integers packed into words, integers of eight bits,
//! and floats of four. Floats of eight bits have factors beside them and are read as such.

use super::fields::{Fields, mask};
use super::fp4::Fp4;
use super::grid::{Groups, Kind, Place, Zeros};
use super::{Codes, ConvertError, Packed, Parts, Tensor, Tensors, must_be, refuse, said, two};
use crate::convert::dtype::Dtype;
use serde_json::Value;

/// Formats that are read, by the tensors that each module has.
const FORMATS: &[&str] = &[
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
];
/// Locations of transforms that are in the weights already; others are computed at run time.
const IN_WEIGHTS: &[&str] = &["weight_input", "weight_output"];

/// Integers of a matrix, packed or bytes.
struct Integers {
    rows: usize,
    cols: usize,
    bits: usize,
    /// Rows and columns of a group.
    group: [usize; 2],
    /// Groups side by side.
    across: usize,
    /// Codes that a word has; `None`: they cross words.
    in_word: Option<usize>,
    weight: Tensor,
    scale: Tensor,
    zero: Option<Tensor>,
    g_idx: Option<Tensor>,
}

/// Matrices of all formats, by the tensors that modules have.
pub(super) fn find(parts: &Parts<'_>) -> Result<Vec<Packed>, ConvertError> {
    check_formats(parts.quantization)?;
    let mut all = Vec::new();
    for base in parts.bases("weight_packed") {
        let is_global = parts.part(base, "weight_global_scale").is_some();
        let packed = parts.need(base, "weight_packed")?;
        all.push(match packed.dtype {
            Dtype::I32 => Packed::matrix(base, Integers::packed(parts, base, packed)?),
            _ if is_global => Packed::matrix(base, Fp4::nv(parts, base)?),
            _ => Packed::matrix(base, Fp4::mx(parts, base)?),
        });
    }
    for base in parts.bases("weight_scale") {
        if let Some(weight) = parts.part(base, "weight").filter(|w| w.dtype == Dtype::I8) {
            all.push(Packed::matrix(base, Integers::bytes(parts, base, weight)?));
        }
    }
    Ok(all)
}

/// Refuses what no tensor tells: formats that are not read, and transforms of activations.
fn check_formats(quantization: &Value) -> Result<(), ConvertError> {
    let refuse = |entry: &str, name: &str| {
        Err(ConvertError::Quantized(format!("compressed-tensors (`{entry}` is {name})")))
    };
    let values = |part: &str| -> Vec<&Value> {
        let groups = quantization.pointer(part).and_then(Value::as_object);
        groups.map(|groups| groups.values().collect()).unwrap_or_default()
    };
    let format = |value: &'_ Value| value.get("format").and_then(Value::as_str).map(str::to_owned);
    let of_groups = values("/config_groups").into_iter().chain([quantization]).filter_map(format);
    if let Some(other) = of_groups.into_iter().find(|name| !FORMATS.contains(&&name[..])) {
        return refuse("format", &other);
    }
    let sparse = quantization.get("sparsity_config").and_then(format);
    if let Some(sparse) = sparse.filter(|name| name != "dense") {
        return refuse("sparsity_config.format", &sparse);
    }
    for transform in values("/transform_config/config_groups") {
        let apply = transform.get("apply").and_then(Value::as_array);
        for location in apply.into_iter().flatten().map(|apply| apply.get("location")) {
            let location = location.and_then(Value::as_str).unwrap_or("missing");
            if !IN_WEIGHTS.contains(&location) {
                return refuse("transform_config: location", location);
            }
        }
    }
    Ok(())
}

/// A number that all groups of the configuration have.
fn number(parts: &Parts<'_>, name: &str) -> Option<usize> {
    let groups = parts.quantization.get("config_groups").and_then(Value::as_object)?;
    let mut numbers = groups.values().map(|group| group.pointer(&format!("/weights/{name}")));
    let first = numbers.next()?;
    let is_one = numbers.all(|number| number == first);
    first.filter(|_| is_one)?.as_u64().and_then(|n| usize::try_from(n).ok())
}

impl Integers {
    fn packed(parts: &Parts<'_>, base: &str, weight: Tensor) -> Result<Integers, ConvertError> {
        let [rows, words] = two(&weight)?;
        let shape = parts.need(base, "weight_shape")?;
        let shape = parts.tensors.integers(&shape)?;
        let &[outputs, cols] = &shape[..] else {
            return Err(refuse(&weight, "`weight_shape` has no two dimensions"));
        };
        // A word has 32 codes at most.
        if outputs != rows || cols == 0 || cols.div_ceil(32) > words {
            return Err(refuse(&weight, format!("`weight_shape` is {shape:?}")));
        }
        let said = number(parts, "num_bits");
        // Where modules differ, the width tells.
        let dense = |bits: usize| Fields::words_of(cols, bits) == words;
        let bits = said.or_else(|| (1..=8).find(|&bits| dense(bits)));
        let bits = bits.filter(|bits| (1..=8).contains(bits));
        let bits = bits.ok_or_else(|| refuse(&weight, "unknown bits"))?;
        let in_word = 32 / bits;
        let in_word = match () {
            () if dense(bits) => None,
            // As older releases did with 3, 5, 6 and 7 bits.
            () if cols.div_ceil(in_word) == words => Some(in_word),
            () => return Err(refuse(&weight, format!("not {cols} codes of {bits} bits in a row"))),
        };
        let zero = parts.part(base, "weight_zero_point");
        Integers::of(parts, base, [rows, cols], bits, in_word, weight, zero)
    }

    fn bytes(parts: &Parts<'_>, base: &str, weight: Tensor) -> Result<Integers, ConvertError> {
        let size = two(&weight)?;
        let zero = parts.part(base, "weight_zero_point");
        let bits = number(parts, "num_bits").filter(|bits| (1..=8).contains(bits)).unwrap_or(8);
        Integers::of(parts, base, size, bits, None, weight, zero)
    }

    fn of(
        parts: &Parts<'_>,
        base: &str,
        [rows, cols]: [usize; 2],
        bits: usize,
        in_word: Option<usize>,
        weight: Tensor,
        zero: Option<Tensor>,
    ) -> Result<Integers, ConvertError> {
        let scale = parts.need(base, "weight_scale")?;
        let n: u64 = scale.shape.iter().product();
        let block = said::block_size(parts.quantization).map(|block| block.map(|n| n as usize));
        let (group, across) = match scale.shape[..] {
            _ if n == 1 => ([rows, cols], 1),
            [down] | [down, 1] if down as usize == rows => ([1, cols], 1),
            [down, across] if down as usize == rows && across > 0 => {
                let across = across as usize;
                let group = number(parts, "group_size").unwrap_or(cols.div_ceil(across));
                ([1, group], across)
            }
            [down, across]
                if block
                    .is_some_and(|[high, _]| high > 0 && rows.div_ceil(high) == down as usize) =>
            {
                (block.unwrap_or_default(), across as usize)
            }
            _ => return Err(refuse(&scale, format!("no scales for {rows} rows"))),
        };
        if group[1] == 0 || cols.div_ceil(group[1]) != across {
            let problem = format!("no groups of {} of {cols} columns", group[1]);
            return Err(refuse(&scale, problem));
        }
        let g_idx = parts.part(base, "weight_g_idx");
        if let Some(g_idx) = &g_idx {
            must_be(g_idx, &[cols])?;
        }
        let own = Integers { rows, cols, bits, group, across, in_word, weight, scale, zero, g_idx };
        own.check_zeros()?;
        Ok(own)
    }

    /// Zero points have a shape that belongs to the scales'.
    fn check_zeros(&self) -> Result<(), ConvertError> {
        let Some(zero) = &self.zero else { return Ok(()) };
        let n: u64 = zero.shape.iter().product();
        let expected = match zero.dtype {
            Dtype::I32 => Fields::words_of(self.rows, self.bits) * self.across,
            Dtype::I8 if n == 1 => 1,
            _ => self.rows.div_ceil(self.group[0]) * self.across,
        };
        match n == expected as u64 {
            true => Ok(()),
            false => Err(refuse(zero, format!("no zero points of {} rows", self.rows))),
        }
    }

    /// What is added to all integers, so that none is negative.
    fn offset(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Zero points, `offset` added; those in words lie below each other.
    fn zeros(&self, tensors: &Tensors) -> Result<Zeros, ConvertError> {
        let Some(zero) = &self.zero else { return Ok(Zeros::All(f32::from(self.offset()))) };
        let all = || (0..self.rows).flat_map(|row| (0..self.across).map(move |g| (row, g)));
        Ok(Zeros::Each(if zero.dtype == Dtype::I32 {
            let words = tensors.words(zero)?;
            let (step, bits) = (self.across, self.bits);
            let field = |(row, first)| Fields { words: &words, first, step, bits }.get(row);
            all().map(|at| f32::from(field(at))).collect()
        } else {
            let numbers = tensors.floats(zero)?;
            let at = |(row, g)| if numbers.len() == 1 { 0 } else { self.place(row, g) };
            all().map(|(row, g)| numbers[at((row, g))] + f32::from(self.offset())).collect()
        }))
    }

    /// The place of a row's group among the scales.
    fn place(&self, row: usize, g: usize) -> usize {
        row / self.group[0] * self.across + g
    }
}

impl Codes for Integers {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        let scales = tensors.floats(&self.scale)?;
        let all = (0..self.rows).flat_map(|row| (0..self.across).map(move |g| (row, g)));
        Ok(Groups {
            kind: Kind::Integers(mask(self.bits)),
            place: Place::of(tensors, self.g_idx.as_ref(), self.group[1], self.across)?,
            scales: all.map(|(row, g)| scales[self.place(row, g)]).collect(),
            zeros: self.zeros(tensors)?,
        })
    }

    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError> {
        if self.weight.dtype == Dtype::I8 {
            let mut codes = tensors.whole(&self.weight)?;
            codes.iter_mut().for_each(|code| *code = code.wrapping_add(self.offset()));
            return match codes.iter().any(|&code| code > mask(self.bits)) {
                true => Err(refuse(&self.weight, format!("codes of more than {} bits", self.bits))),
                false => Ok(codes),
            };
        }
        let words = tensors.words(&self.weight)?;
        let (line, bits) = (words.len() / self.rows, self.bits);
        let mut codes = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            let fields = Fields { words: &words, first: row * line, step: 1, bits };
            codes.extend((0..self.cols).map(|col| match self.in_word {
                None => fields.get(col),
                Some(n) => (words[row * line + col / n] >> (col % n * bits)) as u8 & mask(bits),
            }));
        }
        Ok(codes)
    }
}
