//! Texts to vectors against the reference's, and against themselves: neighbours in a step, cuts
//! between steps and threads change no bit.

use crate::changed;
use crate::decoder::{NAIVE_NMSE_MAX, model, options, quantized};
use crate::fixture_model::{self, Fixture};
use crate::measure::{bits, difference_max, nmse_max};
use crate::reference::model_error;
use gguf_rs_lite::{GgmlType, GgufFile, Scalar};
use std::path::Path;
use std::sync::Arc;
use teff::decoder::{Outputs, SequenceChunk, StepError};
use teff::engine::{CancelToken, Engine, EngineError, EngineOptions, Model, Request, TokenEvent};
use teff::model::Pooling;
use teff_kernels::{KernelTable, Level};

/// Two F32 computations in another order differ only by rounding.
const NMSE_MAX: f64 = 1e-6;

/// In the order of the rows behind the tokens' in a fixture.
const POOLED: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::Last];

fn engine(gguf: Vec<u8>, options: &EngineOptions) -> Engine {
    let mut model = model(gguf);
    model.output_embeddings();
    Engine::new(&model, options).unwrap()
}

/// The fixture gives the reference's vectors, and the same bits for all neighbours and threads.
pub fn check_fixture(name: &str) {
    let (Fixture { gguf, tokens, logits: truth, .. }, n_out) = fixture_model::load_embedding(name);
    assert_eq!(truth.len(), (tokens.len() + POOLED.len()) * n_out, "{name}");
    let (of_tokens, pooled) = truth.split_at(tokens.len() * n_out);
    let mut alone = engine(gguf.clone(), &options(1, 256));
    let mut vectors =
        |text: &[u32], pooling| alone.embed(&[text.to_vec()], pooling).unwrap().pop().unwrap();
    let first = vectors(&tokens, Pooling::None);
    let mut described = model(gguf.clone());
    described.output_embeddings();
    let naive = model_error(&described, tokens.len(), &tokens, &first);
    assert!(naive <= NAIVE_NMSE_MAX, "{name}: NMSE {naive:.2e} to the naive backend");
    let mut error = nmse_max(&first, of_tokens, n_out);
    for (pooling, row) in POOLED.into_iter().zip(pooled.chunks(n_out)) {
        error = error.max(nmse_max(&vectors(&tokens, pooling), row, n_out));
    }
    assert!(error <= NMSE_MAX, "{name}: NMSE {error:.2e}");
    // Of all lengths, and more than share a step.
    let texts: Vec<Vec<u32>> =
        (0..20).map(|i| tokens[i..(i + 1 + i * i % 97).min(144)].to_vec()).collect();
    let scalar = KernelTable::at_most(Level::Scalar);
    let ways = [
        (Pooling::None, options(1, 256)),
        (Pooling::Mean, options(2, 100)),
        (Pooling::Cls, options(4, 7)),
        (Pooling::Last, options(2, 7)),
        (Pooling::Mean, changed(options(3, 64), |o| o.kernels = scalar)),
    ];
    for (i, (pooling, options)) in ways.into_iter().enumerate() {
        let expected: Vec<_> = texts.iter().map(|text| bits(&vectors(text, pooling))).collect();
        let mut together = engine(gguf.clone(), &options);
        let found = together.embed(&texts, pooling).unwrap();
        let found: Vec<_> = found.iter().map(|vectors| bits(vectors)).collect();
        assert!(found == expected, "{name}: {pooling:?}, way {i}");
        together.lead(|decoder| assert_eq!(decoder.kv().kv_bytes(), 0, "{name}"));
    }
}

/// Quantized tables of positions and token types, too.
#[test]
fn quantized_weights_give_the_same_bits_and_nearly_the_same_vectors() {
    for name in ["bert", "nomic-bert", "gemma-embedding-dense"] {
        let (Fixture { gguf, tokens, logits: truth, .. }, n_out) =
            fixture_model::load_embedding(name);
        for (ty, error_max) in [(GgmlType::F16, 1e-5), (GgmlType::Q8_0, 2e-3)] {
            let gguf = quantized(&gguf, ty);
            let mut alone = engine(gguf.clone(), &options(1, 256));
            let mut together = engine(gguf, &options(4, 256));
            let texts = [tokens.clone(), tokens[..3].to_vec(), tokens[9..50].to_vec()];
            let found = together.embed(&texts, Pooling::None).unwrap();
            for (text, vectors) in texts.iter().zip(&found) {
                let expected = alone.embed(std::slice::from_ref(text), Pooling::None).unwrap();
                assert!(bits(vectors) == bits(&expected[0]), "{name} {ty}");
            }
            let error = nmse_max(&found[0], &truth[..tokens.len() * n_out], n_out);
            assert!(error <= error_max, "{name} {ty}: NMSE {error:.2e}");
        }
    }
}

/// A later token changes what an earlier one gives, unless a window is between them.
#[test]
fn tokens_of_encoders_see_those_behind_them() {
    for (name, reach) in [("bert", 143), ("modern-bert-silu", 143), ("qwen3-last", 0)] {
        let (Fixture { gguf, tokens, .. }, n_out) = fixture_model::load_embedding(name);
        let mut other = tokens.clone();
        other[143] ^= 1;
        let mut engine = engine(gguf, &options(2, 256));
        let found = engine.embed(&[tokens, other], Pooling::None).unwrap();
        let rows = found[0].chunks(n_out).zip(found[1].chunks(n_out));
        let changed = rows.filter(|(a, b)| bits(a) != bits(b)).count();
        assert_eq!(changed, reach + 1, "{name}");
    }
}

