//! Names of pre-tokenizers (`tokenizer.ggml.pre`) by how `tokenizer.json` cuts words: its steps with
//! their regular expressions, whether texts are brought into form C, and whether words that are tokens
//! are left to the merges. Expressions are compared in one spelling, see [`spelled`].
//!
//! A name stands for all three in [`crate::text`], and so for the ids of every text. Another way to
//! cut is refused: a guess would give a model tokens that it was not trained on.

use serde_json::Value;

/// Cutting of texts into words, as a tokenizer's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cutting {
    /// Steps, see the constants.
    pub steps: Vec<String>,
    /// Whether texts are brought into Unicode's form C.
    pub nfc: bool,
    /// Whether a word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
}

/// Names of expressions and steps that several rows have in common.
macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
macro_rules! others {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}
macro_rules! words {
    ($digits:literal) => {
        concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|", $digits, others!())
    };
}
macro_rules! cased {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
macro_rules! deepseek {
    () => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"##,
            r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Byte-level, its own words of GPT-2 before it.
const GPT2: &str = "gpt-2 words";
/// Digits one by one.
const DIGIT: &str = "digits";
/// Runs of digits.
const DIGITS: &str = "runs of digits";
/// Runs of punctuation.
const PUNCTUATION: &str = "runs of punctuation";
const SENTENCE: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";

/// A row: steps, whether of form C, whether merges are ignored, and the name.
type Row = (&'static [&'static str], Option<bool>, bool, &'static str);

/// Known ways to cut. Form C of `None` is either.
const ROWS: &[Row] = &[
    (&[GPT2], Some(false), false, "gpt-2"),
    (&[GPT2], Some(true), false, "olmo"),
    (&[DIGIT, GPT2], Some(false), false, "refact"),
    (&[r"\p{N}", GPT2], Some(false), false, "refact"),
    (&[DIGIT, GPT2], Some(true), false, "command-r"),
    (&[words!(r"\p{N}{1,3}")], Some(false), true, "llama-bpe"),
    (&[words!(r"\p{N}{1,3}")], Some(false), false, "smaug-bpe"),
    (&[words!(r"\p{N}")], Some(true), false, "qwen2"),
    (&[words!(r"\p{N}")], Some(false), false, "stablelm2"),
    (
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        Some(true),
        false,
        "qwen35",
    ),
    (&[concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", others!())], Some(false), false, "ufakzeka"),
    (
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
            r"|\s+(?!\S)|\s+"
        )],
        Some(false),
        false,
        "bailingmoe",
    ),
    (
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
            r"|\s+(?!\S)|\s+"
        )],
        Some(false),
        false,
        "seed-coder",
    ),
    (
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        None,
        false,
        "exaone-moe",
    ),
    (&[r"\p{N}{1,3}", words!(r"\p{N}+")], Some(false), true, "minicpm5"),
    (&[r"\p{N}{1,3}", KANA, deepseek!()], Some(false), false, "deepseek-v3"),
    (&[cased!("", r"\p{N}")], Some(false), true, "tekken"),
    (&[cased!(concat!(contractions!(), "?"), r"\p{N}{1,3}")], Some(false), false, "gpt-4o"),
    (
        &[r"\d{1,3}(?=(?:\d{3})*\b)", cased!(concat!(contractions!(), "?"), r"\p{N}{1,3}")],
        None,
        false,
        "tiny_aya",
    ),
    (&[PUNCTUATION, GPT2, DIGITS, "[0-9][0-9][0-9]"], Some(false), false, "falcon"),
    (&[SENTENCE], Some(false), false, "bloom"),
    (&[SENTENCE, DIGIT], Some(false), false, "viking"),
    (&[SENTENCE, r"\p{N}"], Some(false), false, "viking"),
];

/// Beginnings of steps by which two long rows are known.
const BEGINNINGS: &[(&[&str], &str)] = &[
    (&[r"[\r\n]", r"\s?[A-Za-zµ"], "deepseek-llm"),
    (&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+"], "deepseek-coder"),
];

impl Cutting {
    /// Reads how a `tokenizer.json` cuts.
    pub fn read(tokenizer: &Value) -> Result<Cutting, String> {
        let mut steps = Vec::new();
        read_step(tokenizer.get("pre_tokenizer").unwrap_or(&Value::Null), &mut steps)?;
        let mut nfc = false;
        read_normalizer(tokenizer.get("normalizer").unwrap_or(&Value::Null), &mut nfc)?;
        let merges = tokenizer.get("model").and_then(|model| model.get("ignore_merges"));
        let ignore_merges = merges.and_then(Value::as_bool).unwrap_or(false);
        Ok(Cutting { steps, nfc, ignore_merges })
    }

    /// The name of this way to cut.
    pub fn name(&self) -> Option<&'static str> {
        let is_row = |(steps, nfc, ignore_merges, _): &&Row| {
            self.steps == *steps
                && nfc.is_none_or(|nfc| nfc == self.nfc)
                && *ignore_merges == self.ignore_merges
        };
        if let Some(row) = ROWS.iter().find(is_row) {
            return Some(row.3);
        }
        let begins = |(begin, _): &&(&[&str], &str)| {
            self.steps.len() >= begin.len()
                && begin.iter().zip(&self.steps).all(|(begin, step)| step.starts_with(begin))
                && !self.nfc
                && !self.ignore_merges
        };
        BEGINNINGS.iter().find(begins).map(|row| row.1)
    }

    /// Description for errors.
    pub fn told(&self) -> String {
        let form = if self.nfc { "form C, " } else { "" };
        let merges = if self.ignore_merges { ", words that are tokens stay whole" } else { "" };
        format!("{form}{}{merges}", self.steps.join(" then "))
    }
}

