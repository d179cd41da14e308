//! Floats that a model makes ternary whenever it runs (BitNet b1.58, arXiv:2402.17764): the result has what
//! they become.
//!
//! Each is -1, 0 or 1 times the mean of the matrix's magnitudes: divided by that, rounded (halves to
//! even), bounded, multiplied again, and in the checkpoint's type of floats. A matrix whose elements are
//! such already, of any one magnitude, stays as it is: its mean is smaller than that by the zeros.

use super::config::Config;
use super::dtype::Dtype;
use super::packed::TERNARY;
use super::plan::{Output, is_plain};
use super::safetensors::Tensors;
use super::{ConvertError, stream};
use crate::model::checkpoint::Op;

/// The least mean of magnitudes, as those who train such models have it.
const MEAN_MIN: f32 = 1e-5;

/// Ternary values that the elements of a matrix become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ternary {
    /// One over the mean of magnitudes.
    inverse: f32,
    /// Magnitude of those that are not 0.
    value: f32,
}

impl Ternary {
    fn new(mean: f32, dtype: Dtype) -> Ternary {
        let inverse = 1.0 / mean.max(MEAN_MIN);
        let value = 1.0 / inverse;
        let value = match dtype {
            Dtype::F16 => half::f16::from_f32(value).to_f32(),
            Dtype::BF16 => half::bf16::from_f32(value).to_f32(),
            _ => value,
        };
        Ternary { inverse, value }
    }

    /// The ternary value of an element.
    pub fn of(self, x: f32) -> f32 {
        (x * self.inverse).round_ties_even().clamp(-1.0, 1.0) * self.value
    }
}

/// Finds what the matrices become that the model makes ternary: those of [`Op::Ternary`], and all of layers
/// where the quantization says that floats are quantized online.
///
/// # Errors
/// A file cannot be read, or a matrix is only a part of what has one mean.
pub(super) fn settle(
    tensors: &Tensors,
    outputs: &mut [Output],
    config: &Config,
) -> Result<(), ConvertError> {
    let is_online = is_online(config);
    for output in outputs {
        if is_online && is_linear(tensors, output, config) {
            output.op = Op::Ternary;
        }
        if output.op == Op::Ternary {
            output.ternary = find(tensors, output)?;
            if output.ternary.is_none() {
                output.op = Op::Same;
            }
        }
    }
    Ok(())
}

/// Whether floats are masters of ternary weights by `quantization_config`.
fn is_online(config: &Config) -> bool {
    let says = |entry: &str, text: &str| {
        config.text(&format!("quantization_config.{entry}")) == Some(text)
    };
    says("quant_method", TERNARY) && says("quantization_mode", "online")
}

/// Whether a tensor is the matrix of a product in a layer, and none that the quantization leaves alone.
fn is_linear(tensors: &Tensors, output: &Output, config: &Config) -> bool {
    let kept = config.words(&["quantization_config.modules_to_not_convert"]).unwrap_or_default();
    let is_kept = |name: &str| kept.iter().any(|module| name.contains(&**module));
    output.name.starts_with("blk.")
        && !is_plain(output)
        && output.pieces.iter().all(|piece| !is_kept(&tensors.all()[piece.tensor].name))
}

/// What the elements of one become; `None`: what they are.
fn find(tensors: &Tensors, output: &Output) -> Result<Option<Ternary>, ConvertError> {
    let [piece] = &output.pieces[..] else { return Err(refused(output)) };
    let tensor = &tensors.all()[piece.tensor];
    if tensors.packed(tensor).is_some() {
        return Ok(None);
    }
    if output.shape.len() != 2 || tensor.shape.iter().product::<u64>() != output.elements() {
        return Err(refused(output));
    }
    let (mut sum, mut one, mut is_ternary) = (0.0_f64, 0.0_f32, true);
    stream::rows(tensors, output, &mut |values| {
        for magnitude in values.iter().map(|x| x.abs()).filter(|&x| x != 0.0) {
            sum += f64::from(magnitude);
            one = if one == 0.0 { magnitude } else { one };
            is_ternary &= magnitude == one;
        }
        true
    })?;
    // A number that is none is told, with its place, when it is written.
    let is_some = !is_ternary && sum.is_finite();
    Ok(is_some.then(|| Ternary::new((sum / output.elements() as f64) as f32, tensor.dtype)))
}

fn refused(output: &Output) -> ConvertError {
    ConvertError::Quantized(format!(
        "{TERNARY} online, of which `{}` is no whole matrix",
        output.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_rounded_by_the_mean() {
        let ternary = Ternary::new(0.5, Dtype::F32);
        let values = [0.0, 0.2, 0.25, 0.26, -0.5, 7.0].map(|x| ternary.of(x));
        assert_eq!(values, [0.0, 0.0, 0.0, 0.5, -0.5, 0.5], "halves to even");
        let third = Ternary::new(1.0 / 3.0, Dtype::F16);
        assert_eq!(third.of(1.0), half::f16::from_f32(1.0 / 3.0).to_f32());
        assert_eq!(Ternary::new(0.0, Dtype::F32).of(1.0), 1.0 / (1.0 / MEAN_MIN));
    }
}
