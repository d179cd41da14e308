//! A GPU that is lost in the middle of answers: the CPUs go on where they may, and the answers are those
//! without the loss; where they may not, the error names the adapter and the part. The device is
//! destroyed as wgpu does it, before a range of operations.

use crate::decoder::{model, options};
use crate::fixture_model::{self, Fixture};
use crate::folder::Folder;
use crate::gpu::{adapter, noting, silent};
use crate::real_models::cached;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use teff::backend::pages::KvType;
use teff::backend::{BackendOptions, GpuLayers, Placement, PlacementListener, start_placed};
use teff::decoder::Stepper;
use teff::engine::{
    CancelToken, Engine, EngineError, EngineOptions, FinishReason, Listener, Model, Request,
    Runner, Scheduler, Session, Speculation, Stats, TokenEvent,
};
use teff::sample::Logprobs;

/// Log-probabilities of the two likeliest tokens that are no further apart may change places: devices
/// round differently.
const GAP: f32 = 0.02;
/// The same of real models, of which the CPU quantizes inputs of products.
const REAL_GAP: f32 = 0.5;

/// An answer: its tokens with the two likeliest of each place, and its end.
#[derive(Default)]
struct Heard {
    tokens: Vec<(u32, Logprobs)>,
    end: Option<Result<FinishReason, String>>,
}

struct Ear(Arc<Mutex<Heard>>);

impl Listener for Ear {
    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()> {
        if let TokenEvent::Token { id, logprobs, .. } = event {
            self.0.lock().unwrap().tokens.push((id, logprobs.unwrap()));
        }
        ControlFlow::Continue(())
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        let end = result.map(|stats| stats.finish).map_err(|error| error.to_string());
        self.0.lock().unwrap().end = Some(end);
    }
}

/// Whether an answer is another one, but for what two likely tokens of nearly the same probability lead to.
fn check_same(ours: &Heard, truth: &Heard, gap: f32, what: &str) {
    for (i, ((ours, _), (token, logprobs))) in ours.tokens.iter().zip(&truth.tokens).enumerate() {
        if ours != token {
            let between = logprobs.top[0].1 - logprobs.top[1].1;
            assert!(between <= gap, "{what}: token {i} is {ours}, not {token}, by {between}");
            return;
        }
    }
    assert_eq!(ours.tokens.len(), truth.tokens.len(), "{what}");
    assert_eq!(ours.end, truth.end, "{what}");
}

fn engine(
    model: &Model,
    options: &EngineOptions,
    placement: &Placement,
    listener: &Arc<dyn PlacementListener>,
) -> Engine {
    let start =
        |program, options: &BackendOptions| start_placed(program, options, placement, listener);
    Engine::on(model, options, &start).unwrap()
}

fn placement(layers: GpuLayers, lose_at: Option<u64>) -> Option<Placement> {
    let adapter = Some(adapter()?);
    Some(Placement { layers, adapter, falls_back: true, lose_at, ..Placement::default() })
}

/// A greedy request for a number of tokens.
fn request(prompt: Vec<u32>, n: usize) -> Request {
    let mut request = Request::new(prompt);
    request.max_tokens = Some(n);
    request.sampling.temperature = 0.0;
    request.logprobs = Some(2);
    request
}

/// Answers to requests that share steps; to the first of them two.
fn answers(engine: &mut Engine, requests: &[Request]) -> Vec<Heard> {
    let heard = engine.lead(|stepper: &mut Stepper<'_>| {
        let mut scheduler = Scheduler::new(None, 4);
        let mut heard = Vec::new();
        for (i, request) in requests.iter().enumerate() {
            let listeners = (0..if i == 0 { 2 } else { 1 }).map(|_| {
                let ear: Arc<Mutex<Heard>> = Arc::default();
                heard.push(ear.clone());
                (CancelToken::default(), Box::new(Ear(ear)) as Box<dyn Listener>)
            });
            scheduler.submit_answers(request.clone(), listeners.collect());
        }
        while scheduler.n_requests() > 0 {
            scheduler.step(stepper);
        }
        let kv = stepper.kv();
        assert_eq!(kv.kv_bytes(), kv.cached_bytes(), "no page is lost");
        heard
    });
    heard.into_iter().map(|heard| std::mem::take(&mut *heard.lock().unwrap())).collect()
}

