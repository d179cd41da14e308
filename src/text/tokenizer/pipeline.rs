//! The `tokenizers` pipeline of a file: normalizer ([`Normalization`]), pre-tokenizer ([`Words`]),
//! model ([`GgufModel`]), decoder ([`Detokenizer`]), run by the crate's `TokenizerImpl`.
//!
//! The parts are our own because the crate's cannot be equal and bounded at once: its BPE wants
//! merges where SentencePiece files have scores and copies them into maps of strings, and its
//! patterns backtrack. BOS and EOS stand around the whole text, special tokens included, so they
//! are not its post-processor's.
//!
//! Cost: the crate keeps two copies and 16 bytes of alignment per byte of text, and some 300 bytes
//! per word, so long texts go through it in parts of [`PART_BYTES`], cut where no token can cross.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::decoders::wordpiece::cleanup;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::normalizer::NormalizedString;
use tokenizers::{
    Decoder, Model, Normalizer, PreTokenizedString, PreTokenizer, Result, Token, TokenizerBuilder,
    TokenizerImpl, TruncationDirection,
};

use super::bpe::Bpe;
use super::merge::Scratch;
use super::plamo::Plamo;
use super::pre::Splitter;
use super::rwkv::{self, Rwkv};
use super::spm::Spm;
use super::unigram::{Rules, Unigram};
use super::vocab::{Vocab, attr};
use super::wordpiece::WordPiece;
use super::{VISIBLE_SPACE, byte_level};
use crate::text::{TextError, Utf8Buffer};

/// Least size of the parts a long text is cut into: little memory, and far above a sentence.
const PART_BYTES: usize = 16 << 10;

type Parts = TokenizerImpl<GgufModel, Normalization, Words, TemplateProcessing, Detokenizer>;

/// Text without special tokens to ids, and all ids to text.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    preparation: Preparation,
    parts: Parts,
}

/// Change of a text as a whole, before it is cut into parts.
#[derive(Clone, Debug)]
pub(super) enum Preparation {
    None,
    /// A space goes before it.
    SpacePrefix,
    /// Unicode's normal form C.
    Composed,
    /// SentencePiece's replacements and rules for spaces; the crate ignores errors of normalizers.
    Rules(Rules),
}

impl Preparation {
    fn apply<'t>(&self, text: &'t str) -> std::result::Result<Cow<'t, str>, TextError> {
        Ok(match self {
            Self::SpacePrefix => format!(" {text}").into(),
            // No character below the first combining one is composed or composes.
            Self::Composed if text.chars().any(|c| c >= '\u{300}') => {
                let mut composed = NormalizedString::from(text);
                composed.nfc();
                composed.get().to_owned().into()
            }
            Self::Rules(rules) => rules.apply(text)?.into(),
            Self::None | Self::Composed => text.into(),
        })
    }
}

impl Pipeline {
    /// Joins the parts.
    pub fn new(
        preparation: Preparation,
        normalization: Option<Normalization>,
        words: Option<Words>,
        model: GgufModel,
        detokenizer: Detokenizer,
    ) -> Self {
        let parts = TokenizerBuilder::new()
            .with_normalizer(normalization)
            .with_pre_tokenizer(words)
            .with_model(model)
            .with_decoder(Some(detokenizer))
            .build();
        Self { preparation, parts: parts.expect("there is a model") }
    }

