//! Anthropic's, OpenAI's newer and Ollama's APIs: the same texts in their shapes, whole and streamed.

use super::{Reply, Serving, run};
use serde_json::{Value, json};

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The named events of a stream.
fn named(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let text = reply.text();
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

/// The texts of a field of all events of a kind.
fn told(events: &[Value], kind: &str, pointer: &str) -> String {
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    of_kind.filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

fn schema() -> Value {
    json!({ "type": "object", "properties": { "on": { "type": "boolean" } }, "required": ["on"],
        "additionalProperties": false })
}

#[test]
fn messages_are_answered_as_anthropic_does() {
    let serving = Serving::start("messages", &[]);
    let base = json!({
        "messages": [{ "role": "user", "content": "one" }], "temperature": 0, "max_tokens": 8,
    });
    let ask = |more: Value| serving.post("/v1/messages?beta=true", &with(base.clone(), more));
    let expected = run(&serving.model(), "u:one\na:", "8");
    let whole = ask(json!({}));
    assert!(whole.header("request-id").is_some());
    let whole = whole.json();
    assert_eq!(whole["content"], json!([{ "type": "text", "text": expected }]));
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(whole["stop_reason"], "max_tokens");
    let count = serving.post("/v1/messages/count_tokens", &base).json()["input_tokens"].clone();
    let input = |usage: &Value| {
        ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]
            .iter()
            .map(|name| usage[name].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(json!(input(&whole["usage"])), count);
    let events = named(&ask(json!({ "stream": true })));
    assert_eq!(
        kinds(&events),
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(told(&events, "content_block_delta", "/delta/text"), expected);
    let start = &events[0]["message"];
    assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(json!(input(&start["usage"])), count);
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"]["stop_reason"], "max_tokens");
    assert_eq!(last["usage"]["output_tokens"], 8);
    let stop: String = expected.chars().skip(3).take(2).collect();
    let stopped = ask(json!({ "stop_sequences": [stop] })).json();
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], stop.as_str());
    // A line that changes with each request does not change the prompt.
    let billed = |n: usize| {
        // More than a page, of which the cache consists.
        let text = format!("x-anthropic-billing-header: cch={n};\n{}", "Be brief. ".repeat(20));
        ask(json!({ "system": text })).json()["usage"].clone()
    };
    let (first, second) = (billed(1), billed(22222));
    assert_eq!(input(&first), input(&second));
    assert!(second["cache_read_input_tokens"].as_u64() > Some(0), "{second}");
}

#[test]
fn messages_call_tools_and_follow_schemas() {
    let serving = Serving::start("message-tools", &[]);
    let base = json!({
        "messages": [{ "role": "user", "content": "one" }], "temperature": 0, "max_tokens": 200,
        "tools": [
            { "name": "light", "input_schema": schema() },
            { "type": "web_search_20250305", "name": "web_search" },
        ],
    });
    let ask = |more: Value| serving.post("/v1/messages", &with(base.clone(), more));
    for choice in [json!({ "type": "any" }), json!({ "type": "tool", "name": "light" })] {
        let choice = with(choice, json!({ "disable_parallel_tool_use": true }));
        let reply = ask(json!({ "tool_choice": choice }));
        assert_eq!(reply.header("x-teff-ignored-tools"), Some("web_search_20250305"));
        let whole = reply.json();
        assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
        let call = &whole["content"][0];
        assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("light")));
        assert!(call["input"]["on"].is_boolean());
        let events = named(&ask(json!({ "tool_choice": choice, "stream": true })));
        assert_eq!(events[1]["content_block"]["input"], json!({}));
        let input = told(&events, "content_block_delta", "/delta/partial_json");
        assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), call["input"]);
    }
    let format = json!({ "type": "json_schema", "schema": schema() });
    let made = ask(json!({ "output_config": { "format": format } })).json();
    let text = made["content"][0]["text"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["on"].is_boolean());
}

#[test]
fn anthropic_is_told_errors_in_its_shape() {
    let serving = Serving::start("message-errors", &[]);
    let user = json!([{ "role": "user", "content": "x" }]);
    let image = json!([{ "role": "user", "content": [{ "type": "image" }] }]);
    for (body, status, kind) in [
        (json!({ "messages": user }), 400, "invalid_request_error"),
        (json!({ "max_tokens": 1 }), 400, "invalid_request_error"),
        (json!({ "max_tokens": 1, "messages": image }), 400, "invalid_request_error"),
        (json!({ "max_tokens": 1, "messages": user, "model": "other" }), 404, "not_found_error"),
        (
            json!({ "max_tokens": 1, "messages": user, "stop_sequences": "x" }),
            400,
            "invalid_request_error",
        ),
    ] {
        let reply = serving.post("/v1/messages", &body);
        assert_eq!(reply.status, status, "{body}");
        let json = reply.json();
        assert_eq!(json["type"], "error");
        assert_eq!(json["error"]["type"], kind);
        assert_eq!(json["request_id"].as_str(), reply.header("x-request-id"));
    }
}

