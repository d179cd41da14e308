//! RWKV's World tokenizer (`tokenizer.ggml.model = "rwkv"`): from the left, always the longest
//! token that the rest begins with. Tokens are bytes, spelled as Python's `repr` spells them.

use tokenizers::Token;

use super::prefixes::PrefixIndex;
use super::vocab::{Vocab, attr, token_too_long};
use crate::text::TextError;

/// Tables that matching needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Rwkv {
    index: PrefixIndex,
}

impl Rwkv {
    pub fn new(vocab: &Vocab) -> Result<Self, TextError> {
        // Control tokens are never made from text.
        let shown = attr::NORMAL | attr::USER | attr::BYTE;
        let ids = (0..vocab.len() as u32).filter(|&id| vocab.attr(id) & shown != 0);
        let tokens = ids.filter_map(|id| Some((id, unescape(vocab.str(id)?))));
        Ok(Self { index: PrefixIndex::new(tokens).map_err(|_| token_too_long())? })
    }

    /// The tokens of a text; a byte that begins no token is the unknown token.
    pub fn tokenize(&self, vocab: &Vocab, text: &str) -> Result<Vec<Token>, TextError> {
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let longest = self.index.longest(&text.as_bytes()[at..]);
            let unknown = || vocab.special.unknown.map(|id| (1, id));
            let (bytes, id) = longest.or_else(unknown).ok_or_else(|| {
                let rest = &text[text.floor_char_boundary(at)..];
                TextError::Unencodable { character: rest.chars().next().unwrap_or_default() }
            })?;
            tokens.push(vocab.token(id, (at, at + bytes)));
            at += bytes;
        }
        Ok(tokens)
    }
}

/// The bytes of a token: `\t`, `\n`, `\r`, `\xHH`, and any other character behind a backslash is
/// itself.
pub(super) fn unescape(spelled: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(spelled.len()), spelled);
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let hex = escape.strip_prefix('x').and_then(|e| u8::from_str_radix(e.get(..2)?, 16).ok());
        let Some(character) = escape.chars().next() else { return out };
        let taken = match (character, hex) {
            (_, Some(byte)) => {
                out.push(byte);
                3
            }
            ('t', _) => push(&mut out, '\t'),
            ('n', _) => push(&mut out, '\n'),
            ('r', _) => push(&mut out, '\r'),
            _ => push(&mut out, character),
        };
        rest = &escape[taken..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Appends a character; its length in UTF-8.
fn push(out: &mut Vec<u8>, character: char) -> usize {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    character.len_utf8()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_pythons() {
        assert_eq!(unescape(r"a\tb\n\x0f\xffé\\\'"), b"a\tb\n\x0f\xff\xc3\xa9\\'");
        assert_eq!(unescape(r"\xzz\"), b"xzz");
        assert_eq!(unescape(r"\é\x"), "éx".as_bytes());
    }
}
