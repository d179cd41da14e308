//! Drafts by another model: they change no token, whatever they are, and models that cannot draft are
//! refused.

use crate::changed;
use crate::fixture_model;
use crate::generate::answer;
use gguf_rs_lite::GgufFile;
use std::path::Path;
use std::sync::Arc;
use teff::engine::{
    AnswerEvent, DraftModel, Engine, EngineError, EngineOptions, Model, Request, Runner,
    Speculation, TokenEvent, VocabularyDifference,
};

fn fixture(name: &str) -> Model {
    let file = GgufFile::from_bytes(fixture_model::load(name).gguf).unwrap();
    Model::from_file(Arc::new(file), Path::new(name)).unwrap()
}

fn options() -> EngineOptions {
    changed(EngineOptions::default(), |o| {
        (o.threads, o.n_ctx, o.max_batch, o.max_outputs) = (Some(2), Some(120), 16, 9);
    })
}

/// A draft model for another, which sees `n_ctx` tokens.
fn drafts(draft: &str, model: &Model, n_ctx: usize) -> DraftModel {
    let options = changed(options(), |o| (o.threads, o.n_ctx) = (Some(1), Some(n_ctx)));
    DraftModel::new(&fixture(draft), model, &model.tokenizer().unwrap(), &options).unwrap()
}

fn request(temperature: f32, speculation: Speculation) -> Request {
    let mut request = Request::new((0..40).map(|i| 1 + i * i % 101).collect());
    request.sampling.temperature = temperature;
    request.sampling.repeat_penalty = if temperature > 0.0 { 1.1 } else { 1.0 };
    request.speculation = speculation;
    request
}

/// Families whose sequences go back in different ways: plain pages, windows, experts, recurrent states.
const NAMES: [&str; 6] =
    ["llama-dense", "gemma3-dense", "gpt-oss-moe", "mamba2-dense", "lfm2-dense", "qwen35-dense"];

#[test]
fn drafts_of_any_model_change_no_token() {
    for (i, name) in NAMES.into_iter().enumerate() {
        let model = fixture(name);
        let mut engine = Engine::new(&model, &options()).unwrap();
        let (greedy, plain) = answer(&mut engine, request(0.0, Speculation::Off));
        assert_eq!(plain.n_drafted, 0);
        let (sampled, _) = answer(&mut engine, request(1.5, Speculation::Off));
        // The model itself says what comes, a stranger hardly ever.
        for draft in [name, NAMES[(i + 3) % NAMES.len()]] {
            engine.set_draft_model(drafts(draft, &model, 120));
            for speculation in [Speculation::Always, Speculation::Auto] {
                let (tokens, stats) = answer(&mut engine, request(0.0, speculation));
                assert_eq!(tokens, greedy, "{draft} for {name}, {speculation:?}");
                let is_asked = speculation == Speculation::Always;
                assert!(stats.n_drafted > 0 || !is_asked, "{draft} for {name}");
                if draft == name && is_asked {
                    assert_eq!(stats.n_accepted, stats.n_drafted, "{name} drafts for itself");
                    assert!(stats.n_accepted > 20, "{name}: {}", stats.n_accepted);
                }
                let (tokens, stats) = answer(&mut engine, request(1.5, speculation));
                assert_eq!(tokens, sampled, "{draft} for {name}, {speculation:?}");
                assert!(stats.n_accepted <= stats.n_drafted);
            }
        }
        let kv = engine.decoder().kv();
        assert_eq!(kv.kv_bytes(), kv.cached_bytes(), "{name}: every page is given back");
    }
}

#[test]
fn a_model_as_large_as_the_other_is_told() {
    let model = fixture("llama-dense");
    assert!(!drafts("llama-dense", &model, 120).is_small());
}

#[test]
fn a_draft_model_with_a_smaller_context_drafts_as_far_as_it_sees() {
    let model = fixture("llama-dense");
    let mut engine = Engine::new(&model, &options()).unwrap();
    let (plain, _) = answer(&mut engine, request(0.0, Speculation::Off));
    assert_eq!(plain.len(), 81);
    for (n_ctx, n_drafted) in [(20, 0..=0), (40, 0..=0), (43, 1..=1), (60, 10..=20)] {
        engine.set_draft_model(drafts("llama-dense", &model, n_ctx));
        let (tokens, stats) = answer(&mut engine, request(0.0, Speculation::Always));
        assert_eq!(tokens, plain, "{n_ctx}");
        assert!(n_drafted.contains(&stats.n_drafted), "{n_ctx}: {}", stats.n_drafted);
    }
}

#[test]
fn drafts_go_on_from_one_request_to_the_next_whatever_they_have_in_common() {
    let model = fixture("gemma3-dense");
    let mut plain = Engine::new(&model, &options()).unwrap();
    let mut engine = Engine::new(&model, &options()).unwrap();
    engine.set_draft_model(drafts("mamba2-dense", &model, 120));
    let runner = Runner::start(engine, None, 4).unwrap();
    for (n_prompt, shift) in [(40, 0), (90, 0), (3, 0), (40, 5), (40, 0)] {
        let mut request = request(0.0, Speculation::Always);
        request.prompt = (0..n_prompt).map(|i| 1 + (i * 7 + shift) % 100).collect();
        request.max_tokens = Some(20);
        let undrafted = changed(request.clone(), |r| r.speculation = Speculation::Off);
        let expected = answer(&mut plain, undrafted);
        let told = runner.submit(request).filter_map(|event| match event {
            AnswerEvent::Token(TokenEvent::Token { id, .. }) => Some(id),
            AnswerEvent::End(end) => end.map(|_| None).unwrap(),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<u32>>(), expected.0, "{n_prompt} {shift}");
    }
    assert!(runner.status().counters.n_drafted > 0);
}

#[test]
fn models_that_cannot_draft_are_refused_by_name() {
    let model = fixture("llama-dense");
    let tokenizer = model.tokenizer().unwrap();
    let refused = |draft: &Model| {
        DraftModel::new(draft, &model, &tokenizer, &options()).err().expect("it is refused")
    };
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/faults/tiny.gguf");
    let tiny = Model::open(Path::new(tiny)).unwrap();
    let error = refused(&tiny);
    let EngineError::OtherVocabulary(other) = &error else { panic!("{error}") };
    assert!(matches!(other.difference, VocabularyDifference::Token(..)), "{error}");
    let words = error.to_string();
    assert!(words.contains("tiny.gguf") && words.contains("llama-dense"), "{words}");

    let (encoder, _) = fixture_model::load_embedding(&fixture_model::embedding_names()[0]);
    let file = Arc::new(GgufFile::from_bytes(encoder.gguf).unwrap());
    let encoder = Model::from_file(file, Path::new("encoder")).unwrap();
    assert!(matches!(refused(&encoder), EngineError::NoLogits));
}
