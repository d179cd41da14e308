//! Servers within the test, with limits that are reached soon: engines that are stuck, queues, slow readers.

use super::{PATIENCE, Reply};
use crate::folder::Folder;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use teff::backend::{Start, start};
use teff::engine::{Engine, EngineOptions, Model, Request, Runner};
use teff::sample::rng::Rng;
use teff::sample::{Candidates, Filter, SampleError};
use teff::serve::{Limits, Loaded, ModelOptions, ServeOptions, Server, ServerHandle};

/// A server of the tiny model, which answers one request at a time.
struct Inner {
    _folder: Folder,
    address: SocketAddr,
    handle: ServerHandle,
    runner: Runner,
    thread: Option<JoinHandle<()>>,
    told: Receiver<Value>,
}

impl Inner {
    fn start(name: &str, limits: impl FnOnce(&mut Limits)) -> Inner {
        Inner::start_on(name, limits, &start)
    }

    /// The same with another backend.
    fn start_on(name: &str, limits: impl FnOnce(&mut Limits), start: &Start<'_>) -> Inner {
        let folder = Folder::new(&format!("inner-{name}"));
        let keys = vec![("llama.context_length", 200_000_u32.into())];
        let model = Model::open(&folder.tiny_with("talker", keys)).unwrap();
        let tokenizer = Arc::new(model.tokenizer().unwrap());
        let mut options = EngineOptions::default();
        (options.threads, options.n_ctx) = (Some(1), Some(100_000));
        let engine = Engine::on(&model, &options, start).unwrap();
        let sizes = (engine.n_ctx(), engine.decoder().kv().kv_bytes_max());
        let runner = Runner::start(engine, Some(tokenizer.clone()), 1).unwrap();
        let mut of_model = ModelOptions::default();
        of_model.template = Some(super::TEMPLATE.to_owned());
        let loaded = Loaded::new(model, tokenizer, Some(runner.clone()), sizes, of_model);
        let mut options = ServeOptions::default();
        options.n_running_max = 1;
        limits(&mut options.limits);
        let (sender, told) = channel();
        let sender = Mutex::new(sender);
        options.log = Some(Box::new(move |line| {
            let _ = sender.lock().unwrap().send(line.clone());
        }));
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let (address, handle) = (server.address().unwrap(), server.handle());
        handle.add(loaded);
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Inner { _folder: folder, address, handle, runner, thread, told }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        stream
    }

