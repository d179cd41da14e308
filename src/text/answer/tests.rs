//! Transcripts of each family, whole and in every two and single-character pieces.

use serde_json::{Value, json};

use super::{Answer, AnswerDelta, AnswerFormat, AnswerParser, Tools};

fn tools() -> Tools {
    let string = json!({ "type": "string" });
    let integer = json!({ "type": "integer" });
    Tools::from_json(&json!([
        { "type": "function", "function": { "name": "now", "parameters": {} } },
        { "type": "function", "function": { "name": "add", "parameters": {
            "properties": { "a": integer, "b": integer } } } },
        { "type": "function", "function": { "name": "say", "parameters": {
            "properties": { "text": string, "tags": { "type": "array" } } } } }
    ]))
}

/// Content, reasoning and calls of a text, which must not depend on cuts.
fn read(family: &str, raw: &str) -> (String, String, Vec<(String, Value)>) {
    let format = AnswerFormat::by_name(family).unwrap();
    let whole = Answer::parse(format, tools(), raw);
    let cuts = (0..=raw.len()).filter(|cut| raw.is_char_boundary(*cut));
    let two = cuts.map(|cut| vec![&raw[..cut], &raw[cut..]]);
    let chars: Vec<&str> = raw.split("").collect();
    for pieces in two.chain([chars]) {
        let mut parser = AnswerParser::new(format, tools()).after_unknown_prompt();
        let mut answer = Answer::default();
        let mut deltas: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        deltas.extend(parser.finish());
        deltas.into_iter().for_each(|delta| answer.add(delta));
        assert_eq!(answer, whole, "{family}: {pieces:?}");
    }
    let calls = whole.tool_calls.into_iter();
    let calls = calls.map(|call| (call.name, serde_json::from_str(&call.arguments).unwrap()));
    (whole.content, whole.reasoning, calls.collect())
}

#[track_caller]
fn reads(family: &str, raw: &str, content: &str, reasoning: &str, calls: &[(&str, Value)]) {
    let (c, r, found) = read(family, raw);
    let calls: Vec<(String, Value)> =
        calls.iter().map(|(name, arguments)| ((*name).to_owned(), arguments.clone())).collect();
    assert_eq!((c.as_str(), r.as_str(), found), (content, reasoning, calls), "{family}: {raw}");
}

/// A text that is nothing but text.
#[track_caller]
fn stays_text(family: &str, raw: &str) {
    reads(family, raw, raw, "", &[]);
}

fn now() -> (&'static str, Value) {
    ("now", json!({}))
}

fn add(a: i64, b: i64) -> (&'static str, Value) {
    ("add", json!({ "a": a, "b": b }))
}

fn say(text: &str) -> (&'static str, Value) {
    ("say", json!({ "text": text }))
}

