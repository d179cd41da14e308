//! What is refused, and how.

use super::{Reply, Serving};
use crate::folder::Folder;
use serde_json::{Value, json};
use std::io::Write;

#[test]
fn fields_are_refused_by_name() {
    let serving = Serving::start("fields", &[]);
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    let broken = json!({ "messages": [{ "role": "assistant", "tool_calls": [
        { "function": { "name": "f", "arguments": "{" } }
    ] }] });
    let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
    let many: Vec<String> = (0..17).map(|i| i.to_string()).collect();
    for (body, param) in [
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "temperature": "warm" }), "temperature"),
        (json!({ "top_p": 2 }), "top_p"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 17 }), "n"),
        (json!({ "max_tokens": -5 }), "max_tokens"),
        (json!({ "max_tokens": "many" }), "max_tokens"),
        (json!({ "stream": "yes" }), "stream"),
        (json!({ "stream_options": { "include_usage": 1 } }), "stream_options.include_usage"),
        (json!({ "seed": "x" }), "seed"),
        (json!({ "stop": 7 }), "stop"),
        (json!({ "stop": many }), "stop"),
        (json!({ "stop": ["x".repeat(300)] }), "stop[0]"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias"),
        (json!({ "top_logprobs": 3 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": {} }), "response_format.type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function.name"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tool_choice": "maybe" }), "tool_choice"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "robot", "content": "x" }] }), "messages[0].role"),
        (user(image), "messages[0].content[0]"),
        (user(Value::Null), "messages[0].content"),
        (broken, "messages[0].tool_calls[0].function.arguments"),
        (json!({ "model": "other" }), "model"),
        (json!({ "grammar": "root ::= (" }), "grammar"),
        (json!({ "grammar": "root ::= \"a\"", "guided_regex": "b" }), "guided_regex"),
    ] {
        let reply = serving.chat(body.clone());
        assert!(matches!(reply.status, 400 | 404), "{body}: {}", reply.text());
        assert_eq!(reply.error().1, param, "{body}: {}", reply.text());
    }
    let long = "x".repeat(2000);
    let reply = serving.chat(user(json!(long)));
    let (message, _, code) = reply.error();
    assert_eq!(code, "context_length_exceeded");
    assert!(message.contains("512"), "{message}");
    // What cannot fit is not read: a word of megabytes would take a hundred times its length.
    let (message, _, code) = serving.chat(user(json!("x".repeat(7 << 20)))).error();
    assert_eq!(code, "context_length_exceeded");
    assert!(message.contains("has at least ") && message.contains("512"), "{message}");
    // Fields that only others have are passed over.
    let hosted = json!({ "user": "me", "store": true, "metadata": {}, "verbosity": "low", "x": 1 });
    assert_eq!(serving.chat(hosted).status, 200);
}

#[test]
fn what_is_no_request_is_told_in_json() {
    let serving = Serving::start("requests", &[]);
    let chat = "/v1/chat/completions";
    let kind = ["Content-Type: application/json"];
    for (reply, status) in [
        (serving.get("/v1/nothing"), 404),
        (serving.get(chat), 405),
        (serving.request("DELETE", "/v1/models", &[], b""), 405),
        (serving.request("POST", chat, &kind, b"{"), 400),
        (serving.request("POST", chat, &kind, b"[]"), 400),
        (serving.request("POST", chat, &kind, b"\xff\xfe"), 400),
        (serving.request("POST", chat, &kind, "[".repeat(100_000).as_bytes()), 400),
        (serving.request("POST", chat, &["Content-Type: image/png"], b"{}"), 415),
    ] {
        assert_eq!(reply.status, status, "{}", reply.text());
        reply.error();
        assert!(reply.header("x-request-id").is_some());
    }
    let head = format!(
        "POST {chat} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(serving.raw(head.as_bytes()).status, 413);
    let endless =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(serving.raw(endless.as_bytes()).status, 431);
    let long = format!("X: {}", "x".repeat(40_000));
    let reply = serving.request("GET", "/v1/models", &[&long], b"");
    assert_eq!((reply.status, reply.error().2), (431, json!("headers_too_large")));
    let short = format!("X: {}", "x".repeat(30_000));
    assert_eq!(serving.request("GET", "/v1/models", &[&short], b"").status, 200);
    let two =
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(serving.raw(two.as_bytes()).status, 400);
    // What is there for GET is there for HEAD, without a body, and so is what is not.
    for path in
        ["/health", "/v1/models", "/v1/models/talker", "/metrics", "/props", chat, "/v1/nothing"]
    {
        let (head, get) = (serving.request("HEAD", path, &[], b""), serving.get(path));
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        if get.status == 200 && path != "/metrics" {
            assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        }
    }
    let named = serving.request("GET", "/health", &["X-Request-Id: abc"], b"");
    assert_eq!(named.header("x-request-id"), Some("abc"));
}

#[test]
fn keys_are_needed_where_there_are_some() {
    let folder = Folder::new("serve-keys");
    let file = folder.file("keys");
    std::fs::write(&file, "# ours\nfirst\nsecond\n").unwrap();
    let serving = Serving::start("keys", &["--api-key-file", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let with = |header: &str| serving.request("GET", "/v1/models", &[header], b"");
    for header in ["Authorization: Bearer second", "x-api-key: first"] {
        assert_eq!(with(header).status, 200);
    }
    for header in
        ["Authorization: Bearer third", "Authorization: first", "x-api-key: # ours", "A: b"]
    {
        let reply = with(header);
        assert_eq!(reply.status, 401);
        assert_eq!(reply.error().2, "invalid_api_key");
    }
    assert_eq!(serving.get("/health").status, 200);
    assert_eq!(serving.get("/metrics").status, 401);
}

#[test]
fn hosts_and_origins_of_others_are_refused() {
    let args = ["--allowed-host", "box.example", "--cors-origin", "https://page.example"];
    let serving = Serving::start("hosts", &args);
    let of = |host: &str| {
        let head = format!("GET /v1/models HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        serving.raw(head.as_bytes()).status
    };
    for host in ["localhost", "127.0.0.1:80", "[::1]:1", "box.example:8080"] {
        assert_eq!(of(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in ["Host: evil.example\r\n", "Host: \r\n", "", "Host: localhost.evil.example\r\n"] {
        assert!(matches!(of(host), 400 | 403), "{host}");
    }
    let with = |origin: &str| serving.request("OPTIONS", "/v1/models", &[origin], b"");
    let allowed = with("Origin: https://page.example");
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://page.example"));
    let refused = crate::cli::teff(&["serve", "-m", "x", "--cors-origin", "nonsense"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--cors-origin nonsense"));
    let other = with("Origin: https://evil.example");
    assert_eq!(other.header("access-control-allow-origin"), None);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let serving =
        Serving::start("queue", &["--parallel", "1", "--max-queue", "1", "--ctx", "100000"]);
    let endless = json!({
        "messages": [{ "role": "user", "content": "one" }], "ignore_eos": true, "stream": true,
    });
    let streams: Vec<std::net::TcpStream> = (0..2)
        .map(|_| {
            let mut stream = serving.connect();
            let body = endless.to_string();
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            stream
        })
        .collect();
    while serving.figure("vllm:num_requests_running{")
        + serving.figure("vllm:num_requests_waiting{")
        < 2.0
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let refused: Reply = serving.chat(json!({}));
    assert_eq!(refused.status, 429);
    assert_eq!(refused.error().2, "rate_limit_exceeded");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(serving.get("/health").status, 200);
    drop(streams);
    serving.wait_idle();
    assert_eq!(serving.chat(json!({})).status, 200);
}
