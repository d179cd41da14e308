//! Requests that share steps get what they get alone, whatever comes, goes, forks, is cancelled, loses
//! its pages or panics on the way; and no page is lost.
//!
//! Schedules are drawn from seeds: a failure names the seed, which repeats it. The oracle is plain:
//! a prompt fed token by token to a decoder of its own, one sampler, all tokens made text at the end.

use crate::fixture_model;
use crate::hooked::{Hook, Hooked};
use gguf_rs_lite::GgufFile;
use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use teff::backend::pages::{KvType, PAGE_TOKENS};
use teff::backend::{BackendOptions, DeviceError, Executor, StepInput, Unfinished, start};
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk, lower};
use teff::engine::{
    CancelToken, Counters, EngineError, FinishReason, Listener, Model, Request, Scheduler,
    Speculation, Stats, TokenEvent,
};
use teff::sample::rng::Rng;
use teff::sample::{Candidates, Filter, Logprobs, SampleError, SamplerChain};
use teff::text::{TextStream, Tokenizer};
use teff_kernels::{BlockMax, KernelTable};

/// A llama of one layer, without windows and states, with a vocabulary of bytes.
const TINY: &[u8] = include_bytes!("../golden/faults/tiny.gguf");
const N_CTX: usize = 96;
/// A token in no other prompt and in no answer: a step with it panics.
const POISON: u32 = 77;

// ------------------------------------------------------------------ steps that go wrong

/// What happens in the middle of a step.
enum Fault {
    Panic,
    Cancel(CancelToken),
    /// A device is lost, with all pages.
    Loss,
}

type Faults = Mutex<Box<dyn FnMut(&StepInput<'_>) -> Option<Fault> + Send>>;

impl Hook for Faults {
    fn before_run(
        &self,
        executor: &mut dyn Executor,
        ops: Range<usize>,
        input: &StepInput<'_>,
    ) -> Result<(), Unfinished> {
        let fault = (self.lock().unwrap())(input);
        match fault {
            Some(Fault::Panic) => {
                // Keys, values and states of half the layers are written by then.
                let half = ops.start + ops.len() / 2;
                executor.run(ops.start..half, input, None, None).unwrap();
                resume_unwind(Box::new("a phase panicked"));
            }
            Some(Fault::Cancel(token)) => token.cancel(),
            Some(Fault::Loss) => {
                for (group, pages) in input.tables.iter().flat_map(|table| table.iter().enumerate())
                {
                    for &page in pages.iter().flatten() {
                        let mut bytes = Vec::new();
                        executor.read_page(group, page, PAGE_TOKENS, &mut bytes).unwrap();
                        // No numbers.
                        bytes.fill(0xff);
                        executor.write_page(group, page, &bytes).unwrap();
                    }
                }
                let device = "a device".into();
                return Err(Unfinished::Moved(DeviceError { device, fault: "is lost".into() }));
            }
            None => {}
        }
        Ok(())
    }
}

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    threads: usize,
    max_batch: usize,
    max_outputs: usize,
    /// Budget of the cache in contexts; `None`: without bounds.
    contexts: Option<f64>,
}

fn model(gguf: Vec<u8>) -> Model {
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Model::from_file(file, Path::new("test.gguf")).unwrap()
}

/// A decoder whose steps ask the hook.
fn decoder(model: &Model, sizes: Sizes) -> (Decoder, Arc<Faults>) {
    let kernels = KernelTable::detect();
    let program = || lower(model.file(), model.spec(), kernels, N_CTX).unwrap();
    let options = |kv_bytes_max| DecoderOptions {
        threads: Some(sizes.threads),
        cpus: None,
        max_batch: sizes.max_batch,
        max_outputs: sizes.max_outputs,
        n_ctx: N_CTX,
        kv_type: KvType::F32,
        kv_bytes_max,
        repack: true,
    };
    let backend_options = BackendOptions {
        threads: Some(sizes.threads),
        cpus: None,
        kernels,
        max_tokens: sizes.max_batch,
        max_outputs: sizes.max_outputs,
        n_ctx: N_CTX,
        kv_type: KvType::F32,
        repack: true,
    };
    let kv_bytes_max = sizes.contexts.map_or(usize::MAX, |contexts| {
        let probe =
            Decoder::of_program(program(), model.spec(), kernels, &options(usize::MAX)).unwrap();
        (probe.kv().bytes_of(N_CTX, sizes.max_batch) as f64 * contexts) as usize
    });
    let hook: Arc<Faults> = Arc::new(Mutex::new(Box::new(|_| None)));
    let inner = start(program(), &backend_options).unwrap();
    let backend = Box::new(Hooked { inner, hook: hook.clone() });
    (Decoder::with_backend(backend, &options(kv_bytes_max)), hook)
}

