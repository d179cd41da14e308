//! Special tokens inside a text: where they are, and the text between them.
//!
//! llama.cpp's rule, not leftmost-longest: longer tokens are found first, anywhere in the text,
//! then shorter ones in what is left. User-defined tokens are always found; control and unknown
//! tokens only when special tokens are parsed, so that user input cannot forge a turn.
//!
//! Cost: one pass with a two-byte filter; text without candidates, the usual case, ends there.

use std::collections::BTreeMap;
use std::ops::Range;

use super::vocab::{Vocab, attr};

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// To be tokenized.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

/// Finds special tokens.
#[derive(Clone, Debug)]
pub(super) struct SpecialFinder {
    /// One bit per pair of bytes that begins a special token.
    starts: Box<[u64; 1024]>,
    /// Byte lengths that occur, longest first; whether a user-defined token has that length.
    lengths: Vec<(usize, bool)>,
}

impl SpecialFinder {
    pub fn new(vocab: &Vocab) -> Self {
        let mut starts = Box::new([0; 1024]);
        let mut lengths = BTreeMap::new();
        for id in 0..vocab.len() as u32 {
            let kind = vocab.attr(id);
            if kind & (attr::CONTROL | attr::USER | attr::UNKNOWN) == 0 {
                continue;
            }
            let text = vocab.str(id).unwrap_or_default().as_bytes();
            match *text {
                [] => continue,
                [one] => (0..=255).for_each(|second| set(&mut starts, [one, second])),
                [one, two, ..] => set(&mut starts, [one, two]),
            }
            *lengths.entry(text.len()).or_default() |= is_plain_user(kind);
        }
        Self { starts, lengths: lengths.into_iter().rev().collect() }
    }

    /// Cuts `text`; `parse_special` finds control and unknown tokens too.
    pub fn partition(&self, vocab: &Vocab, text: &str, parse_special: bool) -> Vec<Fragment> {
        if text.is_empty() {
            return Vec::new();
        }
        let candidates = self.candidates(text.as_bytes());
        // Start of each token that was found -> its whole range with stripped spaces, and its id.
        let mut taken = BTreeMap::new();
        for &(length, user) in &self.lengths {
            if candidates.is_empty() || !(parse_special || user) {
                continue;
            }
            for &at in &candidates {
                let Some(piece) = text.get(at..at + length) else { continue };
                let Some(free) = free_around(&taken, text.len(), at, length) else { continue };
                let Some(id) = vocab.find(piece) else { continue };
                if found(vocab.attr(id), parse_special) {
                    let range = stripped(text, at..at + length, &free, vocab.attr(id));
                    taken.insert(range.start, (range.end, id));
                }
            }
        }
        let mut fragments = Vec::with_capacity(2 * taken.len() + 1);
        let mut done = 0;
        for (start, (end, id)) in taken {
            fragments.extend((done < start).then_some(Fragment::Text(done..start)));
            fragments.push(Fragment::Token(id));
            done = end;
        }
        fragments.extend((done < text.len()).then_some(Fragment::Text(done..text.len())));
        fragments
    }

    fn candidates(&self, text: &[u8]) -> Vec<usize> {
        let is_start = |at: usize| {
            // A single-byte token at the very end has its bit set for every second byte.
            get(&self.starts, [text[at], text.get(at + 1).copied().unwrap_or(0)])
        };
        (0..text.len()).filter(|&at| is_start(at)).collect()
    }
}

fn set(bits: &mut [u64; 1024], pair: [u8; 2]) {
    let at = usize::from(u16::from_le_bytes(pair));
    bits[at / 64] |= 1 << (at % 64);
}

fn get(bits: &[u64; 1024], pair: [u8; 2]) -> bool {
    let at = usize::from(u16::from_le_bytes(pair));
    bits[at / 64] >> (at % 64) & 1 == 1
}

fn is_plain_user(kind: u8) -> bool {
    kind & attr::USER != 0 && kind & (attr::CONTROL | attr::UNKNOWN) == 0
}

fn found(kind: u8, parse_special: bool) -> bool {
    let special = attr::CONTROL | attr::USER | attr::UNKNOWN;
    is_plain_user(kind) || (parse_special && kind & special != 0)
}

/// The free text around a candidate, unless part of the candidate is taken.
fn free_around(
    taken: &BTreeMap<usize, (usize, u32)>,
    text_len: usize,
    at: usize,
    length: usize,
) -> Option<Range<usize>> {
    let start = taken.range(..=at).next_back().map_or(0, |(_, &(end, _))| end);
    let end = taken.range(at..).next().map_or(text_len, |(&next, _)| next);
    (start <= at && at + length <= end).then_some(start..end)
}

/// The token with the white space it swallows, within the free text around it.
fn stripped(text: &str, token: Range<usize>, free: &Range<usize>, kind: u8) -> Range<usize> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let Range { mut start, mut end } = token;
    if kind & attr::LSTRIP != 0 {
        start = free.start + text[free.start..start].trim_end_matches(is_space).len();
    }
    if kind & attr::RSTRIP != 0 {
        let behind = &text[end..free.end];
        end += behind.len() - behind.trim_start_matches(is_space).len();
    }
    start..end
}