    /// Appends the ids of a text between special tokens.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> std::result::Result<(), TextError> {
        let text = &*self.preparation.apply(text)?;
        let mut start = 0;
        for end in self.cuts(text).into_iter().chain([text.len()]) {
            let encoding = self.parts.encode_fast(&text[start..end], false).map_err(|error| {
                *error.downcast::<TextError>().expect("only parts of this room can fail")
            })?;
            ids.extend_from_slice(encoding.get_ids());
            start = end;
        }
        Ok(())
    }

    /// Text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.parts.decode(ids, false).expect("the detokenizer does not fail")
    }

    /// The detokenizer.
    pub fn detokenizer(&self) -> &Detokenizer {
        self.parts.get_decoder().expect("there is a decoder")
    }

    /// Name of the algorithm, for people.
    pub fn algorithm(&self) -> &'static str {
        match &self.parts.get_model().algorithm {
            Algorithm::Spm(_) => "SentencePiece BPE",
            Algorithm::Bpe(bpe) if bpe.pre().byte_level => "byte-level BPE",
            Algorithm::Bpe(_) => "BPE over UTF-8",
            Algorithm::WordPiece(_) => "WordPiece",
            Algorithm::Unigram(_) => "Unigram",
            Algorithm::Rwkv(_) => "RWKV World",
            Algorithm::Plamo(_) => "PLaMo 2",
        }
    }

    /// Most bytes of a text that become one token; `None` where unknown tokens or rules for spaces may
    /// swallow any number.
    pub fn token_bytes_max(&self) -> Option<usize> {
        /// Bytes of a character.
        const CHARACTER: usize = 4;
        /// Bytes that a byte of a composed text had at most: Hangul, three letters to a syllable.
        const COMPOSED: usize = 3;
        let GgufModel { vocab, algorithm } = self.parts.get_model();
        if !matches!(algorithm, Algorithm::Spm(_) | Algorithm::Bpe(_) | Algorithm::Rwkv(_)) {
            return None;
        }
        let tokens = (0..vocab.len() as u32).filter_map(|id| vocab.str(id));
        let longest = tokens.map(str::len).max().unwrap_or(0).max(CHARACTER);
        match self.preparation {
            Preparation::None | Preparation::SpacePrefix => Some(longest),
            Preparation::Composed => Some(COMPOSED * longest),
            Preparation::Rules(_) => None,
        }
    }

    /// Whether it cuts words by a pre-tokenizer of the table.
    pub fn splits(&self) -> bool {
        matches!(self.parts.get_pre_tokenizer(), Some(Words::Split(_)))
    }

    /// Whether BOS is added whatever the file says.
    pub fn is_gemma4(&self) -> bool {
        matches!(&self.parts.get_model().algorithm, Algorithm::Bpe(bpe) if bpe.pre().gemma4)
    }

    /// Places at which a long text is cut; the parts give the tokens of the whole.
    fn cuts(&self, text: &str) -> Vec<usize> {
        if text.len() <= PART_BYTES {
            return Vec::new();
        }
        let mut cuts = match (self.parts.get_pre_tokenizer(), &self.parts.get_model().algorithm) {
            (Some(Words::Split(splitter)), _) => splitter.cuts(text, PART_BYTES),
            (None, Algorithm::Spm(spm)) => spm.cuts(text, PART_BYTES),
            (Some(Words::Bert), _) => behind_spaces(text, PART_BYTES),
            (None, _) => Vec::new(),
        };
        cuts.retain(|&cut| cut < text.len());
        cuts
    }
}

/// Cuts behind spaces, at least `size` apart.
fn behind_spaces(text: &str, size: usize) -> Vec<usize> {
    let next = |from: usize| {
        let from = text.floor_char_boundary(from.saturating_add(size));
        text[from..].find(' ').map(|at| from + at + 1)
    };
    std::iter::successors(next(0), |&cut| next(cut)).collect()
}

/// Change of a text before it is cut into words.
#[derive(Clone, Debug)]
pub(super) enum Normalization {
    /// A space becomes U+2581.
    VisibleSpaces,
    /// BERT's cleaning.
    Bert(BertNormalizer),
}

impl Normalizer for Normalization {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        match self {
            Self::VisibleSpaces => text.replace(' ', VISIBLE_SPACE),
            Self::Bert(normalizer) => normalizer.normalize(text),
        }
    }
}

/// Rule by which a text is cut into words.
#[derive(Clone, Debug)]
pub(super) enum Words {
    /// By the file's pre-tokenizer.
    Split(Splitter),
    /// At white space and around punctuation.
    Bert,
}

impl PreTokenizer for Words {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        match self {
            Self::Split(splitter) => splitter.pre_tokenize(text),
            Self::Bert => BertPreTokenizer.pre_tokenize(text),
        }
    }
}

/// The algorithm of a file over its vocabulary.
#[derive(Clone, Debug)]
pub(super) struct GgufModel {
    pub vocab: Arc<Vocab>,
    pub algorithm: Algorithm,
}

/// Algorithm from characters to tokens.
#[derive(Clone, Debug)]
pub(super) enum Algorithm {
    Spm(Spm),
    Bpe(Bpe),
    WordPiece(WordPiece),
    Unigram(Unigram),
    Rwkv(Rwkv),
    Plamo(Plamo),
}

