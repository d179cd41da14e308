//! Fuzzes the bodies of the server's requests: whatever they are, the answer is whole, is no fault of the
//! server, and the server goes on.
//!
//! The first byte of an input chooses a route. If the second is even, the others are changes to a body that
//! the route takes, four bytes each: which of its nodes (two bytes), what becomes of it, and a number for
//! that. If it is odd, the rest is the body.

#![no_main]

mod common;

use common::bodies::BODIES;
use common::changes::change_node;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use teff::engine::{Engine, Model, Runner};
use teff::serve::{Loaded, ModelOptions, ServeOptions, Server};

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

/// Longest time that an answer may take: contexts have 64 tokens.
const PATIENCE: Duration = Duration::from_secs(30);
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// Address of a server of the tiny model, which runs to the end of the process.
static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let model = Model::open(&common::golden("faults/tiny.gguf")).expect("a model");
    let tokenizer = Arc::new(model.tokenizer().expect("a vocabulary"));
    let options = common::tiny_options();
    let engine = Engine::new(&model, &options).expect("an engine");
    let sizes = (engine.n_ctx(), engine.decoder().kv().kv_bytes_max());
    let runner = Runner::start(engine, Some(tokenizer.clone()), 1).expect("a thread");
    let mut of_model = ModelOptions::default();
    of_model.template = Some(TEMPLATE.to_owned());
    of_model.encoder = Some(options);
    let loaded = Loaded::new(model, tokenizer, Some(runner), sizes, of_model);
    let mut options = ServeOptions::default();
    options.any_model = true;
    let server = Server::bind(([127, 0, 0, 1], 0).into(), options).expect("a socket");
    let address = server.address().expect("an address");
    server.handle().add(loaded);
    std::thread::spawn(move || server.run().expect("a server"));
    address
});

/// The whole answer.
fn ask(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(*ADDRESS).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let n = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    // A body that is refused by its length may not be read.
    let _ = stream.write_all(format!("{head}Content-Length: {n}\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer in time");
    answer
}

/// Refuses answers that are the server's fault. A panic anywhere ends the process by itself.
fn check(answer: &[u8], path: &str) {
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    let status: u16 = status.and_then(|digits| digits.parse().ok()).expect("a status");
    assert!((200..500).contains(&status) || status == 501, "{path}: {status}");
}

fuzz_target!(|data: &[u8]| {
    let [route, mode, rest @ ..] = data else { return };
    let (path, base) = BODIES[usize::from(*route) % BODIES.len()];
    if mode & 1 == 0 {
        let mut body: Value = serde_json::from_str(base).expect("JSON");
        for change in rest.as_chunks::<4>().0.iter().take(16) {
            let [low, high, what, number] = *change;
            change_node(&mut body, u16::from_le_bytes([low, high]).into(), what, number);
        }
        check(&ask("POST", path, body.to_string().as_bytes()), path);
    } else {
        check(&ask("POST", path, rest), path);
    }
    check(&ask("GET", "/health", b""), "/health");
});