// ------------------------------------------------------------------ requests and their answers

/// A sampler that panics at some token.
#[derive(Clone, Debug)]
struct Panics {
    at: usize,
}

impl Filter for Panics {
    fn apply(&mut self, _: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        if self.at == 0 {
            resume_unwind(Box::new("a sampler panicked"));
        }
        self.at -= 1;
        Ok(())
    }
}

/// A sampler that never draws [`POISON`].
#[derive(Clone, Debug)]
struct Harmless;

impl Filter for Harmless {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        candidates.change(POISON, |_| f32::NEG_INFINITY);
        Ok(())
    }
}

/// Requests of which schedules are made: the same for the same number. Some share their beginning,
/// some begin with the second token of others, some are too long, one is poison, one has a sampler that panics.
const KINDS: usize = 14;
const POISONED: usize = 12;
const PANICKING: usize = 13;

fn request(kind: usize, stop: &[String]) -> Request {
    let len = [1, 5, 31, 32, 33, 40, 64, 70, N_CTX, 50, 65, 48, 40, 20][kind];
    let mut prompt: Vec<u32> =
        (0..len as u32).map(|i| 1 + (i * 7 + [0, 7, 1][kind / 6]) % 50).collect();
    if kind == POISONED {
        prompt[35] = POISON;
    }
    let mut request = Request::new(prompt);
    request.max_tokens = [Some(20), None, Some(1), Some(40), None, Some(0)][kind % 6];
    request.sampling.seed = kind as u64;
    // Hot, as these models are sure of what they say.
    request.sampling.temperature = [0.0, 50.0, 5.0][kind % 3];
    (request.sampling.top_k, request.sampling.top_p, request.sampling.min_p) = (0, 1.0, 0.0);
    request.cache_prefix = kind != 4;
    // Drafts change nothing, whatever else happens.
    request.speculation = [Speculation::Always, Speculation::Off][kind % 2];
    request.logprobs = (kind == 3).then_some(4);
    request.filters = vec![Box::new(Harmless)];
    if kind == PANICKING {
        request.filters.push(Box::new(Panics { at: 5 }));
    }
    // Samplers with a state, which has to survive a request's waiting.
    request.sampling.frequency_penalty = [0.0, 0.0, 2.0, 0.5][kind % 4];
    request.stop = stop.to_vec();
    request
}

/// Stop strings for a text: one that is in it, and one that begins as it does and is not.
fn stops(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (middle, n) = (chars.len() / 2, chars.len());
    match n {
        0..6 => Vec::new(),
        _ => vec![
            chars[..3].iter().chain(&['z'; 4]).collect(),
            chars[middle..middle + 3].iter().collect(),
        ],
    }
}

/// What a request gives.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    /// What was shown with each token, and at the end.
    texts: Vec<String>,
    logprobs: Vec<Logprobs>,
    /// `Err` is a panic's message.
    end: Option<Result<FinishReason, String>>,
}

/// Index and start of the stop string that ends first; of several the longest.
fn first_stop(text: &str, stop: &[String]) -> Option<(usize, usize)> {
    let mut ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
    ends.find_map(|end| {
        let found = stop.iter().enumerate();
        let found = found.filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
        found.max_by_key(|(_, stop)| stop.len()).map(|(i, stop)| (i, end - stop.len()))
    })
}

