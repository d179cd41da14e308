//! Factors that norms and products take back: the same logits.

use crate::decoder::{logits, options};
use crate::fixture_model::{self, load};
use gguf_rs_lite::{GgmlType, GgufFile};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use teff::Model;
use teff::calibrate::{Fold, FoldSource, Scaling, folds};
use teff::decoder::lower;
use teff_kernels::KernelTable;

/// Models without any: norms of no weights, and weights that several layers share.
const WITHOUT: &[&str] = &["hrm_text-dense"];

/// Numbers from 1/4 to 4.
fn draw(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    4f32.powf((*state >> 40) as f32 / (1 << 23) as f32 - 1.0)
}

/// The folds of a fixture, and how far logits are from what they were, as a part of their size.
fn fold(name: &str) -> (Vec<Fold>, f64) {
    let fixture = load(name);
    let file = Arc::new(GgufFile::from_bytes(fixture.gguf).unwrap());
    let mut model = Model::from_file(file.clone(), Path::new(name)).unwrap();
    let n_ctx = model.spec().n_ctx_max.unwrap_or(2 * model.spec().n_ctx_train);
    let mut options = options(2, 48);
    options.n_ctx = Some(n_ctx);
    let kernels = KernelTable::detect();
    let program = lower(&file, model.spec(), kernels, n_ctx).unwrap();
    let is_float = |name: &str| file.tensor(name).is_some_and(|info| info.ty == GgmlType::F32);
    let found = folds(&program, &file, &is_float);
    let before = logits(&model, &fixture.tokens, &options);
    let (mut scaling, mut state) = (Scaling::default(), 1);
    for fold in &found {
        let factors: Vec<f32> = (0..fold.channels).map(|_| draw(&mut state)).collect();
        scaling.add(&file, fold, &factors);
    }
    let weights = scaling.names().into_iter().map(|name| scaling.apply(&file, kernels, name));
    model.replace_weights(weights.map(Result::unwrap).collect());
    let after = logits(&model, &fixture.tokens, &options);
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let error = squares(&mut before.iter().zip(&after).map(|(a, b)| f64::from(a - b)));
    (found, (error / squares(&mut before.iter().map(|&x| x.into()))).sqrt())
}

/// Factors alone change no logits of any model, and nearly all models have some.
#[test]
fn factors_change_no_logits() {
    let (mut without, mut far) = (BTreeSet::new(), Vec::new());
    for name in fixture_model::names() {
        let (found, error) = fold(&name);
        if found.is_empty() {
            without.insert(name.clone());
        }
        if error > 1e-4 || error.is_nan() {
            far.push(format!("{name}: {error:.1e} with {} folds", found.len()));
        }
    }
    assert!(far.is_empty(), "{far:#?}");
    assert!(without.iter().map(|name| &name[..]).eq(WITHOUT.iter().copied()), "{without:?}");
}

/// The sources of a model's folds in its first layer.
fn sources(name: &str) -> Vec<String> {
    let source = |fold: Fold| {
        let readers: Vec<String> = fold.readers.into_iter().map(|r| r.weight).collect();
        let source = match fold.source {
            FoldSource::Norm(name) => name,
            FoldSource::Rows { weight, .. } => weight,
        };
        format!("{source} -> {}", readers.join(" "))
    };
    let (found, _) = fold(name);
    let mut all: Vec<String> =
        found.into_iter().map(source).filter(|told| told.starts_with("blk.0.")).collect();
    all.sort();
    all.dedup();
    all.iter().map(|told| told.replace("blk.0.", "").replace(".weight", "")).collect()
}

/// What takes factors back: norms for all that reads them, routers too, and products.
#[test]
fn sources_and_readers_are_found() {
    assert_eq!(
        sources("llama-dense"),
        [
            "attn_norm -> attn_k attn_q attn_v",
            "attn_v -> attn_output",
            "ffn_norm -> ffn_gate ffn_up",
            "ffn_up -> ffn_down"
        ]
    );
    assert_eq!(
        sources("llama-moe"),
        [
            "attn_norm -> attn_k attn_q attn_v",
            "attn_v -> attn_output",
            "ffn_norm -> ffn_gate_exps ffn_gate_inp ffn_up_exps",
            "ffn_up_exps -> ffn_down_exps"
        ]
    );
    // Norms behind products take nothing back.
    let gemma = sources("gemma2-dense");
    assert!(gemma.iter().all(|told| !told.starts_with("post_")) && gemma.len() == 4, "{gemma:?}");
}
