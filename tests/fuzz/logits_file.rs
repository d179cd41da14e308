//! Fuzzes the reader of a teacher's answers: any bytes as a file of `teff perplexity --save-logits` are
//! refused, or compared with.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use teff::engine::Engine;
use teff::eval::{self, Chunks, LogitsFile, Options, Teacher};

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| common::folder().join("logits"));
static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| Mutex::new(common::tiny_model(8).1));

fuzz_target!(|data: &[u8]| {
    let chunks = Chunks::of_tokens((3..19).collect(), Some(1), 8).expect("two chunks");
    std::fs::write(&*FILE, data).expect("a file");
    let Ok(mut file) = LogitsFile::open(&FILE, &chunks) else { return };
    let options = Options { teacher: Teacher::File(&mut file), ..Options::default() };
    let mut engine = ENGINE.lock().expect("no panic before");
    if let Ok(report) = eval::perplexity(&mut engine, &chunks, options) {
        let divergence = report.divergence.expect("there was a teacher");
        assert!(divergence.kl_mean() >= -1e-3, "{}", divergence.kl_mean());
    }
});
