//! Special tokens inside a text: where they are, and the text between them.
//!
//! llama.cpp's rule, not leftmost-longest: longer tokens are found first, anywhere in the text,
//! then shorter ones in what is left. User-defined tokens are always found; control and unknown
//! tokens only where [`Trust`] says so, so that user input cannot forge a turn.
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

/// Parts of a text in which the names of control and unknown tokens are those tokens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trust<'a> {
    Nowhere,
    Everywhere,
    /// Outside of these ranges of bytes, which are ascending and apart.
    Outside(&'a [Range<usize>]),
}

impl Trust<'_> {
    /// Whether all bytes of a name are trusted.
    fn covers(self, name: &Range<usize>) -> bool {
        match self {
            Trust::Nowhere => false,
            Trust::Everywhere => true,
            Trust::Outside(ranges) => {
                let first = ranges.partition_point(|range| range.end <= name.start);
                ranges.get(first).is_none_or(|range| range.start >= name.end)
            }
        }
    }
}

/// Finds special tokens.
#[derive(Clone, Debug)]
pub(super) struct SpecialFinder {
    /// One bit per pair of bytes that begins a special token.
    starts: Box<[u64; 1024]>,
    /// The special tokens by length in bytes, longest first.
    lengths: Vec<Length>,
}

/// Properties that all special tokens of one length have in common.
#[derive(Clone, Debug, Default)]
struct Length {
    bytes: usize,
    /// Whether a user-defined token is among them.
    user: bool,
    /// First and last bytes that occur, as bits: a filter before any lookup.
    first: [u64; 4],
    last: [u64; 4],
}

impl SpecialFinder {
    pub fn new(vocab: &Vocab) -> Self {
        let mut starts = Box::new([0; 1024]);
        let mut lengths: BTreeMap<usize, Length> = BTreeMap::new();
        for id in 0..vocab.len() as u32 {
            let kind = vocab.attr(id);
            if kind & (attr::CONTROL | attr::USER | attr::UNKNOWN) == 0 {
                continue;
            }
            let text = vocab.str(id).unwrap_or_default().as_bytes();
            match *text {
                [] => continue,
                [one] => (0..=255).for_each(|second| set(&mut starts[..], pair(one, second))),
                [one, two, ..] => set(&mut starts[..], pair(one, two)),
            }
            let length = lengths.entry(text.len()).or_default();
            length.bytes = text.len();
            length.user |= is_plain_user(kind);
            set(&mut length.first, text[0].into());
            set(&mut length.last, text[text.len() - 1].into());
        }
        Self { starts, lengths: lengths.into_values().rev().collect() }
    }

    /// Cuts `text`; control and unknown tokens are found where `trust` says.
    pub fn partition(&self, vocab: &Vocab, text: &str, trust: Trust<'_>) -> Vec<Fragment> {
        if text.is_empty() {
            return Vec::new();
        }
        let candidates = self.candidates(text.as_bytes());
        // Start of each token that was found -> its whole range with stripped spaces, and its id.
        let mut taken = BTreeMap::new();
        let only_user = matches!(trust, Trust::Nowhere);
        for length in self.lengths.iter().filter(|length| !only_user || length.user) {
            for &at in &candidates {
                let Some(range) = length.candidate(text.as_bytes(), at) else { continue };
                let Some(id) = text.get(range.clone()).and_then(|piece| vocab.find(piece)) else {
                    continue;
                };
                let Some(free) = free_around(&taken, text.len(), &range) else { continue };
                if found(vocab.attr(id), trust.covers(&range)) {
                    let range = stripped(text, range, &free, vocab.attr(id));
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
            get(&self.starts[..], pair(text[at], text.get(at + 1).copied().unwrap_or(0)))
        };
        (0..text.len()).filter(|&at| is_start(at)).collect()
    }
}

impl Length {
    /// Bytes that a token of this length would cover if one starts at `at`.
    fn candidate(&self, text: &[u8], at: usize) -> Option<Range<usize>> {
        let end = at + self.bytes;
        let last = *text.get(end - 1)?;
        (get(&self.last, last.into()) && get(&self.first, text[at].into())).then_some(at..end)
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(u16::from_le_bytes([first, second]))
}

fn set(bits: &mut [u64], at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

fn get(bits: &[u64], at: usize) -> bool {
    bits[at / 64] >> (at % 64) & 1 == 1
}

fn is_plain_user(kind: u8) -> bool {
    kind & attr::USER != 0 && kind & (attr::CONTROL | attr::UNKNOWN) == 0
}

fn found(kind: u8, trusted: bool) -> bool {
    let special = attr::CONTROL | attr::USER | attr::UNKNOWN;
    is_plain_user(kind) || (trusted && kind & special != 0)
}

/// The free text around a candidate, unless part of the candidate is taken.
fn free_around(
    taken: &BTreeMap<usize, (usize, u32)>,
    text_len: usize,
    candidate: &Range<usize>,
) -> Option<Range<usize>> {
    let start = taken.range(..=candidate.start).next_back().map_or(0, |(_, &(end, _))| end);
    let end = taken.range(candidate.start..).next().map_or(text_len, |(&next, _)| next);
    (start <= candidate.start && candidate.end <= end).then_some(start..end)
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
