//! Fuzzes the reader of multiple-choice questions: any bytes are refused, or questions that are
//! answered.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use teff::cli::choices_file;
use teff::engine::Engine;
use teff::eval;
use teff::text::Tokenizer;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

const N_CTX: usize = 64;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| common::folder().join("choices"));
static MODEL: LazyLock<(Tokenizer, Mutex<Engine>)> = LazyLock::new(|| {
    let (model, engine) = common::tiny_model(N_CTX);
    (model.tokenizer().expect("a vocabulary"), Mutex::new(engine))
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*FILE, data).expect("a file");
    let (tokenizer, engine) = &*MODEL;
    let Ok(questions) = choices_file::read(&FILE, tokenizer) else { return };
    let mut engine = engine.lock().expect("no panic before");
    let answered = eval::choose(&mut engine, &questions, &mut |_| ControlFlow::Continue(()));
    match answered {
        Ok(accuracy) => assert_eq!(accuracy.n, questions.len()),
        Err(_) => assert!(questions.iter().any(|q| q.n_tokens() > N_CTX || q.n_tokens() < 2)),
    }
});
