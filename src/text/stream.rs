//! Token by token into text that is valid UTF-8 at every step.
//!
//! Tokens are bytes: one character can span several, and a model can emit bytes that are no UTF-8
//! at all. Complete characters leave at once, at most three bytes wait, and an invalid sequence
//! becomes U+FFFD as in [`String::from_utf8_lossy`], as soon as it is known to be invalid.

use std::sync::Arc;

use super::Tokenizer;

/// Bytes that wait until they are complete characters.
#[derive(Clone, Debug, Default)]
pub struct Utf8Buffer {
    pending: Vec<u8>,
}

impl Utf8Buffer {
    /// Adds bytes and returns the characters that are complete now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.pending[..];
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else { break after.len() };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        };
        self.pending.drain(..self.pending.len() - kept);
        text
    }

    /// The text of the bytes that are left, which are no complete character: U+FFFD, or nothing.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// The streaming detokenizer of one answer. Control tokens give no text; a leading space stays,
/// since a stream continues a prompt.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    special: bool,
    buffer: Utf8Buffer,
}

impl TextStream {
    /// A stream that hides control tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, special: false, buffer: Utf8Buffer::default() }
    }

    /// Also shows control tokens as their names.
    pub fn with_special(self, special: bool) -> Self {
        Self { special, ..self }
    }

    /// The text that `id` completes: often a word, empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> String {
        let hidden = !self.special && self.tokenizer.is_control(id);
        if hidden { String::new() } else { self.buffer.push(&self.tokenizer.token_bytes(id)) }
    }

    /// Ends the stream.
    pub fn finish(&mut self) -> String {
        self.buffer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_chunks(bytes: &[u8], size: usize) -> Vec<String> {
        let mut buffer = Utf8Buffer::default();
        let mut out: Vec<_> = bytes.chunks(size).map(|chunk| buffer.push(chunk)).collect();
        out.push(buffer.finish());
        out
    }

    #[test]
    fn a_character_appears_with_its_last_byte() {
        assert_eq!(in_chunks("a€b".as_bytes(), 1), ["a", "", "", "€", "b", ""]);
        assert_eq!(in_chunks(b"\xe2\x82", 1), ["", "", "\u{fffd}"]);
        // The third byte cannot continue the first two: they are lost, it is not.
        assert_eq!(in_chunks(b"\xe2\x82x", 1), ["", "", "\u{fffd}x", ""]);
    }

    proptest! {
        #[test]
        fn any_chunking_equals_the_lossy_whole(bytes: Vec<u8>, size in 1usize..6) {
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(in_chunks(&bytes, size).concat(), whole);
        }

        #[test]
        fn valid_text_is_never_delayed_by_more_than_a_character(text: String, size in 1usize..6) {
            let mut buffer = Utf8Buffer::default();
            let (mut fed, mut shown) = (0, 0);
            for chunk in text.as_bytes().chunks(size) {
                fed += chunk.len();
                shown += buffer.push(chunk).len();
                prop_assert!(fed - shown < 4);
            }
            prop_assert_eq!(shown, text.len());
        }
    }
}