    /// A chat completion that comes to no end by itself.
    fn endless(&self, more: Value) -> TcpStream {
        let mut body = json!({
            "messages": [{ "role": "user", "content": "one" }], "ignore_eos": true, "stream": true,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send("POST", "/v1/chat/completions", &body.to_string())
    }

    fn get(&self, path: &str) -> Reply {
        Reply::read(self.send("GET", path, ""))
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Inner) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn n_running(&self) -> usize {
        let status = self.runner.status();
        status.n_running + status.n_waiting
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.handle.drain();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A sampler that waits for a word, on the engine's thread.
#[derive(Clone, Debug)]
struct Waits(Arc<Mutex<Receiver<()>>>);

impl Filter for Waits {
    fn apply(&mut self, _: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn an_engine_that_is_stuck_is_told_of() {
    let inner = Inner::start("stuck", |limits| limits.stuck_time = Duration::from_millis(300));
    assert_eq!(inner.get("/health").status, 200);
    let (go_on, waiting) = channel();
    let mut request = Request::new(vec![1, 2, 3]);
    request.max_tokens = Some(1);
    request.filters = vec![Box::new(Waits(Arc::new(Mutex::new(waiting))))];
    let answer = inner.runner.submit(request);
    inner.wait_for("the engine is stuck", |inner| inner.get("/health").status == 503);
    assert_eq!(inner.get("/health").json()["status"], "stuck");
    let line = inner.told.iter().find(|line| line["error"].is_string()).unwrap();
    assert_eq!(line["model"], "talker", "{line}");
    // What holds no step goes on.
    assert_eq!(inner.get("/v1/models").status, 200);
    drop(go_on);
    answer.for_each(drop);
    inner.wait_for("the engine goes on", |inner| inner.get("/health").status == 200);
}

#[test]
fn who_waits_too_long_is_told_when_to_come_again() {
    let inner = Inner::start("queue", |limits| limits.queue_time = Duration::from_millis(400));
    let running = inner.endless(json!({}));
    inner.wait_for("it runs", |inner| inner.runner.status().n_running == 1);
    let reply = Reply::read(inner.endless(json!({ "stream": false })));
    assert_eq!((reply.status, reply.error().2), (503, json!("queue_timeout")));
    assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    let streamed = Reply::read(inner.endless(json!({})));
    assert_eq!((streamed.status, streamed.error().2), (503, json!("queue_timeout")));
    drop(running);
    inner.wait_for("nothing runs", |inner| inner.n_running() == 0);
}

#[test]
fn streams_that_wait_are_kept_alive() {
    let inner = Inner::start("waits", |limits| {
        limits.queue_time = Duration::from_millis(1500);
        limits.head_wait = Duration::from_millis(100);
        limits.keep_alive = Duration::from_millis(100);
    });
    let running = inner.endless(json!({}));
    inner.wait_for("it runs", |inner| inner.runner.status().n_running == 1);
    let messages = json!([{ "role": "user", "content": "one" }]);
    let bodies = [
        ("/v1/chat/completions", json!({ "messages": messages, "stream": true })),
        ("/v1/messages", json!({ "messages": messages, "stream": true, "max_tokens": 3 })),
        ("/v1/responses", json!({ "input": "one", "stream": true })),
    ];
    let waiting: Vec<TcpStream> =
        bodies.iter().map(|(path, body)| inner.send("POST", path, &body.to_string())).collect();
    for (stream, (path, _)) in waiting.into_iter().zip(&bodies) {
        let reply = Reply::read(stream);
        assert_eq!(reply.status, 200);
        let text = reply.text();
        assert!(text.matches(": keep-alive\n\n").count() >= 3, "{path}: {text}");
        let last = text.trim_end().rsplit("data: ").next().unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        let named = [&last["error"]["code"], &last["error"]["type"], &last["code"]];
        assert!(
            named.iter().any(|name| **name == "queue_timeout" || **name == "overloaded_error"),
            "{last}"
        );
        assert_eq!(
            text.contains("event: error\n"),
            *path != "/v1/chat/completions",
            "{path}: {text}"
        );
    }
    // One that comes to its turn in time is told whole.
    let stream = inner.endless(json!({ "max_tokens": 4, "ignore_eos": false }));
    std::thread::sleep(Duration::from_millis(400));
    drop(running);
    let reply = Reply::read(stream);
    assert!(reply.text().starts_with(": keep-alive\n\n"));
    assert_eq!(reply.events_of_data().last(), Some(&None), "{}", reply.text());
}

#[test]
fn who_reads_too_slowly_is_cancelled_alone() {
    let inner = Inner::start("slow", |limits| limits.unread_bytes = 4 << 20);
    // Much is told of each token, so that the system's buffers are soon full.
    let more = json!({ "logprobs": true, "top_logprobs": 20, "temperature": 1 });
    let slow = inner.endless(more.clone());
    inner.wait_for("it runs", |inner| inner.runner.status().n_running == 1);
    inner.wait_for("it is cancelled", |inner| inner.n_running() == 0);
    let mut fast = inner.endless(more);
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..2 {
        fast.read_exact(&mut bytes).unwrap();
    }
    assert_eq!(inner.runner.status().n_running, 1, "who reads is told on");
    drop((slow, fast));
}

#[test]
fn a_connection_that_takes_nothing_is_closed() {
    let inner = Inner::start("closed", |limits| {
        limits.unread_bytes = usize::MAX;
        limits.write_time = Duration::from_millis(300);
    });
    let _slow = inner.endless(json!({ "logprobs": true, "top_logprobs": 20, "temperature": 1 }));
    inner.wait_for("it runs", |inner| inner.runner.status().n_running == 1);
    inner.wait_for("it is cancelled", |inner| inner.n_running() == 0);
    let figures = inner.get("/metrics").text();
    let cancelled = "teff_requests_cancelled_total{phase=\"decode\"} 1";
    assert!(figures.lines().any(|line| line == cancelled), "{figures}");
}

/// A GPU that is lost in the middle of an answer: the CPUs go on with the text, and it is told once.
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
#[test]
fn a_lost_gpu_ends_no_answer() {
    use teff::backend::{BackendOptions, GpuLayers, Placement, start_placed};
    let Some(adapter) = crate::gpu::adapter() else { return };
    let body = json!({
        "messages": [{ "role": "user", "content": "one" }], "ignore_eos": true, "max_tokens": 12,
        "temperature": 0,
    });
    let answer = |name: &str, lose_at: Option<u64>| {
        let (said, listener) = crate::gpu::noting();
        let (layers, adapter) = (GpuLayers::All, Some(adapter.clone()));
        let placement =
            Placement { layers, adapter, falls_back: true, lose_at, ..Placement::default() };
        let start = |program, options: &BackendOptions| {
            start_placed(program, options, &placement, &listener)
        };
        let inner = Inner::start_on(name, |_| {}, &start);
        let [first, again] = [(); 2].map(|()| {
            let reply = Reply::read(inner.send("POST", "/v1/chat/completions", &body.to_string()));
            assert_eq!(reply.status, 200, "{}", reply.text());
            let choice = reply.json()["choices"][0].clone();
            assert_eq!(choice["finish_reason"], "length");
            choice["message"]["content"].as_str().unwrap().to_owned()
        });
        let said = said.lock().unwrap().clone();
        (first, again, said)
    };
    let (truth, _, said) = answer("kept", None);
    assert!(said.is_empty(), "{said:?}");
    // The prompt is the first range.
    let (first, again, said) = answer("lost", Some(6));
    assert_eq!([&first, &again], [&truth; 2]);
    let [line] = &said[..] else { panic!("{said:?}") };
    assert!(line.contains("is lost") && line.contains("all layers are on the CPU now"), "{line}");
}
