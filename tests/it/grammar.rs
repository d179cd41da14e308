//! Structured output without a model: what grammars accept and refuse, on the smallest vocabulary.

use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use teff::engine::Model;
use teff::engine::grammar::{Grammar, GrammarError, Grammars};
use teff::sample::rng::Rng;
use teff::sample::{Candidates, Filter, SampleError, SampleParams, SamplerChain};
use teff::text::Tokenizer;
use teff_kernels::BlockMax;

pub struct Rig {
    tokenizer: Arc<Tokenizer>,
    pub grammars: Grammars,
    /// Tokens by their bytes.
    tokens: HashMap<Vec<u8>, u32>,
}

impl Rig {
    pub fn new() -> Rig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/faults/tiny.gguf");
        let tokenizer = Arc::new(Model::open(&path).unwrap().tokenizer().unwrap());
        let ids = (0..tokenizer.vocab_size() as u32).rev().filter(|&id| !tokenizer.is_control(id));
        let tokens = ids.map(|id| (tokenizer.token_bytes(id), id)).collect();
        Rig { grammars: Grammars::new(&tokenizer).unwrap(), tokenizer, tokens }
    }

    fn filter(&self, grammar: &Grammar) -> Box<dyn Filter> {
        self.grammars.filter(grammar).unwrap_or_else(|error| panic!("{grammar:?}: {error}"))
    }

    /// The chain's choice where it would like a token best.
    fn choice(&self, chain: &mut SamplerChain, wanted: u32) -> Option<u32> {
        let mut logits = vec![0.0; self.tokenizer.vocab_size()];
        logits[wanted as usize] = 1.0;
        chain.sample(BlockMax::of(&mut logits, &mut Vec::new())).ok()
    }

    /// Whether an answer may be a text, and end there.
    pub fn accepts(&self, grammar: &Grammar, text: &str) -> bool {
        let end = self.tokenizer.eos().unwrap();
        let with = |byte_by_byte: bool| {
            let first = vec![self.filter(grammar)];
            let mut chain = SamplerChain::with_first(SampleParams::greedy(), first).unwrap();
            // The prompt is no part of the answer.
            self.tokens.values().take(5).for_each(|&token| chain.accept(token));
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let longest = if byte_by_byte { 1 } else { rest.len().min(12) };
                let found =
                    (1..=longest).rev().find_map(|n| Some((n, self.tokens.get(&rest[..n])?)));
                let (n, &token) = found.expect("every byte is a token");
                if self.choice(&mut chain, token) != Some(token) {
                    return false;
                }
                chain.accept(token);
                rest = &rest[n..];
            }
            self.choice(&mut chain, end) == Some(end)
        };
        let accepted = with(false);
        assert_eq!(accepted, with(true), "{text:?} depends on how it is cut");
        accepted
    }

    /// An answer drawn at random, if it ends within `n` tokens.
    fn drawn(&self, grammar: &Grammar, seed: u64, n: usize) -> Option<String> {
        let mut params = SampleParams::default();
        (params.seed, params.temperature, params.top_k) = (seed, 1.0, 0);
        (params.top_p, params.min_p) = (1.0, 0.0);
        let mut chain = SamplerChain::with_first(params, vec![self.filter(grammar)]).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..n {
            let mut logits = vec![0.0; self.tokenizer.vocab_size()];
            // Else strings rarely end.
            for end in [&b"\""[..], b"}", b"]"] {
                logits[self.tokens[end] as usize] = 4.0;
            }
            let token = chain.sample(BlockMax::of(&mut logits, &mut Vec::new())).unwrap();
            if self.tokenizer.is_end_of_generation(token) {
                return Some(String::from_utf8(bytes).expect("grammars are of text"));
            }
            chain.accept(token);
            bytes.extend(self.tokenizer.token_bytes(token));
        }
        None
    }

    fn error(&self, grammar: &Grammar) -> GrammarError {
        self.grammars.filter(grammar).err().unwrap_or_else(|| panic!("{grammar:?} is accepted"))
    }
}

fn schema(text: impl ToString) -> Grammar {
    Grammar::JsonSchema(text.to_string())
}

