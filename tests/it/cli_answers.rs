//! `teff parse` and `teff template` as scripts see them.

use crate::cli::{error_of, teff, text};
use crate::folder::Folder;
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

/// Tokens of the prompt, as the statistics of an answer tell them.
fn prompt_tokens(args: &[&str]) -> usize {
    let output =
        teff(&[&["run", "-p", "hi", "-n", "1", "--temp", "0", "-t", "1"], args].concat(), "");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    let number = said.split("prompt ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{args:?}: {said}"))
}

/// A template with a switch whose text off is longer, and one that tells efforts apart.
const SWITCH: &str = "{{ messages[0].content }}\
    {% if enable_thinking is defined and not enable_thinking %}ABCDEFGH{% endif %}";
const EFFORT: &str = "{{ messages[0].content }}{{ reasoning_effort | default('medium') }}";

#[test]
fn thinking_is_turned_on_off_and_by_efforts_where_a_template_knows_them() {
    let folder = Folder::new("think");
    let model = |name: &str, template: &str| {
        folder.tiny_with(name, vec![("tokenizer.chat_template", template.into())])
    };
    let switch = model("switch", SWITCH);
    let with = |model: &std::path::Path, think: &[&str]| {
        prompt_tokens(&[&["-m", text(model)], think].concat())
    };
    let plain = with(&switch, &[]);
    assert_eq!(with(&switch, &["--think", "on"]), plain);
    assert!(with(&switch, &["--think", "off"]) > plain);
    let effort = model("effort", EFFORT);
    assert_eq!(with(&effort, &["--think", "medium"]), with(&effort, &[]));
    assert_ne!(with(&effort, &["--think", "low"]), with(&effort, &[]));
    assert_eq!(with(&effort, &["--think", "on"]), with(&effort, &[]));
    let neither = model("neither", "{{ messages[0].content }}");
    for (model, think) in [
        (&neither, "on"),
        (&neither, "off"),
        (&neither, "high"),
        (&switch, "low"),
        (&effort, "off"),
        // The vocabulary has no tokens that open and close reasoning.
        (&switch, "12"),
    ] {
        let args = ["run", "-m", text(model), "-p", "hi", "-n", "1", "--think", think];
        let error = error_of(&teff(&args, ""), 1);
        assert!(error.contains(&format!("--think {think}")), "{error}");
    }
}

#[test]
fn a_draft_model_has_the_same_vocabulary_or_is_refused() {
    let folder = Folder::new("draft");
    let tiny = folder.tiny_with("tiny", Vec::new());
    let other = folder.model("llama-dense");
    let args = ["run", "-m", text(&tiny), "-p", "hi hi hi", "-n", "24", "--temp", "0", "-t", "1"];
    let answer = |more: &[&str]| {
        let output = teff(&[&args[..], more].concat(), "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(answer(&["--draft", text(&tiny)]), answer(&["--speculate", "off"]));
    let refused = |more: &[&str], code| error_of(&teff(&[&args[..], more].concat(), ""), code);
    let error = refused(&["--draft", text(&other)], 1);
    assert!(error.contains("llama-dense") && error.contains("vocabulary"), "{error}");
    assert!(refused(&["--draft", text(&tiny), "--speculate", "off"], 2).contains("--draft"));
}
