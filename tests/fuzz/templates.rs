//! Fuzzes chat templates: any source is refused, or rendered within the engine's bounds, and what a message
//! says is marked as from outside wherever it comes out.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::LazyLock;
use teff::text::ChatTemplate;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

/// A character that only messages have: one for private use, without other forms.
const SECRET: char = '\u{e0a1}';
/// 2026-11-21 12:00:00 UTC.
const NOON: u64 = 1_795_262_400;

static INPUT: LazyLock<Value> = LazyLock::new(|| {
    let call = json!({ "type": "function", "id": "call00000",
        "function": { "name": format!("f{SECRET}"), "arguments": { "a": [1, 2.5, null] } } });
    let tool = json!({ "type": "function", "function": { "name": format!("f{SECRET}"),
        "description": format!("<{SECRET}>"), "parameters": { "type": "object",
        "properties": { "a": { "type": "array", "items": { "type": "number" } } } } } });
    json!({
        "messages": [
            { "role": "system", "content": format!("Be <b>{SECRET}</b>.") },
            { "role": "user", "content": format!(" Ué \"{SECRET}\"\n 7,5 ") },
            { "role": "assistant", "content": format!("{SECRET}ok"), "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call00000", "content": format!("{{\"x\": {SECRET}}}") },
            { "role": "user", "content": [{ "type": "text", "text": format!("{SECRET}") }] },
        ],
        "tools": [tool], "add_generation_prompt": true, "enable_thinking": false,
        "bos_token": "<s>", "eos_token": "</s>",
    })
});

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::with_clock(source, || NOON) else { return };
    let Ok(rendered) = template.render_marked(&INPUT) else { return };
    let mut end = 0;
    for range in &rendered.untrusted {
        assert!(end <= range.start && range.start < range.end, "{:?}", rendered.untrusted);
        assert!(rendered.text.get(range.clone()).is_some(), "{range:?} cuts a character");
        end = range.end;
    }
    // The template's own may be spelled as an escape.
    if source.contains(SECRET) || source.contains('\\') {
        return;
    }
    for (at, _) in rendered.text.match_indices(SECRET) {
        assert!(rendered.untrusted.iter().any(|range| range.contains(&at)), "at {at}: unmarked");
    }
});
