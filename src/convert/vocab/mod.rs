//! Vocabularies: `tokenizer.json`, `tokenizer.model`, or `vocab.json` with `merges.txt`, and what
//! `tokenizer_config.json` says about special tokens and chat templates.
//!
//! The kind is told by the contents, not by the model's class: byte-level BPE (`gpt2`), BPE of
//! SentencePiece (`llama`), Unigram (`t5`), WordPiece (`bert`).

mod base64;
mod lines;
mod special;
mod table;
mod tiktoken;
mod word_list;

use super::config::Config;
use super::files::{bytes, json, malformed, text};
use super::keys::Keys;
use super::pre::Cutting;
use super::sentencepiece::{self, SentencePiece};
use super::templates;
use super::{ConvertError, ConvertOptions};
use base64::base64;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;
use table::{Added, Table, ty, write_bpe, write_scored};

/// The description of a whole tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Ids that a vocabulary may have: four times the largest published one.
pub(super) const TOKENS_MAX: usize = 1 << 20;

/// Files of a folder that describe its vocabulary.
struct Files<'a> {
    folder: &'a Path,
    tokenizer: Option<Value>,
    config: Value,
}

/// Adds the vocabulary: `n_rows` is how many tokens the embedding has. Returns the tokens whose ids lie
/// beyond those, as "id text": they have no place.
///
/// # Errors
/// It is missing, malformed or of a kind without a form in GGUF.
pub(super) fn vocabulary(
    keys: &mut Keys,
    config: &Config,
    folder: &Path,
    n_rows: usize,
    options: &ConvertOptions,
) -> Result<Vec<String>, ConvertError> {
    if n_rows > TOKENS_MAX {
        return Err(ConvertError::Vocabulary(format!("{n_rows} tokens")));
    }
    let mut config_of = json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let mut tokenizer = json(&folder.join(TOKENIZER))?;
    if tokenizer.is_none() {
        let list = text(&folder.join(word_list::FILE))?;
        tokenizer = list.and_then(|list| word_list::tokenizer(&list, &mut config_of));
    }
    let ranks = folder.join(tiktoken::FILE);
    if let Some(list) = text(&ranks)?.filter(|_| tokenizer.is_none()) {
        if config_of.is_null() {
            config_of = Value::Object(Map::new());
        }
        let made = tiktoken::tokenizer(&list, &mut config_of);
        tokenizer = Some(made.map_err(|problem| malformed(&ranks, problem))?);
    }
    let files = Files { folder, tokenizer, config: config_of };
    let path = folder.join(lines::FILE);
    let list = text(&path)?.filter(|_| files.tokenizer.is_none());
    let list = list.map(|list| lines::read(&list).map_err(|problem| malformed(&path, problem)));
    let list = list.transpose()?;
    let added = list.as_ref().map_or_else(|| files.added(), |list| Ok(lines::marks(list)))?;
    let kind = files.tokenizer.as_ref().and_then(|t| t.pointer("/model/type"));
    let kind = kind.and_then(Value::as_str).map(str::to_owned);
    let is_byte_level = files.tokenizer.as_ref().is_some_and(has_byte_level);
    let model = folder.join("tokenizer.model");
    let model = if model.exists() { model } else { folder.join("sentencepiece.bpe.model") };
    let is_model = bytes(&model)?.filter(|_| !is_byte_level && kind.as_deref() != Some("Unigram"));
    let n = n_rows;
    let mut beyond: Vec<(usize, String)> = Vec::new();
    beyond.extend(added.iter().map(|token| (token.id, token.text.clone())));
    if let Some(list) = &list {
        beyond.extend(list.iter().map(|line| line.text.clone()).enumerate().skip(n));
        lines::write(keys, list, n);
    } else if let Some(content) = is_model {
        let model_of = |problem: String| malformed(&model, problem);
        let pieces = sentencepiece::read(&content).map_err(model_of)?;
        beyond.extend(pieces.pieces.iter().map(|piece| piece.text.clone()).enumerate().skip(n));
        files.sentence_piece(keys, pieces, &added, n)?;
    } else {
        match kind.as_deref() {
            Some("BPE") if is_byte_level => files.byte_level(keys, &added, n, options)?,
            Some("BPE") | None if files.tokenizer.is_some() => {
                files.visible_spaces(keys, &added, n)?
            }
            Some("WordPiece") => files.word_piece(keys, &added, n)?,
            Some("Unigram") => files.unigram(keys, &added, n)?,
            Some(other) => {
                return Err(ConvertError::Vocabulary(format!("`{other}` has no form in GGUF")));
            }
            None => files.separate(keys, &added, n, options)?,
        }
    }
    files.special(keys, config, &added)?;
    templates::add(keys, folder, &files.config)?;
    name_for_strips(keys, &added);
    beyond.retain(|(id, _)| *id >= n);
    beyond.sort();
    beyond.dedup_by_key(|(id, _)| *id);
    Ok(beyond.into_iter().map(|(id, text)| format!("{id} {text}")).collect())
}