#[test]
fn hermes() {
    let two = "<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>\n\
               <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>\nDone.";
    reads("hermes", two, "Done.", "", &[now(), add(1, 2)]);
    let unclosed = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n<tool_call>\n\
                    {\"name\": \"now\", \"arguments\": {}}\n</tool_c";
    reads("hermes", unclosed, "", "", &[now(), now()]);
    let broken = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\"}}\n</tool_call>\n\
                  <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let rest = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\"}}\n</tool_call>";
    reads("hermes", broken, rest, "", &[now()]);
    reads("hermes", "<think>a\nb</think>c<think>d</think>", "c<think>d</think>", "a\nb", &[]);
    let inside = "a <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call> b\n</think>\nc";
    let (reasoning, _) = inside.split_once("\n</think>").unwrap();
    reads("hermes", inside, "c", reasoning, &[]);
    reads("hermes", "Say <think> and </think>.", "Say <think> and </think>.", "", &[]);
    reads("hermes", "<think>unfinished ", "", "unfinished", &[]);
    reads("hermes", "<think>\n\n</think>\n\n Hi \n", "Hi \n", "", &[]);
    stays_text("hermes", " Hello <b>you</b> \n");
    stays_text("hermes", "<tool_call>\n{\"name\": \"add\", \"arguments\": [1]}\n</tool_call>");
    stays_text("hermes", "<tool_call>\n{\"name\": \"add\", \"arguments\": \"{}\"}\n</tool_call>");
    stays_text("hermes", "<tool_call>\n{\"name\": \"add\"}\n</tool_call>");
    stays_text(
        "hermes",
        "<tool_call>{\"name\": \"x\", \"arguments\": {\"t\": \"<tool_call>\"}}</tool_call>",
    );
    stays_text("hermes", "<tool_call></tool_call>");
}

#[test]
fn calls_in_reasoning() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    // The reasoning is closed behind the call, or never.
    let closed = format!("<think>a {call} b</think>c");
    reads("hermes", &closed, "c", &format!("a {call} b"), &[]);
    reads("hermes", &format!("<think>a\n{call}"), "", "a", &[now()]);
    reads("hermes", &format!("<think>a\n{call}\n{call}\nb"), "b", "a", &[now(), now()]);
    reads("hermes", &format!("<think>{}", &call[..call.len() - 5]), "", "", &[now()]);
    // What is no call is reasoning, and hides none that follows.
    let mention = "<think>a <tool_call> b <tool_call>{\"x\": 1";
    reads("hermes", mention, "", "a <tool_call> b <tool_call>{\"x\": 1", &[]);
    let unknown = call.replace("now", "rm");
    reads("hermes", &format!("<think>a {unknown}"), "", &format!("a {unknown}"), &[]);
    let then = format!("<think>a <tool_call> b {unknown} c {call}");
    reads("hermes", &then, "", &format!("a <tool_call> b {unknown} c"), &[now()]);
    reads("hermes", "<think>a <tool_call> b</think>c", "c", "a <tool_call> b", &[]);
    let kimi = "<think>a<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0\
                <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";
    reads("kimi-k2", kimi, "", "a", &[now()]);
    reads("mistral", "[THINK]a[TOOL_CALLS]now[ARGS]{}", "", "a", &[now()]);
    // Reasoning is told as it comes, but for what may be a call.
    let format = AnswerFormat::by_name("hermes").unwrap();
    let mut parser = AnswerParser::new(format, tools()).after_prompt("<think>");
    let reasoning = |text: &str| vec![AnswerDelta::Reasoning(text.into())];
    assert_eq!(parser.push("a <tool_call>"), reasoning("a"));
    assert_eq!(parser.push(" b"), reasoning(" <tool_call> b"));
    assert_eq!(parser.push(call), []);
    assert_eq!(parser.push("c</think>"), reasoning(&format!("{call}c")));
}

#[test]
fn llama3() {
    reads("llama3", "{\"name\": \"now\", \"parameters\": {}}<|eot_id|>", "", "", &[now()]);
    let three = "<|python_tag|>{\"name\": \"now\", \"parameters\": {}};\
                 {\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}\n\
                 {\"name\": \"now\", \"arguments\": {}} ok";
    reads("llama3", three, "ok", "", &[now(), add(1, 2), now()]);
    reads("llama3", "Hi <function=add>{\"a\": 1, \"b\": 2}</function>", "Hi", "", &[add(1, 2)]);
    stays_text("llama3", "{\"answer\": 42}");
    stays_text("llama3", "{\"name\": \"now\", \"parameters\": {}");
    stays_text("llama3", "See: {\"name\": \"now\", \"parameters\": {}}");
    stays_text("llama3", "{not json");
}

#[test]
fn llama4() {
    reads("llama4", "[now(), add(a=1, b=2)]", "", "", &[now(), add(1, 2)]);
    reads("llama4", "<|python_start|>[add(a=1, b=2)]<|python_end|>", "", "", &[add(1, 2)]);
    reads("llama4", "{\"name\": \"now\", \"parameters\": {}}", "", "", &[now()]);
    stays_text("llama4", "[1] is a footnote.");
}

