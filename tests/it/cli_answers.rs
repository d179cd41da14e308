//! `teff parse` and `teff template` as scripts see them.

use crate::cli::{Folder, error_of, teff, text};
use gguf_rs_lite::GgufWriter;
use serde_json::{Value, json};

fn out(args: &[&str], stdin: &Value) -> String {
    let output = teff(args, &stdin.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn parse_writes_one_line_of_json() {
    let raw = "<think>x</think>\nWait.\n<tool_call>\n{\"name\": \"now\",\n \"arguments\": {}}\n</tool_call>";
    let input =
        json!({ "raw": raw, "tools": [{ "type": "function", "function": { "name": "now" } }] });
    let expected = "{\"content\":\"Wait.\",\"reasoning\":\"x\",\
                    \"tool_calls\":[{\"name\":\"now\",\"arguments\":{}}]}\n";
    assert_eq!(out(&["parse", "--family", "hermes"], &input), expected);
    for pieces in ["1", "2", "7", "1000"] {
        assert_eq!(out(&["parse", "--family", "hermes", "--pieces", pieces], &input), expected);
    }
    let without = out(&["parse", "--family", "qwen3"], &json!({ "raw": raw }));
    assert!(
        without.contains("<tool_call>") && without.ends_with("\"tool_calls\":[]}\n"),
        "{without}"
    );
    assert!(error_of(&teff(&["parse", "--family", "herms"], "{}"), 2).contains("hermes"));
    assert!(error_of(&teff(&["parse"], "{}"), 2).contains("--family"));
    for input in ["", "[]", "{\"tools\": []}", "{\"raw\": \"\", \"tools\": 1}", "{\"raw\": 1}"] {
        error_of(&teff(&["parse", "--family", "hermes"], input), 1);
    }
}

#[test]
fn template_writes_the_prompt_and_nothing_else() {
    let folder = Folder::new("template");
    let file = folder.0.join("t.jinja");
    let source =
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ x }}";
    std::fs::write(&file, source).unwrap();
    let input = json!({
        "messages": [{ "role": "user", "content": "Hi\n" }], "bos_token": "<s>", "x": 1
    });
    let named = ["template", "--file", text(&file)];
    assert_eq!(out(&named, &input), "<s>[user] Hi\n1");
    let with = |arg| out(&[&named[..], &["--template-arg", arg]].concat(), &input);
    assert_eq!(with("x=true"), "<s>[user] Hi\nTrue");
    assert_eq!(with("x=high"), "<s>[user] Hi\nhigh");
    assert!(out(&["template", "--file", "chatml"], &input).starts_with("<|im_start|>user\nHi\n"));
    std::fs::write(&file, "a\n{{ raise_exception('no') }}").unwrap();
    let error = error_of(&teff(&named, &input.to_string()), 1);
    assert!(
        error.contains("t.jinja") && error.contains("no") && error.contains("line 2"),
        "{error}"
    );
    error_of(&teff(&["template", "--file", "/no/such.jinja"], "{}"), 1);
    error_of(&teff(&["template", "--file", "nonsense"], "{}"), 2);
    error_of(&teff(&["template"], "{}"), 2);
}

#[test]
fn template_takes_those_of_a_models_file() {
    let folder = Folder::new("template-model");
    let file = folder.0.join("m.gguf");
    let mut writer = GgufWriter::new(Vec::new());
    writer.add("general.architecture", "llama").unwrap();
    writer.add("llama.vocab_size", 8u32).unwrap();
    writer.add("tokenizer.ggml.model", "none").unwrap();
    writer.add("tokenizer.chat_template", "plain <tool_call>").unwrap();
    writer.add("tokenizer.chat_template.tool_use", "tools").unwrap();
    writer.add("tokenizer.chat_template.rag", "rag").unwrap();
    std::fs::write(&file, writer.write_header().unwrap().finish().unwrap()).unwrap();
    let model = ["template", "-m", text(&file)];
    assert_eq!(out(&model, &json!({ "messages": [] })), "plain <tool_call>");
    assert_eq!(out(&model, &json!({ "messages": [], "tools": [] })), "plain <tool_call>");
    assert_eq!(out(&model, &json!({ "messages": [], "tools": [{}] })), "tools");
    let named = [&model[..], &["--name", "rag"]].concat();
    assert_eq!(out(&named, &json!({ "messages": [] })), "rag");
    let missing = [&model[..], &["--name", "x"]].concat();
    assert!(error_of(&teff(&missing, "{}"), 1).contains("`x`"));
    // The family is told by the template's marks.
    let raw = json!({ "raw": "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        "tools": [{ "function": { "name": "f" } }] });
    let line = out(&["parse", "--family", "auto", "-m", text(&file)], &raw);
    assert!(line.contains("\"name\":\"f\""), "{line}");
}
