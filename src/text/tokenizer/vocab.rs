//! The vocabulary of a GGUF file: texts, scores, kinds of token, special ids.
//!
//! Rules follow llama.cpp's `llama_vocab::load`, since files are made and tested with it. Two
//! defaults are left out on purpose: it gives BPE files without `bos_token_id` / `eos_token_id` the
//! id 11 for both, which is right for Falcon only and would end answers at a comma elsewhere.

use std::borrow::Cow;
use std::collections::HashMap;

use gguf_rs_lite::{Array, GgufFile, Value};
use tokenizers::Token;

use super::prefixes::TOKEN_BYTES_MAX;
use super::table::{StrTable, TableError};
use crate::text::TextError;

/// Properties of a token, as bits.
pub(super) mod attr {
    /// Stands for what is not in the vocabulary.
    pub const UNKNOWN: u8 = 1;
    /// Text made of bytes or "▁" spelling.
    pub const NORMAL: u8 = 2;
    /// Structure: turns, begin and end. Never made from text unless special tokens are parsed.
    pub const CONTROL: u8 = 4;
    /// Literal text that is always one token.
    pub const USER: u8 = 8;
    /// `<0xXX>`.
    pub const BYTE: u8 = 16;
    /// Swallows white space before it.
    pub const LSTRIP: u8 = 32;
    /// Swallows white space behind it.
    pub const RSTRIP: u8 = 64;
}

/// Ids with a role; all within the vocabulary.
#[derive(Clone, Debug, Default)]
pub(super) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// Sorted.
    pub end_of_generation: Vec<u32>,
}

/// Tokens by id and by text.
#[derive(Clone, Debug)]
pub(super) struct Vocab {
    tokens: StrTable,
    attrs: Vec<u8>,
    /// The bytes of tokens that are not UTF-8. Their texts are names that no text contains.
    raw: HashMap<u32, Vec<u8>>,
    pub special: SpecialIds,
    /// Odd things in the file that a user should know of.
    pub warnings: Vec<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// Default BOS, EOS and unknown ids of a kind of tokenizer.
pub(super) struct DefaultIds(pub [Option<u32>; 3]);

impl Vocab {
    /// Reads everything but scores and merges.
    pub fn read(file: &GgufFile, defaults: &DefaultIds) -> Result<Self, TextError> {
        let (tokens, raw) = read_tokens(file)?;
        let attrs = read_attrs(file, tokens.len())?;
        let (special, warnings) = (SpecialIds::default(), Vec::new());
        let mut vocab = Self { tokens, attrs, raw, special, warnings };
        let roles = vocab.read_special(file, defaults);
        vocab.find_end_of_generation(roles);
        vocab.set_strips(file);
        Ok(vocab)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Text as spelled in the file; `None` beyond the vocabulary.
    pub fn str(&self, id: u32) -> Option<&str> {
        self.tokens.str(id)
    }

    /// Id of a text spelled as in the file.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.tokens.find(text)
    }

    /// The bytes of a token that is not UTF-8.
    pub fn raw_bytes(&self, id: u32) -> Option<&[u8]> {
        self.raw.get(&id).map(|bytes| &bytes[..])
    }

    /// Bits of [`attr`]; 0 beyond the vocabulary, and for tokens marked unused.
    pub fn attr(&self, id: u32) -> u8 {
        self.attrs.get(id as usize).copied().unwrap_or_default()
    }

    /// Whether the token is structure, not text (control or unknown).
    pub fn is_control(&self, id: u32) -> bool {
        self.attr(id) & (attr::CONTROL | attr::UNKNOWN) != 0
    }

    /// Whether the token is found in texts before they are cut (control, unknown, user-defined).
    pub fn is_special(&self, id: u32) -> bool {
        self.attr(id) & (attr::CONTROL | attr::UNKNOWN | attr::USER) != 0
    }

    /// A token as a model of the `tokenizers` crate gives it.
    pub fn token(&self, id: u32, offsets: (usize, usize)) -> Token {
        Token::new(id, self.str(id).unwrap_or_default().to_owned(), offsets)
    }

