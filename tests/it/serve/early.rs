//! Arguments of calls are told as they come, in every API that streams them.

use super::{Reply, Serving};
use serde_json::{Value, json};

/// What a call says, which is many tokens.
const WORD: &str = "a long word for a mode of a lamp in a room";

fn schema() -> Value {
    json!({ "type": "object", "properties": { "mode": { "enum": [WORD] } }, "required": ["mode"],
        "additionalProperties": false })
}

/// The data of all events of a stream.
fn data(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.events_of_data().into_iter().flatten().collect()
}

/// Parts of arguments that were told, which are the whole when they are put together.
fn assert_parts(parts: &[&str]) {
    let told: Value = serde_json::from_str(&parts.concat()).unwrap();
    assert_eq!(told, json!({ "mode": WORD }));
    assert!(parts.iter().filter(|part| !part.is_empty()).count() > 5, "{parts:?}");
}

#[test]
fn calls_that_a_model_makes_by_itself_are_told_as_they_come() {
    let serving = Serving::start("early", &[]);
    let tokens = serving.post("/tokenize", &json!({ "content": "{" })).json();
    let brace = tokens["tokens"].as_array().unwrap().last().unwrap().to_string();
    // A model that begins with a brace calls a tool.
    let mut base = json!({ "stream": true, "temperature": 0, "max_tokens": 200 });
    base["logit_bias"] = json!({ brace: 1000 });
    let ask = |path: &str, more: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data(&serving.post(path, &body))
    };
    let messages = json!([{ "role": "user", "content": "one" }]);
    let function = json!({ "name": "light", "parameters": schema() });

    let tools = json!([{ "type": "function", "function": function }]);
    let body = json!({ "messages": messages, "tools": tools, "parallel_tool_calls": false });
    let chunks = ask("/v1/chat/completions", body);
    let calls: Vec<&Value> =
        chunks.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"][0]).collect();
    let calls: Vec<&Value> = calls.into_iter().filter(|call| !call.is_null()).collect();
    assert_eq!(calls[0]["function"]["name"], "light", "{chunks:?}");
    let parts = calls.iter().filter_map(|call| call["function"]["arguments"].as_str());
    assert_parts(&parts.collect::<Vec<_>>());
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");

    let tools = json!([{ "name": "light", "input_schema": schema() }]);
    let events = ask(
        "/v1/messages",
        json!({ "messages": messages, "tools": tools,
        "tool_choice": { "type": "auto", "disable_parallel_tool_use": true } }),
    );
    let parts = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str());
    assert_parts(&parts.collect::<Vec<_>>());
    let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((kinds("content_block_start"), kinds("content_block_stop")), (1, 1));

    let tools = json!([{ "type": "function", "name": "light", "parameters": schema() }]);
    let mut body = json!({ "input": "one", "tools": tools, "parallel_tool_calls": false });
    body["max_output_tokens"] = 200.into();
    let events = ask("/v1/responses", body);
    let is_part = |event: &&Value| event["type"] == "response.function_call_arguments.delta";
    let parts = events.iter().filter(is_part).filter_map(|event| event["delta"].as_str());
    assert_parts(&parts.collect::<Vec<_>>());
    let whole = &events.last().unwrap()["response"]["output"][0]["arguments"];
    assert_eq!(serde_json::from_str::<Value>(whole.as_str().unwrap()).unwrap()["mode"], WORD);
}
