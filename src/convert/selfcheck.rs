//! The vocabulary of the result, tried before anything is written: texts that are cut in the most
//! different ways go through the pipeline of `tokenizer.json` and through the vocabulary as it will
//! be read from GGUF. So the name of a pre-tokenizer is not believed but shown to be right.
//!
//! Cost: both vocabularies are built once, some tenths of a second for the largest.

use super::files::{bytes, malformed};
use super::keys::Keys;
use super::{ConvertError, vocab};
use crate::text::{EncodeOptions, Tokenizer};
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Texts that vocabularies disagree about: spaces, digits, cases, contractions, scripts, forms of Unicode,
/// emoji, code, lines, and words of other models' chats.
pub const TEXTS: &[&str] = &[
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    " leading",
    "trailing ",
    "two  spaces",
    "   three before",
    "many          spaces",
    " ",
    "\n",
    "\n\n\n",
    "one\ntwo\n\nthree\r\nfour",
    "\ttab\t\ttabs",
    " \n \n  x",
    "word\n  indented\n    more",
    "0 1 12 123 1234 12345 1234567890",
    "3.14159e-10, 1,000,000.00 and 0x1F",
    "a1b22c333d4444",
    "１２３ ٣٤٥ ४५६ ²³ ½ Ⅷ",
    "I'm you're he'll we've they'd it's don't",
    "I'M YOU'RE HE'LL IT'S Don'T o'clock ’s",
    "CamelCaseAndHTTPServer snake_case kebab-case ALLCAPS",
    "ÀÉÎõü ñandú Straße İstanbul ǅ",
    "e\u{301}a\u{308} \u{e9}\u{e4}",
    "Привет, мир! Ёлка",
    "Γειά σου Κόσμε",
    "你好，世界！這是一個測試。",
    "こんにちは世界、カタカナとひらがな",
    "안녕하세요 세계",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "שלום עולם",
    "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪",
    "\u{a0}no-break\u{2003}em\u{200b}zero\u{3000}wide",
    "…—–“”‘’«»•§¶",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~\\",
    "def f(x):\n    return x**2  # square\n\n\nprint(f(3))",
    "if (a != b && c >= 0) { i++; }\t// done",
    "<html><body class=\"x\">&amp;</body></html>",
    "https://example.org/a/b?c=d&e=%20#f",
    "{\"key\": [1, 2.5, null, true]}",
    "...  ,,, ;;; --- === ///",
    "a/b/c \\n \\t a.b.c a,b;c",
    "x\u{301}\u{302}\u{303} ﬁ ﬃ ™ №",
    "▁under ▁▁ Ġg Ċc ##piece",
    "<s> </s> <unk> <pad> [INST] [CLS] <|im_start|> <|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n<start_of_turn>model\n",
    "The end.\u{85}\u{2028}\u{2029}x",
];

/// Compares what the result does to texts with what `tokenizer.json` does, if that is there.
///
/// # Errors
/// The text and the ids of both, if they differ; or one of the two vocabularies does not load.
pub(super) fn check(keys: &Keys, folder: &Path) -> Result<(), ConvertError> {
    let path = folder.join(vocab::TOKENIZER);
    let Some(content) = bytes(&path)? else { return Ok(()) };
    let ours = from_keys(keys)?;
    // Files may describe steps that fail on some texts, and the library panics for some of them.
    let failed = || malformed(&path, "its steps fail");
    // SentencePiece takes spaces away that steps in that file may leave at the ends of texts.
    let is_trimmed = keys.get("tokenizer.ggml.model") == Some(&OwnedValue::Str("t5".into()));
    let texts: Vec<&str> =
        TEXTS.iter().copied().filter(|text| !is_trimmed || is_of_words(text)).collect();
    let guarded = AssertUnwindSafe(|| theirs(&content, &texts));
    let theirs = catch_unwind(guarded).map_err(|_| failed())?;
    let theirs = theirs.map_err(|error| malformed(&path, error.to_string()))?;
    let options = EncodeOptions { add_special: false, parse_special: true };
    // Around control tokens spaces go or stay by rules that GGUF does not have for each token.
    for (text, theirs) in texts.iter().zip(theirs).filter_map(|(text, ids)| Some((text, ids?))) {
        let ours = ours.encode(text, options).map_err(ConvertError::Text)?;
        if ours != theirs {
            let text = (*text).to_owned();
            return Err(ConvertError::OtherTokens { text, ours, theirs });
        }
    }
    Ok(())
}

/// Whether single spaces between words are all the white space of a text, the visible one too.
fn is_of_words(text: &str) -> bool {
    let is_space = |c: char| c.is_whitespace() || c == '▁';
    text.split(' ').all(|word| !word.is_empty() && !word.contains(is_space))
}

/// The vocabulary as it will be read.
fn from_keys(keys: &Keys) -> Result<Tokenizer, ConvertError> {
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in &keys.entries {
        writer.add(key.clone(), value.clone())?;
    }
    let bytes = writer.write_header()?.finish()?;
    Tokenizer::from_gguf(&GgufFile::from_bytes(bytes)?).map_err(ConvertError::Text)
}

/// Ids by the pipeline of `tokenizer.json`; `None` of a text that holds control tokens.
fn theirs(content: &[u8], texts: &[&str]) -> tokenizers::Result<Vec<Option<Vec<u32>>>> {
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(content)?;
    // A file may say that texts are cut off, or filled up to any length.
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    let added = tokenizer.get_added_tokens_decoder();
    let is_control = |id: &u32| added.get(id).is_some_and(|token| token.special);
    let ids = |text: &&str| -> tokenizers::Result<Option<Vec<u32>>> {
        let ids = tokenizer.encode(*text, false)?.get_ids().to_vec();
        Ok(if ids.iter().any(is_control) { None } else { Some(ids) })
    };
    texts.iter().map(ids).collect()
}