/// The answer to a request alone, by hand.
fn naive(decoder: &mut Decoder, request: &Request, tokenizer: Option<&Arc<Tokenizer>>) -> Answer {
    let mut sampler =
        SamplerChain::with_first(request.sampling.clone(), request.filters.clone()).unwrap();
    request.prompt.iter().for_each(|&id| sampler.accept(id));
    let mut stream = tokenizer.map(|tokenizer| TextStream::new(tokenizer.clone()));
    let (mut answer, mut text) = (Answer::default(), String::new());
    let end = decoder.lead(|stepper| {
        let sequence = stepper.kv_mut().create();
        let mut feed = |id: u32| {
            let run = SequenceChunk { sequence, tokens: &[id], outputs: Outputs::Last };
            stepper.step(&[run]).unwrap().to_vec()
        };
        let mut logits = Vec::new();
        request.prompt.iter().for_each(|&id| logits = feed(id));
        let end = loop {
            if request.max_tokens == Some(0) {
                break FinishReason::MaxTokens;
            }
            let raw = logits.clone();
            let id = sampler.sample(BlockMax::of(&mut logits, &mut Vec::new())).unwrap();
            if tokenizer.is_some_and(|tokenizer| tokenizer.is_end_of_generation(id)) {
                break FinishReason::EndOfGeneration;
            }
            sampler.accept(id);
            answer.tokens.push(id);
            answer.logprobs.extend(request.logprobs.map(|n| Logprobs::of(&raw, id, n)));
            text += &stream.as_mut().map(|stream| stream.push(id)).unwrap_or_default();
            if let Some((index, start)) = first_stop(&text, &request.stop) {
                text.truncate(start);
                break FinishReason::Stop { index };
            }
            if request.max_tokens == Some(answer.tokens.len()) {
                break FinishReason::MaxTokens;
            }
            if request.prompt.len() + answer.tokens.len() > N_CTX {
                break FinishReason::ContextFull;
            }
            logits = feed(id);
        };
        stepper.kv_mut().remove(sequence);
        end
    });
    if !matches!(end, FinishReason::Stop { .. }) {
        text += &stream.map(|mut stream| stream.finish()).unwrap_or_default();
        text.truncate(first_stop(&text, &request.stop).map_or(text.len(), |stop| stop.1));
    }
    answer.texts = vec![text];
    answer.end = Some(Ok(end));
    answer
}

/// Listener that writes down what it hears.
struct Ear {
    heard: Arc<Mutex<Answer>>,
    /// Tokens after which it wants no more.
    n_max: usize,
    /// Tokens at which it panics.
    panics_at: usize,
}

impl Listener for Ear {
    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()> {
        let mut heard = self.heard.lock().unwrap();
        assert!(heard.end.is_none(), "nothing is told behind the end");
        match event {
            TokenEvent::Token { id, text, logprobs } => {
                heard.tokens.push(id);
                heard.texts.push(text);
                heard.logprobs.extend(logprobs);
            }
            TokenEvent::Rest(text) => heard.texts.push(text),
            TokenEvent::Prompt { done, total } => assert!(done < total),
            _ => {}
        }
        let n = heard.tokens.len();
        drop(heard);
        if n == self.panics_at {
            resume_unwind(Box::new("a listener panicked"));
        }
        if n >= self.n_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        let mut heard = self.heard.lock().unwrap();
        assert!(heard.end.is_none(), "an end is told once");
        heard.end = Some(match result {
            Ok(stats) => Ok(stats.finish),
            Err(EngineError::Panicked { message }) => Err(message),
            Err(error) => panic!("{error}"),
        });
    }
}

// ------------------------------------------------------------------ schedules

/// A model with decoders of several sizes, and the answers of its requests alone.
struct World {
    name: &'static str,
    tokenizer: Option<Arc<Tokenizer>>,
    decoders: Vec<(Sizes, Decoder, Arc<Faults>)>,
    /// By kind and answer.
    alone: Vec<[Answer; ANSWERS]>,
    /// Stop strings by kind.
    stops: Vec<Vec<String>>,
    counted: Counters,
    /// Losses of all pages in a step.
    n_lost: Arc<AtomicU64>,
}

/// Answers to one prompt, at most.
const ANSWERS: usize = 3;

/// A request in a schedule.
struct Asked {
    kind: usize,
    /// Which answer to the prompt.
    answer: usize,
    heard: Arc<Mutex<Answer>>,
    cancel: CancelToken,
    n_max: usize,
    panics_at: usize,
}

