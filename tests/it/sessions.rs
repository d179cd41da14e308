//! Conversations that share a runner: turns, edits, cancellations, and what they find in the cache.

use gguf_rs_lite::GgufFile;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use teff::engine::{
    AnswerEvent, Engine, EngineError, EngineOptions, FinishReason, Model, Request, Runner, Session,
    Stats, Status, TokenEvent,
};

/// A llama of one layer with a vocabulary of bytes.
const TINY: &[u8] = include_bytes!("../golden/faults/tiny.gguf");
const N_CTX: usize = 240;

fn runner(n_running_max: usize) -> Runner {
    let file = Arc::new(GgufFile::from_bytes(TINY.to_vec()).unwrap());
    let model = Model::from_file(file, Path::new("tiny.gguf")).unwrap();
    let mut options = EngineOptions::default();
    options.threads = Some(2);
    options.n_ctx = Some(N_CTX);
    options.max_batch = 40;
    options.max_outputs = n_running_max;
    let engine = Engine::new(&model, &options).unwrap();
    Runner::start(engine, Some(Arc::new(model.tokenizer().unwrap())), n_running_max).unwrap()
}

fn request(prompt: Vec<u32>, seed: u64) -> Request {
    let mut request = Request::new(prompt);
    request.max_tokens = Some(20);
    request.sampling.seed = seed;
    // Hot, as the model is sure of what it says.
    request.sampling.temperature = 50.0;
    (request.sampling.top_k, request.sampling.top_p, request.sampling.min_p) = (0, 1.0, 0.0);
    request
}

/// Tokens of the `turn`th prompt of a conversation.
fn prompt(conversation: u32, turn: u32) -> Vec<u32> {
    (0..40).map(|i| 10 + (i * 7 + turn * 3 + conversation * i) % 200).collect()
}

/// Tokens of an answer and how it went.
fn listen(events: impl Iterator<Item = AnswerEvent>) -> (Vec<u32>, Result<Stats, EngineError>) {
    let (mut tokens, mut end) = (Vec::new(), None);
    for event in events {
        match event {
            AnswerEvent::Token(TokenEvent::Token { id, .. }) => tokens.push(id),
            AnswerEvent::End(result) => end = Some(result),
            _ => {}
        }
    }
    (tokens, end.expect("every answer ends"))
}

/// Three turns of a conversation.
fn converse(session: &mut Session, conversation: u32) -> Vec<Vec<u32>> {
    let turns = (0..3).map(|turn| {
        let before = session.tokens().len();
        let request = request(prompt(conversation, turn), u64::from(turn));
        let (tokens, stats) = listen(session.generate(request));
        let stats = stats.unwrap();
        assert_eq!(stats.n_prompt, before + 40);
        // All that was there is known, but for the last token told.
        let known = before.saturating_sub(1);
        assert!(stats.n_cached >= known, "{} of {known}", stats.n_cached);
        assert_eq!(session.tokens().len(), before + 40 + tokens.len());
        tokens
    });
    turns.collect()
}

/// Status of a runner that has nothing more to do.
fn idle(runner: &Runner) -> Status {
    let start = Instant::now();
    loop {
        let status = runner.status();
        if status.n_running + status.n_waiting == 0 {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "requests go on");
        std::thread::yield_now();
    }
}

#[test]
fn conversations_side_by_side_say_what_they_say_alone() {
    let alone: Vec<_> = (0..4).map(|i| converse(&mut runner(1).session(), i)).collect();
    assert!(alone[0] != alone[1] && alone.iter().flatten().any(|tokens| tokens.len() == 20));
    let runner = runner(8);
    let threads = (0..4).map(|i| {
        let mut session = runner.session();
        std::thread::spawn(move || converse(&mut session, i))
    });
    let threads: Vec<_> = threads.collect();
    let together: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(together, alone);
    let status = idle(&runner);
    assert_eq!(status.kv_bytes, status.cached_bytes);
}