fn read_step(step: &Value, steps: &mut Vec<String>) -> Result<(), String> {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let flag = |key: &str| step.get(key).and_then(Value::as_bool).unwrap_or(false);
    let Some(ty) = text("type") else { return Ok(()) };
    match ty {
        "Sequence" => {
            let parts = step.get("pretokenizers").and_then(Value::as_array);
            for part in parts.into_iter().flatten() {
                read_step(part, steps)?;
            }
        }
        "ByteLevel" => {
            if flag("add_prefix_space") {
                return Err("words are cut behind a space that is put in front".into());
            }
            if step.get("use_regex").and_then(Value::as_bool).unwrap_or(true) {
                steps.push(GPT2.into());
            }
        }
        "Digits" if flag("individual_digits") => steps.push(DIGIT.into()),
        "Digits" => steps.push(DIGITS.into()),
        "Punctuation" if text("behavior") == Some("Contiguous") => steps.push(PUNCTUATION.into()),
        "Split" => {
            let pattern = step.get("pattern");
            let regex = pattern.and_then(|p| p.get("Regex")).and_then(Value::as_str);
            let regex = regex.ok_or("words are cut at a string")?;
            // What does not match is removed: all of it matches in the expressions that are known.
            let is_plain = text("behavior") == Some("Isolated") && !flag("invert");
            let is_removed = text("behavior") == Some("Removed") && flag("invert");
            if !is_plain && !is_removed {
                return Err(format!("words are cut by `{regex}` in an unusual way"));
            }
            steps.push(spelled(regex));
        }
        other => return Err(format!("words are cut by {other}")),
    }
    Ok(())
}

fn read_normalizer(normalizer: &Value, nfc: &mut bool) -> Result<(), String> {
    match normalizer.get("type").and_then(Value::as_str) {
        None => Ok(()),
        Some("NFC") => {
            *nfc = true;
            Ok(())
        }
        Some("Sequence") => {
            let parts = normalizer.get("normalizers").and_then(Value::as_array);
            parts.into_iter().flatten().try_for_each(|part| read_normalizer(part, nfc))
        }
        Some(other) => Err(format!("texts are changed by {other}")),
    }
}

/// Spellings of one thing, and the one that the table has.
const SPELLINGS: &[(&str, &str)] = &[
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", contractions!()),
    ("'(?i:[sdmt]|ll|ve|re)", contractions!()),
    ("(?i:'(?:[sdmt]|ll|ve|re))", contractions!()),
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", contractions!()),
    // Nothing behind these parts could match what they took, so they may give back.
    (r"?+\p{L}", r"?\p{L}"),
    ("]++[", "]+["),
    (r"\p{N}{1}|", r"\p{N}|"),
    (r"\u4e00-\u9fa5", "一-龥"),
    (r"\u3040-\u309f", "぀-ゟ"),
    (r"\u30a0-\u30ff", "゠-ヿ"),
];

/// An expression in the table's spelling.
fn spelled(regex: &str) -> String {
    SPELLINGS.iter().fold(regex.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(normalizer: Value, steps: Value, ignore_merges: bool) -> Option<&'static str> {
        let tokenizer = json!({
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "model": {"ignore_merges": ignore_merges},
        });
        Cutting::read(&tokenizer).expect("it reads").name()
    }

    fn split(regex: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    }

    #[test]
    fn names_follow_steps_forms_and_merges() {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false});
        let llama = words!(r"\p{N}{1,3}");
        assert_eq!(name(Value::Null, json!([split(llama), bytes]), true), Some("llama-bpe"));
        assert_eq!(name(Value::Null, json!([split(llama), bytes]), false), Some("smaug-bpe"));
        let other = llama.replace(contractions!(), "'(?i:[sdmt]|ll|ve|re)");
        assert_eq!(name(Value::Null, json!([split(&other), bytes]), true), Some("llama-bpe"));
        assert_eq!(name(Value::Null, json!([gpt2]), false), Some("gpt-2"));
        assert_eq!(name(json!({"type": "NFC"}), json!([gpt2]), false), Some("olmo"));
        assert_eq!(name(Value::Null, json!([split("x"), bytes]), false), None);
    }

    #[test]
    fn every_name_is_one_that_texts_are_cut_by() {
        for name in ROWS.iter().map(|row| row.3).chain(BEGINNINGS.iter().map(|row| row.1)) {
            assert!(crate::text::is_pre_tokenizer(name), "{name}");
        }
    }
}
