//! Numbers of metadata that a checkpoint keeps as tensors.

use super::ConvertError;
use super::keys::Keys;
use super::safetensors::Tensors;
use super::stream;
use gguf_rs_lite::{OwnedArray, OwnedValue};

/// Arrays of metadata whose elements are tensors of the checkpoint.
pub(super) fn arrays(
    keys: &mut Keys,
    tensors: &Tensors,
    mut all: Vec<(String, usize, usize)>,
) -> Result<(), ConvertError> {
    all.sort();
    let mut arrays: Vec<(String, Vec<f32>)> = Vec::new();
    for (key, _, place) in all {
        let x = stream::number(tensors, &tensors.all()[place])?;
        match arrays.last_mut() {
            Some((last, array)) if *last == key => array.push(x),
            _ => arrays.push((key, vec![x])),
        }
    }
    for (key, array) in arrays {
        keys.set(key, OwnedValue::Array(OwnedArray::F32(array)));
    }
    Ok(())
}

/// The exponent of ALiBi's slopes, which have to be those that follow from it: 2^(-e i / n), and for heads
/// beyond a power of two those between.
pub(super) fn alibi_exponent(tensors: &Tensors, place: usize) -> Result<f32, ConvertError> {
    let tensor = &tensors.all()[place];
    let slopes = tensors.floats(tensor)?;
    let whole = 1 << slopes.len().max(1).ilog2();
    let first = slopes.first().copied().unwrap_or(0.5);
    let exponent = -(first.log2() * whole as f32).round();
    let slope = |i: usize| match i < whole {
        true => (-exponent * (i + 1) as f32 / whole as f32).exp2(),
        false => (-exponent * (2 * (i - whole) + 1) as f32 / (2 * whole) as f32).exp2(),
    };
    let is_such = |(i, &x): (usize, &f32)| (x / slope(i) - 1.0).abs() < 0.01;
    match slopes.iter().enumerate().all(is_such) {
        true => Ok(exponent),
        false => Err(ConvertError::Shape {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            problem: "slopes that do not follow from the first".into(),
        }),
    }
}
