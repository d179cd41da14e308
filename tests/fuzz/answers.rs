//! Fuzzes the parser of answers: any text is read in any format without a panic, alike in any pieces,
//! and calls are those of offered tools with objects for arguments.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::LazyLock;
use teff::text::{Answer, AnswerFormat, AnswerParser, Tools};

static TOOLS: LazyLock<Tools> = LazyLock::new(|| {
    let parameters = json!({ "properties": {
        "a": { "type": "integer" }, "city": { "type": "string" }, "tags": { "type": "array" }
    } });
    let names = ["get_weather", "add", "write_file", "now", "set"];
    Tools::from_json(&names.map(|name| json!({ "name": name, "parameters": parameters })).into())
});

fuzz_target!(|data: &[u8]| {
    let [format, size, text @ ..] = data else { return };
    let format = &AnswerFormat::all()[usize::from(*format) % AnswerFormat::all().len()];
    let text = String::from_utf8_lossy(text);
    let whole = Answer::parse(format, TOOLS.clone(), &text);
    let mut parser = AnswerParser::new(format, TOOLS.clone()).after_unknown_prompt();
    let mut answer = Answer::default();
    let chars: Vec<char> = text.chars().collect();
    for piece in chars.chunks(1 + usize::from(*size) % 32) {
        let piece: String = piece.iter().collect();
        parser.push(&piece).into_iter().for_each(|delta| answer.add(delta));
    }
    parser.finish().into_iter().for_each(|delta| answer.add(delta));
    assert_eq!(answer, whole);
    for call in &whole.tool_calls {
        assert!(TOOLS.has(&call.name));
        let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
        assert!(arguments.is_object());
    }
});