#[test]
fn responses_are_told_item_by_item() {
    let serving = Serving::start("responses", &[]);
    let ask = |more: Value| {
        let base = json!({ "input": "one", "temperature": 0, "max_output_tokens": 8 });
        serving.post("/v1/responses", &with(base, more))
    };
    let expected = run(&serving.model(), "u:one\na:", "8");
    let whole = ask(json!({})).json();
    assert_eq!(whole["object"], "response");
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let part = &whole["output"][0]["content"][0];
    assert_eq!((&part["text"], &part["annotations"]), (&json!(expected), &json!([])));
    assert_eq!(whole["usage"]["output_tokens"], 8);
    assert!(whole["usage"]["input_tokens_details"]["cached_tokens"].is_u64());
    assert!(whole["usage"]["output_tokens_details"]["reasoning_tokens"].is_u64());
    let events = named(&ask(json!({ "stream": true })));
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    assert_eq!(told(&events, "response.output_text.delta", "/delta"), expected);
    let item = &events[2]["item"]["id"];
    assert!(events[3..events.len() - 2].iter().all(|event| event["item_id"] == *item));
    assert_eq!(events.last().unwrap()["response"]["output"][0]["id"], *item);
    let items = json!([
        { "role": "developer", "content": "b" },
        { "role": "user", "content": [{ "type": "input_text", "text": "one" }] },
    ]);
    let joined = ask(json!({ "instructions": "a", "input": items })).json();
    let expected = run(&serving.model(), "s:a\n\nb\nu:one\na:", "8");
    assert_eq!(joined["output"][0]["content"][0]["text"], expected.as_str());
    for (body, param) in [
        (json!({ "previous_response_id": "x" }), "previous_response_id"),
        (json!({ "conversation": "x" }), "conversation"),
        (json!({ "background": true }), "background"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": [{ "type": "web_search_call" }] }), "input[0]"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "text": { "format": { "type": "xml" } } }), "text.format.type"),
    ] {
        let reply = ask(body);
        assert_eq!((reply.status, reply.error().1), (400, json!(param)));
    }
}

#[test]
fn responses_call_functions_and_follow_schemas() {
    let serving = Serving::start("response-tools", &[]);
    let tools = json!([
        { "type": "web_search" },
        { "type": "function", "name": "light", "parameters": schema(), "strict": true },
        { "type": "custom", "name": "patch" },
    ]);
    let ask = |more: Value| {
        let base = json!({
            "input": "one", "temperature": 0, "max_output_tokens": 200, "tools": tools,
            "parallel_tool_calls": false,
        });
        serving.post("/v1/responses", &with(base, more))
    };
    for choice in [json!("required"), json!({ "type": "function", "name": "light" })] {
        let reply = ask(json!({ "tool_choice": choice }));
        assert_eq!(reply.header("x-teff-ignored-tools"), Some("web_search, custom"));
        let whole = reply.json();
        assert_eq!(whole["status"], "completed", "{whole}");
        let call = &whole["output"][0];
        assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("light")));
        let events = named(&ask(json!({ "tool_choice": choice, "stream": true })));
        assert_eq!(
            kinds(&events),
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "response.output_item.done",
                "response.completed"
            ]
        );
        let arguments = told(&events, "response.function_call_arguments.delta", "/delta");
        assert_eq!(arguments, call["arguments"].as_str().unwrap());
        assert!(serde_json::from_str::<Value>(&arguments).unwrap()["on"].is_boolean());
    }
    let format = json!({ "type": "json_schema", "name": "x", "schema": schema() });
    let made = ask(json!({ "text": { "format": format } })).json();
    let text = made["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["on"].is_boolean());
    let history = json!([
        { "role": "user", "content": "one" },
        { "type": "function_call", "call_id": "c", "name": "light", "arguments": "{\"on\": true}" },
        { "type": "function_call_output", "call_id": "c", "output": [{ "type": "input_text", "text": "ok" }] },
    ]);
    assert_eq!(ask(json!({ "input": history, "tool_choice": "none" })).status, 200);
}

