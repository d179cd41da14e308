//! Raw outputs of model families against what they mean: the cases of `tests/golden/tool_calls.json.xz`
//! and of a larger folder where there is one, whole and in every two and many pieces.

use std::fs;

use serde_json::{Value, json};
use teff::text::{Answer, AnswerDelta, AnswerFormat, AnswerParser, Tools};

use crate::require::fixtures;
use crate::tokenizers::unpacked;

/// A family's cases: `family`, `tools` and `cases`.
fn committed() -> Vec<Value> {
    let packed: Value = serde_json::from_slice(&unpacked("tool_calls.json.xz")).unwrap();
    packed.as_array().unwrap().clone()
}

fn more() -> Option<Vec<Value>> {
    let folder = fixtures("tool_calls")?;
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "json"));
    let read = files.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap());
    Some(read.filter(|file: &Value| file.get("cases").is_some()).collect())
}

/// The answer of a text in pieces.
fn streamed<'t>(
    format: &'static AnswerFormat,
    tools: &Tools,
    pieces: impl IntoIterator<Item = &'t str>,
) -> Answer {
    let mut parser = AnswerParser::new(format, tools.clone()).after_unknown_prompt();
    let mut answer = Answer::default();
    for piece in pieces {
        parser.push(piece).into_iter().for_each(|delta| answer.add(delta));
    }
    parser.finish().into_iter().for_each(|delta| answer.add(delta));
    answer
}

/// The answer in the form of the fixtures.
fn spelled(answer: &Answer) -> Value {
    let call = |call: &teff::text::ToolCall| {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let mut spelled = json!({ "name": call.name, "arguments": arguments });
        if call.id_is_models {
            spelled["id"] = Value::from(call.id.as_str());
        }
        spelled
    };
    let calls: Vec<Value> = answer.tool_calls.iter().map(call).collect();
    json!({ "content": answer.content, "reasoning": answer.reasoning, "tool_calls": calls })
}

/// Cuts a text into pieces of `n` characters.
fn pieces(text: &str, n: usize) -> Vec<&str> {
    let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(n).collect();
    starts.push(text.len());
    starts.windows(2).map(|w| &text[w[0]..w[1]]).collect()
}

/// Checks a file's cases; the number of those.
fn check(file: &Value) -> usize {
    let family = file["family"].as_str().unwrap();
    let format = AnswerFormat::by_name(family).unwrap_or_else(|| panic!("{family}"));
    let tools = Tools::from_json(&file["tools"]);
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let (raw, name) = (case["raw"].as_str().unwrap(), &case["case"]);
        let whole = Answer::parse(format, tools.clone(), raw);
        let mut expected = case.clone();
        expected
            .as_object_mut()
            .unwrap()
            .retain(|key, _| matches!(key.as_str(), "content" | "reasoning" | "tool_calls"));
        assert_eq!(spelled(&whole), expected, "{family}: {name}");
        for (cut, _) in raw.char_indices() {
            let halves = [&raw[..cut], &raw[cut..]];
            assert_eq!(streamed(format, &tools, halves), whole, "{family}: {name}: cut at {cut}");
        }
        for n in 1..9 {
            let parts = pieces(raw, n);
            assert_eq!(streamed(format, &tools, parts), whole, "{family}: {name}: {n} at a time");
        }
    }
    cases.len()
}

#[test]
fn raw_outputs_mean_what_the_goldens_say() {
    let n: usize = committed().iter().map(check).sum();
    assert!(n >= 40, "{n} cases");
}

#[test]
fn more_raw_outputs_mean_what_the_fixtures_say() {
    let Some(files) = more() else { return };
    assert!(files.iter().map(check).sum::<usize>() >= 40);
}

/// Deltas of a text that comes a character at a time, each with the bytes that had come.
fn early(format: &'static AnswerFormat, tools: &Tools, raw: &str) -> Vec<(usize, AnswerDelta)> {
    let mut parser = AnswerParser::new(format, tools.clone()).with_early_calls();
    let mut told = Vec::new();
    for (at, c) in raw.char_indices() {
        let deltas = parser.push(&raw[at..at + c.len_utf8()]);
        told.extend(deltas.into_iter().map(|delta| (at + c.len_utf8(), delta)));
    }
    told.extend(parser.finish().into_iter().map(|delta| (raw.len(), delta)));
    told
}

#[test]
fn calls_that_are_told_as_they_come_are_the_same() {
    let (mut n_calls, mut n_early) = (0, 0);
    for file in committed() {
        let family = file["family"].as_str().unwrap();
        let format = AnswerFormat::by_name(family).unwrap();
        let tools = Tools::from_json(&file["tools"]);
        for case in file["cases"].as_array().unwrap() {
            let (raw, name) = (case["raw"].as_str().unwrap(), &case["case"]);
            let mut plain = AnswerParser::new(format, tools.clone());
            let mut whole = Answer::default();
            let deltas = plain.push(raw).into_iter().chain(plain.finish());
            deltas.for_each(|delta| whole.add(delta));
            // What breaks is not told early where a grammar writes.
            if whole.tool_calls.is_empty() {
                continue;
            }
            let told = early(format, &tools, raw);
            let mut answer = Answer::default();
            told.iter().for_each(|(_, delta)| answer.add(delta.clone()));
            assert_eq!(answer, whole, "{family}: {name}");
            for (i, call) in whole.tool_calls.iter().enumerate() {
                let place = |is: &dyn Fn(&AnswerDelta) -> bool| {
                    let found: Vec<_> = told.iter().filter(|(_, delta)| is(delta)).collect();
                    assert_eq!(found.len(), 1, "{family}: {name}");
                    found[0].0
                };
                let start =
                    place(&|d| matches!(d, AnswerDelta::CallStart { index, .. } if *index == i));
                let end = place(&|d| matches!(d, AnswerDelta::CallEnd { index } if *index == i));
                n_calls += 1;
                n_early += usize::from(start < end && call.arguments.len() > 2);
            }
        }
    }
    assert!(n_calls >= 20 && n_early >= 10, "{n_early} of {n_calls} calls are told early");
}

