//! The last tokens of a sequence and how often each occurs, kept incrementally.

use std::collections::{BTreeMap, VecDeque};

/// Longest window of the penalties: beyond any context, and 8 MiB at most per sequence.
pub const REPEAT_LAST_N_MAX: usize = 1 << 20;

/// A window over the accepted tokens.
#[derive(Clone, Debug, Default)]
pub struct History {
    last_n: usize,
    window: VecDeque<u32>,
    counts: BTreeMap<u32, u32>,
}

impl History {
    /// Remembers the last `last_n` tokens.
    pub fn new(last_n: usize) -> Self {
        Self { last_n, ..Self::default() }
    }

    /// Adds a token and forgets the one that leaves the window.
    pub fn push(&mut self, token: u32) {
        if self.last_n == 0 {
            return;
        }
        if self.window.len() == self.last_n
            && let Some(old) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.window.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Each token of the window with its number of occurrences, by token id.
    pub fn counts(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_window() {
        let mut history = History::new(3);
        for token in [7, 7, 1, 7, 2] {
            history.push(token);
        }
        assert_eq!(history.counts().collect::<Vec<_>>(), [(1, 1), (2, 1), (7, 1)]);
        let mut off = History::new(0);
        off.push(1);
        assert_eq!(off.counts().count(), 0);
    }
}