    /// Token of each byte, spelled `<0xXX>`.
    pub fn byte_ids(&self) -> [Option<u32>; 256] {
        std::array::from_fn(|byte| self.find(&format!("<0x{byte:02X}>")))
    }

    /// The id that a key names; without the key the default, if that is in the vocabulary.
    pub fn read_id(&mut self, file: &GgufFile, key: &str, default: Option<u32>) -> Option<u32> {
        let Some(value) = file.get(key) else {
            return default.filter(|&id| (id as usize) < self.tokens.len());
        };
        let n = self.tokens.len();
        let id = value.as_u64().filter(|&id| id < n as u64);
        // Old converters wrote -1, of 32 bits, where there is none.
        let is_none = value.as_i64() == Some(-1) || value.as_u64() == Some(u32::MAX.into());
        let problem = match value.as_i64() {
            _ if id.is_some() => None,
            Some(found) if is_none => Some(format!("is {found}, which stands for none")),
            Some(found) => {
                Some(format!("is {found}, which is not in the vocabulary of {n} tokens: ignored"))
            }
            None => Some("is no whole number: ignored".to_string()),
        };
        self.warnings.extend(problem.map(|problem| format!("key `{key}` {problem}")));
        id.map(|id| id as u32)
    }

    /// The ids that a key lists, without those that are not in the vocabulary.
    fn read_ids(&mut self, file: &GgufFile, key: &str) -> Vec<u32> {
        let Some(value) = file.get(key) else { return Vec::new() };
        let listed = match value.as_array() {
            Some(array) => array.to_i64s(),
            None => value.as_i64().map(|id| vec![id]),
        };
        let Some(listed) = listed else {
            self.warnings.push(format!("key `{key}` is no list of token ids: ignored"));
            return Vec::new();
        };
        let n = self.tokens.len();
        let is_token = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < n);
        if let Some(id) = listed.iter().find(|id| !is_token(id)) {
            let warning = format!("key `{key}` has {id}, which is not in the vocabulary: ignored");
            self.warnings.push(warning);
        }
        listed.into_iter().filter(is_token).map(|id| id as u32).collect()
    }

    fn read_special(&mut self, file: &GgufFile, DefaultIds(defaults): &DefaultIds) -> Roles {
        self.special.bos = self.read_id(file, "tokenizer.ggml.bos_token_id", defaults[0]);
        self.special.eos = self.read_id(file, "tokenizer.ggml.eos_token_id", defaults[1]);
        self.special.unknown = self.read_id(file, "tokenizer.ggml.unknown_token_id", defaults[2]);
        let ends = ["tokenizer.ggml.eos_token_ids", "tokenizer.ggml.eog_token_ids"];
        let ends = ends.iter().flat_map(|key| self.read_ids(file, key)).collect();
        let mut id = |key: &str, default| self.read_id(file, key, default);
        Roles {
            ends,
            end_of_turn: id("tokenizer.ggml.eot_token_id", None),
            end_of_message: id("tokenizer.ggml.eom_token_id", None),
            fim_pad: id("tokenizer.ggml.fim_pad_token_id", None),
            fim_repo: id("tokenizer.ggml.fim_rep_token_id", None),
            fim_file: id("tokenizer.ggml.fim_sep_token_id", None),
        }
    }

    /// The tokens that end an answer: those with the role by key, and well-known names, because
    /// many files name only one of several.
    fn find_end_of_generation(&mut self, mut roles: Roles) {
        for (names, role) in [
            (END_OF_TURN_NAMES, &mut roles.end_of_turn),
            (END_OF_MESSAGE_NAMES, &mut roles.end_of_message),
            (FIM_PAD_NAMES, &mut roles.fim_pad),
            (FIM_REPO_NAMES, &mut roles.fim_repo),
            (FIM_FILE_NAMES, &mut roles.fim_file),
        ] {
            if role.is_none() {
                *role = names.iter().filter_map(|name| self.tokens.find(name)).min();
                self.make_control(*role);
            }
        }
        for names in FIM_OTHER_NAMES {
            self.make_control(names.iter().filter_map(|name| self.tokens.find(name)).min());
        }
        let mut ends: Vec<u32> = Vec::new();
        ends.extend(&roles.ends);
        ends.extend([roles.fim_pad, roles.fim_repo, roles.fim_file].into_iter().flatten());
        for name in END_NAMES {
            let id = self.tokens.find(name);
            self.make_control(id);
            ends.extend(id);
        }
        // gpt-oss: these structure the answer, which is shown with them.
        for name in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
            self.retype(self.tokens.find(name), attr::USER);
        }
        let named = [self.special.eos, roles.end_of_turn, roles.end_of_message];
        ends.extend(named.into_iter().flatten());