impl World {
    fn new(name: &'static str, gguf: Vec<u8>, has_text: bool) -> World {
        let model = model(gguf);
        let tokenizer = has_text.then(|| Arc::new(model.tokenizer().unwrap()));
        let sizes = |threads, max_batch, max_outputs, contexts| Sizes {
            threads,
            max_batch,
            max_outputs,
            contexts,
        };
        let all = [
            sizes(1, 40, 8, None),
            sizes(1, 40, 8, Some(1.0)),
            sizes(1, 200, 8, Some(1.5)),
            sizes(1, 16, 3, Some(2.2)),
            sizes(1, 3, 2, Some(1.2)),
            sizes(2, 24, 8, Some(1.7)),
        ];
        let mut oracle = decoder(&model, sizes(1, 1, 1, None)).0;
        let alone = (0..KINDS).map(|kind| {
            let mut alone = |answer: usize, stop: &[String]| {
                let mut request = request(kind, stop);
                request.sampling.seed += answer as u64;
                request.filters.truncate(1);
                naive(&mut oracle, &request, tokenizer.as_ref())
            };
            let stop = if kind % 2 == 1 { stops(&alone(0, &[]).texts[0]) } else { Vec::new() };
            (std::array::from_fn(|answer| alone(answer, &stop)), stop)
        });
        let (alone, stops): (Vec<[Answer; ANSWERS]>, Vec<_>) = alone.unzip();
        assert!(alone.iter().any(|answers| answers[0].tokens.len() > 30), "{name}: long answers");
        let is_stopped = |answers: &[Answer; ANSWERS]| {
            matches!(answers[0].end, Some(Ok(FinishReason::Stop { index: 1 })))
        };
        assert!(!has_text || alone.iter().filter(|of| is_stopped(of)).count() >= 3, "{name}");
        let decoders = all.map(|sizes| {
            let (decoder, hook) = decoder(&model, sizes);
            (sizes, decoder, hook)
        });
        let (decoders, counted) = (decoders.into(), Counters::default());
        World { name, tokenizer, decoders, alone, stops, counted, n_lost: Arc::default() }
    }

    /// One schedule: arrivals, cancellations and faults between and in steps.
    fn schedule(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut below = |n: usize| (rng.unit_f64() * n as f64) as usize;
        let (sizes, decoder, hook) = {
            let which = below(self.decoders.len());
            &mut self.decoders[which]
        };
        let n_requests = 1 + below(8);
        let mut arrivals: Vec<(usize, usize, usize)> = (0..n_requests)
            .map(|_| (below(30), below(KINDS), [1, 1, 1, 2, ANSWERS][below(5)]))
            .collect();
        arrivals.sort_unstable();
        let n_running_max = 1 + below(8);
        let mut asked: Vec<Asked> = Vec::new();
        // Steps from now to the next fault, and cancellations that are due.
        let (mut panic_in, mut cancel_in) = (1 + below(200), 1 + below(25));
        let mut loss_in = 1 + below(150);
        let due: Arc<Mutex<Option<CancelToken>>> = Arc::default();
        let (in_step, n_lost) = (due.clone(), self.n_lost.clone());
        *hook.lock().unwrap() = Box::new(move |input| {
            loss_in -= 1;
            if loss_in == 0 {
                loss_in = 150;
                n_lost.fetch_add(1, Ordering::Relaxed);
                return Some(Fault::Loss);
            }
            panic_in = panic_in.saturating_sub(1);
            let is_shared = input.sequence.last() > Some(&0);
            if input.tokens.contains(&POISON) || (panic_in == 0 && is_shared) {
                panic_in = 200;
                return Some(Fault::Panic);
            }
            in_step.lock().unwrap().take().map(Fault::Cancel)
        });
        let clears = below(2) == 0;
        let counters = decoder.lead(|stepper| {
            let mut scheduler = Scheduler::new(self.tokenizer.clone(), n_running_max);
            let mut arrivals = arrivals.into_iter().peekable();
            for step in 0.. {
                while let Some((_, kind, n)) = arrivals.next_if(|arrival| arrival.0 <= step) {
                    let first = asked.len();
                    asked.extend((0..n).map(|answer| Asked {
                        kind,
                        answer,
                        heard: Arc::default(),
                        cancel: CancelToken::default(),
                        n_max: if below(6) == 0 { 1 + below(10) } else { usize::MAX },
                        panics_at: if below(20) == 0 { 1 + below(10) } else { usize::MAX },
                    }));
                    let listeners = asked[first..].iter().map(|asked| {
                        let &Asked { n_max, panics_at, .. } = asked;
                        let ear = Ear { heard: asked.heard.clone(), n_max, panics_at };
                        (asked.cancel.clone(), Box::new(ear) as Box<dyn Listener>)
                    });
                    scheduler.submit_answers(request(kind, &self.stops[kind]), listeners.collect());
                }
                cancel_in -= 1;
                if cancel_in == 0 && !asked.is_empty() {
                    let token = asked[below(asked.len())].cancel.clone();
                    match below(2) {
                        0 => token.cancel(),
                        _ => *due.lock().unwrap() = Some(token),
                    }
                }
                cancel_in = if cancel_in == 0 { 1 + below(40) } else { cancel_in };
                if arrivals.peek().is_none() && scheduler.n_requests() == 0 {
                    break;
                }
                assert!(step < 20_000, "seed {seed}: the schedule does not end");
                scheduler.step(stepper);
            }
            let kv = stepper.kv_mut();
            assert_eq!(kv.kv_bytes(), kv.cached_bytes(), "seed {seed}: pages are lost");
            if clears {
                kv.evict(usize::MAX);
                assert_eq!(kv.kv_bytes(), 0, "seed {seed}: pages are lost");
            }
            scheduler.counters()
        });
        let what = format!("{}, seed {seed}, {sizes:?}", self.name);
        asked.iter().for_each(|asked| self.check(asked, &what));
        let Counters { n_cached, n_preempted, n_interrupted, n_failed, n_forked, .. } = counters;
        self.counted.n_cached += n_cached;
        self.counted.n_preempted += n_preempted;
        self.counted.n_interrupted += n_interrupted;
        self.counted.n_failed += n_failed;
        self.counted.n_forked += n_forked;
    }

