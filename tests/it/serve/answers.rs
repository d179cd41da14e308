//! What is answered: the same texts as everywhere else, in the shapes that clients read.

use super::{Serving, run};
use serde_json::{Value, json};

#[test]
fn a_chat_completion_says_what_run_says() {
    let serving = Serving::start("same", &[]);
    let expected = run(&serving.model(), "u:one\na:", "8");
    let reply = serving.chat(json!({}));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.content(), expected);
    let json = reply.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "talker");
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 8);
    assert!(json["usage"]["prompt_tokens_details"]["cached_tokens"].is_u64());
    assert!(json["timings"]["prompt_ms"].is_number());
    let long = json!({ "messages": [{ "role": "user", "content": "long ".repeat(40) }] });
    let [first, again] = [(); 2].map(|()| serving.chat(long.clone()).json());
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
    assert_eq!(again["choices"][0]["message"], first["choices"][0]["message"]);
}

/// The texts of a stream's answers, and its chunks.
fn streamed(serving: &Serving, n: usize, more: Value) -> (Vec<String>, Vec<Value>) {
    let mut body = json!({ "stream": true, "n": n });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = serving.chat(body);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut events = reply.events();
    assert_eq!(events.pop(), Some(None), "the end is marked");
    let chunks: Vec<Value> = events.into_iter().map(Option::unwrap).collect();
    let mut texts = vec![String::new(); n];
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
        }
    }
    (texts, chunks)
}