fn has_byte_level(tokenizer: &Value) -> bool {
    fn any(step: &Value) -> bool {
        step.get("type").and_then(Value::as_str) == Some("ByteLevel")
            || step
                .get("pretokenizers")
                .and_then(Value::as_array)
                .is_some_and(|steps| steps.iter().any(any))
    }
    tokenizer.get("pre_tokenizer").is_some_and(any)
}

/// Steps of a normalizer or pre-tokenizer, those of sequences one by one.
fn steps<'v>(step: Option<&'v Value>, parts: &str) -> Vec<&'v Value> {
    let Some(step) = step.filter(|step| step.is_object()) else { return Vec::new() };
    match step.get(parts).and_then(Value::as_array) {
        Some(list) => list.iter().flat_map(|step| steps(Some(step), parts)).collect(),
        None => vec![step],
    }
}

fn ty_of(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A token's content: text, or an object with it.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Phi 3's special tokens swallow the space behind them, which GGUF says by the model's name: a name
/// says so if they do, and only then.
fn name_for_strips(keys: &mut Keys, added: &[Added]) {
    let strips = added.iter().any(|token| token.strips_right && token.special);
    let Some(OwnedValue::Str(name)) = keys.get("general.name") else { return };
    let lower = name.to_ascii_lowercase();
    let says = lower.contains("phi-3") || lower.contains("phi3");
    let is_phi = keys.get("general.architecture") == Some(&OwnedValue::Str("phi3".into()));
    if strips && is_phi && !says {
        let name = format!("Phi-3 {name}");
        keys.set("general.name", name);
    } else if !strips && says {
        let mut name = name.clone();
        while let Some(at) = name.to_ascii_lowercase().find("phi-3") {
            name.replace_range(at + 3..at + 4, " ");
        }
        while let Some(at) = name.to_ascii_lowercase().find("phi3") {
            name.insert(at + 3, ' ');
        }
        keys.set("general.name", name);
    }
}

impl Files<'_> {
    fn tokenizer(&self) -> &Value {
        self.tokenizer.as_ref().unwrap_or(&Value::Null)
    }

    fn wrong(&self, problem: impl Into<String>) -> ConvertError {
        malformed(&self.folder.join(TOKENIZER), problem)
    }

    /// Tokens that were added, by the first file that has them.
    fn added(&self) -> Result<Vec<Added>, ConvertError> {
        let mut all: Vec<Added> = Vec::new();
        let flag = |v: &Value, key: &str| v.get(key).and_then(Value::as_bool).unwrap_or(false);
        let mut push = |id: Option<usize>, v: &Value| {
            if let (Some(id), Some(text)) = (id, content(v)) {
                let text = text.to_owned();
                let (special, strips_right) = (flag(v, "special"), flag(v, "rstrip"));
                all.push(Added { id, text, special, strips_right });
            }
        };
        if let Some(list) = self.tokenizer().get("added_tokens").and_then(Value::as_array) {
            for token in list {
                let id = token.get("id").and_then(Value::as_u64);
                push(id.map(|id| id as usize), token);
            }
            return Ok(all);
        }
        if let Some(map) = self.config.get("added_tokens_decoder").and_then(Value::as_object) {
            map.iter().for_each(|(id, token)| push(id.parse().ok(), token));
            return Ok(all);
        }
        if let Some(Value::Object(map)) = json(&self.folder.join("added_tokens.json"))? {
            for (text, id) in &map {
                let id = id.as_u64().map(|id| id as usize);
                push(id, &Value::String(text.clone()));
            }
        }
        Ok(all)
    }

    /// Tokens and ids of a model's vocabulary.
    fn map(&self) -> Result<&Map<String, Value>, ConvertError> {
        let vocab = self.tokenizer().pointer("/model/vocab").and_then(Value::as_object);
        vocab.ok_or_else(|| self.wrong("`model.vocab` is missing"))
    }

    fn fill(
        &self,
        table: &mut Table,
        map: &Map<String, Value>,
        set: impl Fn(&mut Table, usize, &str),
    ) -> Result<(), ConvertError> {
        for (text, id) in map {
            let id = id.as_u64().ok_or_else(|| self.wrong(format!("id of `{text}`")))? as usize;
            if id >= table.tokens.len() {
                let problem = format!("token {id}, of {} that the model has", table.tokens.len());
                return Err(self.wrong(problem));
            }
            set(table, id, text);
        }
        Ok(())
    }

    /// Merges as pairs of tokens.
    fn merges(&self) -> Result<Vec<(String, String)>, ConvertError> {
        let list = self.tokenizer().pointer("/model/merges").and_then(Value::as_array);
        let pair = |merge: &Value| -> Option<(String, String)> {
            match merge {
                Value::String(text) => {
                    let (a, b) = text.split_once(' ')?;
                    Some((a.into(), b.into()))
                }
                Value::Array(pair) => match &pair[..] {
                    [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
                    _ => None,
                },
                _ => None,
            }
        };
        let list = list.ok_or_else(|| self.wrong("`model.merges` is missing"))?;
        let all: Option<Vec<_>> = list.iter().map(pair).collect();
        all.ok_or_else(|| self.wrong("`model.merges` has something that is no pair"))
    }

    fn byte_level(
        &self,
        keys: &mut Keys,
        added: &[Added],
        n: usize,
        options: &ConvertOptions,
    ) -> Result<(), ConvertError> {
        let pre = match &options.pre {
            Some(name) => name.clone(),
            None => {
                let cutting = Cutting::read(self.tokenizer())
                    .map_err(|steps| ConvertError::UnknownPreTokenizer { steps })?;
                let unknown = || ConvertError::UnknownPreTokenizer { steps: cutting.told() };
                cutting.name().ok_or_else(unknown)?.to_owned()
            }
        };
        let mut table = Table::new(n);
        self.fill(&mut table, self.map()?, |table, id, text| table.set(id, text, ty::NORMAL, 0.0))?;
        table.add(added);
        write_bpe(keys, table, &pre, &self.merges()?);
        Ok(())
    }

    /// `vocab.json` and `merges.txt`, as before `tokenizer.json`.
    fn separate(
        &self,
        keys: &mut Keys,
        added: &[Added],
        n: usize,
        options: &ConvertOptions,
    ) -> Result<(), ConvertError> {
        let path = self.folder.join("vocab.json");
        let Some(Value::Object(map)) = json(&path)? else {
            let names = "tokenizer.json, tokenizer.model, vocab.json, vocab.txt";
            return Err(ConvertError::Vocabulary(format!("none of {names} is there")));
        };
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let pre = match (&options.pre, class.trim_end_matches("Fast")) {
            (Some(name), _) => name.clone(),
            (None, "GPT2Tokenizer" | "RobertaTokenizer") => "gpt-2".into(),
            (None, "Qwen2Tokenizer") => "qwen2".into(),
            (None, other) => {
                let steps = format!("those of `{other}`, without tokenizer.json");
                return Err(ConvertError::UnknownPreTokenizer { steps });
            }
        };
        let mut table = Table::new(n);
        self.fill(&mut table, &map, |table, id, text| table.set(id, text, ty::NORMAL, 0.0))?;
        table.add(added);
        let path = self.folder.join("merges.txt");
        let lines = text(&path)?.ok_or_else(|| malformed(&path, "missing"))?;
        let mut merges = Vec::new();
        for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")) {
            let pair = line.trim_end().split_once(' ');
            let (a, b) = pair.ok_or_else(|| malformed(&path, format!("no pair: `{line}`")))?;
            merges.push((a.to_owned(), b.to_owned()));
        }
        write_bpe(keys, table, &pre, &merges);
        keys.set("tokenizer.ggml.add_bos_token", false);
        Ok(())
    }

    fn sentence_piece(
        &self,
        keys: &mut Keys,
        model: SentencePiece,
        added: &[Added],
        n: usize,
    ) -> Result<(), ConvertError> {
        let mut table = Table::new(n);
        for (id, piece) in model.pieces.iter().enumerate() {
            table.set(id, &piece.text, piece.ty as i32, piece.score);
        }
        table.add(added);
        let kind = if model.unigram { "t5" } else { "llama" };
        write_scored(keys, table, kind);
        let prefix = self.space_prefix().unwrap_or(model.adds_prefix);
        keys.set("tokenizer.ggml.add_space_prefix", prefix);
        if model.unigram {
            keys.set("tokenizer.ggml.remove_extra_whitespaces", model.removes_spaces);
            if !model.charsmap.is_empty() {
                let map = OwnedArray::U8(model.charsmap);
                keys.set("tokenizer.ggml.precompiled_charsmap", OwnedValue::Array(map));
            }
        }
        Ok(())
    }

    /// Whether a space goes before texts, by `tokenizer.json`, or else by the configuration.
    fn space_prefix(&self) -> Option<bool> {
        if self.tokenizer.is_none() {
            let class = self.config.get("tokenizer_class").and_then(Value::as_str);
            if class.is_some_and(|class| class.starts_with("Gemma")) {
                return Some(false);
            }
            return self.config.get("add_prefix_space").and_then(Value::as_bool);
        }
        let tokenizer = self.tokenizer();
        let prepends = |step: &&Value| ty_of(step) == "Prepend";
        if steps(tokenizer.get("normalizer"), "normalizers").iter().any(prepends) {
            return Some(true);
        }
        let cut = steps(tokenizer.get("pre_tokenizer"), "pretokenizers");
        let space = cut.into_iter().find(|step| ty_of(step) == "Metaspace");
        Some(space.is_some_and(|step| match step.get("prepend_scheme").and_then(Value::as_str) {
            Some(scheme) => scheme != "never",
            None => step.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true),
        }))
    }

    /// BPE of SentencePiece without its own file: scores are the ranks of merges.
    fn visible_spaces(
        &self,
        keys: &mut Keys,
        added: &[Added],
        n: usize,
    ) -> Result<(), ConvertError> {
        let model = self.tokenizer().get("model");
        let flag = |key: &str| model.and_then(|m| m.get(key)).and_then(Value::as_bool);
        if flag("byte_fallback") != Some(true) {
            let problem = "BPE that is neither byte-level nor falls back to bytes";
            return Err(ConvertError::Vocabulary(problem.into()));
        }
        let merges = self.merges()?;
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
        let unknown = model.and_then(|m| m.get("unk_token")).and_then(Value::as_str);
        let lowest = -(merges.len() as f32);
        let mut table = Table::new(n);
        self.fill(&mut table, self.map()?, |table, id, text| {
            let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let ty = match text {
                text if Some(text) == unknown => ty::UNKNOWN,
                _ if is_byte => ty::BYTE,
                _ => ty::NORMAL,
            };
            let score = ranks.get(text).map_or(lowest, |&rank| -(rank as f32));
            table.set(id, text, ty, if ty == ty::NORMAL { score } else { 0.0 });
        })?;
        table.add(added);
        // A family may read the merges themselves.
        let own = match keys.get("tokenizer.ggml.model") {
            Some(OwnedValue::Str(own)) => Some(own.clone()),
            _ => None,
        };
        write_scored(keys, table, own.as_deref().unwrap_or("llama"));
        if own.is_some() {
            let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
            keys.set("tokenizer.ggml.merges", merges);
        }
        keys.set("tokenizer.ggml.add_space_prefix", self.space_prefix().unwrap_or(true));
        Ok(())
    }

    fn word_piece(&self, keys: &mut Keys, added: &[Added], n: usize) -> Result<(), ConvertError> {
        let prefix = self.tokenizer().pointer("/model/continuing_subword_prefix");
        let prefix = prefix.and_then(Value::as_str).unwrap_or("##").to_owned();
        let mut table = Table::new(n);
        self.fill(&mut table, self.map()?, |table, id, text| {
            let text = match text.strip_prefix(&*prefix) {
                Some(inner) if !inner.is_empty() => inner.to_owned(),
                _ => format!("▁{text}"),
            };
            table.set(id, &text, ty::NORMAL, 0.0);
        })?;
        table.add(added);
        keys.set("tokenizer.ggml.model", "bert");
        keys.set("tokenizer.ggml.pre", "default");
        keys.set("tokenizer.ggml.tokens", table.tokens);
        keys.set("tokenizer.ggml.token_type", OwnedValue::Array(OwnedArray::I32(table.types)));
        for step in steps(self.tokenizer().get("normalizer"), "normalizers") {
            let flag = |key: &str| step.get(key).and_then(Value::as_bool);
            let (lower, strip) = match ty_of(step) {
                "BertNormalizer" => (flag("lowercase"), flag("strip_accents")),
                "Lowercase" => (Some(true), None),
                "StripAccents" => (None, Some(true)),
                _ => (None, None),
            };
            let names = [("lowercase", lower), ("strip_accents", strip)];
            for (name, on) in names.into_iter().filter_map(|(name, on)| Some((name, on?))) {
                keys.set(format!("tokenizer.ggml.normalizer.{name}"), on);
            }
        }
        Ok(())
    }

    fn unigram(&self, keys: &mut Keys, added: &[Added], n: usize) -> Result<(), ConvertError> {
        let model = self.tokenizer().get("model");
        let list = model.and_then(|m| m.get("vocab")).and_then(Value::as_array);
        let list = list.ok_or_else(|| self.wrong("`model.vocab` is missing"))?;
        let unknown = model.and_then(|m| m.get("unk_id")).and_then(Value::as_u64);
        let mut table = Table::new(n);
        for (id, entry) in list.iter().enumerate() {
            let text = entry.get(0).and_then(Value::as_str);
            let score = entry.get(1).and_then(Value::as_f64);
            let (Some(text), Some(score)) = (text, score) else {
                return Err(self.wrong(format!("`model.vocab`: token {id}")));
            };
            let ty = if unknown == Some(id as u64) { ty::UNKNOWN } else { ty::NORMAL };
            table.set(id, text, ty, score as f32);
        }
        let others: Vec<Added> =
            added.iter().filter(|token| unknown != Some(token.id as u64)).cloned().collect();
        table.add(&others);
        write_scored(keys, table, "t5");
        keys.set("tokenizer.ggml.add_space_prefix", self.space_prefix().unwrap_or(true));
        let normalizers = steps(self.tokenizer().get("normalizer"), "normalizers");
        let cutters = steps(self.tokenizer().get("pre_tokenizer"), "pretokenizers");
        let merges = cutters.iter().any(|step| ty_of(step) == "WhitespaceSplit")
            || normalizers.iter().any(|step| ty_of(step) == "Replace");
        keys.set("tokenizer.ggml.remove_extra_whitespaces", merges);
        let map = normalizers.iter().find_map(|step| step.get("precompiled_charsmap"));
        if let Some(map) = map.and_then(Value::as_str).filter(|map| !map.is_empty()) {
            let map = base64(map).ok_or_else(|| self.wrong("`precompiled_charsmap`: no base64"))?;
            let map = OwnedValue::Array(OwnedArray::U8(map));
            keys.set("tokenizer.ggml.precompiled_charsmap", map);
        }
        Ok(())
    }
}
