//! Traces that the server sends: what a collector gets, and collectors that are wrong or gone.

use super::{PATIENCE, Serving};
use crate::cli::teff;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector: its address, and the heads and bodies of what it is sent.
fn collector() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, sent) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            if sender.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (address, sent)
}

/// The spans of a message.
fn spans(message: &Value) -> &Vec<Value> {
    message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
}

fn attribute<'v>(span: &'v Value, key: &str) -> &'v Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    &found.unwrap_or_else(|| panic!("{key}: {span}"))["value"]
}

fn body() -> Vec<u8> {
    let message = json!({ "role": "user", "content": "one" });
    json!({ "messages": [message], "temperature": 0, "max_tokens": 4 }).to_string().into_bytes()
}

#[test]
fn collectors_get_a_span_for_each_request() {
    let (address, sent) = collector();
    let serving = Serving::start("traces", &["--otlp", &address]);
    let ask = |path: &str, flags: &str| {
        let header = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}");
        serving.request("POST", path, &[&header], &body())
    };
    // A client that follows nothing of its own wants nothing followed here.
    assert_eq!(ask("/v1/chat/completions", "00").status, 200);
    let reply = ask("/v1/chat/completions", "01");
    let (head, message) = sent.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /v1/traces "), "{head}");
    let [span] = &spans(&message)[..] else { panic!("{message}") };
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!((&span["name"], &span["kind"]), (&json!("chat talker"), &json!(2)));
    assert_eq!(attribute(span, "http.response.status_code"), &json!({ "intValue": "200" }));
    let usage = reply.json()["usage"].clone();
    for (name, field) in [
        ("gen_ai.usage.input_tokens", "prompt_tokens"),
        ("gen_ai.usage.output_tokens", "completion_tokens"),
    ] {
        assert_eq!(attribute(span, name)["intValue"], usage[field].to_string());
    }
    let nanos = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
    let (start, end) = (&span["startTimeUnixNano"], &span["endTimeUnixNano"]);
    let first = nanos(&span["events"][0]["timeUnixNano"]);
    assert!((nanos(start)..=nanos(end)).contains(&first), "{span}");
    assert!(!message.to_string().contains("one"), "a prompt is nobody's: {message}");
    // A fault of the client is no error of the server.
    assert_eq!(serving.post("/v1/chat/completions", &json!({})).status, 400);
    let (_, message) = sent.recv_timeout(PATIENCE).unwrap();
    let [span] = &spans(&message)[..] else { panic!("{message}") };
    assert_eq!((&span["status"], &span["parentSpanId"]), (&json!({}), &Value::Null));
    assert_eq!(attribute(span, "error.type"), &json!({ "stringValue": "400" }));
}

#[cfg(unix)]
#[test]
fn spans_that_wait_are_sent_at_the_end() {
    let (address, sent) = collector();
    let mut serving = Serving::start("traces-end", &["--otlp", &address]);
    serving.request("POST", "/v1/chat/completions", &[], &body());
    serving.signal("-TERM");
    assert_eq!(serving.code(), Some(0));
    assert_eq!(spans(&sent.recv_timeout(PATIENCE).unwrap().1).len(), 1);
}

#[test]
fn collectors_that_are_gone_disturb_nobody() {
    let serving = Serving::start("traces-gone", &["--otlp", "http://127.0.0.1:9"]);
    for _ in 0..3 {
        assert_eq!(serving.request("POST", "/v1/chat/completions", &[], &body()).status, 200);
    }
    let start = Instant::now();
    while serving.figure("teff_spans_lost_total ") < 3.0 {
        assert!(start.elapsed() < PATIENCE, "spans that are lost are counted");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = teff(&["serve", "-m", "none.gguf", "--otlp", "collector:4318"], "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("collector:4318: no address of a collector"), "{told}");
}
