//! The JSON form of a report: one object, whose keys programs rely on.

use super::{ELEMENTS_MAX, architecture_lines, problem_line, sparsity};
use crate::engine::report::{MemoryUse, Report, TypeKernel, TypeUse};
use gguf_rs_lite::{GgmlType, TensorInfo, Value};
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// The report as one object; with a row for each tensor if those are wanted.
pub fn object(report: &Report, path: &Path, tensors: bool) -> Json {
    let file = &report.file;
    let metadata: Map<String, Json> =
        file.entries().map(|(key, value)| (key.to_string(), value_json(value))).collect();
    let types: Map<String, Json> = report.types.iter().map(type_row).collect();
    let problems: Vec<String> = report.problems.iter().map(problem_line).collect();
    let mut object = json!({
        "path": path.to_string_lossy(), "version": file.version(),
        "byte_order": file.byte_order().to_string(), "bytes": file.total_bytes(),
        "shards": file.shard_count(), "metadata": metadata, "types": types,
        "weights": report.n_weights(), "bits_per_weight": report.bits_per_weight(),
        "architecture": architecture_lines(report), "unsupported": problems,
    });
    if let (Some(spec), Some(memory)) = (&report.spec, &report.memory) {
        let MemoryUse { n_ctx, kv_type, weights, kv, activations, .. } = memory;
        let kv: Map<_, _> = kv.iter().map(|(kind, n)| (kind.name().into(), json!(n))).collect();
        object["layers"] = json!(spec.layers.len());
        object["n_embd"] = json!(spec.n_embd);
        object["n_ctx_train"] = json!(spec.n_ctx_train);
        object["n_ctx"] = json!(n_ctx);
        object["kv_type"] = json!(kv_type.name());
        object["kv_bytes"] = json!(memory.kv_bytes());
        object["memory"] = json!({
            "weights": weights, "kv": kv, "activations": activations, "total": memory.total(),
        });
    }
    if report.adapter.is_none() {
        object["tokenizer"] = json!(report.tokenizer_lines());
    }
    if tensors {
        let row = |t: &TensorInfo| {
            let TensorInfo { name, ty, dims, bytes, .. } = t;
            json!({"name": name, "type": ty.name(), "dims": dims, "bytes": bytes})
        };
        object["tensors"] = file.tensors().iter().map(row).collect();
    }
    object
}

/// Adds how many weights are zero: of matrices, and of each tensor where there are rows of those.
pub fn add_zeros(object: &mut Json, report: &Report, zeros: &[Option<u64>]) {
    let [sum, weights] = sparsity(report, zeros);
    object["zeros"] = json!({"zeros": sum, "weights": weights});
    if let Some(rows) = object.get_mut("tensors").and_then(Json::as_array_mut) {
        rows.iter_mut().zip(zeros).for_each(|(row, zeros)| row["zeros"] = json!(zeros));
    }
}

fn type_row((ty, of_type): (&GgmlType, &TypeUse)) -> (String, Json) {
    let TypeUse { tensors, weights, bytes, kernel } = of_type;
    let kernel = match kernel {
        TypeKernel::Level(level) => Some(level.to_string()),
        TypeKernel::Converted | TypeKernel::None => None,
    };
    let row = json!({"tensors": tensors, "weights": weights, "bytes": bytes, "kernel": kernel});
    (ty.name().to_string(), row)
}

/// A metadata value; of arrays only the first elements and the length.
fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Str(text) => json!(text),
        Value::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Bool(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::Array(array) => {
            let first: Vec<Json> = array.iter().take(ELEMENTS_MAX).map(value_json).collect();
            json!({"length": array.len(), "type": array.element_type().name(), "first": first})
        }
        other => json!(other.as_i64()),
    }
}
