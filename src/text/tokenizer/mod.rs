//! Text to token ids and back, built from a file's `tokenizer.ggml.*` metadata.
//!
//! Text runs through the `tokenizers` crate ([`pipeline`]) with six algorithms as its `Model`:
//! SentencePiece BPE ([`spm`]), BPE with ranked merges ([`bpe`]), WordPiece ([`wordpiece`]),
//! Unigram ([`unigram`]), RWKV's ([`rwkv`]) and PLaMo's ([`plamo`]), with llama.cpp's rules, so that
//! a file gives the ids it was tested with. Where those differ from the tokenizer that the model
//! was trained with, the model's win: WordPiece's words, and NFC. Other kinds are refused by name.
//!
//! Special tokens are found before the pipeline ([`special`]), not by the crate's added vocabulary,
//! whose rules differ: it takes the leftmost longest token where llama.cpp takes longer ones first
//! anywhere, it strips Unicode's white space where llama.cpp strips ASCII's, a control token it
//! must not parse still hides a user-defined one inside it, and whether it parses them is a
//! property of the tokenizer, not of the call.
//!
//! Cost: the vocabulary is copied once into compact tables (about 7 MB for 262,144 tokens), which
//! model and decoder share; encoding is O(n log n) on any input.

mod bpe;
mod byte_level;
mod merge;
mod pipeline;
mod plamo;
mod pre;
mod prefixes;
mod rwkv;
mod special;
mod spm;
mod table;
mod unigram;
mod vocab;
mod wordpiece;

use std::sync::Arc;

use gguf_rs_lite::GgufFile;

use super::TextError;
use bpe::Bpe;
#[cfg(feature = "convert")]
pub(crate) use byte_level::spelling as byte_alphabet;
use pipeline::{
    Algorithm, Detokenizer, GgufModel, Normalization, Pipeline, Preparation, Spelling, Words,
};
use plamo::Plamo;
use pre::Pre;
use rwkv::Rwkv;
use special::{Fragment, SpecialFinder, Trust};
use spm::Spm;
use unigram::{Rules, Unigram};
use vocab::{DefaultIds, Vocab};
use wordpiece::WordPiece;

/// Longest text per [`Tokenizer::encode`]: where nothing can be cut, its scratch takes up to 160
/// bytes per byte of text.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// Treatment of special tokens by [`Tokenizer::encode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and EOS as the file says.
    pub add_special: bool,
    /// Turn the names of control tokens in the text into those tokens. For templates and trusted
    /// prompts only: with it, user input could forge a turn.
    pub parse_special: bool,
}

/// The tokenizer of one model.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    kind: Kind,
    vocab_size: usize,
    add_bos: bool,
    add_eos: bool,
    /// Stands between the texts of a pair, behind EOS if the file asks for that.
    separator: Option<u32>,
    chat_template: Option<String>,
    tool_template: Option<String>,
    rerank_template: Option<String>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The file has no vocabulary, only ids.
    None,
    Text(Box<TextKind>),
}

#[derive(Clone, Debug)]
struct TextKind {
    vocab: Arc<Vocab>,
    finder: SpecialFinder,
    pipeline: Pipeline,
    /// Most bytes of a text that become one token, if there is such a number.
    token_bytes_max: Option<usize>,
}

/// Choices in which the kinds of tokenizers differ.
struct Recipe {
    vocab: Vocab,
    algorithm: Algorithm,
    spelling: Spelling,
    preparation: Preparation,
    normalization: Option<Normalization>,
    words: Option<Words>,
    /// The space before the first token of an answer is not its own.
    drops_space: bool,
    /// Whether BOS and EOS are added if the file does not say.
    adds: [bool; 2],
}

impl Recipe {
    fn new(algorithm: Algorithm, spelling: Spelling, vocab: Vocab) -> Recipe {
        let (preparation, normalization, words) = (Preparation::None, None, None);
        let (drops_space, adds) = (false, [false; 2]);
        Recipe { vocab, algorithm, spelling, preparation, normalization, words, drops_space, adds }
    }
}