#[test]
fn ollama_is_answered_in_lines() {
    let serving = Serving::start("ollama", &[]);
    let options = json!({ "temperature": 0, "num_predict": 8 });
    let messages = json!([{ "role": "user", "content": "one" }]);
    let base = json!({ "model": "talker:latest", "messages": messages, "options": options });
    let chat = |more: Value| serving.post("/api/chat", &with(base.clone(), more));
    let expected = run(&serving.model(), "u:one\na:", "8");
    let told = lines(&chat(json!({})));
    let text: String =
        told.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, expected);
    let (last, others) = told.split_last().unwrap();
    assert!(others.iter().all(|line| line["done"] == false));
    let whole = chat(json!({ "stream": false })).json();
    assert_eq!(whole["message"]["content"], expected.as_str());
    for end in [last, &whole] {
        assert_eq!((&end["done"], &end["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!(end["eval_count"], 8);
        for name in ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"]
        {
            assert!(end[name].is_u64(), "{name}");
        }
    }
    let prompt = json!({ "model": "talker", "prompt": "one", "options": options, "stream": false });
    let made = serving.post("/api/generate", &prompt).json();
    assert_eq!(made["response"], expected.as_str());
    let raw = with(prompt.clone(), json!({ "prompt": "u:one\na:", "raw": true }));
    assert_eq!(serving.post("/api/generate", &raw).json()["response"], expected.as_str());
    let loads = serving.post("/api/generate", &json!({ "model": "talker" })).json();
    assert_eq!(loads["done_reason"], "load");
    let long = json!({ "temperature": 0, "num_predict": 200 });
    let made = chat(json!({ "format": schema(), "stream": false, "options": long })).json();
    let text = made["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["on"].is_boolean());
    for (more, status) in [
        (json!({ "options": { "num_ctx": 512 } }), 200),
        (json!({ "options": { "num_ctx": 513 } }), 400),
        (json!({ "options": { "num_predict": "x" } }), 400),
        (json!({ "format": "xml" }), 400),
        (json!({ "think": 7 }), 400),
        (json!({ "model": "other" }), 404),
        (json!({ "messages": [{ "role": "user", "content": "x", "images": ["x"] }] }), 400),
    ] {
        let more = with(json!({ "stream": false }), more);
        let reply = chat(more.clone());
        assert_eq!(reply.status, status, "{more}");
        assert_eq!(reply.json()["error"].is_string(), status != 200, "{more}");
    }
}

#[test]
fn ollama_tells_of_its_models() {
    let serving = Serving::start("ollama-models", &[]);
    for path in ["/api/version", "/api/tags"] {
        let reply = serving.request("HEAD", path, &[], b"");
        assert_eq!((reply.status, reply.body.len()), (200, 0));
    }
    let version = serving.get("/api/version").json();
    let parts = version["version"].as_str().unwrap().split('.').map(|part| part.parse::<u32>());
    assert_eq!(parts.filter(Result::is_ok).count(), 3);
    let tags = serving.get("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "talker");
    assert_eq!(tags["models"][0]["details"]["format"], "gguf");
    assert_eq!(serving.get("/api/ps").json()["models"][0]["context_length"], 512);
    let shown = serving.post("/api/show", &json!({ "model": "talker" })).json();
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert_eq!(shown["model_info"]["llama.context_length"], 512);
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "embedding"]));
    let body = json!({ "model": "talker", "input": ["one", "one", "two"] });
    let made = serving.post("/api/embed", &body).json();
    let vectors = made["embeddings"].as_array().unwrap();
    assert!(vectors[0] == vectors[1] && vectors[0] != vectors[2]);
    let long = json!({ "model": "talker", "input": "x".repeat(3000) });
    assert_eq!(serving.post("/api/embed", &long).status, 400);
    let cut = with(long, json!({ "truncate": true }));
    assert_eq!(serving.post("/api/embed", &cut).status, 200);
    assert_eq!(serving.post("/api/pull", &json!({ "model": "x" })).status, 501);
    assert_eq!(serving.request("DELETE", "/api/delete", &[], b"").status, 501);
}

#[test]
fn ollama_calls_tools_whole() {
    let serving = Serving::start("ollama-tools", &[]);
    let tool =
        json!({ "type": "function", "function": { "name": "light", "parameters": schema() } });
    let history = json!([
        { "role": "user", "content": "one" },
        { "role": "assistant", "tool_calls": [{ "function": { "name": "light", "arguments": { "on": true } } }] },
        { "role": "tool", "tool_name": "light", "content": "ok" },
    ]);
    let body = json!({
        "model": "talker", "messages": history, "tools": [tool],
        "options": { "temperature": 0, "num_predict": 60 },
    });
    for line in lines(&serving.post("/api/chat", &body)) {
        for call in line["message"]["tool_calls"].as_array().into_iter().flatten() {
            assert!(call["function"]["arguments"].is_object());
        }
    }
}
