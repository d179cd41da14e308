//! Every known field of every route: `/openapi.json` says what it may be, and bodies are held to that.

use super::{Reply, Serving};
use serde_json::{Map, Value, json};

/// Values of all types, of which each field accepts some.
fn values() -> Vec<Value> {
    vec![
        json!(true),
        json!("ultra"),
        json!(3),
        json!(3.5),
        json!(-7),
        json!(1e30),
        json!([]),
        json!([7]),
        json!(["x"]),
        json!([{}]),
        json!({}),
        json!({ "type": 7 }),
    ]
}

/// Whether a value is what a schema says, as far as the tables have such.
fn fits(schema: &Value, value: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| fits(schema, value));
    }
    let is_whole = |x: f64| x.fract() == 0.0 && x.abs() < 9e15;
    let is = |name: &str| match name {
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(is_whole),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let has_type = match &schema["type"] {
        Value::Null => true,
        Value::String(name) => is(name),
        names => names.as_array().unwrap().iter().any(|name| is(name.as_str().unwrap())),
    };
    let number = value.as_f64().unwrap_or(0.0);
    let within = schema["minimum"].as_f64().is_none_or(|min| number >= min)
        && schema["maximum"].as_f64().is_none_or(|max| number <= max);
    let is_word = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let has_items = schema
        .get("items")
        .is_none_or(|items_schema| items.iter().all(|item| fits(items_schema, item)));
    has_type && (!value.is_number() || within) && is_word && has_items && fields_fit(schema, value)
}

fn fields_fit(schema: &Value, value: &Value) -> bool {
    let Some(fields) = value.as_object() else { return true };
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let properties = schema["properties"].as_object();
    required.iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        && properties.is_none_or(|properties| {
            fields
                .iter()
                .all(|(name, value)| properties.get(name).is_none_or(|schema| fits(schema, value)))
        })
}

/// A body that each route answers.
fn base(path: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "one" }]);
    match path {
        "/v1/chat/completions" => json!({ "messages": messages, "max_tokens": 1 }),
        "/apply-template" => json!({ "messages": messages }),
        "/v1/messages" => json!({ "messages": messages, "max_tokens": 1 }),
        "/v1/messages/count_tokens" => json!({ "messages": messages }),
        "/v1/responses" => json!({ "input": "one", "max_output_tokens": 1 }),
        "/v1/completions" => json!({ "prompt": "one", "max_tokens": 1 }),
        "/v1/embeddings" => json!({ "input": "one" }),
        "/v1/rerank" => json!({ "query": "one", "documents": ["two"] }),
        "/api/chat" => {
            json!({ "model": "talker", "messages": messages, "options": { "num_predict": 1 } })
        }
        "/api/generate" => {
            json!({ "model": "talker", "prompt": "one", "options": { "num_predict": 1 } })
        }
        "/api/show" => json!({ "model": "talker" }),
        "/api/embed" => json!({ "model": "talker", "input": "one" }),
        "/api/embeddings" => json!({ "model": "talker", "prompt": "one" }),
        "/tokenize" => json!({ "content": "one" }),
        "/detokenize" => json!({ "tokens": [1] }),
        "/infill" => json!({ "input_prefix": "one", "max_tokens": 1 }),
        other => panic!("{other} has no body here"),
    }
}

/// What an error says, in any API's shape, and the field that it names, where the API has a place for it.
fn told(reply: &Reply) -> (String, Option<String>) {
    let json = reply.json();
    match json["error"].as_str() {
        Some(message) => (message.to_owned(), None),
        None => {
            let error = &json["error"];
            let message = error["message"].as_str().unwrap_or_else(|| panic!("{json}"));
            (message.to_owned(), error["param"].as_str().map(str::to_owned))
        }
    }
}

/// Asserts that a body is refused for a field.
fn assert_refused(serving: &Serving, path: &str, body: &Value, name: &str) {
    let reply = serving.post(path, body);
    assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
    let (message, param) = told(&reply);
    let place = message.split(": ").next().unwrap();
    assert!(place.starts_with(name), "{path} {body}: {message}");
    assert!(param.is_none_or(|param| param.starts_with(name)), "{path} {body}: {}", reply.text());
}