/// U+2581, the visible space of SentencePiece.
const VISIBLE_SPACE: &str = "▁";

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// Whether `tokenizer.ggml.pre` may have this value.
pub fn is_pre_tokenizer(name: &str) -> bool {
    Pre::named(name).is_some()
}

impl Tokenizer {
    /// Reads the vocabulary of a file. Unknown kinds and pre-tokenizers are errors naming them.
    ///
    /// # Errors
    /// The key, or the pair of tokens, that is at fault.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let model = file.get(MODEL).ok_or(TextError::MissingKey(MODEL))?;
        let model = model.as_str().ok_or_else(|| need_string(MODEL))?;
        let mut tokenizer = match model {
            "none" | "no_vocab" => Self::without_vocabulary(file)?,
            "llama" => Self::spm(file)?,
            "gpt2" => match read_pre(file)? {
                Some(pre) => Self::bpe(file, pre)?,
                None => {
                    let pre = Pre::named("default").expect("the table has this row");
                    let mut tokenizer = Self::bpe(file, pre)?;
                    tokenizer.warnings.push(format!(
                        "`{PRE}` is missing: the default pre-tokenizer may give wrong tokens; \
                         convert the model again with a newer converter"
                    ));
                    tokenizer
                }
            },
            "gemma4" => Self::bpe(file, Pre::named("gemma4").expect("the table has this row"))?,
            "bert" => Self::word_piece(file)?,
            "t5" => Self::unigram(file)?,
            "rwkv" => Self::rwkv(file)?,
            "plamo2" => Self::plamo(file)?,
            other => return Err(TextError::UnsupportedModel(other.to_owned())),
        };
        // BERT has no texts without them.
        if model != "bert" {
            let flag = |key| file.get(key).and_then(|value| value.as_bool());
            let add_bos = flag("tokenizer.ggml.add_bos_token").unwrap_or(tokenizer.add_bos);
            tokenizer.add_bos = add_bos || tokenizer.gemma4();
            tokenizer.add_eos = flag("tokenizer.ggml.add_eos_token").unwrap_or(tokenizer.add_eos);
        }
        if tokenizer.add_bos && tokenizer.bos().is_none() {
            tokenizer.warnings.push("BOS should be added but the file names none".to_owned());
        }
        if tokenizer.add_eos && tokenizer.eos().is_none() {
            tokenizer.warnings.push("EOS should be added but the file names none".to_owned());
        }
        let text = |key| file.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        tokenizer.separator = tokenizer.separator(file);
        // A blank template would lose every text: it is none.
        let template = |key| text(key).filter(|source| !source.trim().is_empty());
        tokenizer.chat_template = template("tokenizer.chat_template");
        tokenizer.tool_template = template("tokenizer.chat_template.tool_use");
        tokenizer.rerank_template = text("tokenizer.chat_template.rerank");
        Ok(tokenizer)
    }

    /// RoBERTa's kin have one beside EOS; BERT's EOS is one.
    fn separator(&self, file: &GgufFile) -> Option<u32> {
        const ROBERTA: [&str; 3] = ["jina-v1-en", "jina-v2-code", "roberta-bpe"];
        let pre = file.get(PRE).and_then(|value| value.as_str()).unwrap_or_default();
        let flag = file.get("tokenizer.ggml.add_sep_token").and_then(|value| value.as_bool());
        let is_bert = file.get(MODEL).and_then(|value| value.as_str()) == Some("bert");
        if is_bert || !flag.unwrap_or(ROBERTA.contains(&pre)) {
            return None;
        }
        // `seperator` is how files spell it.
        let id = file.get("tokenizer.ggml.seperator_token_id").and_then(|value| value.as_u64());
        id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < self.vocab_size)
    }

    /// Token ids of a query and a document as a reranker wants them: by the file's template if there
    /// is one, in which the names of control tokens become those tokens; otherwise one behind the
    /// other with the tokens that begin, part and end texts.
    ///
    /// # Errors
    /// A text is too long or cannot be expressed in the vocabulary.
    pub fn encode_pair(&self, query: &str, document: &str) -> Result<Vec<u32>, TextError> {
        let plain = EncodeOptions { add_special: false, parse_special: false };
        if let Some(template) = &self.rerank_template {
            let text = fill(template, query, document);
            return self.encode(&text, EncodeOptions { parse_special: true, ..plain });
        }
        let end = || self.eos().filter(|_| self.add_eos);
        let mut ids: Vec<u32> = self.bos().filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode(query, plain)?);
        ids.extend(end());
        ids.extend(self.separator);
        ids.extend(self.encode(document, plain)?);
        ids.extend(end());
        Ok(ids)
    }

    /// Token ids of `text`.
    ///
    /// # Errors
    /// The text is too long or cannot be expressed in the vocabulary.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let Kind::Text(kind) = &self.kind else { return Err(TextError::NoVocabulary) };
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TextTooLong { bytes: text.len() });
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if options.add_special && self.add_bos {
            ids.extend(self.bos());
        }
        let trust = if options.parse_special { Trust::Everywhere } else { Trust::Nowhere };
        kind.encode(text, trust, &mut ids)?;
        if options.add_special && self.add_eos {
            ids.extend(self.eos());
        }
        Ok(ids)
    }

    /// Token ids of a text in which the names of control tokens are those tokens only outside of the
    /// `untrusted` ranges of bytes, which are ascending and apart. BOS and EOS are not added.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_around(
        &self,
        text: &str,
        untrusted: &[std::ops::Range<usize>],
    ) -> Result<Vec<u32>, TextError> {
        let Kind::Text(kind) = &self.kind else { return Err(TextError::NoVocabulary) };
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TextTooLong { bytes: text.len() });
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        kind.encode(text, Trust::Outside(untrusted), &mut ids)?;
        Ok(ids)
    }

    /// Least number of tokens that a text of so many bytes has, told without reading it; 0 where the
    /// vocabulary gives none.
    pub fn tokens_at_least(&self, bytes: usize) -> usize {
        let most = self.text_kind().and_then(|kind| kind.token_bytes_max);
        most.map_or(0, |most| bytes / most)
    }

    /// Text of `ids`; control tokens appear by name if `special`, else not at all. Bytes that are
    /// no UTF-8 become U+FFFD. The space that encoding put in front is taken away again.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let Kind::Text(kind) = &self.kind else { return String::new() };
        let shown = |id: &u32| special || !kind.vocab.is_control(*id);
        let ids: Vec<_> = ids.iter().copied().filter(shown).collect();
        kind.pipeline.decode(&ids)
    }

    /// The bytes a token stands for; a control token's are its name. Empty beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.text_kind().map_or_else(Vec::new, |kind| kind.pipeline.detokenizer().token_bytes(id))
    }

    /// A token as spelled in the file (`Ġthe`, `▁the`, `<s>`).
    pub fn token_str(&self, id: u32) -> Option<&str> {
        self.vocab()?.str(id)
    }

    /// The id of a token as spelled in the file.
    pub fn token_id(&self, spelled: &str) -> Option<u32> {
        self.vocab()?.find(spelled)
    }

    /// Number of tokens. A model may have more rows than this: padding.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.vocab()?.special.bos
    }

    /// End-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.vocab()?.special.eos
    }

    /// Whether the file asks for BOS in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos().is_some()
    }

    /// Whether the file asks for EOS at the end.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos().is_some()
    }

    /// Whether the answer ends with this token: EOS, end of turn and the well-known names.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        let ends = self.vocab().map(|vocab| &vocab.special.end_of_generation);
        ends.is_some_and(|ends| ends.binary_search(&id).is_ok())
    }

    /// Every token for which [`is_end_of_generation`](Self::is_end_of_generation) holds.
    pub fn end_of_generation(&self) -> &[u32] {
        self.vocab().map_or(&[], |vocab| &vocab.special.end_of_generation)
    }

    /// Whether the token is structure, not text (control or unknown).
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab().is_some_and(|vocab| vocab.is_control(id))
    }

    /// Whether the token has a meaning of its own: control and unknown tokens, and user-defined ones,
    /// which are text at the same time.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocab().is_some_and(|vocab| vocab.is_special(id))
    }

    /// Name of the algorithm, for people.
    pub fn kind(&self) -> &'static str {
        self.text_kind().map_or("token ids without texts", |kind| kind.pipeline.algorithm())
    }

    /// Whether `tokenizer.ggml.pre` says how texts are cut into words.
    pub fn pre_tokenizes(&self) -> bool {
        self.text_kind().is_some_and(|kind| kind.pipeline.splits())
    }

    /// Source of the model's chat template, unless it is blank.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Source of the chat template for a conversation with tools or without: with tools the one that the
    /// file has for them, if there is one.
    pub fn chat_template_for(&self, tools: bool) -> Option<&str> {
        self.tool_template.as_deref().filter(|_| tools).or(self.chat_template())
    }

    /// Odd things in the file that a user should know of, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn without_vocabulary(file: &GgufFile) -> Result<Self, TextError> {
        let architecture = file.get("general.architecture").and_then(|value| value.as_str());
        let size = file.get(&format!("{}.vocab_size", architecture.unwrap_or_default()));
        let vocab_size = size.and_then(|value| value.as_u64()).unwrap_or(0);
        let vocab_size = u32::try_from(vocab_size).map_err(|_| TextError::BadKey {
            key: "<architecture>.vocab_size",
            need: "below 2^32".to_owned(),
        })?;
        Ok(Self::of_kind(Kind::None, vocab_size as usize))
    }

    /// A recipe that adds nothing, without templates.
    fn of_kind(kind: Kind, vocab_size: usize) -> Self {
        let (add_bos, add_eos) = (false, false);
        let (separator, chat_template, tool_template, rerank_template, warnings) =
            Default::default();
        Self {
            kind,
            vocab_size,
            add_bos,
            add_eos,
            separator,
            chat_template,
            tool_template,
            rerank_template,
            warnings,
        }
    }

    fn spm(file: &GgufFile) -> Result<Self, TextError> {
        let vocab = Vocab::read(file, &DefaultIds([Some(1), Some(2), Some(0)]))?;
        let prefix = file.get("tokenizer.ggml.add_space_prefix").and_then(|v| v.as_bool());
        let space_prefix = prefix.unwrap_or(true);
        Ok(Self::new(Recipe {
            preparation: if space_prefix { Preparation::SpacePrefix } else { Preparation::None },
            normalization: Some(Normalization::VisibleSpaces),
            adds: [true, false],
            drops_space: space_prefix,
            ..Recipe::new(Algorithm::Spm(Spm::read(file, &vocab)?), Spelling::VisibleSpaces, vocab)
        }))
    }

    fn bpe(file: &GgufFile, pre: &'static Pre) -> Result<Self, TextError> {
        let vocab = Vocab::read(file, &DefaultIds([None; 3]))?;
        let algorithm = Algorithm::Bpe(Bpe::read(file, &vocab, pre)?);
        let (spelling, normalization) = match pre.byte_level {
            true => (Spelling::ByteLevel, None),
            false => (Spelling::VisibleSpaces, Some(Normalization::VisibleSpaces)),
        };
        Ok(Self::new(Recipe {
            preparation: if pre.nfc { Preparation::Composed } else { Preparation::None },
            normalization,
            words: Some(Words::Split(pre.splitter())),
            adds: [pre.add_bos, false],
            ..Recipe::new(algorithm, spelling, vocab)
        }))
    }

    fn word_piece(file: &GgufFile) -> Result<Self, TextError> {
        let mut vocab = Vocab::read(file, &DefaultIds([None, None, Some(100)]))?;
        // `seperator` is how files spell it.
        let [cls, separator] = [("cls", 101), ("seperator", 102)].map(|(name, default)| {
            vocab.read_id(file, &format!("tokenizer.ggml.{name}_token_id"), Some(default))
        });
        vocab.special.bos = vocab.special.bos.or(cls);
        vocab.special.eos = separator;
        let algorithm = Algorithm::WordPiece(WordPiece::new(&vocab)?);
        Ok(Self::new(Recipe {
            normalization: Some(Normalization::Bert(wordpiece::normalizer(file))),
            words: Some(Words::Bert),
            adds: [true, true],
            drops_space: true,
            ..Recipe::new(algorithm, Spelling::Words, vocab)
        }))
    }

    fn unigram(file: &GgufFile) -> Result<Self, TextError> {
        let vocab = Vocab::read(file, &DefaultIds([None, Some(1), Some(2)]))?;
        let algorithm = Algorithm::Unigram(Unigram::read(file, &vocab)?);
        let rules = Rules::read(file)?;
        Ok(Self::new(Recipe {
            drops_space: rules.prefixes(),
            preparation: Preparation::Rules(rules),
            adds: [false, true],
            ..Recipe::new(algorithm, Spelling::VisibleSpaces, vocab)
        }))
    }

    fn rwkv(file: &GgufFile) -> Result<Self, TextError> {
        let vocab = Vocab::read(file, &DefaultIds([None; 3]))?;
        let algorithm = Algorithm::Rwkv(Rwkv::new(&vocab)?);
        Ok(Self::new(Recipe::new(algorithm, Spelling::Escaped, vocab)))
    }

    fn plamo(file: &GgufFile) -> Result<Self, TextError> {
        let vocab = Vocab::read(file, &DefaultIds([Some(1), Some(2), Some(0)]))?;
        let algorithm = Algorithm::Plamo(Plamo::read(file, &vocab)?);
        Ok(Self::new(Recipe::new(algorithm, Spelling::Plain, vocab)))
    }

    fn new(recipe: Recipe) -> Self {
        let Recipe { mut vocab, algorithm, spelling, preparation, normalization, words, .. } =
            recipe;
        let (vocab_size, finder) = (vocab.len(), SpecialFinder::new(&vocab));
        let warnings = std::mem::take(&mut vocab.warnings);
        let vocab = Arc::new(vocab);
        let model = GgufModel { vocab: vocab.clone(), algorithm };
        let space_prefix = recipe.drops_space;
        let detokenizer = Detokenizer { vocab: vocab.clone(), spelling, space_prefix };
        let pipeline = Pipeline::new(preparation, normalization, words, model, detokenizer);
        let token_bytes_max = pipeline.token_bytes_max();
        let kind = Kind::Text(Box::new(TextKind { vocab, finder, pipeline, token_bytes_max }));
        let [add_bos, add_eos] = recipe.adds;
        Self { add_bos, add_eos, warnings, ..Self::of_kind(kind, vocab_size) }
    }

    fn text_kind(&self) -> Option<&TextKind> {
        match &self.kind {
            Kind::None => None,
            Kind::Text(kind) => Some(kind),
        }
    }

    fn vocab(&self) -> Option<&Vocab> {
        Some(&self.text_kind()?.vocab)
    }

    fn gemma4(&self) -> bool {
        self.text_kind().is_some_and(|kind| kind.pipeline.is_gemma4())
    }
}