        let has = |name| self.tokens.find(name).filter(|id| ends.contains(id));
        let calls = has("<|call|>").or(has("<|calls|>")).is_some();
        if calls && (has("<|return|>").is_some() || has("<|flush|>").is_some()) {
            // gpt-oss, solar-open: ends a part of the answer only.
            if let Some(id) = has("<|end|>") {
                ends.retain(|&end| end != id);
                self.retype(Some(id), attr::USER);
            }
        }
        let has = |name| self.tokens.find(name).filter(|id| ends.contains(id));
        if has("<|tool_response>").or(has("<|plamo:eos|>")).is_some() {
            // Gemma 4, PLaMo: HTML's closing strike-through.
            if let Some(id) = has("</s>") {
                ends.retain(|&end| end != id);
                self.retype(Some(id), attr::NORMAL);
            }
        }
        ends.sort_unstable();
        ends.dedup();
        self.special.end_of_generation = ends;
    }

    fn make_control(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.attrs[id as usize] |= attr::CONTROL;
        }
    }

    fn retype(&mut self, id: Option<u32>, attr: u8) {
        if let Some(id) = id {
            self.attrs[id as usize] = attr;
        }
    }

    /// Marks the special tokens that swallow neighbouring white space, which is not in GGUF: by
    /// model name.
    fn set_strips(&mut self, file: &GgufFile) {
        let text = |key| file.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        let name = text("general.name").to_ascii_lowercase();
        let (pre, arch) = (text("tokenizer.ggml.pre"), text("general.architecture"));
        let any = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
            || any(arch, &["nomic-bert-moe", "jina-bert-v3"])
        {
            self.add_attr("<mask>", attr::LSTRIP);
        } else if any(&name, &["phi-3", "phi3"]) {
            let special = attr::CONTROL | attr::USER | attr::UNKNOWN;
            let all = self.attrs.iter_mut().filter(|attr| **attr & special != 0);
            all.for_each(|attr| *attr |= attr::RSTRIP);
            self.add_attr("</s>", attr::RSTRIP);
            for name in ["<unk>", "<s>", "<|endoftext|>"] {
                if let Some(id) = self.find(name) {
                    self.attrs[id as usize] &= !attr::RSTRIP;
                }
            }
        } else if any(&name, &["modern-bert"]) {
            self.add_attr("[MASK]", attr::LSTRIP);
        }
    }

    fn add_attr(&mut self, text: &str, attr: u8) {
        if let Some(id) = self.find(text) {
            self.attrs[id as usize] |= attr;
        }
    }
}

/// Ids that keys of the file give a role.
struct Roles {
    /// All that end an answer, as far as a key lists them.
    ends: Vec<u32>,
    end_of_turn: Option<u32>,
    end_of_message: Option<u32>,
    fim_pad: Option<u32>,
    fim_repo: Option<u32>,
    fim_file: Option<u32>,
}

const END_OF_TURN_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const END_OF_MESSAGE_NAMES: &[&str] = &["<|eom_id|>"];
const FIM_PAD_NAMES: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPO_NAMES: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_FILE_NAMES: &[&str] = &["<|file_sep|>"];
/// Fill-in-the-middle prefix, suffix and middle: control tokens that end nothing.
const FIM_OTHER_NAMES: &[&[&str]] = &[
    &[
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ],
    &[
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ],
    &[
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ],
];
/// Names that end an answer wherever they occur.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Scores of all tokens, 0 where the file has none. NaN counts as the worst.
pub(super) fn read_scores(file: &GgufFile, n: usize) -> Result<Vec<f32>, TextError> {
    let Some(value) = file.get(SCORES) else {
        return Ok(vec![0.0; n]);
    };
    let array = value.as_array();
    let integers = || Some(array?.to_i64s()?.into_iter().map(|s| s as f32).collect());
    let scores: Option<Vec<f32>> = array.and_then(|a| a.to_f32s()).or_else(integers);
    scores.filter(|scores| scores.len() >= n).ok_or_else(|| TextError::BadKey {
        key: SCORES,
        need: format!("an array of {n} numbers, one per token"),
    })
}