#[test]
fn known_fields_of_wrong_types_are_refused_by_name() {
    let serving = Serving::start("field-types", &[]);
    let described = serving.get("/openapi.json").json();
    let (mut n_fields, mut n_refused) = (0, 0);
    for (path, methods) in described["paths"].as_object().unwrap() {
        let Some(post) = methods.get("post") else { continue };
        let schema = &post["requestBody"]["content"]["application/json"]["schema"];
        let whole = base(path);
        let status = serving.post(path, &whole).status;
        assert!(status == 200 || matches!(path.as_str(), "/infill" | "/v1/rerank"), "{path}");
        for (name, schema_of_field) in schema["properties"].as_object().unwrap() {
            n_fields += 1;
            for value in values().iter().filter(|value| !fits(schema_of_field, value)) {
                let mut body = whole.clone();
                body[name] = value.clone();
                assert_refused(&serving, path, &body, name);
                n_refused += 1;
            }
        }
        for name in schema["required"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let mut body = whole.clone();
            let fields: &mut Map<String, Value> = body.as_object_mut().unwrap();
            fields.remove(name.as_str().unwrap());
            assert_refused(&serving, path, &body, name.as_str().unwrap());
        }
    }
    assert!(n_fields > 300 && n_refused > 2000, "{n_fields} {n_refused}");
    // What a field may be is accepted, or its value is refused for what it says.
    for (path, name, value) in [
        ("/v1/completions", "logprobs", json!(true)),
        ("/v1/chat/completions", "reasoning_effort", json!("ultra")),
        ("/v1/messages", "thinking", json!({ "type": "always" })),
        ("/api/chat", "options", json!({ "num_predict": "many" })),
        ("/v1/responses", "text", json!({ "format": { "type": "xml" } })),
    ] {
        let mut body = base(path);
        body[name] = value;
        assert_refused(&serving, path, &body, name);
    }
}

#[test]
fn values_that_newcomers_send_are_accepted() {
    let serving = Serving::start("newcomers", &[]);
    for more in [
        json!({ "top_k": -1 }),
        json!({ "repeat_last_n": -1, "repeat_penalty": 1.1 }),
        json!({ "max_tokens": 3.0, "top_k": 40.0, "n": 1.0, "seed": 7.0 }),
        json!({ "top_logprobs": 2.0, "logprobs": true }),
        json!({ "max_tokens": -1, "stop": ["\n", "a", "e", "i", " "] }),
        json!({ "temperature": null, "tools": null, "stop": null, "response_format": null }),
    ] {
        let reply = serving.chat(more.clone());
        assert_eq!(reply.status, 200, "{more}: {}", reply.text());
    }
    let whole = serving.chat(json!({ "max_tokens": 3.0 })).json();
    assert_eq!(whole["usage"]["completion_tokens"], 3);
    let body = json!({
        "prompt": "one", "max_tokens": 60, "temperature": 0,
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": {
            "type": "object", "properties": { "n": { "enum": [1, 2] } }, "required": ["n"],
            "additionalProperties": false,
        } } },
    });
    let text = serving.post("/v1/completions", &body).json()["choices"][0]["text"].clone();
    let made: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert!(made["n"].is_u64(), "{made}");
}

#[test]
fn grammars_are_refused_in_words() {
    let serving = Serving::start("grammar-words", &[]);
    let schema = |schema: Value| {
        json!({ "response_format": { "type": "json_schema",
        "json_schema": { "name": "n", "schema": schema } } })
    };
    const SCHEMA: &str = "response_format.json_schema.schema";
    for (body, param) in [
        (schema(json!({ "type": "thing" })), SCHEMA),
        (schema(json!({ "type": "string", "pattern": "(" })), SCHEMA),
        (schema(json!({ "$ref": "#/$defs/none" })), SCHEMA),
        (schema(json!({ "type": "object", "not": {} })), SCHEMA),
        (json!({ "grammar": "root ::= other" }), "grammar"),
        (json!({ "grammar": "root := x" }), "grammar"),
        (json!({ "guided_regex": "(" }), "guided_regex"),
        (json!({ "guided_choice": [] }), "guided_choice"),
        (json!({ "json_schema": { "minimum": "x" } }), "json_schema"),
    ] {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let mut whole = base(path);
            whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            let reply = serving.post(path, &whole);
            assert_eq!(reply.status, 400, "{body}: {}", reply.text());
            let (message, told, _) = reply.error();
            assert_eq!(told, param, "{body}: {message}");
            for jargon in ["lark", "llguidance", "Lark", "panicked", "regex_syntax", "src/"] {
                assert!(!message.contains(jargon), "{message}");
            }
            assert!(message.len() < 500, "{message}");
            println!("{message}");
        }
    }
}

#[test]
fn control_tokens_are_text_unless_a_request_says_so() {
    let serving = Serving::start("special", &[]);
    let n_prompt = |serving: &Serving, more: Value| {
        let mut body = json!({ "prompt": "<s>one</s>", "max_tokens": 1 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serving.post("/v1/completions", &body).json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let text = n_prompt(&serving, json!({}));
    assert!(n_prompt(&serving, json!({ "parse_special": true })) < text);
    let open = Serving::start("special-open", &["--parse-special"]);
    assert!(n_prompt(&open, json!({})) < text);
    assert_eq!(n_prompt(&open, json!({ "parse_special": false })), text);
}