#[test]
fn mistral() {
    let raw =
        "[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{\"a\": 1, \"b\": 2}[TOOL_CALLS]now[ARGS]{}</s>";
    reads("mistral", raw, "", "", &[add(1, 2), now()]);
    let format = AnswerFormat::by_name("mistral").unwrap();
    let answer = Answer::parse(format, tools(), raw);
    assert!(answer.tool_calls[0].id == "abcdefghi" && answer.tool_calls[0].id_is_models);
    assert!(answer.tool_calls[1].id.len() == 9 && !answer.tool_calls[1].id_is_models);
    reads(
        "mistral",
        "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}] ok",
        "ok",
        "",
        &[now()],
    );
    stays_text(
        "mistral",
        "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"x\", \"arguments\": {}}]",
    );
    let spaced = "[TOOL_CALLS] now [ARGS] {}[TOOL_CALLS]add\n{\"a\": 1, \"b\": 2}";
    reads("mistral", spaced, "", "", &[now(), add(1, 2)]);
    stays_text("mistral", "[TOOL_CALLS] begins a call.");
    stays_text("mistral", "[TOOL_CALLS]naïve[ARGS]{}");
    stays_text("mistral", "[TOOL_CALLS]now[ARGS]{\"a\"");
}

#[test]
fn granite_and_phi() {
    let raw =
        "<think>x</think>\n<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]<|/tool_call|>";
    reads("granite", raw, "", "x", &[now()]);
    let tags = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}</tool_call>";
    reads("granite", tags, "", "", &[add(1, 2)]);
    stays_text("granite", "<|tool_call|>[]");
    stays_text("granite", "<|tool_call|>[{\"name\": \"now\"");
}

#[test]
fn gemma() {
    let python = "Sure.\n```tool_code\nnow()\nadd(a=1, b=2)\n```\nDone.";
    reads("gemma", python, "Sure.Done.", "", &[now(), add(1, 2)]);
    let braces = "<|tool_call>call:say{text:<|\"|>a }, \"b\"<|\"|>,tags:[<|\"|>x<|\"|>,1,{y:true}]}<tool_call|>\
                  <|tool_call>call:add{a:1,b:2}<tool_call|>";
    let tagged = json!({ "text": "a }, \"b\"", "tags": ["x", 1, { "y": true }] });
    reads("gemma", braces, "", "", &[("say", tagged), add(1, 2)]);
    let escape = "<start_function_call>call:say{text:<escape>12<escape>}<end_function_call>";
    reads("gemma", escape, "", "", &[say("12")]);
    reads("gemma", "```tool_code\nnow()", "", "", &[now()]);
    reads("gemma", "<|channel>thought<channel|>Hi<channel|>", "Hi", "", &[]);
    reads("gemma", "<|channel><|channel>thought\na<channel|>Hi<turn|>\n", "Hi", "a", &[]);
    let stopped = "<|tool_call>call:now{}<tool_call|><|tool_response>";
    reads("gemma", stopped, "", "", &[now()]);
    stays_text("gemma", "<|tool_call>call:say{text:bare}<tool_call|>");
    stays_text("gemma", "<|tool_call>call:say{text:<|\"|>cut");
    stays_text("gemma", "```tool_code\nprint(now())\n```");
}

#[test]
fn lfm2() {
    let raw = "<think>t</think><|tool_call_start|>[say(text='a]', tags=['x'])]<|tool_call_end|>";
    reads("lfm2", raw, "", "t", &[("say", json!({ "text": "a]", "tags": ["x"] }))]);
    reads("lfm2", "<|tool_call_start|>[now()]", "", "", &[now()]);
    reads("lfm2", "<|tool_call_start|>[say(text=12)]<|tool_call_end|>", "", "", &[say("12")]);
    let spaced = "<|tool_call_start|>[ now ( ) , add (a = 1, b = 2), ]<|tool_call_end|>";
    reads("lfm2", spaced, "", "", &[now(), add(1, 2)]);
    stays_text("lfm2", "<|tool_call_start|>[now(), eval(x=1)]<|tool_call_end|>");
    stays_text("lfm2", "<|tool_call_start|>[now(");
    stays_text("lfm2", "<|tool_call_start|>[add(a=1+1, b=2)]<|tool_call_end|>");
}