/// A document as schemas lay it out: a space behind `,` and `:`, and nowhere else.
fn laid_out(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(laid_out).collect::<Vec<_>>().join(", "))
        }
        Value::Object(keys) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::String(key.clone()), laid_out(value))
            };
            format!("{{{}}}", keys.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

#[test]
fn schemas_have_their_instances_and_no_others() {
    let rig = Rig::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schemas.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut n_drawn = 0;
    for case in &cases {
        let grammar = schema(&case["schema"]);
        let name = &case["name"];
        assert!(rig.accepts(&grammar, &laid_out(&case["valid"])), "{name}: valid");
        assert!(!rig.accepts(&grammar, &laid_out(&case["invalid"])), "{name}: invalid");
        // White space runs on without end in small models.
        assert!(!rig.accepts(&grammar, &format!(" {}", laid_out(&case["valid"]))), "{name}");
        let drawn: Vec<String> = (0..8).filter_map(|seed| rig.drawn(&grammar, seed, 600)).collect();
        n_drawn += drawn.len();
        for document in &drawn {
            let read: Result<Value, _> = serde_json::from_str(document);
            assert!(read.is_ok(), "{name}: {document}");
            assert!(rig.accepts(&grammar, document), "{name}: {document}");
        }
    }
    assert!(n_drawn >= 2 * cases.len(), "{n_drawn} documents of {} schemas", cases.len());
}

#[test]
fn what_a_schema_says_and_is_not_enforced_is_refused_with_its_place() {
    let rig = Rig::new();
    for (text, pointer, keyword) in [
        (r#"{"properties": {"a": {"uniqueItems": true}}}"#, "#/properties/a", "uniqueItems"),
        (r#"{"items": {"not": {"type": "null"}}}"#, "#/items", "not"),
        (r#"{"anyOf": [{}, {"if": {}}]}"#, "#/anyOf/1", "if"),
        (r#"{"$defs": {"a/b": {"contains": {}}}}"#, "#/$defs/a~1b", "contains"),
        (r#"{"dependentSchemas": {}}"#, "#", "dependentSchemas"),
        (r#"{"prefixItems": [{"minlength": 3}]}"#, "#/prefixItems/0", "minlength"),
        (
            r#"{"additionalProperties": {"unevaluatedItems": false}}"#,
            "#/additionalProperties",
            "unevaluatedItems",
        ),
        (r#"{"$ref": "https://example.org/x"}"#, "#", "$ref"),
        (r#"{"properties": []}"#, "#", "properties"),
        (r#"{"items": 5}"#, "#/items", "items"),
        (r#"{"minItems": -1}"#, "#", "minItems"),
        (r#"{"$schema": "https://example.org/x"}"#, "#", "$schema"),
        (r#"{"type": "strin"}"#, "#", "type"),
        (r#"{"required": [1]}"#, "#", "required"),
        (r#"{"prefixItems": [{}], "items": [{}]}"#, "#", "items"),
        (r#"{"propertyNames": {"maxLength": 3}}"#, "#", "propertyNames"),
        (r#"{"propertyNames": {"pattern": "a"}, "properties": {"b": {}}}"#, "#", "propertyNames"),
        // Formats of the draft; names that it does not have are annotations.
        (r#"{"properties": {"a": {"format": "regex"}}}"#, "#/properties/a", "format"),
        (r#"{"format": "idn-email"}"#, "#", "format"),
        // Two properties of one name are one.
        (r#"{"minProperties": 2}"#, "#", "minProperties"),
        (r#"{"required": ["a", "a"], "minProperties": 3}"#, "#", "minProperties"),
        (r#"{"minimum": 1e300}"#, "#", "minimum"),
        // What could only be written by an escape that documents do not have.
        (r#"{"properties": {"a": {"enum": ["a", ["\u0001"]]}}}"#, "#/properties/a", "enum"),
        (r#"{"items": {"pattern": "a\\x01"}}"#, "#/items", "pattern"),
        (r#"{"exclusiveMaximum": -1e300}"#, "#", "exclusiveMaximum"),
        // More than 32 bits, alone and together.
        (r#"{"multipleOf": 4294967291}"#, "#", "multipleOf"),
        (
            r#"{"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}, {"multipleOf": 9949}]}"#,
            "#",
            "multipleOf",
        ),
        // What the engine refuses, without a place of its own.
        (r#"{"items": {"patternProperties": {"a": {}, "b": {}}}}"#, "#/items", "patternProperties"),
        (r#"{"properties": {"a": {}}, "maxProperties": 1}"#, "#", "maxProperties"),
        (
            r#"{"required": ["b"], "additionalProperties": false, "type": "object"}"#,
            "#",
            "required",
        ),
        (r#"{"type": "number", "minimum": 4, "maximum": 3}"#, "#", "minimum"),
        (
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "anyOf": [{"$ref": "#/$defs/a"}]}"##,
            "#/$defs/a or #/$defs/b or #/anyOf/0",
            "$ref",
        ),
        (r#"{"oneOf": [{"type": "string"}, {"minLength": 2, "type": "string"}]}"#, "#", "oneOf"),
    ] {
        match rig.error(&schema(text)) {
            GrammarError::Keyword { pointer: at, keyword: word, .. } => {
                assert_eq!((at.as_str(), word.as_str()), (pointer, keyword), "{text}");
            }
            error => panic!("{text}: {error:?}"),
        }
    }
    let error = rig.error(&schema("{\"enum\": [\"\\\"1\", 1, 1e99,\n -18446744073709551616]}"));
    assert!(matches!(error, GrammarError::Syntax { line: 2, column: 2, .. }), "{error:?}");
    let error = rig.error(&schema("{\"a\": 1,\n \"b\" 2}"));
    assert!(matches!(error, GrammarError::Syntax { line: 2, column: 6, .. }), "{error:?}");
    // Annotations, extensions and formats of other names are none of that.
    let annotated = r#"{"type": "string", "maxLength": 3, "title": "x", "format": "color", "x-y": 1,
        "examples": ["\u00e9"], "description": "d", "uniqueItems": false}"#;
    assert!(rig.accepts(&schema(annotated), "\"abc\""));
    assert!(!rig.accepts(&schema(annotated), "\"abcd\""));
    // A text that is cut inside a character where an error quotes it.
    let wide = format!(r#"{{"type": ["{}"]}}"#, "\u{e9}\u{4e00}".repeat(60));
    let error = rig.error(&schema(wide));
    assert!(
        matches!(&error, GrammarError::Keyword { keyword, .. } if keyword == "type"),
        "{error:?}"
    );
}

#[test]
fn keywords_mean_what_draft_2020_12_says_they_do() {
    let rig = Rig::new();
    let cases: &[(&str, &[&str], &[&str])] = &[
        // `additionalItems` says nothing without a list in `items`.
        (
            r#"{"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": false}"#,
            &["[1]", "[1, null]"],
            &["[\"a\"]"],
        ),
        (
            r#"{"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                "items": [{"type": "integer"}], "additionalItems": {"type": "string"}}"#,
            &["[1]", "[1, \"a\"]"],
            &["[\"a\"]", "[1, 2]"],
        ),
        (
            r#"{"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807}"#,
            &["5", "-700000000000000000"],
            &["0.5", "10000000000000000000"],
        ),
        (r#"{"type": "string", "maxLength": 3.0}"#, &["\"abc\""], &["\"abcd\""]),
        // A name has one spelling.
        (
            r#"{"type": "object", "properties": {"a": {"type": "integer"}, "\n": {"type": "integer"}},
                "additionalProperties": {"type": "string"}}"#,
            &["{\"a\": 1}", "{\"b\": \"x\"}", "{\"\\n\": 1}", "{\"a\\nb\": \"x\"}"],
            &["{\"\\u0061\": \"x\"}", "{\"\\u000a\": \"x\"}", "{\"a\": 1, \"a\": \"x\"}"],
        ),
        (
            r#"{"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}}"#,
            &["{}", "{\"a\": null}"],
            &["{\"a\": 1}"],
        ),
        (
            r#"{"type": "object", "propertyNames": {"enum": ["a", "b", 1]}, "properties": {"c": {}, "b": {"const": 1}},
                "additionalProperties": {"type": "null"}, "required": ["a"]}"#,
            &["{\"a\": null}", "{\"a\": null, \"b\": 1}"],
            &[
                "{\"a\": 1}",
                "{\"b\": 1}",
                "{\"a\": null, \"b\": null}",
                "{\"a\": null, \"c\": null}",
            ],
        ),
        (
            r#"{"type": "object", "propertyNames": {"pattern": "^[a-c]$"}, "additionalProperties": {"type": "null"}}"#,
            &["{}", "{\"a\": null}"],
            &["{\"a\": 1}", "{\"d\": null}", "{\"ab\": null}"],
        ),
        (r#"{"type": "object", "properties": {"a": {"not": {}}}}"#, &["{}"], &["{\"a\": 1}"]),
        (
            r#"{"type": "object", "required": ["a"], "minProperties": 2}"#,
            &["{\"a\": 1, \"b\": 2}"],
            &["{\"a\": 1}", "{\"a\": 1, \"a\": 1}"],
        ),
        // What Pydantic writes for a union.
        (
            r##"{"$defs": {
                "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
                "Dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}},
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}}}"##,
            &["{\"kind\": \"cat\"}", "{\"kind\": \"dog\", \"x\": 1}"],
            &["{}", "{\"kind\": \"cow\"}"],
        ),
        (
            r#"{"oneOf": [{"const": 1}, {"const": 2}, {"type": "null"}]}"#,
            &["2", "null"],
            &["3", "\"a\""],
        ),
        // Patterns are ECMA-262's.
        (r#"{"type": "string", "pattern": "^[[:a]$"}"#, &["\"[\"", "\":\""], &["\"b\""]),
        (r#"{"type": "string", "pattern": "^[a-c&&b]$"}"#, &["\"a\"", "\"&\""], &["\"d\""]),
        (r#"{"type": "string", "pattern": "^[+--]$"}"#, &["\"+\"", "\",\"", "\"-\""], &["\".\""]),
        (
            r#"{"type": "string", "pattern": "^.$"}"#,
            &["\"a\"", "\"\u{e9}\""],
            &["\"\\n\"", "\"\\r\""],
        ),
        (
            r#"{"type": "string", "pattern": "^\\s\\S$"}"#,
            &["\"\u{a0}a\"", "\" \u{85}\""],
            &["\"\u{85}a\""],
        ),
        (
            r#"{"type": "object", "patternProperties": {"^[[]": {"type": "null"}}, "additionalProperties": false}"#,
            &["{\"[a\": null}"],
            &["{\"a\": null}"],
        ),
        // Days that there are.
        (
            r#"{"type": "string", "format": "date"}"#,
            &["\"2020-02-29\"", "\"2000-02-29\"", "\"2021-02-28\"", "\"1999-12-31\""],
            &[
                "\"2021-02-29\"",
                "\"1900-02-29\"",
                "\"2021-04-31\"",
                "\"0000-01-01\"",
                "\"x2020-02-29\"",
            ],
        ),
        (
            r#"{"type": "string", "format": "date-time"}"#,
            &["\"2020-02-29T23:59:59.5Z\"", "\"2021-01-01T00:00:00+01:30\""],
            &["\"2021-02-29T00:00:00Z\"", "\"2021-01-01T12:58:60Z\"", "\"2021-01-01T12:58:00\""],
        ),
        (
            r#"{"type": "string", "format": "time"}"#,
            &["\"23:59:59Z\""],
            &["\"24:00:00Z\"", "\"22:59:60Z\""],
        ),
        (
            r#"{"type": "string", "format": "date", "pattern": "^2020"}"#,
            &["\"2020-02-29\""],
            &["\"2021-02-28\"", "\"2020-02-30\""],
        ),
        (
            r#"{"type": "string", "format": "json-pointer"}"#,
            &["\"\"", "\"/a/~0~1\""],
            &["\"a\"", "\"/~\""],
        ),
        (
            r#"{"type": "string", "format": "relative-json-pointer"}"#,
            &["\"0#\"", "\"1/a\""],
            &["\"/a\"", "\"01\""],
        ),
        (
            r#"{"type": "string", "format": "uri-reference"}"#,
            &[
                "\"\"",
                "\"a/b?c#d\"",
                "\"//h:1/p\"",
                "\"mailto:a@b\"",
                "\"/a:b\"",
                "\"http://h/%20\"",
            ],
            &["\"1:b\"", "\"a b\"", "\"a\\\\b\"", "\"%2\"", "\"#a#b\""],
        ),
    ];
    for (text, yes, no) in cases {
        for document in *yes {
            assert!(rig.accepts(&schema(text), document), "{text}: {document}");
        }
        for document in *no {
            assert!(!rig.accepts(&schema(text), document), "{text}: {document}");
        }
    }
}

#[test]
fn what_would_take_the_engine_too_long_or_too_deep_is_refused() {
    let rig = Rig::new();
    let patterns: Vec<String> = (0..65).map(|i| format!("\"^{i}_\": {{}}")).collect();
    let patterns = format!("{{\"patternProperties\": {{{}}}}}", patterns.join(", "));
    let error = rig.error(&schema(patterns));
    assert!(matches!(error, GrammarError::Keyword { .. }), "{error}");
    // Each of them stands in the one before: the engine's stack would not do.
    let rules: fn(&str) -> String = |define| {
        let rules = (0..5000).map(|i| format!("r{i}{define} \"a\" r{} | \"b\"\n", i + 1));
        rules.collect::<String>() + &format!("r5000{define} \"a\"\n")
    };
    let grouped: fn(&str) -> String = |define| {
        let (open, close) = ("(\"b\" ".repeat(9), ")?".repeat(9));
        let rules = (0..1000).map(|i| format!("r{i}{define} {open} r{} {close}\n", i + 1));
        rules.collect::<String>() + &format!("r1000{define} \"a\"\n")
    };
    for rules in [rules, grouped] {
        let gbnf = Grammar::Gbnf("root ::= r0\n".to_owned() + &rules(" ::="));
        let lark = Grammar::Lark("start: r0\n".to_owned() + &rules(":"));
        for grammar in [gbnf, lark] {
            let error = rig.error(&grammar);
            assert!(error.to_string().contains("more than 4096 rules"), "{error}");
        }
    }
}

/// A filter that changes nothing, and does not tell the one before what the next takes.
#[derive(Clone, Debug)]
struct Nothing;

impl Filter for Nothing {
    fn apply(&mut self, _: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        Ok(())
    }
}

#[test]
fn a_few_tokens_asked_for_one_by_one_are_those_of_the_whole_mask() {
    let rig = Rig::new();
    let any = schema("{}");
    let person = schema(
        r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"], "additionalProperties": false}"#,
    );
    let regex = Grammar::Regex("([a-z]{1,5}[ ,.]){1,9}(yes|no)".into());
    let mut drawn = 0;
    for (grammar, seed) in [any, person, regex].iter().zip(1..) {
        for top_k in [1, 2, 7, 40] {
            let mut params = SampleParams::default();
            (params.seed, params.top_k, params.temperature) = (seed, top_k, 1.0);
            let one_by_one: Vec<Box<dyn Filter>> = vec![rig.filter(grammar)];
            let masked: Vec<Box<dyn Filter>> = vec![rig.filter(grammar), Box::new(Nothing)];
            let mut chains = [one_by_one, masked]
                .map(|first| SamplerChain::with_first(params.clone(), first).unwrap());
            let mut rng = Rng::new(seed + top_k as u64);
            let end = rig.tokenizer.eos().unwrap();
            for _ in 0..60 {
                let n = rig.tokenizer.vocab_size();
                let logits: Vec<f32> = (0..n).map(|_| 6.0 * rng.unit_f64() as f32).collect();
                let [token, other] = [0, 1].map(|i| {
                    chains[i].sample(BlockMax::of(&mut logits.clone(), &mut Vec::new())).unwrap()
                });
                assert_eq!(token, other, "{grammar:?}, the best {top_k}");
                drawn += 1;
                if token == end {
                    break;
                }
                chains.iter_mut().for_each(|chain| chain.accept(token));
            }
        }
    }
    assert!(drawn > 200, "{drawn} tokens were drawn");
}

#[test]
fn regular_expressions_match_the_whole_answer() {
    let rig = Rig::new();
    let regex = |text: &str| Grammar::Regex(text.into());
    for (pattern, yes, no) in [
        ("[0-9]{3}", "123", "1234"),
        ("a|bc*", "bccc", "ac"),
        ("(yes|no)\\.", "no.", "no"),
        ("[^a-z/]+", "A 9", "A/9"),
        (".*", "", "a\nb"),
    ] {
        assert!(rig.accepts(&regex(pattern), yes), "{pattern}: {yes:?}");
        assert!(!rig.accepts(&regex(pattern), no), "{pattern}: {no:?}");
    }
    assert!(matches!(rig.error(&regex("a(")), GrammarError::Refused { .. }));
    for seed in 0..20 {
        if let Some(text) = rig.drawn(&regex("(ab|c){2,4}x?"), seed, 100) {
            assert!(rig.accepts(&regex("(ab|c){2,4}x?"), &text), "{text}");
        }
    }
}

/// JSON as llama.cpp's examples have it.
const JSON_GBNF: &str = r#"root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn grammars_of_llama_cpp_mean_what_they_say() {
    let rig = Rig::new();
    let gbnf = |text: &str| Grammar::Gbnf(text.into());
    let cases: &[(&str, &[&str], &[&str])] = &[
        (r#"root ::= "a" | "b" "c"?  # comment"#, &["a", "b", "bc"], &["", "c", "ab", "bcc"]),
        ("root ::= item+\nitem ::= [a-c] \",\" \n", &["a,", "b,c,"], &["", "a", "d,"]),
        // One literal is repeated as a whole.
        (r#"root ::= "ab"{2,3}"#, &["abab", "ababab"], &["ab", "abb", "abababab"]),
        (r#"root ::= [^"\\] . "\x41\u00e9\n\]" "#, &["xyA\u{e9}\n]"], &["\"yA\u{e9}\n]", "x"]),
        // The rest of a longest match would be lost by a lexer.
        ("root ::= word \"x\"\nword ::= [a-z]*", &["x", "abx", "xx"], &["", "ab"]),
        (
            "root ::= a \"x\" | \"(\" root \")\"\na ::= [a-z]*",
            &["x", "(abx)", "((xx))"],
            &["(", "(ab)"],
        ),
        // Left recursion, and rules over several lines.
        (
            "root ::= root \"+\" n | n\nn ::= (\n  [0-9]+ |\n  \"z\"\n)",
            &["1", "1+22+z"],
            &["", "+", "1+"],
        ),
        ("root ::= \"\" | \"[\" root \"]\"", &["", "[]", "[[]]"], &["[", "]"]),
        ("root ::= \"a\"{0} \"b\"{2,}", &["bb", "bbbb"], &["b", "abb"]),
        (
            JSON_GBNF,
            &["{}", "[1,{\"a\": \"x\\\"y\"} , true]", "-0.5", "[ ]"],
            &["{\"a\"}", "[1,]", "tru", "\"\n\""],
        ),
        // Words that begin alike: none of them is a lexeme.
        (
            "root ::= \"(\" root \")\" | \"true\" | \"trust\" | [a-s]+ \"!\"",
            &["(true)", "trust", "bad!", "(ass!)"],
            &["tru", "(trust", "true!"],
        ),
        // One that begins as nothing else does, and twice one behind the other.
        (
            "root ::= \"<\" root \">\" | q q\nq ::= \"/\" [^/]* \"/\"",
            &["////", "<///ab/>"],
            &["//", "/a/b/", "<////"],
        ),
        (
            "root ::= \"[\" root \"]\" | \"ab\"{1,2} \"c\"?",
            &["ab", "[abab]", "ababc"],
            &["abc]", "a", "ababab"],
        ),
    ];
    for (text, yes, no) in cases {
        for answer in *yes {
            assert!(rig.accepts(&gbnf(text), answer), "{text}: {answer:?}");
        }
        for answer in *no {
            assert!(!rig.accepts(&gbnf(text), answer), "{text}: {answer:?}");
        }
    }
}

#[test]
fn errors_of_grammars_tell_line_and_column() {
    let rig = Rig::new();
    for (text, place, part) in [
        ("root ::= \"a\"\nx ::= [a", (2, 7), "class without an end"),
        ("root ::= \"a", (1, 10), "literal without an end"),
        ("root ::= y", (1, 10), "no rule `y`"),
        ("a ::= \"b\"", (1, 1), "no rule `root`"),
        ("root ::= \"a\"\nroot ::= \"b\"", (2, 1), "defined twice"),
        ("root ::= *", (1, 10), "nothing before it"),
        ("root ::= \"a\"{3,1}", (1, 13), "at most fewer"),
        ("root ::= \"\\q\"", (1, 11), "no escape"),
        ("root ::= (\"a\"", (1, 14), "expected `)`"),
        ("root = \"a\"", (1, 6), "expected `::=`"),
        ("root ::= \"a\" )", (1, 14), "a rule ends with its line"),
        ("root ::= \"\\ud800\"", (1, 11), "is no character"),
    ] {
        match rig.error(&Grammar::Gbnf(text.into())) {
            GrammarError::Syntax { line, column, reason } => {
                assert_eq!((line, column), place, "{text}: {reason}");
                assert!(reason.contains(part), "{text}: {reason}");
            }
            error => panic!("{text}: {error:?}"),
        }
    }
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(matches!(rig.error(&Grammar::Gbnf(deep)), GrammarError::Syntax { .. }));
    // A rule without a text, which only the engine finds.
    let endless = rig.error(&Grammar::Gbnf("root ::= root \"a\"".into()));
    assert!(endless.to_string().contains("no token can follow"), "{endless}");
    let long = Grammar::Gbnf("#".repeat(2 << 20));
    assert!(matches!(rig.error(&long), GrammarError::TooLong { .. }));
}

#[test]
fn larks_grammars_run_and_their_errors_are_told() {
    let rig = Rig::new();
    let lark = |text: &str| Grammar::Lark(text.into());
    let list = lark("start: \"[\" [NUMBER (\",\" NUMBER)*] \"]\"\nNUMBER: /[0-9]+/");
    assert!(rig.accepts(&list, "[1,22]") && rig.accepts(&list, "[]"));
    assert!(!rig.accepts(&list, "[1,]"));
    assert!(matches!(rig.error(&lark("start: nothing")), GrammarError::Refused { .. }));
}

#[test]
fn a_lazy_grammar_begins_behind_its_trigger() {
    let rig = Rig::new();
    let [tag, a, b] = [&b"t"[..], b"a", b"b"].map(|bytes| rig.tokens[bytes]);
    let filter = rig.grammars.lazy(&Grammar::Regex("ab".into()), vec![tag]).unwrap();
    let mut chain = SamplerChain::with_first(SampleParams::greedy(), vec![filter]).unwrap();
    // In a prompt it is no trigger.
    chain.accept(tag);
    for free in [b, a, tag] {
        assert_eq!(rig.choice(&mut chain, free), Some(free));
        chain.accept(free);
    }
    assert_ne!(rig.choice(&mut chain, b), Some(b));
    let mut fork = chain.clone();
    for token in [a, b] {
        assert_eq!(rig.choice(&mut chain, token), Some(token));
        chain.accept(token);
    }
    let end = rig.tokenizer.eos();
    assert_eq!(rig.choice(&mut chain, a), end);
    // A fork is where it was.
    assert_eq!(rig.choice(&mut fork, a), Some(a));
}

#[test]
fn a_text_is_a_trigger_wherever_it_stands_in_tokens() {
    let rig = Rig::new();
    let id = |byte: u8| rig.tokens[&[byte][..]];
    let lazy = |triggers: &[&str]| {
        let filter = rig.grammars.lazy_text(&Grammar::Regex("ab".into()), triggers).unwrap();
        SamplerChain::with_first(SampleParams::greedy(), vec![filter]).unwrap()
    };
    let mut chain = lazy(&["<ca", "<x"]);
    // In a prompt it is no trigger.
    b"<ca".iter().for_each(|&byte| chain.accept(id(byte)));
    for &byte in b"<c<<ca" {
        assert_eq!(rig.choice(&mut chain, id(byte)), Some(id(byte)), "free");
        chain.accept(id(byte));
    }
    assert_ne!(rig.choice(&mut chain, id(b'b')), Some(id(b'b')));
    for &byte in b"ab" {
        assert_eq!(rig.choice(&mut chain, id(byte)), Some(id(byte)));
        chain.accept(id(byte));
    }
    assert_eq!(rig.choice(&mut chain, id(b'a')), rig.tokenizer.eos());
    // A token that goes on behind the trigger.
    let (word, token) = ("he", rig.tokens[&b"he"[..]]);
    let (first, rest) = word.split_at(1);
    let rest = rest.to_owned() + "z";
    let escaped: String = rest.chars().map(|c| format!("\\x{:02x}", c as u32)).collect();
    let filter = rig.grammars.lazy_text(&Grammar::Regex(escaped), &[first]).unwrap();
    let mut chain = SamplerChain::with_first(SampleParams::greedy(), vec![filter]).unwrap();
    assert_eq!(rig.choice(&mut chain, token), Some(token));
    chain.accept(token);
    assert_eq!(rig.choice(&mut chain, id(b'a')), Some(id(b'z')), "{word:?}");
}
