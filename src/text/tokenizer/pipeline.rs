//! The `tokenizers` pipeline of a file: normalizer (spaces become "▁"), pre-tokenizer ([`Splitter`]),
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

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::normalizer::NormalizedString;
use tokenizers::{
    Decoder, Model, Normalizer, PreTokenizedString, Result, Token, TokenizerBuilder, TokenizerImpl,
    TruncationDirection,
};

use super::bpe::Bpe;
use super::merge::Scratch;
use super::pre::Splitter;
use super::spm::Spm;
use super::vocab::{Vocab, attr};
use super::{VISIBLE_SPACE, byte_level};
use crate::text::{TextError, Utf8Buffer};

/// Least size of the parts a long text is cut into: little memory, and far above a sentence.
const PART_BYTES: usize = 16 << 10;

type Parts = TokenizerImpl<GgufModel, VisibleSpaces, Splitter, TemplateProcessing, Detokenizer>;

/// Text without special tokens to ids, and all ids to text.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    parts: Parts,
    /// A space goes before every text.
    space_prefix: bool,
}

impl Pipeline {
    /// Joins the parts; a model with "▁" for spaces comes with `detokenizer.escape_spaces`.
    pub fn new(model: GgufModel, splitter: Option<Splitter>, detokenizer: Detokenizer) -> Self {
        let space_prefix = detokenizer.space_prefix;
        let parts = TokenizerBuilder::new()
            .with_normalizer(detokenizer.escape_spaces.then_some(VisibleSpaces))
            .with_pre_tokenizer(splitter)
            .with_model(model)
            .with_decoder(Some(detokenizer))
            .build();
        Self { parts: parts.expect("there is a model"), space_prefix }
    }

    /// Appends the ids of a text between special tokens.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> std::result::Result<(), TextError> {
        let mut start = 0;
        for end in self.cuts(text).into_iter().chain([text.len()]) {
            let mut part = Cow::from(&text[start..end]);
            if start == 0 && self.space_prefix {
                part.to_mut().insert(0, ' ');
            }
            let encoding = self.parts.encode_fast(part, false).map_err(|error| {
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

    /// Whether BOS is added whatever the file says.
    pub fn is_gemma4(&self) -> bool {
        matches!(&self.parts.get_model().algorithm, Algorithm::Bpe(bpe) if bpe.pre().gemma4)
    }

    /// Where a long text is cut; the parts give the tokens of the whole.
    fn cuts(&self, text: &str) -> Vec<usize> {
        if text.len() <= PART_BYTES {
            return Vec::new();
        }
        let mut cuts = match (self.parts.get_pre_tokenizer(), &self.parts.get_model().algorithm) {
            (Some(splitter), _) => splitter.cuts(text, PART_BYTES),
            (None, Algorithm::Spm(spm)) => spm.cuts(text, PART_BYTES),
            (None, Algorithm::Bpe(_)) => Vec::new(),
        };
        cuts.retain(|&cut| cut < text.len());
        cuts
    }
}

/// Normalizer: a space becomes U+2581.
#[derive(Clone, Debug)]
pub(super) struct VisibleSpaces;

impl Normalizer for VisibleSpaces {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        text.replace(' ', VISIBLE_SPACE)
    }
}

/// The merge algorithm of a file over its vocabulary.
#[derive(Clone, Debug)]
pub(super) struct GgufModel {
    pub vocab: Arc<Vocab>,
    pub algorithm: Algorithm,
}

/// How characters become tokens.
#[derive(Clone, Debug)]
pub(super) enum Algorithm {
    Spm(Spm),
    Bpe(Bpe),
}

impl GgufModel {
    fn tokenize_with(&self, scratch: &mut Scratch, text: &str) -> Result<Vec<Token>> {
        match &self.algorithm {
            Algorithm::Spm(spm) => Ok(spm.tokenize(&self.vocab, scratch, text)?),
            Algorithm::Bpe(bpe) => Ok(bpe.tokenize(&self.vocab, scratch, text)),
        }
    }
}

impl Model for GgufModel {
    /// Never runs: the crate trains a model with a trainer of that very model only.
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        self.tokenize_with(&mut Scratch::default(), sequence)
    }

    /// As the default, with one scratch for all words.
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
    /// "▁" stands for a space.
    pub escape_spaces: bool,
    /// Encoding put a space in front, which is taken away again.
    pub space_prefix: bool,
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
        let kind = self.vocab.attr(id);
        if kind & (attr::CONTROL | attr::UNKNOWN | attr::USER) != 0 {
            spelled.as_bytes().to_vec()
        } else if kind & attr::NORMAL != 0 {
            if self.escape_spaces {
                spelled.replace(VISIBLE_SPACE, " ").into_bytes()
            } else {
                byte_level::decode(spelled)
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
