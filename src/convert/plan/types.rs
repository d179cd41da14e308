//! Types of the tensors of a result.

use super::Output;
use crate::convert::TargetType;
use gguf_rs_lite::GgmlType;

/// Ends of names of matrices that stay in f32, as the reference has it.
const PLAIN: &[&str] = &[
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight",
    "ssm_conv1d_v.weight",
    "shortconv.conv.weight",
    "indexer.proj.weight",
    "altup_correct_coef.weight",
    "altup_predict_coef.weight",
];

/// Gives every tensor its type: vectors, norms and small matrices that decide stay in f32.
pub(in crate::convert) fn choose_types(outputs: &mut [Output], target: TargetType) {
    for output in outputs {
        let cols = output.shape.last().copied().unwrap_or(1);
        output.ty = if is_plain(output) { GgmlType::F32 } else { type_of_rows(target, cols) };
    }
}

/// Whether a tensor stays in f32.
pub(in crate::convert) fn is_plain(output: &Output) -> bool {
    output.shape.len() <= 1
        || output.name.ends_with("_norm.weight")
        || !output.name.ends_with(".weight")
        || PLAIN.iter().any(|end| output.name.ends_with(end))
}

/// The type of matrices with so many columns.
pub(in crate::convert) fn type_of_rows(target: TargetType, columns: u64) -> GgmlType {
    match target {
        // As in the reference: rows that blocks do not divide.
        TargetType::Q8_0 if !columns.is_multiple_of(32) => GgmlType::F16,
        TargetType::Q8_0 => GgmlType::Q8_0,
        TargetType::F16 => GgmlType::F16,
        TargetType::Bf16 => GgmlType::BF16,
        TargetType::F32 => GgmlType::F32,
    }
}
