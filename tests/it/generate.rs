//! Requests from prompt to last token, on a tiny model without a vocabulary.

use crate::changed;
use crate::fixture_model;
use gguf_rs_lite::GgufFile;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use teff::decoder::{Outputs, SequenceChunk};
use teff::engine::{
    CancelToken, Engine, EngineError, EngineOptions, FinishReason, Model, Request, Speculation,
    Stats, TokenEvent,
};

fn engine(options: &EngineOptions) -> Engine {
    let gguf = fixture_model::load("gemma3-dense").gguf;
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Engine::new(&Model::from_file(file, Path::new("test.gguf")).unwrap(), options).unwrap()
}

fn options() -> EngineOptions {
    let mut options = EngineOptions::default();
    options.threads = Some(2);
    options.n_ctx = Some(100);
    options.max_batch = 16;
    options
}

fn request(seed: u64, max_tokens: Option<usize>) -> Request {
    let mut request = Request::new((1..41).collect());
    request.sampling.seed = seed;
    request.sampling.temperature = 1.5;
    request.sampling.top_k = 0;
    request.max_tokens = max_tokens;
    request
}

/// The tokens of an answer, and how it went.
pub fn answer(engine: &mut Engine, request: Request) -> (Vec<u32>, Stats) {
    let mut tokens = Vec::new();
    let stats = engine.generate(request, None, &CancelToken::default(), &mut |event| {
        if let TokenEvent::Token { id, .. } = event {
            tokens.push(id);
        }
        ControlFlow::Continue(())
    });
    (tokens, stats.unwrap())
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
    let mut engine = engine(&options());
    let (first, stats) = answer(&mut engine, request(7, Some(30)));
    assert_eq!(first.len(), 30);
    assert_eq!((stats.n_prompt, stats.n_generated), (40, 30));
    assert_eq!(stats.finish, FinishReason::MaxTokens);
    let others = changed(options(), |o| (o.threads, o.max_batch) = (Some(3), 5));
    assert_eq!(answer(&mut self::engine(&others), request(7, Some(30))).0, first);
    assert_eq!(answer(&mut engine, request(7, Some(30))).0, first);
    assert_ne!(answer(&mut engine, request(8, Some(30))).0, first);
    let kv = engine.decoder().kv();
    assert_eq!(kv.kv_bytes(), kv.cached_bytes(), "answers give their pages back");
}

/// Models whose sequences go back in different ways: plain pages, windows, recurrent states, experts.
#[test]
fn drafts_change_no_token() {
    let names = [
        "llama-dense",
        "gemma3-dense",
        "gpt-oss-moe",
        "llama-moe",
        "mamba2-dense",
        "lfm2-dense",
        "qwen35-dense",
    ];
    for name in names {
        let file = Arc::new(GgufFile::from_bytes(fixture_model::load(name).gguf).unwrap());
        let model = Model::from_file(file, Path::new(name)).unwrap();
        let options = changed(options(), |o| (o.n_ctx, o.max_outputs) = (Some(120), 9));
        let mut engine = Engine::new(&model, &options).unwrap();
        let mut n_drafted = 0;
        for (temperature, max_tokens) in [(0.0, Some(60)), (0.0, None), (1.5, None)] {
            let mut request = Request::new((0..40).map(|i| 1 + i % 7).collect());
            request.sampling.temperature = temperature;
            request.sampling.repeat_penalty = 1.1;
            request.max_tokens = max_tokens;
            let (plain, stats) = answer(&mut engine, request.clone());
            assert_eq!(stats.n_drafted, 0, "{name}: nobody asked for drafts");
            for speculation in [Speculation::Always, Speculation::Auto] {
                request.speculation = speculation;
                let (tokens, stats) = answer(&mut engine, request.clone());
                assert_eq!(tokens, plain, "{name} {temperature} {max_tokens:?} {speculation:?}");
                assert!(stats.n_accepted <= stats.n_drafted);
                n_drafted += stats.n_drafted;
            }
        }
        assert!(n_drafted > 0, "{name}: nothing was drafted");
        let kv = engine.decoder().kv();
        assert_eq!(kv.kv_bytes(), kv.cached_bytes(), "{name}: every page is given back");
    }
}

#[test]
fn a_full_context_is_a_reason_to_stop_and_loses_nothing() {
    let (tokens, stats) = answer(&mut engine(&options()), request(1, None));
    assert_eq!(stats.finish, FinishReason::ContextFull);
    // The last token needs no room of its own.
    assert_eq!(tokens.len(), 100 - 40 + 1);
}