#[test]
fn texts_that_do_not_fit_are_refused_by_number() {
    let (Fixture { gguf, tokens, .. }, _) = fixture_model::load_embedding("bert");
    let mut encoder = engine(gguf.clone(), &changed(options(2, 48), |o| o.n_ctx = Some(100)));
    assert_eq!(encoder.text_tokens_max(), 100);
    let fits = tokens[..100].to_vec();
    assert!(encoder.embed(std::slice::from_ref(&fits), Pooling::Mean).is_ok());
    let error = encoder.embed(&[fits.clone(), tokens.clone()], Pooling::Mean).unwrap_err();
    assert!(matches!(error, EngineError::TextTooLong { text: 1, n_tokens: 144, max: 100 }));
    assert!(error.to_string().contains("text 2 has 144 tokens"), "{error}");
    let error = encoder.embed(&[vec![], fits.clone()], Pooling::Mean).unwrap_err();
    assert!(matches!(error, EngineError::EmptyText { text: 0 }));
    let error = encoder.embed(&[vec![1], vec![128]], Pooling::Mean).unwrap_err();
    assert!(matches!(error, EngineError::Step(StepError::TokenId { id: 128, .. })));
    encoder.lead(|decoder| {
        assert_eq!(decoder.kv().kv_bytes(), 0);
        let sequence = decoder.kv_mut().create();
        let run = SequenceChunk { sequence, tokens: &fits[..7], outputs: Outputs::First };
        assert_eq!(decoder.step(&[run]).unwrap().len(), decoder.n_out());
        assert_eq!(decoder.step(&[run]).unwrap_err(), StepError::Continued);
    });
    let never = CancelToken::default();
    let answer = encoder.generate(Request::new(fits), None, &never, &mut |_| panic!("a token"));
    assert!(matches!(answer, Err(EngineError::NoLogits)));
    // The context of learned positions ends where they end.
    let options = changed(options(1, 48), |o| o.n_ctx = Some(257));
    assert!(matches!(Engine::new(&model(gguf), &options), Err(EngineError::Model { .. })));
}

#[test]
fn only_what_can_look_ahead_may_be_told_to() {
    for (name, problem) in [
        ("gemma3-dense", Some("`gemma3.attention.causal` is false")),
        ("mamba-dense", Some("`mamba.attention.causal` is false")),
        ("deepseek2-lite", None),
        ("llama-moe", None),
    ] {
        let mut file = GgufFile::from_bytes(fixture_model::load(name).gguf).unwrap();
        let key = format!("{}.attention.causal", fixture_model::architecture(name));
        file.set(&key, Scalar::Bool(false)).unwrap();
        let model = Model::from_file(Arc::new(file), Path::new("test.gguf"));
        match (problem, model) {
            (None, Ok(model)) => assert!(!model.spec().generates(), "{name}"),
            (Some(problem), Err(error)) => assert!(error.to_string().contains(problem), "{error}"),
            (_, model) => panic!("{name}: {:?}", model.map(|model| model.spec().clone())),
        }
    }
}

#[test]
fn a_model_with_logits_gives_vectors_only_when_told() {
    let (Fixture { gguf, .. }, _) = fixture_model::load_embedding("qwen3-last");
    let model = model(gguf);
    assert_eq!(model.spec().pooling, Some(Pooling::Last));
    let mut engine = Engine::new(&model, &options(1, 8)).unwrap();
    assert!(matches!(engine.embed(&[vec![1]], Pooling::Last), Err(EngineError::NoEmbeddings)));
}

/// The reference looks GELU up in a table of halves.
const SCORE_ERROR_MAX: f64 = 5e-4;

#[test]
fn rerankers_give_the_references_scores() {
    let rerankers = fixture_model::rerankers();
    assert!(rerankers.len() >= 4);
    for (name, reranker) in rerankers {
        assert_eq!(model(reranker.gguf.clone()).spec().pooling, Some(Pooling::Rank), "{name}");
        let texts: Vec<Vec<u32>> = reranker.texts.iter().map(|text| text.0.clone()).collect();
        let mut first = None;
        for options in [options(1, 256), options(3, 64)] {
            let found = engine(reranker.gguf.clone(), &options).embed(&texts, Pooling::Rank);
            let found = found.unwrap();
            assert_eq!(found.len(), reranker.texts.len(), "{name}");
            for (found, (_, expected)) in found.iter().zip(&reranker.texts) {
                let error = difference_max(found, expected);
                assert!(error <= SCORE_ERROR_MAX, "{name}: {found:?} for {expected:?}");
            }
            let first = first.get_or_insert_with(|| found.clone());
            assert!(found.iter().zip(first).all(|(a, b)| bits(a) == bits(b)), "{name}");
        }
    }
}

#[test]
fn classifiers_are_optional() {
    let Fixture { gguf, .. } = fixture_model::load_embedding("bert").0;
    let found = engine(gguf, &options(1, 8)).embed(&[vec![1]], Pooling::Rank);
    assert!(matches!(found, Err(EngineError::NoClassifier)));
    // A language model with a classifier continues texts all the same.
    let reranker = fixture_model::load_reranker("qwen3");
    let mut engine = Engine::new(&model(reranker.gguf), &options(1, 8)).unwrap();
    let mut request = Request::new(vec![1]);
    request.max_tokens = Some(3);
    let mut n = 0;
    let mut count = |event| {
        n += u32::from(matches!(event, TokenEvent::Token { .. }));
        std::ops::ControlFlow::Continue(())
    };
    engine.generate(request, None, &CancelToken::default(), &mut count).unwrap();
    assert_eq!(n, 3);
}