#[test]
fn a_stream_adds_up_to_the_whole() {
    let serving = Serving::start("stream", &[]);
    let whole = serving.chat(json!({})).content();
    let usage = json!({ "stream_options": { "include_usage": true } });
    let (texts, chunks) = streamed(&serving, 2, usage);
    assert_eq!(texts, [whole.as_str(), &whole]);
    for index in 0..2 {
        let own = chunks.iter().filter(|c| c["choices"][0]["index"] == index);
        let own: Vec<&Value> = own.map(|chunk| &chunk["choices"][0]).collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        assert!(own[1..].iter().all(|choice| choice["delta"].get("role").is_none()));
        let reasons = own.iter().filter(|choice| !choice["finish_reason"].is_null());
        assert_eq!(reasons.count(), 1);
        assert_eq!(own.last().unwrap()["finish_reason"], "length");
    }
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 16);
    assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
    let (_, silent) = streamed(&serving, 1, json!({}));
    assert!(silent.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn many_at_a_time_say_what_one_says_alone() {
    let serving = Serving::start("many", &["--parallel", "8"]);
    let ask = |i: usize| {
        let content = format!("question {i} {}", "x".repeat(i * 7));
        let body =
            json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 24 });
        serving.chat(body).content()
    };
    let alone: Vec<String> = (0..8).map(ask).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|i| scope.spawn(move || ask(i))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn seeds_repeat_and_answers_of_one_prompt_have_their_own() {
    let serving = Serving::start("seeds", &[]);
    let texts = |more: Value| -> Vec<String> {
        let mut body = json!({ "temperature": 50, "top_k": 0, "top_p": 1, "min_p": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let json = serving.chat(body).json();
        let choices = json["choices"].as_array().unwrap();
        choices.iter().map(|c| c["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let three = texts(json!({ "n": 3, "seed": 7 }));
    assert_eq!(three, texts(json!({ "n": 3, "seed": 7 })));
    assert_ne!(three[0], three[1]);
    assert_eq!(three[1..2], texts(json!({ "seed": 8 })));
}

#[test]
fn stops_and_probabilities() {
    let serving = Serving::start("stops", &[]);
    let whole = serving.chat(json!({})).content();
    let cut = whole.char_indices().nth(4).unwrap().0;
    let stop: String = whole[cut..].chars().take(2).collect();
    let reply = serving.chat(json!({ "stop": [stop] })).json();
    let expected = &whole[..whole.find(&stop).unwrap()];
    assert_eq!(reply["choices"][0]["message"]["content"], expected);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    let reply = serving.chat(json!({ "logprobs": true, "top_logprobs": 2 })).json();
    let told = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told.len(), 8);
    for token in told {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
        assert!(token["bytes"].is_array() && token["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn tools_are_called_whatever_the_template_knows() {
    let serving = Serving::start("tools", &[]);
    let parameters = json!({
        "type": "object", "properties": { "on": { "type": "boolean" } }, "required": ["on"],
    });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    let named = json!({ "type": "function", "function": { "name": "light" } });
    for choice in [json!("required"), named] {
        let body = json!({
            "tools": [tool("light"), tool("radio")], "tool_choice": choice, "max_tokens": 200,
            "parallel_tool_calls": false,
        });
        let json = serving.chat(body.clone()).json();
        let choice = &json["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{json}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let call = &choice["message"]["tool_calls"][0];
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments["on"].is_boolean());
        let (_, chunks) = streamed(&serving, 1, body);
        let deltas: Vec<&Value> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls"))
            .collect();
        assert_eq!(deltas[0][0]["function"]["name"], call["function"]["name"]);
        assert!(deltas[1..].iter().all(|delta| delta[0]["function"].get("name").is_none()));
        let told: String = deltas
            .iter()
            .map(|delta| delta[0]["function"]["arguments"].as_str().unwrap())
            .collect();
        assert_eq!(told, call["function"]["arguments"].as_str().unwrap());
    }
    let body = json!({ "tools": [tool("light")], "max_tokens": 200 });
    let json = serving.chat(body).json();
    let message = &json["choices"][0]["message"];
    assert!(message["content"].is_string() || message["tool_calls"].is_array(), "{json}");
    let body = json!({ "tools": [tool("light")], "tool_choice": "none" });
    let json = serving.chat(body).json();
    assert!(json["choices"][0]["message"].get("tool_calls").is_none());
}

#[test]
fn grammars_are_followed() {
    let serving = Serving::start("grammars", &[]);
    let schema = json!({
        "type": "object", "properties": { "n": { "enum": [1, 2, 3] } }, "required": ["n"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    let text = serving.chat(json!({ "response_format": format, "max_tokens": 60 })).content();
    let made: Value = serde_json::from_str(&text).unwrap();
    assert!(made["n"].is_u64());
    for body in [
        json!({ "grammar": "root ::= \"yes\" | \"no\"" }),
        json!({ "structured_outputs": { "choice": ["yes", "no"] } }),
        json!({ "guided_regex": "yes|no" }),
    ] {
        let text = serving.chat(body).content();
        assert!(text == "yes" || text == "no", "{text}");
    }
    let schema = json!({ "type": "object", "not": {} });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    let reply = serving.chat(json!({ "response_format": format }));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.error().1, "response_format.json_schema.schema");
}

#[test]
fn completions_continue_texts_and_tokens() {
    let serving = Serving::start("completions", &[]);
    let complete = |more: Value| {
        let mut body = json!({ "prompt": "u:one\na:", "temperature": 0, "max_tokens": 8 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serving.post("/v1/completions", &body).json()
    };
    let expected = run(&serving.model(), "u:one\na:", "8");
    let one = complete(json!({}));
    assert_eq!(one["choices"][0]["text"], expected.as_str());
    let body = json!({ "content": "u:one\na:", "add_special": true, "parse_special": false });
    let tokens = serving.post("/tokenize", &body).json()["tokens"].clone();
    assert_eq!(complete(json!({ "prompt": tokens }))["choices"][0]["text"], expected.as_str());
    let many = complete(json!({ "prompt": ["x", "u:one\na:"], "n": 2 }));
    assert_eq!(many["choices"][3]["text"], expected.as_str());
    assert_eq!(many["choices"][3]["index"], 3);
    let echo = complete(json!({ "echo": true }));
    assert_eq!(echo["choices"][0]["text"], format!("u:one\na:{expected}"));
    let told = complete(json!({ "logprobs": 1 }));
    assert_eq!(told["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(complete(json!({ "suffix": "x" }))["error"]["param"], "suffix");
}

#[test]
fn texts_become_vectors_beside_chat() {
    let serving = Serving::start("vectors", &[]);
    let embed = |body: Value| serving.post("/v1/embeddings", &body).json();
    let made = embed(json!({ "input": ["one", "two", "one"] }));
    let vectors: Vec<Vec<f64>> = made["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| serde_json::from_value(one["embedding"].clone()).unwrap())
        .collect();
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    let square: f64 = vectors[0].iter().map(|x| x * x).sum();
    assert!((square - 1.0).abs() < 1e-3);
    assert!(
        embed(json!({ "input": "one", "encoding_format": "base64" }))["data"][0]["embedding"]
            .is_string()
    );
    assert_eq!(embed(json!({ "input": [] }))["error"]["param"], "input");
    assert_eq!(embed(json!({ "input": "x", "dimensions": 1 }))["error"]["param"], "dimensions");
    let ranked = serving.post("/v1/rerank", &json!({ "query": "x", "documents": ["a"] }));
    assert_eq!(ranked.status, 400, "no reranker");
}

#[test]
fn extras_answer() {
    let serving = Serving::start("extras", &[]);
    let body = json!({ "messages": [{ "role": "user", "content": "one" }] });
    assert_eq!(serving.post("/apply-template", &body).json()["prompt"], "u:one\na:");
    let tokens = serving.post("/tokenize", &json!({ "content": "one" })).json()["tokens"].clone();
    assert_eq!(serving.post("/detokenize", &json!({ "tokens": tokens })).json()["content"], "one");
    assert_eq!(serving.get("/props").json()["chat_template"], super::TEMPLATE);
    assert_eq!(serving.get("/slots").status, 501);
    let list = serving.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "talker");
    assert_eq!(list["data"][0]["max_model_len"], 512);
    assert_eq!(serving.get("/v1/models/talker").json()["object"], "model");
    assert_eq!(serving.get("/v1/models/no/such").error().2, "model_not_found");
    let figures = serving.get("/metrics").text();
    for name in [
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:time_to_first_token_seconds_bucket",
        "teff_kv_pages{model_name=\"talker\",state=\"free\"}",
        "teff_step_seconds_bucket",
        "teff_prefill_tokens_per_second",
        "teff_decode_tokens_per_second",
        "teff_prompt_tokens_beside",
    ] {
        assert!(figures.lines().any(|line| line.starts_with(name)), "{name}");
    }
    if cfg!(target_os = "linux") {
        assert!(serving.figure("process_cpu_seconds_total") >= 0.0);
        assert!(serving.figure("process_start_time_seconds") > 1.7e9);
    }
}

#[test]
fn every_route_is_described_and_there() {
    let serving = Serving::start("routes", &[]);
    let described = serving.get("/openapi.json").json();
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() > 15);
    for (path, methods) in paths {
        let path = path.replace("{id}", "talker");
        for method in methods.as_object().unwrap().keys() {
            let json = ["Content-Type: application/json"];
            let reply = serving.request(&method.to_uppercase(), &path, &json, b"{}");
            assert!(
                !matches!(reply.status, 0 | 404 | 405 | 500),
                "{method} {path}: {}",
                reply.status
            );
        }
    }
}
