//! Greedy merging of neighbours, the heart of both algorithms: start from single characters and
//! join the best pair, leftmost first among equals, until no neighbours can be joined.
//!
//! A queue of pairs makes it O(n log n) for n characters, so one 100 kB "word" is no problem.
//! Pairs that a merge made obsolete stay in the queue and are skipped: both symbols must still be
//! there and have the lengths the pair was queued with.

use std::cell::RefCell;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Scratch of the merge loop, reused from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

/// Buffers reused from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    pub merger: Merger,
    /// The word as the vocabulary spells it.
    pub spelled: String,
    /// Two neighbours as a merge spells them.
    pub joined: RefCell<String>,
}

/// A run of characters; `len` is 0 once it was merged into the one before it.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Compares by `order` first: priority, then leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    order: u64,
    right: u32,
    len: u32,
}

impl Merger {
    /// Merges `text` and calls `emit` for each resulting piece, left to right.
    ///
    /// `priority(text, split)` says whether the two halves of `text` can be joined; the greatest
    /// priority goes first. The text must be shorter than 4 GiB.
    pub fn run<'t>(
        &mut self,
        text: &'t str,
        priority: impl Fn(&str, usize) -> Option<u32>,
        mut emit: impl FnMut(&'t str),
    ) {
        self.split_characters(text);
        let mut first = std::mem::take(&mut self.queue).into_vec();
        first.extend((1..self.symbols.len()).filter_map(|right| {
            pair(&self.symbols, text, right as u32 - 1, right as u32, &priority)
        }));
        self.queue = BinaryHeap::from(first);

        while let Some(Pair { order, right, len }) = self.queue.pop() {
            let left = !(order as u32);
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            self.symbols[left as usize] = Symbol { len, next: r.next, ..l };
            self.symbols[right as usize].len = 0;
            if r.next != NONE {
                self.symbols[r.next as usize].prev = left;
                self.queue.extend(pair(&self.symbols, text, left, r.next, &priority));
            }
            if l.prev != NONE {
                self.queue.extend(pair(&self.symbols, text, l.prev, left, &priority));
            }
        }
        for symbol in self.symbols.iter().filter(|symbol| symbol.len > 0) {
            emit(&text[symbol.range()]);
        }
    }

    fn split_characters(&mut self, text: &str) {
        self.symbols.clear();
        for (start, character) in text.char_indices() {
            let at = self.symbols.len() as u32;
            let len = character.len_utf8() as u32;
            let prev = at.wrapping_sub(1); // NONE for the first
            self.symbols.push(Symbol { start: start as u32, len, prev, next: at + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }
}

fn pair(
    symbols: &[Symbol],
    text: &str,
    left: u32,
    right: u32,
    priority: &impl Fn(&str, usize) -> Option<u32>,
) -> Option<Pair> {
    let (l, r) = (symbols[left as usize], symbols[right as usize]);
    let len = l.len + r.len;
    let start = l.start as usize;
    let priority = priority(&text[start..start + len as usize], l.len as usize)?;
    Some(Pair { order: u64::from(priority) << 32 | u64::from(!left), right, len })
}

impl Symbol {
    fn range(&self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str, ranked: &[&str]) -> Vec<String> {
        let mut pieces = Vec::new();
        let priority = |joined: &str, _| {
            ranked.iter().position(|&r| r == joined).map(|rank| u32::MAX - rank as u32)
        };
        Merger::default().run(text, priority, |piece| pieces.push(piece.to_owned()));
        pieces
    }

    #[test]
    fn best_pair_first_and_leftmost_among_equals() {
        assert_eq!(merged("abc", &["bc", "ab", "abc"]), ["abc"]);
        assert_eq!(merged("abcd", &["bc", "ab", "cd"]), ["a", "bc", "d"]);
        assert_eq!(merged("aaaaa", &["aa", "aaaa"]), ["aaaa", "a"]);
        assert_eq!(merged("aé€a", &["é€"]), ["a", "é€", "a"]);
        assert_eq!(merged("", &["aa"]), [""; 0]);
    }

    #[test]
    fn scratch_does_not_leak_from_one_word_into_the_next() {
        let mut merger = Merger::default();
        let mut pieces = Vec::new();
        for word in ["aaaa", "b", "aab"] {
            merger.run(word, |joined, _| (joined == "aa").then_some(0), |p| pieces.push(p));
        }
        assert_eq!(pieces, ["aa", "aa", "b", "aa", "b"]);
    }
}