/// Requests of several lengths, of which one checks drafts and one begins as another does.
fn requests(tokens: &[u32]) -> Vec<Request> {
    let prompt = |from: usize, n: usize| -> Vec<u32> {
        tokens.iter().cycle().skip(from).take(n).copied().collect()
    };
    let mut requests =
        vec![request(prompt(0, 40), 12), request(prompt(3, 7), 20), request(prompt(0, 50), 9)];
    requests[1].speculation = Speculation::Always;
    requests
}

#[test]
fn answers_go_on_as_if_nothing_had_been_lost() {
    if adapter().is_none() {
        return;
    }
    for name in ["llama-dense", "gemma3-dense", "lfm2-dense"] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        let model = model(gguf);
        let requests = requests(&tokens);
        for layers in [GpuLayers::Count(1), GpuLayers::All] {
            let options = crate::changed(options(2, 24), |o| o.n_ctx = Some(128));
            let placed = placement(layers, None).unwrap();
            let truth = answers(&mut engine(&model, &options, &placed, &silent()), &requests);
            assert!(truth.iter().all(|heard| heard.tokens.len() >= 9), "{name}");
            // In the first chunk of a prompt, in others, and among answers.
            for lose_at in [0, 3, 6, 9] {
                let what = format!("{name}, {layers:?}, lost before range {lose_at}");
                let (said, listener) = noting();
                let placed = placement(layers, Some(lose_at)).unwrap();
                let mut engine = engine(&model, &options, &placed, &listener);
                let ours = answers(&mut engine, &requests);
                for (ours, truth) in ours.iter().zip(&truth) {
                    check_same(ours, truth, GAP, &what);
                }
                let lost = said.lock().unwrap().clone();
                let lost: Vec<_> = lost.iter().filter(|line| line.contains("is lost")).collect();
                let [line] = lost[..] else { panic!("{what}: {lost:?}") };
                assert!(line.contains(&placed.adapter.unwrap()), "{what}: {line}");
                // The layers are the CPUs' now, and remain so.
                let offload = engine.decoder().offload().unwrap();
                assert_eq!((offload.adapter, offload.n_crossings), (None, 0), "{what}");
                let again = answers(&mut engine, &requests);
                for (ours, truth) in again.iter().zip(&truth) {
                    check_same(ours, truth, GAP, &what);
                }
            }
        }
    }
}

/// What `run` does: one request, its sequence, and a file with it afterwards.
#[test]
fn a_real_model_goes_on_in_the_middle_of_an_answer() {
    let Some(path) = adapter().and_then(|_| cached("smollm2:135m")) else { return };
    let model = Model::open(&path).unwrap();
    let options = crate::changed(options(2, 16), |o| {
        o.n_ctx = Some(64);
        o.kv_type = KvType::F16;
    });
    let answer = |lose_at: Option<u64>| {
        let (said, listener) = noting();
        let placed = placement(GpuLayers::Count(4), lose_at).unwrap();
        let mut engine = engine(&model, &options, &placed, &listener);
        let mut heard = Heard::default();
        let prompt = (0..20).map(|i| 500 + 37 * i).collect();
        let stats =
            engine.generate(request(prompt, 8), None, &CancelToken::default(), &mut |event| {
                if let TokenEvent::Token { id, logprobs, .. } = event {
                    heard.tokens.push((id, logprobs.unwrap()));
                }
                ControlFlow::Continue(())
            });
        heard.end = Some(stats.map(|stats| stats.finish).map_err(|error| error.to_string()));
        let said = said.lock().unwrap().clone();
        (heard, said)
    };
    let (truth, said) = answer(None);
    assert_eq!((truth.tokens.len(), said.len()), (8, 0), "{said:?}");
    let (ours, said) = answer(Some(5));
    assert_eq!(said.len(), 1, "{said:?}");
    check_same(&ours, &truth, REAL_GAP, "lost at the fourth token");
}

