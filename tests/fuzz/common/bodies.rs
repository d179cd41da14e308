//! Bodies that the routes of the server take, with as many of their fields as go together.

/// (path, body)
pub const BODIES: [(&str, &str); 17] = [
    ("/v1/chat/completions", CHAT),
    (
        "/v1/chat/completions",
        r#"{"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "n": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object",
        "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"enum": ["x", null]}},
        "required": ["a"]}}}, "logprobs": true, "top_logprobs": 2, "logit_bias": {"5": -100}}"#,
    ),
    (
        "/v1/completions",
        r#"{"model": "m", "prompt": ["a", "b"], "max_tokens": 2, "echo": true, "stop": ["x", "y"], "n": 2,
        "best_of": 2, "logprobs": 1, "seed": 5, "suffix": "", "stream": false, "temperature": 0.5}"#,
    ),
    (
        "/v1/completions",
        r#"{"prompt": [3, 4, 5], "max_tokens": 4, "stream": true, "stream_options": {"include_usage": true},
        "grammar": "root ::= \"a\" | [b-c]{1,2} root", "mirostat": 2, "dry_multiplier": 0.5}"#,
    ),
    ("/v1/responses", RESPONSES),
    (
        "/v1/embeddings",
        r#"{"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8}"#,
    ),
    (
        "/v1/rerank",
        r#"{"model": "m", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1,
        "return_documents": true}"#,
    ),
    ("/v1/messages", MESSAGES),
    (
        "/v1/messages/count_tokens",
        r#"{"model": "m", "messages": [{"role": "user", "content": "a"}], "system": "b"}"#,
    ),
    ("/api/chat", OLLAMA),
    (
        "/api/generate",
        r#"{"model": "m", "prompt": "a", "suffix": "b", "system": "c", "stream": true, "raw": false,
        "keep_alive": "5m", "options": {"num_predict": 3, "stop": ["x"]}, "format": {"type": "string"}}"#,
    ),
    ("/api/embed", r#"{"model": "m", "input": ["a", "b"], "truncate": true, "dimensions": 4}"#),
    ("/api/show", r#"{"model": "m", "verbose": true}"#),
    (
        "/tokenize",
        r#"{"content": "a b", "add_special": true, "parse_special": true, "with_pieces": true}"#,
    ),
    ("/detokenize", r#"{"tokens": [1, 2, 290, 5]}"#),
    (
        "/apply-template",
        r#"{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}"#,
    ),
    (
        "/infill",
        r#"{"input_prefix": "a", "input_suffix": "b", "prompt": "c", "n_predict": 2,
        "input_extra": [{"filename": "d", "text": "e"}]}"#,
    ),
];

const CHAT: &str = r#"{"model": "m", "stream": true, "stream_options": {"include_usage": true},
"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]},
{"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function":
{"name": "f", "arguments": "{\"x\": 1}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "d"}],
"tools": [{"type": "function", "function": {"name": "f", "description": "e", "parameters": {"type": "object",
"properties": {"x": {"type": "integer"}}, "required": ["x"]}}}], "tool_choice": "auto",
"parallel_tool_calls": false, "max_completion_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 5,
"min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 1, "stop": "x",
"reasoning_effort": "low", "user": "u"}"#;

const RESPONSES: &str = r#"{"model": "m", "instructions": "a", "input": [{"role": "user", "content":
[{"type": "input_text", "text": "b"}]}, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
{"type": "function_call_output", "call_id": "c", "output": "d"}], "tools": [{"type": "function", "name": "f",
"parameters": {"type": "object", "properties": {}}}], "tool_choice": {"type": "function", "name": "f"},
"max_output_tokens": 4, "stream": true, "store": false, "temperature": 0,
"text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "metadata": {"x": "y"}}"#;

const MESSAGES: &str = r#"{"model": "m", "max_tokens": 4, "system": [{"type": "text", "text": "a"}],
"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": [{"type": "thinking",
"thinking": "c", "signature": ""}, {"type": "tool_use", "id": "d", "name": "f", "input": {"x": 1}}]},
{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "d", "content": [{"type": "text",
"text": "e"}]}]}], "tools": [{"name": "f", "description": "g", "input_schema": {"type": "object",
"properties": {"x": {"type": "integer"}}}}], "tool_choice": {"type": "any"}, "stream": true,
"stop_sequences": ["x"], "temperature": 1, "top_k": 3, "thinking": {"type": "enabled", "budget_tokens": 1024}}"#;

const OLLAMA: &str = r#"{"model": "m", "stream": false, "think": true, "messages": [{"role": "user",
"content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f",
"arguments": {"x": 1}}}]}, {"role": "tool", "content": "b", "tool_name": "f"}], "tools": [{"type": "function",
"function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}],
"options": {"num_predict": 3, "temperature": 0.1, "seed": 4, "num_ctx": 32, "repeat_penalty": 1.1},
"keep_alive": -1, "format": "json"}"#;