#[test]
fn what_was_told_of_a_call_stands_and_is_no_text() {
    let tools = Tools::from_json(&json!([{ "function": { "name": "f" } }]));
    for (family, raw) in [
        ("hermes", "Hm.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b"),
        ("hermes", "Hm.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b!"),
        ("mistral", "Hm.[TOOL_CALLS]f[ARGS]{\"a\": \"b"),
        (
            "gpt-oss",
            "<|channel|>final<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary \
                     to=functions.f<|message|>{\"a\": \"b",
        ),
    ] {
        let format = AnswerFormat::by_name(family).unwrap();
        let mut answer = Answer::default();
        early(format, &tools, raw).into_iter().for_each(|(_, delta)| answer.add(delta));
        assert_eq!(answer.content, "Hm.", "{family}");
        let [call] = &answer.tool_calls[..] else { panic!("{family}: {answer:?}") };
        assert!(
            call.name == "f" && call.arguments.starts_with("{\"a\": \"b"),
            "{family}: {call:?}"
        );
        // The name waits for the arguments.
        let cut = &raw[..raw.find('{').unwrap()];
        let begun = early(format, &tools, cut);
        assert!(!begun.iter().any(|(_, d)| matches!(d, AnswerDelta::CallStart { .. })), "{family}");
    }
}

#[test]
fn without_tools_no_golden_makes_a_call() {
    for file in committed() {
        let format = AnswerFormat::by_name(file["family"].as_str().unwrap()).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let answer = Answer::parse(format, Tools::none(), case["raw"].as_str().unwrap());
            assert!(answer.tool_calls.is_empty(), "{}", case["case"]);
        }
    }
}

/// Text that opens and never closes, whole and in small pieces: a parser that reads it again and again
/// would take hours for it, so this test ends or does not.
#[test]
fn hostile_text_is_read_once() {
    let tools = Tools::from_json(&json!([{ "function": { "name": "f" } }]));
    for format in AnswerFormat::all() {
        let opens: Vec<&str> =
            format.triggers().chain(format.reasoning_marks().map(|(open, _)| open)).collect();
        let mut texts: Vec<(String, String)> = Vec::new();
        for open in &opens {
            texts.push((String::new(), (*open).to_owned()));
            texts.push((String::new(), format!("{open}{{\"name\":\"")));
            texts.extend([" ", "[", "a", "\"", "<"].map(|unit| ((*open).into(), unit.to_owned())));
        }
        texts.extend(format.reasoning_marks().map(|(o, c)| (String::new(), format!("{c}{o}"))));
        for unit in [
            "<tool_call><function=f><parameter=a>",
            "<|channel|>commentary to=functions.f<|message|>{\"a\":\"",
            "{\"[(",
            " <",
        ] {
            texts.push((String::new(), unit.to_owned()));
        }
        texts.push(("[".to_owned(), " ".to_owned()));
        for (start, unit) in texts {
            let text = start + &unit.repeat((1 << 19) / unit.len());
            for pieces in [vec![&text[..]], pieces(&text[..text.floor_char_boundary(1 << 16)], 3)] {
                let answer = streamed(format, &tools, pieces);
                assert!(answer.content.len() + answer.reasoning.len() <= text.len());
                assert!(answer.tool_calls.is_empty());
            }
        }
    }
}

/// The goldens with bytes taken away, doubled and swapped: nothing panics, cuts change nothing, and no
/// text comes from nowhere.
#[test]
fn mangled_outputs_are_read_alike_in_any_pieces() {
    let mut state = 7_u64;
    let mut draw = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    };
    for file in committed() {
        let tools = Tools::from_json(&file["tools"]);
        let cases = file["cases"].as_array().unwrap();
        for case in cases.iter().cycle().take(200) {
            let mut chars: Vec<char> = case["raw"].as_str().unwrap().chars().collect();
            for _ in 0..=draw(4) {
                let (at, to) = (draw(chars.len()), draw(chars.len()));
                match draw(4) {
                    0 => drop(chars.drain(at.min(to)..at.max(to))),
                    1 => chars.extend_from_within(at.min(to)..at.max(to)),
                    2 if !chars.is_empty() => chars.swap(at, to),
                    _ => chars.insert(at, ['é', '"', '{', '}', '<', '\n', ' ', '>'][draw(8)]),
                }
                chars.truncate(2000);
            }
            let raw: String = chars.into_iter().collect();
            let all = AnswerFormat::all();
            let own = AnswerFormat::by_name(file["family"].as_str().unwrap()).unwrap();
            for format in [own, &all[draw(all.len())]] {
                let whole = Answer::parse(format, tools.clone(), &raw);
                for n in [1, 2, 3, 1 + draw(20)] {
                    let parts = pieces(&raw, n);
                    let streamed = streamed(format, &tools, parts);
                    assert_eq!(streamed, whole, "{}: {n} at a time: {raw}", format.name);
                }
                let shown = whole.content.len() + whole.reasoning.len();
                assert!(shown <= raw.len(), "{}: {raw}", format.name);
                for call in &whole.tool_calls {
                    let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                    assert!(arguments.is_object(), "{}: {raw}", format.name);
                }
            }
        }
    }
}