#[test]
fn a_lost_gpu_ends_answers_where_layers_were_asked_for() {
    if adapter().is_none() {
        return;
    }
    let Fixture { gguf, tokens, .. } = fixture_model::load("llama-dense");
    let model = model(gguf);
    for (layers, part) in
        [(GpuLayers::Count(1), "layer 2 to head"), (GpuLayers::All, "embedding to head")]
    {
        let placed = Placement { falls_back: false, ..placement(layers, Some(4)).unwrap() };
        let (said, listener) = noting();
        let mut engine = engine(&model, &options(2, 24), &placed, &listener);
        for heard in answers(&mut engine, &requests(&tokens)) {
            let Some(Err(error)) = heard.end else { panic!("{layers:?}: {:?}", heard.end) };
            assert!(error.contains(placed.adapter.as_ref().unwrap()), "{error}");
            assert!(error.contains(part) && error.contains("lost"), "{error}");
        }
        assert!(said.lock().unwrap().is_empty());
    }
}

/// A loss that is met between two steps: reading pages for a file, and scores of a long text in parts.
#[test]
fn what_is_between_two_steps_survives_a_loss() {
    if adapter().is_none() {
        return;
    }
    let Fixture { gguf, tokens, .. } = fixture_model::load("gemma3-dense");
    let model = model(gguf);
    let options = crate::changed(options(1, 8), |o| o.n_ctx = Some(128));
    let text: Vec<u32> = tokens.iter().cycle().take(60).copied().collect();
    let runner = |lose_at| {
        let placed = placement(GpuLayers::Count(2), lose_at).unwrap();
        Runner::start(engine(&model, &options, &placed, &silent()), None, 2).unwrap()
    };
    let scores =
        |lose_at| runner(lose_at).score(&text, 2, &CancelToken::default()).unwrap().unwrap();
    let truth = scores(None);
    assert_eq!(truth.len(), text.len() - 1);
    for (i, (ours, truth)) in scores(Some(4)).iter().zip(&truth).enumerate() {
        assert!((ours.token - truth.token).abs() <= 1e-2, "{i}: {ours:?} for {truth:?}");
    }

    // A prompt of eight ranges, then the first of another one, whose results nobody reads.
    let folder = Folder::new("gpu-loss");
    let path = folder.file("session");
    let lost = runner(Some(8));
    let mut session = lost.session();
    session.generate(request(text.clone(), 1)).for_each(drop);
    let (sender, ended) = std::sync::mpsc::channel();
    let leaver = Box::new(Leaver(sender));
    lost.submit_to(request(text[7..].to_vec(), 1), vec![(CancelToken::default(), leaver)]);
    assert_eq!(ended.recv().unwrap().unwrap().finish, FinishReason::Cancelled);
    let saved = session.save(&path, b"").unwrap();
    assert_eq!(saved.n_tokens, text.len() + 1);
    let loaded = runner(None).load_session(&path).unwrap();
    assert_eq!((loaded.report.n_tokens, loaded.report.n_cached), (saved.n_tokens, 0));
    // What a later loss leaves behind is a session that goes on.
    let whole = runner(None);
    let mut other = whole.session();
    other.generate(request(text.clone(), 1)).for_each(drop);
    other.save(&path, b"").unwrap();
    let loaded = lost.load_session(&path).unwrap();
    assert_eq!(loaded.report.n_cached, text.len(), "{:?}", loaded.report);
    let more = |session: &mut Session| {
        session.generate(request(text[..5].to_vec(), 3)).for_each(drop);
        session.tokens().to_vec()
    };
    assert_eq!(more(&mut session), more(&mut other));
}

/// Leaves at the first news.
struct Leaver(std::sync::mpsc::Sender<Result<Stats, EngineError>>);

impl Listener for Leaver {
    fn tell(&mut self, _: TokenEvent) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        self.0.send(result).unwrap();
    }
}
