//! String tables: all tokens, or all merges, in one buffer with a hash index.
//!
//! A vocabulary has up to 300,000 short strings; one `String` each would cost 24 bytes plus an
//! allocation. Here a string costs its bytes, 4 bytes of position and 16 bytes of index, and a
//! table of 262,144 tokens builds in some 15 ms. The hash is keyed with a random key per table, so a
//! hostile vocabulary cannot force collisions; nothing observable depends on the key.

use std::hash::{BuildHasher, RandomState};

/// Positions of strings by their hash: open addressing, at most half full.
#[derive(Clone, Debug)]
struct Index {
    /// `hash_high << 32 | (number + 1)`, 0 when free.
    slots: Vec<u64>,
    keys: [u64; 2],
}

impl Index {
    fn with_capacity(n: usize) -> Self {
        let random = RandomState::new();
        let keys = [random.hash_one(0u8), random.hash_one(1u8) | 1];
        Self { slots: vec![0; (n * 2).next_power_of_two()], keys }
    }

    /// Keyed folded multiplication over 8-byte words (the construction of wyhash).
    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut state = self.keys[0] ^ (bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            state = fold(state ^ word, self.keys[1]);
        }
        let mut tail = [0; 8];
        tail[..words.remainder().len()].copy_from_slice(words.remainder());
        state = fold(state ^ u64::from_le_bytes(tail), self.keys[1]);
        fold(state ^ self.keys[0], 0x9e37_79b9_7f4a_7c15)
    }

    /// The number stored under `hash` for which `same` holds, or the free slot where it would be.
    fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            let number = slot as u32 - 1;
            if slot >> 32 == hash >> 32 && same(number) {
                return Ok(number);
            }
            at = (at + 1) & mask;
        }
    }

    fn set(&mut self, slot: usize, hash: u64, number: u32) {
        self.slots[slot] = hash >> 32 << 32 | (u64::from(number) + 1);
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Strings numbered in the order they came.
#[derive(Clone, Debug)]
pub(super) struct StrTable {
    text: String,
    ends: Vec<u32>,
    index: Index,
}

/// Why a table cannot be built.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TableError {
    /// These two strings are equal.
    Duplicate(u32, u32),
    /// More than 4 GiB of text.
    TooLarge,
}

impl StrTable {
    /// All strings must differ.
    pub fn unique<'a>(
        strings: impl ExactSizeIterator<Item = impl AsRef<str> + 'a>,
    ) -> Result<Self, TableError> {
        let mut table = Self::with_capacity(strings.len());
        for (string, number) in strings.zip(0..) {
            if let Some(first) = table.push(string.as_ref())? {
                return Err(TableError::Duplicate(first, number));
            }
        }
        Ok(table)
    }

    /// The first of equal strings counts.
    pub fn first_wins<'a>(
        strings: impl ExactSizeIterator<Item = impl AsRef<str> + 'a>,
    ) -> Result<Self, TableError> {
        let mut table = Self::with_capacity(strings.len());
        for string in strings {
            table.push(string.as_ref())?;
        }
        Ok(table)
    }

    fn with_capacity(n: usize) -> Self {
        Self { text: String::new(), ends: Vec::with_capacity(n), index: Index::with_capacity(n) }
    }

    /// Appends a string; `Some` when an equal one was there, which stays the one that is found.
    fn push(&mut self, string: &str) -> Result<Option<u32>, TableError> {
        let hash = self.index.hash(string.as_bytes());
        let found = self.index.find(hash, |number| self.str(number) == Some(string));
        let number = self.ends.len() as u32;
        self.text.push_str(string);
        self.ends.push(u32::try_from(self.text.len()).map_err(|_| TableError::TooLarge)?);
        match found {
            Ok(first) => Ok(Some(first)),
            Err(slot) => {
                self.index.set(slot, hash, number);
                Ok(None)
            }
        }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// String by number.
    pub fn str(&self, number: u32) -> Option<&str> {
        let at = number as usize;
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.text[start..end])
    }

    /// Number by string.
    pub fn find(&self, string: &str) -> Option<u32> {
        let hash = self.index.hash(string.as_bytes());
        self.index.find(hash, |number| self.str(number) == Some(string)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicates_are_named() {
        let unique = StrTable::unique(["a", "b", "a"].iter());
        assert_eq!(unique.unwrap_err(), TableError::Duplicate(0, 2));
        let table = StrTable::first_wins(["a", "b", "a", "c"].into_iter()).unwrap();
        assert_eq!((table.find("a"), table.find("c"), table.len()), (Some(0), Some(3), 4));
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let table = StrTable::first_wins([""; 0].into_iter()).unwrap();
        assert_eq!((table.find(""), table.find("a"), table.str(0)), (None, None, None));
    }

    proptest! {
        #[test]
        fn finds_what_a_map_finds(set: std::collections::BTreeSet<String>, other: String) {
            let strings: Vec<_> = set.iter().collect();
            let table = StrTable::unique(strings.iter()).unwrap();
            for (i, string) in strings.iter().enumerate() {
                prop_assert_eq!(table.find(string), Some(i as u32));
                prop_assert_eq!(table.str(i as u32), Some(string.as_str()));
            }
            prop_assert_eq!(table.find(&other).is_some(), set.contains(&other));
        }
    }
}
