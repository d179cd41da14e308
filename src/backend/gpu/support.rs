//! What runs on a GPU, and why the rest does not.

use super::shader::{HEAD_MAX, stored, unpacking};
use crate::backend::pages::KvType;
use crate::backend::program::{
    Epilogue, ExpertPart, HeadNorm, Linear, Moe, Op, Output, Program, RopeKv,
};

/// Experts of a token, and experts in all: choosing takes time by their product.
const EXPERTS_MAX: usize = 1024;

/// Reason for which an operation does not run on a GPU; `None`: it does.
pub fn unsupported(program: &Program, op: &Op, kv_type: KvType) -> Option<String> {
    let weights = op.weights().map(|(_, weight)| weight);
    let mut types = weights.filter(|weight| unpacking(weight.ty).is_none());
    if let Some(weight) = types.next() {
        return Some(format!("no shader unpacks {} ({})", weight.ty, weight.name));
    }
    match op {
        Op::Linear(op) => of_linear(op),
        Op::RopeKv(op) => of_rope_kv(program, op, kv_type),
        Op::Attention(op) => {
            let shape = program.kv[op.layer];
            (shape.k_dim.max(shape.v_dim) > HEAD_MAX).then(|| long_heads(&shape))
        }
        Op::Moe(op) => of_moe(op),
        Op::Embed { .. }
        | Op::Normalize { .. }
        | Op::Scale { .. }
        | Op::CopyPieces(_)
        | Op::AddNorm { .. }
        | Op::Add { .. }
        | Op::Result { .. } => None,
        Op::Xielu { .. }
        | Op::MulBroadcast { .. }
        | Op::HeadLinear(_)
        | Op::Conv(_)
        | Op::Scan(_)
        | Op::Sparsify { .. }
        | Op::MatchLength { .. }
        | Op::MixStreams(_) => Some(format!("no shader for the operation {}", op.name())),
    }
}

fn long_heads(shape: &crate::backend::program::KvShape) -> String {
    let dim = shape.k_dim.max(shape.v_dim);
    format!("heads of {dim} elements, more than {HEAD_MAX}")
}

fn of_linear(op: &Linear) -> Option<String> {
    let is_gated = matches!(op.epilogue, Epilogue::Glu(..));
    let is_logits = matches!(op.out, Output::Logits { .. });
    (is_gated && is_logits).then(|| "gated logits".to_owned())
}

fn of_rope_kv(program: &Program, op: &RopeKv, kv_type: KvType) -> Option<String> {
    let shape = program.kv[op.layer];
    if stored(kv_type).is_none() {
        return Some(format!("no shader reads a cache of type {kv_type}"));
    }
    if shape.k_dim.max(shape.v_dim) > HEAD_MAX {
        return Some(long_heads(&shape));
    }
    let is_apart =
        |norm: &Option<HeadNorm>, dim: usize| norm.as_ref().is_some_and(|norm| norm.dim != dim);
    let has_apart = is_apart(&op.q_norm, shape.k_dim)
        || is_apart(&op.k_norm, shape.k_dim)
        || is_apart(&op.v_norm, shape.v_dim);
    if has_apart && (op.norm_after_rope || op.clamp.is_some()) {
        return Some("norms of whole rows behind a rotation or a bound".to_owned());
    }
    None
}

fn of_moe(op: &Moe) -> Option<String> {
    let parts = [Some(&op.up), Some(&op.down), op.gate.as_ref()];
    if op.groups.is_some() {
        return Some("no shader chooses experts by groups".to_owned());
    }
    if parts.into_iter().flatten().any(|part: &ExpertPart| !part.low_rank.is_empty()) {
        return Some("no shader adds adapters to experts".to_owned());
    }
    (op.n_experts > EXPERTS_MAX)
        .then(|| format!("{} experts, more than {EXPERTS_MAX}", op.n_experts))
}