#[test]
fn deepseek() {
    let two = "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n\
               {\"a\": 1, \"b\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}\
               <｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>";
    reads("deepseek", two, "Wait.", "", &[add(1, 2), now()]);
    let dsml = "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"say\">\n\
                <｜DSML｜parameter name=\"text\" string=\"true\">1</｜DSML｜parameter>\n\
                <｜DSML｜parameter name=\"tags\" string=\"false\">[2]</｜DSML｜parameter>\n\
                </｜DSML｜invoke>\n</｜DSML｜function_calls>";
    reads("deepseek", dsml, "", "", &[("say", json!({ "text": "1", "tags": [2] }))]);
    stays_text(
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>rm<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    );
    let cut = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>\
               <｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\"";
    let rest = "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\"";
    reads("deepseek", cut, rest, "", &[now()]);
}

#[test]
fn gpt_oss() {
    let raw = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary \
               to=functions.add <|constrain|>json<|message|>{\"a\": 1, \"b\": 2}<|call|>";
    reads("gpt-oss", raw, "", "Hm.", &[add(1, 2)]);
    let role = " to=functions.now<|channel|>commentary<|message|>{}";
    reads("gpt-oss", role, "", "", &[now()]);
    reads("gpt-oss", "Plain text.", "Plain text.", "", &[]);
    reads("gpt-oss", "<|channel|>analysis<|message|>cut", "", "cut", &[]);
    let inside =
        "<|channel|>commentary to=functions.say<|message|>{\"text\": \"<|call|>\"}<|call|>";
    reads("gpt-oss", inside, "", "", &[say("<|call|>")]);
    let twice = "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm.<|end|>\
                 <|start|>assistant<|channel|>commentary to=functions.now<|channel|>commentary json\
                 <|message|>{}<|call|>";
    reads("gpt-oss", twice, "", "Hm.", &[now()]);
    stays_text("gpt-oss", "<|channel|>commentary to=functions.rm<|message|>{}<|call|>");
    stays_text("gpt-oss", "<|channel|>commentary to=functions.add<|message|>{\"a\": 1<|call|>");
    stays_text("gpt-oss", "<|channel|>commentary to=functions.add<|message|>[1]<|call|>");
    stays_text("gpt-oss", "<|channel|>commentary to=fun");
}

#[test]
fn qwen3_coder() {
    let value = "<tool_call>\n<function=say>\n<parameter=text>\na\n</parameter> b\n\n</parameter>\n\
                 </function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>";
    reads("qwen3-coder", value, "", "", &[say("a\n</parameter> b\n"), now()]);
    let bare = "Hi\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n</function>";
    reads("qwen3-coder", bare, "Hi", "", &[add(1, 2)]);
    let unopened = "Hi\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n\
                    </function>\n</tool_call>";
    reads("qwen3-coder", unopened, "Hi", "", &[now(), now()]);
    let json = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    reads("qwen3-coder", json, "", "", &[now()]);
    let inline = "<tool_call><function=say><parameter=text>a\n</parameter></function></tool_call>";
    reads("qwen3-coder", inline, "", "", &[say("a\n")]);
    stays_text("qwen3-coder", "<tool_call>\n<function=rm>\n</function>\n</tool_call>");
    stays_text("qwen3-coder", "Use <function=name> for it.");
    let twice = "<function=add><parameter=a>1</parameter><parameter=a>2</parameter></function>";
    stays_text("qwen3-coder", twice);
}

#[test]
fn other_families_with_tags() {
    let seed = "<seed:think>t</seed:think><seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n\
                <parameter=b>2</parameter>\n</function>\n</seed:tool_call>";
    reads("seed-oss", seed, "", "t", &[add(1, 2)]);
    let minimax = "<minimax:tool_call>\n<invoke name=\"say\">\n<parameter name=\"text\">\nx\n</parameter>\n\
                   </invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>";
    reads("minimax-m2", minimax, "", "", &[say("\nx\n"), now()]);
    let hunyuan = "<think:opensource>t</think:opensource><tool_calls:opensource>\n\
                   <tool_call:opensource>say<tool_sep:opensource>\n<arg_key:opensource>text</arg_key:opensource>\n\
                   <arg_value:opensource>1</arg_value:opensource>\n</tool_call:opensource>\n\
                   <tool_call:opensource>now<tool_sep:opensource>\n</tool_call:opensource>\n\
                   </tool_calls:opensource><｜hy_eos:opensource｜>";
    reads("hunyuan-3", hunyuan, "", "t", &[say("1"), now()]);
    let minicpm = "<function name=\"say\"><param name=\"text\"><![CDATA[</param></function>\n]]></param>\
                   </function>\n<function name=\"add\"><param name=\"a\">1</param><param name=\"b\">2\
                   </param></function>ok";
    reads("minicpm5", minicpm, "ok", "", &[say("</param></function>\n"), add(1, 2)]);
    stays_text(
        "minicpm5",
        "<function name=\"say\"><param name=\"text\"><![CDATA[a</param></function>",
    );
    stays_text("minicpm5", "<function name=\"rm\"></function>");
    let m3 = "<mm:think>t</mm:think>Ok]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"say\">\
              ]<]minimax[>[<text>1]<]minimax[>[</text>]<]minimax[>[<tags>]<]minimax[>[<item>a <b>]<]minimax[>[</item>\
              ]<]minimax[>[<item>]<]minimax[>[<x>2]<]minimax[>[</x>]<]minimax[>[</item>]<]minimax[>[</tags>\
              ]<]minimax[>[</invoke>\n]<]minimax[>[<invoke name=\"now\">]<]minimax[>[</invoke>\n\
              ]<]minimax[>[</tool_call>";
    let said = json!({ "text": "1", "tags": ["a <b>", { "x": "2" }] });
    reads("minimax-m3", m3, "Ok", "t", &[("say", said), now()]);
    let unclosed = "]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"say\">\
                    ]<]minimax[>[<text>1]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>";
    stays_text("minimax-m3", unclosed);
    let glm = "<think>t</think>\n<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>1</arg_value>\n\
               </tool_call>\n<tool_call>now</tool_call>";
    reads("glm", glm, "", "t", &[say("1"), now()]);
    reads("glm", "<tool_call>now</tool_call><|role_end|>", "", "", &[now()]);
    stays_text(
        "glm",
        "<tool_call>rm\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    );
    stays_text("glm", "<tool_call>say\n<arg_key>text</arg_key>\n<arg_value>cut");
}

#[test]
fn kimi() {
    let raw = "Ok <|tool_calls_section_begin|><|tool_call_begin|>functions.add:0\
               <|tool_call_argument_begin|>{\"a\": 1, \"b\": 2}<|tool_call_end|>\
               <|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>\
               <|tool_calls_section_end|>";
    reads("kimi-k2", raw, "Ok", "", &[add(1, 2), now()]);
    let format = AnswerFormat::by_name("kimi-k2").unwrap();
    assert_eq!(Answer::parse(format, tools(), raw).tool_calls[1].id, "functions.now:1");
    let unended = "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}\
                   <|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}";
    reads("kimi-k2", unended, "", "", &[now(), now()]);
}

#[test]
fn families_with_channels() {
    let kimi = "t<|close|>think<|sep|><|open|>response<|sep|>Ok <|close|>response<|sep|><|open|>tools<|sep|>\
                <|open|>call tool=\"add\" index=\"1\"<|sep|>\
                <|open|>argument key=\"a\" type=\"number\"<|sep|>1<|close|>argument<|sep|>\
                <|open|>argument key=\"b\" type=\"number\"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|>\
                <|open|>call tool=\"say\" index=\"2\"<|sep|>\
                <|open|>argument key=\"text\" type=\"string\"<|sep|>1<|close|>argument<|sep|><|close|>call<|sep|>\
                <|close|>tools<|sep|><|close|>message<|sep|><|end_of_msg|>";
    reads("kimi-k3", kimi, "Ok", "t", &[add(1, 2), say("1")]);
    let broken = "<|open|>tools<|sep|><|open|>call tool=\"rm\" index=\"1\"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>";
    stays_text("kimi-k3", broken);
    let solar = "<|think|>t<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>x1<|tool_call:name|>add\
                 <|tool_call:args|>{\"a\": 1, \"b\": 2}<|tool_call:end|><|calls|>";
    reads("solar-open", solar, "", "t", &[add(1, 2)]);
    let format = AnswerFormat::by_name("solar-open").unwrap();
    assert_eq!(Answer::parse(format, tools(), solar).tool_calls[0].id, "x1");
    let text = "<|think|>t<|end|><|begin|>assistant<|content|>Hi<|end|>";
    reads("solar-open", text, "Hi", "t", &[]);
}

#[test]
fn families_with_json_in_marks() {
    let json = "{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}";
    for (family, raw) in [
        ("nemotron", format!("<TOOLCALL>[{json}]</TOOLCALL>")),
        ("firefunction", format!(" functools[{json}]")),
        ("apriel", format!("<tool_calls>[{json}]</tool_calls>")),
        ("apriel", format!("<tool_calls>\n{json}\n</tool_calls>")),
        ("gigachat", format!("function call<|role_sep|>\n{json}")),
        ("gigachat", format!("<|message_sep|>\n\nfunction call<|role_sep|>\n{json}")),
        ("gigachat", format!("<|function_call|>{json}")),
        ("internlm", format!("<|action_start|><|plugin|>\n{json}<|action_end|>")),
        ("command-r", "Action: ```json\n[{\"tool_name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}]\n```".into()),
        ("command-r", "Action:\n```json\n[{\"tool_name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}]\n```".into()),
        ("functionary", ">>>add\n{\"a\": 1, \"b\": 2}".into()),
        ("functionary-3.1", "<function=add>{\"a\": 1, \"b\": 2}</function>".into()),
        ("apertus", "<|tools_prefix|>[{\"add\": {\"a\": 1, \"b\": 2}}]<|tools_suffix|>".into()),
        ("olmo3", "<function_calls>\nadd(a=1, b=2)\n</function_calls>".into()),
    ] {
        reads(family, &raw, "", "", &[add(1, 2)]);
        stays_text(family, &raw.replace("add", "rm"));
    }
    let command = "<|START_THINKING|>t<|END_THINKING|><|START_ACTION|>[\n{\"tool_call_id\": \"0\", \
                   \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>";
    reads("command-r7b", command, "", "t", &[now()]);
    let apriel = "t\n[BEGIN FINAL RESPONSE]\nHi [END FINAL RESPONSE]\n<|end|>\n";
    reads("apriel", apriel, "Hi", "t", &[]);
    reads("command-r7b", "<|START_RESPONSE|>Hi.<|END_RESPONSE|>", "Hi.", "", &[]);
}

#[test]
fn generic() {
    reads("generic", "{\"tool_call\": {\"name\": \"now\", \"arguments\": {}}}", "", "", &[now()]);
    reads("generic", "{\"response\": \"a\\nb\"}", "a\nb", "", &[]);
    reads("generic", ">>>now\n{}<|eot_id|>", "", "", &[now()]);
    stays_text("generic", "{\"other\": 1}");
    stays_text("generic", "{\"tool_calls\": []}");
    stays_text("generic", ">>> print(1)\n1");
}

#[test]
fn the_prompt_tells_whether_reasoning_is_open() {
    let format = AnswerFormat::by_name("hermes").unwrap();
    for (prompt, reasoning) in
        [("..<think>\n", true), ("..<think>\n\n</think>\n\n", false), ("..", false)]
    {
        let mut parser = AnswerParser::new(format, tools()).after_prompt(prompt);
        let deltas = parser.push("a</think>b");
        let expected = match reasoning {
            true => vec![AnswerDelta::Reasoning("a".into()), AnswerDelta::Text("b".into())],
            false => vec![AnswerDelta::Text("a</think>b".into())],
        };
        assert_eq!(deltas, expected, "{prompt}");
    }
    let format = AnswerFormat::by_name("functionary").unwrap();
    let mut parser = AnswerParser::new(format, tools()).after_prompt("..>>>");
    assert_eq!(parser.push("all\nHi"), [AnswerDelta::Text("Hi".into())]);
}

#[test]
fn text_is_told_as_soon_as_it_is_no_mark() {
    let format = AnswerFormat::by_name("hermes").unwrap();
    let mut parser = AnswerParser::new(format, tools());
    let text = |text: &str| vec![AnswerDelta::Text(text.into())];
    assert_eq!(parser.push("Hello"), text("Hello"));
    assert_eq!(parser.push(" wor"), text(" wor"));
    assert_eq!(parser.push("ld <"), text("ld"));
    assert_eq!(parser.push("b> <tool_"), text(" <b>"));
    assert_eq!(parser.push("calm"), text(" <tool_calm"));
    assert_eq!(parser.finish(), []);
}

#[test]
fn marks_that_are_tokens_do_not_count_as_text() {
    let format = AnswerFormat::by_name("hermes").unwrap();
    let parser = || {
        let mut parser = AnswerParser::new(format, tools());
        parser.held.require_token("<tool_call>", "<tool_call>".len());
        parser
    };
    let call = "{\"name\": \"now\", \"arguments\": {}}";
    let mut as_text = parser();
    let raw = format!("<tool_call>{call}</tool_call>");
    assert_eq!(as_text.push(&raw), [AnswerDelta::Text(raw.clone())]);
    let mut as_token = parser();
    let mut deltas = as_token.push("a ");
    deltas.extend(as_token.push_token("<tool_call>", false));
    deltas.extend(as_token.push(call));
    deltas.extend(as_token.push_token("<|other|>", true));
    deltas.extend(as_token.push("b"));
    deltas.extend(as_token.finish());
    let mut answer = Answer::default();
    deltas.into_iter().for_each(|delta| answer.add(delta));
    // The block is broken, and nothing of it is lost; a control token that is no mark is no text.
    assert_eq!(answer.content, format!("a <tool_call>{call}b"));
    let mut hidden = parser();
    let mut deltas = hidden.push("a");
    deltas.extend(hidden.push_token("<|other|>", true));
    deltas.extend(hidden.push_token("<shown>", false));
    assert_eq!(deltas, ["a", "<shown>"].map(|text| AnswerDelta::Text(text.into())));
}

#[test]
fn ids_come_from_the_seed() {
    let format = AnswerFormat::by_name("hermes").unwrap();
    let id = |seed| {
        let mut parser = AnswerParser::new(format, tools()).with_seed(seed);
        let deltas = parser.push("<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>");
        let AnswerDelta::CallStart { id, .. } = &deltas[0] else { panic!("{deltas:?}") };
        id.clone()
    };
    assert!(id(1) == id(1) && id(1) != id(2) && id(1).starts_with("call_"));
}

#[test]
fn names_are_unique_and_marks_whole() {
    let mut names: Vec<&str> = AnswerFormat::all()
        .iter()
        .flat_map(|format| [&[format.name], format.aliases].concat())
        .collect();
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n);
    assert_eq!(AnswerFormat::generic().name, "generic");
}

#[test]
fn templates_tell_their_format_by_marks() {
    for (source, architecture, expected) in [
        ("{{ '<tool_call>' }}", "llama", "hermes"),
        ("<tool_call>\n<function=x>\n<parameter=y>", "qwen3", "qwen3-coder"),
        ("<|start|><|channel|><|message|>", "", "gpt-oss"),
        ("[INST]", "llama", "mistral"),
        ("<|im_start|>", "qwen3", "hermes"),
        ("<|im_start|>", "llama", "generic"),
        ("", "gemma3", "gemma"),
        ("<|im_start|>", "smollm3", "hermes"),
        ("{{- '<|open|>' + tag -}}{{- '<|close|>' + tag -}}", "", "kimi-k3"),
        (
            "{%- set a = '<tool_calls{}>'.format(t) %}{%- set b = '<arg_key{}>'.format(t) %}",
            "",
            "hunyuan-3",
        ),
        ("<function name=\"f\"><param name=\"p\">", "", "minicpm5"),
        ("<|tool_call:name|><|tool_call:args|>", "", "solar-open"),
    ] {
        assert_eq!(AnswerFormat::of_template(Some(source), architecture).name, expected);
    }
}