impl GgufModel {
    fn tokenize_with(&self, scratch: &mut Scratch, text: &str) -> Result<Vec<Token>> {
        let vocab = &self.vocab;
        Ok(match &self.algorithm {
            Algorithm::Spm(spm) => spm.tokenize(vocab, scratch, text)?,
            Algorithm::Bpe(bpe) => bpe.tokenize(vocab, scratch, text),
            Algorithm::WordPiece(pieces) => pieces.tokenize(vocab, &mut scratch.spelled, text),
            Algorithm::Unigram(unigram) => unigram.tokenize(vocab, text),
            Algorithm::Rwkv(rwkv) => rwkv.tokenize(vocab, text)?,
            Algorithm::Plamo(plamo) => plamo.tokenize(vocab, text),
        })
    }
}

impl Model for GgufModel {
    /// Never runs: the crate trains a model with a trainer of that very model only.
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        self.tokenize_with(&mut Scratch::default(), sequence)
    }

    /// The default with one scratch for all words.
    fn tokenize_in_pretokenized(
        &self,
        text: &mut PreTokenizedString,
        truncation: Option<(usize, TruncationDirection)>,
    ) -> Result<()> {
        let scratch = std::cell::RefCell::default();
        let tokenize =
            |word: &NormalizedString| self.tokenize_with(&mut scratch.borrow_mut(), word.get());
        match truncation {
            Some((most, side)) => text.tokenize_with_limit(tokenize, most, side),
            None => text.tokenize(tokenize),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocab.find(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocab.str(id).map(str::to_owned)
    }

    /// Built on demand: nothing here calls it.
    fn get_vocab(&self) -> HashMap<String, u32> {
        let ids = 0..self.vocab.len() as u32;
        ids.filter_map(|id| Some((self.id_to_token(id)?, id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocab.len()
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("this vocabulary lives in a GGUF file".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// Decoder: tokens, which are bytes in several spellings, to text.
#[derive(Clone, Debug)]
pub(super) struct Detokenizer {
    pub vocab: Arc<Vocab>,
    /// Spelling of tokens of plain text.
    pub spelling: Spelling,
    /// Encoding put a space in front, which is taken away again.
    pub space_prefix: bool,
}

/// Form in which a vocabulary writes the bytes of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Bytes themselves.
    Plain,
    /// "▁" stands for a space.
    VisibleSpaces,
    /// "▁" stands for a space, and a space before punctuation is not the text's.
    Words,
    /// In GPT-2's alphabet.
    ByteLevel,
    /// With Python's escapes.
    Escaped,
}

impl Decoder for Detokenizer {
    /// The text each token completes, and a last one for what stayed incomplete.
    fn decode_chain(&self, tokens: Vec<String>) -> Result<Vec<String>> {
        let mut buffer = Utf8Buffer::default();
        let mut at_start = self.space_prefix;
        let mut texts = Vec::with_capacity(tokens.len() + 1);
        for id in tokens.iter().filter_map(|token| self.vocab.find(token)) {
            let control = self.vocab.is_control(id);
            let bytes = self.token_bytes(id);
            let bytes = match bytes.strip_prefix(b" ") {
                Some(rest) if at_start && !control => rest,
                _ => &bytes[..],
            };
            at_start &= control;
            texts.push(buffer.push(bytes));
        }
        texts.push(buffer.finish());
        Ok(texts)
    }
}

impl Detokenizer {
    /// The bytes a token stands for; empty beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(spelled) = self.vocab.str(id) else { return Vec::new() };
        if let Some(bytes) = self.vocab.raw_bytes(id) {
            return bytes.to_vec();
        }
        let kind = self.vocab.attr(id);
        if kind & (attr::CONTROL | attr::UNKNOWN | attr::USER) != 0 {
            spelled.as_bytes().to_vec()
        } else if kind & attr::NORMAL != 0 {
            match self.spelling {
                Spelling::Plain => spelled.as_bytes().to_vec(),
                Spelling::VisibleSpaces => spelled.replace(VISIBLE_SPACE, " ").into_bytes(),
                Spelling::Words => cleanup(&spelled.replace(VISIBLE_SPACE, " ")).into_bytes(),
                Spelling::ByteLevel => byte_level::decode(spelled),
                Spelling::Escaped => rwkv::unescape(spelled),
            }
        } else if kind & attr::BYTE != 0 {
            byte_of(spelled).map_or_else(|| spelled.as_bytes().to_vec(), |byte| vec![byte])
        } else {
            Vec::new()
        }
    }
}

/// The byte of `<0xXX>`.
fn byte_of(spelled: &str) -> Option<u8> {
    let digits = spelled.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
