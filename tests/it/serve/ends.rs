//! How requests and servers end: clients that leave, signals.

use super::{Reply, Serving};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};

/// A request for an answer without an end.
fn endless(serving: &Serving, stream: bool) -> TcpStream {
    let body = json!({
        "messages": [{ "role": "user", "content": "one" }], "ignore_eos": true, "stream": stream,
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = serving.connect();
    connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
    connection
}

fn wait_running(serving: &Serving) {
    while serving.figure("vllm:num_requests_running{") == 0.0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn who_leaves_is_not_answered_any_more_and_others_are() {
    let serving = Serving::start("leave", &["--ctx", "100000"]);
    let alone = serving.chat(json!({})).content();
    for stream in [true, false] {
        let connection = endless(&serving, stream);
        wait_running(&serving);
        assert_eq!(serving.chat(json!({})).content(), alone);
        connection.shutdown(Shutdown::Both).unwrap();
        drop(connection);
        serving.wait_idle();
    }
    assert_eq!(serving.figure("teff_requests_cancelled_total{phase=\"decode\"}"), 2.0);
}

#[cfg(unix)]
#[test]
fn a_server_ends_what_is_under_way() {
    let mut serving = Serving::start("drain", &["--ctx", "100000", "--drain", "1"]);
    let connection = endless(&serving, true);
    wait_running(&serving);
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("data: ")), "it has begun");
    serving.signal("-TERM");
    while serving.get("/health").status != 503 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let refused: Reply = serving.chat(json!({}));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.error().2, "draining");
    let rest: Vec<String> = lines.filter(|line| line.starts_with("data: ")).collect();
    let last = rest.last().unwrap();
    assert!(last.contains("\"error\"") && last.contains("draining"), "{last}");
    assert_eq!(serving.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_idle_server_ends_at_once() {
    for signal in ["-TERM", "-INT"] {
        let mut serving = Serving::start("idle", &[]);
        assert_eq!(serving.chat(json!({})).status, 200);
        serving.signal(signal);
        assert_eq!(serving.code(), Some(0));
    }
}