/// A reranker's template with its `{query}` and `{document}`, all at once: what they are replaced by
/// is not searched.
fn fill(template: &str, query: &str, document: &str) -> String {
    let mut filled = String::with_capacity(template.len() + query.len() + document.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = [("{query}", query), ("{document}", document)];
        let (name, text) =
            known.into_iter().find(|row| rest.starts_with(row.0)).unwrap_or(("{", "{"));
        filled.push_str(text);
        rest = &rest[name.len()..];
    }
    filled + rest
}

/// `None` when the key is missing or empty.
fn read_pre(file: &GgufFile) -> Result<Option<&'static Pre>, TextError> {
    let Some(value) = file.get(PRE) else { return Ok(None) };
    match value.as_str().ok_or_else(|| need_string(PRE))? {
        "" => Ok(None),
        name => match Pre::named(name) {
            Some(pre) => Ok(Some(pre)),
            None => Err(TextError::UnknownPre(name.to_owned())),
        },
    }
}

fn need_string(key: &'static str) -> TextError {
    TextError::BadKey { key, need: "a string".to_owned() }
}

impl TextKind {
    fn encode(&self, text: &str, trust: Trust<'_>, ids: &mut Vec<u32>) -> Result<(), TextError> {
        for fragment in self.finder.partition(&self.vocab, text, trust) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(range) => self.pipeline.encode(&text[range], ids)?,
            }
        }
        Ok(())
    }
}
