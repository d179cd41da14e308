//! Fuzzes the reader of sessions: any bytes, also with checksums that fit them, are refused, or a session
//! that can be gone on with and saved again.

#![no_main]

mod common;

use common::sums::repair;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use teff::engine::{AnswerEvent, EngineError, SavedText};
use teff::{Request, Runner};

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| common::folder().join("session"));
static RUNNER: LazyLock<Mutex<Runner>> = LazyLock::new(|| Mutex::new(common::tiny_runner()));

fuzz_target!(|data: &[u8]| {
    let runner = RUNNER.lock().expect("no panic before");
    let mut repaired = data.to_vec();
    repair(&mut repaired);
    for bytes in [data, &repaired] {
        std::fs::write(&*FILE, bytes).expect("a file");
        let text = SavedText::read(&FILE);
        let Ok(loaded) = runner.load_session(&FILE) else { continue };
        let mut session = loaded.session;
        assert_eq!(session.tokens(), text.expect("it was loaded").tokens);
        session.save(&FILE, &loaded.extra).expect("room in memory");
        session.truncate(60);
        let mut request = Request::new(vec![3]);
        request.max_tokens = Some(1);
        for event in session.generate(request) {
            if let AnswerEvent::End(Err(EngineError::Panicked { message })) = event {
                panic!("{message}");
            }
        }
    }
});