/// The tokens' texts, and the bytes of those that are no text.
fn read_tokens(file: &GgufFile) -> Result<(StrTable, HashMap<u32, Vec<u8>>), TextError> {
    let value = file.get(TOKENS).ok_or(TextError::MissingKey(TOKENS))?;
    let array = value.as_array();
    let mut raw = HashMap::new();
    // All of them are texts, but in files that somebody made by hand or long ago.
    let table = match array.and_then(|array| array.strs()) {
        Some(texts) => StrTable::unique(texts.enumerate().map(|(id, text)| named(id, text))),
        None => {
            let strings = array.and_then(|array| array.byte_strs());
            let strings = strings.ok_or_else(|| bad_strings(TOKENS))?;
            StrTable::unique(strings.enumerate().map(|(id, bytes)| {
                std::str::from_utf8(bytes).map_or_else(
                    |_| {
                        raw.insert(id as u32, bytes.to_vec());
                        Cow::Owned(name_of_bytes(bytes))
                    },
                    |text| named(id, text),
                )
            }))
        }
    };
    let table = table.map_err(|error| match error {
        TableError::TooLarge => too_large(TOKENS),
        TableError::Duplicate(first, second) => {
            let mut strings = array.and_then(|array| array.byte_strs());
            let text = strings.as_mut().and_then(|strings| strings.nth(first as usize));
            let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
            TextError::DuplicateToken { text, first, second }
        }
    })?;
    Ok((table, raw))
}

/// A token's text. Texts must differ and be non-empty: an empty one gets a name that no text
/// contains.
fn named(id: usize, text: &str) -> Cow<'_, str> {
    match text {
        "" => Cow::Owned(format!("[EMPTY_{id}]")),
        text => Cow::Borrowed(text),
    }
}

/// Stand-in for a string that is not UTF-8.
pub(super) fn name_of_bytes(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[BYTES_{digits}]")
}

fn read_attrs(file: &GgufFile, n: usize) -> Result<Vec<u8>, TextError> {
    let Some(value) = file.get(TOKEN_TYPE) else {
        return Ok(vec![attr::NORMAL; n]);
    };
    let types = value.as_array().filter(|array| array.len() >= n && !is_float(array));
    let types = types.ok_or_else(|| TextError::BadKey {
        key: TOKEN_TYPE,
        need: format!("an array of {n} integers, one per token"),
    })?;
    let attr_of = |value: Value<'_>| match value.as_i64() {
        Some(1) => attr::NORMAL,
        Some(2) => attr::UNKNOWN,
        Some(3) => attr::CONTROL,
        Some(4) => attr::USER,
        Some(6) => attr::BYTE,
        _ => 0, // 5 is unused, 0 undefined: never shown, never special
    };
    Ok(types.iter().take(n).map(attr_of).collect())
}

fn is_float(array: &Array<'_>) -> bool {
    array.iter().next().is_some_and(|first| first.as_i64().is_none())
}

/// The error for a key that must hold strings.
pub(super) fn bad_strings(key: &'static str) -> TextError {
    TextError::BadKey { key, need: "an array of strings".to_owned() }
}

/// The error for a table beyond 32-bit positions.
pub(super) fn too_large(key: &'static str) -> TextError {
    TextError::BadKey { key, need: "less than 4 GiB of text".to_owned() }
}

/// The error for a token that no search would want to walk through.
pub(super) fn token_too_long() -> TextError {
    let need = format!("texts of at most {TOKEN_BYTES_MAX} bytes");
    TextError::BadKey { key: TOKENS, need }
}