    /// Compares what was heard with the answer alone.
    fn check(&self, asked: &Asked, what: &str) {
        let &Asked { kind, answer, n_max, panics_at, .. } = asked;
        let what = format!("{what}: kind {kind}, answer {answer}");
        let heard = asked.heard.lock().unwrap().clone();
        let expected = &self.alone[kind][answer];
        let (text, whole) = (heard.texts.concat(), expected.texts.concat());
        let n = heard.tokens.len();
        match heard.end.as_ref().unwrap_or_else(|| panic!("{what}: no end")) {
            Ok(FinishReason::Cancelled) => {
                assert!(asked.cancel.is_cancelled() || n == n_max, "{what}");
            }
            Err(message) if message == "a listener panicked" => assert_eq!(n, panics_at, "{what}"),
            Err(message) if message == "a sampler panicked" => {
                assert_eq!((kind, n), (PANICKING, 5), "{what}");
            }
            Err(message) if message == "a phase panicked" => assert_eq!(kind, POISONED, "{what}"),
            Ok(end) => {
                assert!(kind != POISONED && (kind != PANICKING || n <= 5), "{what}");
                assert_eq!(Some(&Ok(*end)), expected.end.as_ref(), "{what}");
                assert_eq!(heard.tokens, expected.tokens, "{what}");
                assert_eq!(heard.logprobs, expected.logprobs, "{what}");
                assert_eq!(text, whole, "{what}");
                return;
            }
            Err(message) => panic!("{what}: {message}"),
        }
        assert!(expected.tokens.starts_with(&heard.tokens), "{what}");
        assert!(expected.logprobs.starts_with(&heard.logprobs), "{what}");
        // Part of a character is shown as a replacement at the end; so is what would have become a
        // stop string.
        let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let is_part = whole.starts_with(text) || text.starts_with(&whole);
        assert!(is_part, "{what}: {text:?} of {whole:?}");
    }
}

/// Runs many schedules and sees to it that all that can happen did.
fn schedules(mut world: World, n: u64) {
    (0..n).for_each(|seed| world.schedule(seed));
    let Counters { n_cached, n_preempted, n_interrupted, n_failed, n_forked, .. } = world.counted;
    let n_lost = world.n_lost.load(Ordering::Relaxed);
    let counted = [n_cached, n_preempted, n_interrupted, n_failed - n_lost, n_forked, n_lost];
    assert!(counted.iter().all(|&count| count > n / 20), "{}: {counted:?}", world.name);
}

#[test]
fn requests_get_the_tokens_and_texts_they_get_alone() {
    schedules(World::new("tiny", TINY.to_vec(), true), 1000);
}

#[test]
fn requests_with_windows_get_the_tokens_they_get_alone() {
    schedules(World::new("gemma3-dense", fixture_model::load("gemma3-dense").gguf, false), 30);
}

#[test]
fn requests_with_recurrent_states_get_the_tokens_they_get_alone() {
    schedules(World::new("lfm2-dense", fixture_model::load("lfm2-dense").gguf, false), 30);
}
