//! Text that is not told yet, and which parts of it came as special tokens.

use std::collections::VecDeque;

/// Text from the first byte that is not told.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub text: String,
    /// Whether nothing more comes.
    pub ended: bool,
    /// Bytes that were drained.
    base: usize,
    /// Tokens within the text, by where they begin, drained bytes counted.
    tokens: VecDeque<Token>,
    /// Those of them that are no text.
    controls: VecDeque<Token>,
    /// Marks that are, or begin with, a token of the vocabulary, and the bytes of that token.
    special: Vec<(&'static str, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    at: usize,
    len: usize,
}

/// What a place says about a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It stands there; its end.
    Yes(usize),
    /// The text ends before it can be told.
    Part,
    No,
}

impl Held {
    /// Has a mark count only where it came as a token, whose name are its first `len` bytes.
    pub fn require_token(&mut self, mark: &'static str, len: usize) {
        self.special.push((mark, len));
    }

    pub fn push_token(&mut self, name: &str, control: bool) {
        let at = self.base + self.text.len();
        let token = Token { at, len: name.len() };
        self.tokens.push_back(token);
        self.controls.extend(Some(token).filter(|_| control));
        self.text.push_str(name);
    }

    /// Whether `mark` stands at `at`. An empty one stands nowhere.
    pub fn find(&self, at: usize, mark: &'static str) -> Found {
        let rest = &self.text.as_bytes()[at..];
        let n = rest.len().min(mark.len());
        if mark.is_empty() || rest[..n] != mark.as_bytes()[..n] {
            return Found::No;
        }
        if n > 0 && !self.special.is_empty() && !self.is_token(at, mark) {
            return Found::No;
        }
        match n == mark.len() {
            true => Found::Yes(at + n),
            false if self.ended => Found::No,
            false => Found::Part,
        }
    }

    /// Whether the text has ended with the beginning of `mark`.
    pub fn ends_within(&self, at: usize, mark: &str) -> bool {
        self.ended && mark.starts_with(&self.text[at..])
    }

    fn is_token(&self, at: usize, mark: &str) -> bool {
        let Some((_, len)) = self.special.iter().find(|(special, _)| *special == mark) else {
            return true;
        };
        self.token_from(at).is_some_and(|token| token.at == self.base + at && token.len == *len)
    }

    /// The first token from `at` on.
    fn token_from(&self, at: usize) -> Option<Token> {
        let first = self.tokens.partition_point(|token| token.at < self.base + at);
        self.tokens.get(first).copied()
    }

    /// Where the first token from `at` on that is no text begins and ends.
    pub fn next_control(&self, at: usize) -> Option<(usize, usize)> {
        let first = self.controls.partition_point(|token| token.at < self.base + at);
        let token = self.controls.get(first)?;
        Some((token.at - self.base, token.at - self.base + token.len))
    }

    /// Bytes that came before the held text.
    pub fn base(&self) -> usize {
        self.base
    }

    pub fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// The first byte from `at` on that is no white space.
    pub fn space_end(&self, at: usize) -> usize {
        let space = self.text.as_bytes()[at..].iter().take_while(|byte| is_space(**byte));
        at + space.count()
    }

    /// Forgets the text before `at`.
    pub fn drain(&mut self, at: usize) {
        self.text.drain(..at);
        self.base += at;
        for tokens in [&mut self.tokens, &mut self.controls] {
            while tokens.front().is_some_and(|token| token.at < self.base) {
                tokens.pop_front();
            }
        }
    }
}

/// White space that is trimmed at seams.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