#[test]
fn a_context_has_to_fit_the_budget_and_memory_that_others_hold_is_another_reason_to_stop() {
    let needed = engine(&options()).decoder().kv().bytes_of(100, 16);
    let budget = |kv_bytes_max| changed(options(), |o| o.kv_bytes_max = Some(kv_bytes_max));
    let gguf = fixture_model::load("gemma3-dense").gguf;
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    let model = Model::from_file(file, Path::new("test.gguf")).unwrap();
    let error = Engine::new(&model, &budget(needed - 1)).err().unwrap();
    let EngineError::Context(told) = &error else { panic!("{error}") };
    assert_eq!((told.n_ctx, told.needed, told.n_ctx_fitting), (100, needed, 96));
    assert!(error.to_string().contains(&needed.to_string()), "{error}");
    // Nobody asked for more than fits.
    let shorter = changed(budget(needed - 1), |o| o.n_ctx = None);
    assert_eq!(engine(&shorter).decoder().kv().n_ctx(), 96);

    let mut engine = engine(&budget(needed));
    let (tokens, stats) = answer(&mut engine, request(1, None));
    assert_eq!((tokens.len(), stats.finish), (61, FinishReason::ContextFull));
    engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        decoder
            .step(&[SequenceChunk { sequence, tokens: &[1; 5], outputs: Outputs::None }])
            .unwrap();
    });
    let (tokens, stats) = answer(&mut engine, request(1, None));
    assert_eq!(stats.finish, FinishReason::OutOfMemory);
    assert!((2 * 32 - 40..61).contains(&tokens.len()), "{} tokens", tokens.len());
}

#[test]
fn answers_stop_when_asked_to() {
    let mut engine = engine(&options());
    let cancel = CancelToken::default();
    let mut seen = 0;
    let stats = engine.generate(request(1, None), None, &cancel, &mut |event| {
        seen += usize::from(matches!(event, TokenEvent::Token { .. }));
        if seen == 5 {
            cancel.cancel();
        }
        ControlFlow::Continue(())
    });
    let stats = stats.unwrap();
    assert_eq!((stats.finish, stats.n_generated, seen), (FinishReason::Cancelled, 5, 5));
    // A prompt is left between two of its parts.
    let mut parts = Vec::new();
    let mut uncached = request(1, None);
    uncached.cache_prefix = false;
    let stats = engine.generate(uncached, None, &CancelToken::default(), &mut |event| {
        parts.push(event);
        ControlFlow::Break(())
    });
    assert_eq!(parts, [TokenEvent::Prompt { done: 16, total: 40 }]);
    assert_eq!(stats.unwrap().finish, FinishReason::Cancelled);
}

#[test]
fn requests_that_cannot_be_answered_say_why() {
    let mut engine = engine(&options());
    let never = CancelToken::default();
    let mut ask = |change: &dyn Fn(&mut Request)| {
        let mut request = request(1, None);
        change(&mut request);
        engine.generate(request, None, &never, &mut |_| ControlFlow::Continue(()))
    };
    assert!(matches!(ask(&|request| request.prompt.clear()), Err(EngineError::EmptyPrompt)));
    let error = ask(&|request| request.prompt = vec![1; 101]).unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { n_prompt: 101, n_ctx: 100 }), "{error}");
    let error = ask(&|request| request.prompt = vec![1_000_000]).unwrap_err();
    assert!(error.to_string().contains("1000000"), "{error}");
    let error = ask(&|request| request.sampling.temperature = f32::NAN).unwrap_err();
    assert!(matches!(error, EngineError::Sample(_)), "{error}");
    let error = ask(&|request| request.stop = vec!["x".into()]).unwrap_err();
    assert!(matches!(error, EngineError::NoTokenizer), "{error}");
    let error = ask(&|request| request.logprobs = Some(21)).unwrap_err();
    assert!(matches!(error, EngineError::TooManyLogprobs { n_top: 21 }), "{error}");
}

#[cfg(feature = "cli")]
#[test]
fn the_program_ends_an_answer_before_a_text() {
    use crate::cli::{error_of, teff, text};
    use crate::folder::Folder;
    let folder = Folder::new("stop");
    let path = folder.0.join("tiny.gguf");
    std::fs::write(&path, include_bytes!("../golden/faults/tiny.gguf")).unwrap();
    let run = |more: &[&str]| {
        let args = ["run", "-m", text(&path), "--raw", "-p", "ab", "-n", "30", "--temp", "1.5"];
        teff(&[&args, &["--seed", "3"][..], more].concat(), "")
    };
    let whole = String::from_utf8(run(&[]).stdout).unwrap();
    let chars: Vec<char> = whole.trim_end().chars().collect();
    let stop: String = chars[chars.len() / 2..][..3].iter().collect();
    let output = run(&["--stop", "no such text", "--stop", &stop]);
    let (before, _) = whole.split_once(&stop).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{before}\n"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("a stop text came"), "{told}");
    let error = error_of(&run(&["--stop", ""]), 2);
    assert!(error.contains("stop string is empty"), "{error}");
    let bench = ["bench", "-m", text(&path), "--prompt", "10", "--gen", "5", "--reps", "1"];
    let output = teff(&[&bench, &["--parallel", "3", "--json"][..]].concat(), "");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [all, each] = ["gen_tps", "gen_tps_each"].map(|key| line[key].as_f64().unwrap());
    assert!(line["parallel"] == 3 && (all / each - 3.0).abs() < 0.1, "{line}");
}