#[test]
fn turns_can_be_asked_again_edited_and_branched() {
    let runner = runner(4);
    let mut session = runner.session();
    let first = listen(session.generate(request(prompt(0, 0), 1))).0;
    let (again, stats) = listen(session.regenerate(request(Vec::new(), 1)));
    assert_eq!(again, first);
    assert!(stats.unwrap().n_cached >= 32);
    let other = listen(session.regenerate(request(Vec::new(), 2))).0;
    assert_ne!(other, first);
    assert_eq!(session.answers(), [40]);
    assert_eq!(session.tokens(), [prompt(0, 0), other.clone()].concat());
    // A branch goes its own way.
    let mut branch = session.clone();
    listen(branch.generate(request(prompt(0, 1), 3))).1.unwrap();
    assert_eq!(session.tokens().len(), 40 + other.len());
    // A turn is edited.
    let edited = [&prompt(0, 0)[..35], &[7, 8, 9]].concat();
    assert_eq!(branch.set_tokens(&edited), 35);
    assert!(branch.answers().is_empty() && branch.tokens() == edited);
    let answer = listen(branch.generate(request(vec![5], 4))).0;
    let mut plain = request([&edited[..], &[5]].concat(), 4);
    plain.cache_prefix = false;
    assert_eq!(listen(runner.submit(plain)).0, answer);
}

#[test]
fn what_fails_leaves_the_conversation_as_it_was() {
    let runner = runner(2);
    let mut session = runner.session();
    listen(session.generate(request(prompt(0, 0), 1))).1.unwrap();
    let before = (session.tokens().to_vec(), session.answers().to_vec());
    let error = listen(session.generate(request(vec![1; N_CTX], 1))).1.unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { .. }), "{error}");
    let error = listen(session.generate(request(vec![1_000_000], 1))).1.unwrap_err();
    assert!(error.to_string().contains("1000000"), "{error}");
    assert_eq!((session.tokens().to_vec(), session.answers().to_vec()), before);
}

#[test]
fn several_answers_to_one_prompt_are_those_of_their_seeds() {
    let alone: Vec<_> =
        (0..3).map(|i| listen(runner(1).submit(request(prompt(0, 0), 5 + i))).0).collect();
    let runner = runner(4);
    let answers = runner.submit_answers(request(prompt(0, 0), 5), 3);
    let answers: Vec<_> = answers.into_iter().map(|answer| listen(answer).0).collect();
    assert_eq!(answers, alone);
    assert_eq!(idle(&runner).counters.n_forked, 2);
    for answer in runner.submit_answers(request(prompt(0, 0), 5), 17) {
        assert!(matches!(listen(answer).1, Err(EngineError::TooManyAnswers { n: 17 })));
    }
}

#[test]
fn answers_end_when_they_are_cancelled_dropped_or_their_runner_is_gone() {
    let runner = runner(4);
    let endless = || {
        let mut request = request(prompt(0, 0), 1);
        request.max_tokens = None;
        request
    };
    let mut answer = runner.submit(endless());
    let token = answer.cancel_token().clone();
    let is_token =
        |event: &AnswerEvent| matches!(event, AnswerEvent::Token(TokenEvent::Token { .. }));
    answer.by_ref().find(is_token).expect("a token");
    token.cancel();
    let stats = listen(answer).1.unwrap();
    // A busy machine may wake us when the answer is over.
    assert!(matches!(
        stats.finish,
        FinishReason::Cancelled | FinishReason::EndOfGeneration | FinishReason::ContextFull
    ));
    // Nobody listens to these.
    (0..3).for_each(|_| drop(runner.submit(endless())));
    idle(&runner);
    let answers: Vec<_> = (0..3).map(|_| runner.submit(endless())).collect();
    drop(runner);
    for answer in answers {
        listen(answer).1.unwrap();
    }
}
