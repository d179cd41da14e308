//! Tokens that a text begins with, for the algorithms that match tokens instead of merging.
//!
//! The tokens lie sorted; each byte of the text narrows the range of those that can still match, by
//! two binary searches. That costs the tokens' bytes and 8 bytes each, and no tree to build.

/// Longest token: no published vocabulary has one beyond 128 bytes, and matching one text takes up
/// to this many steps per byte.
pub(super) const TOKEN_BYTES_MAX: usize = 1 << 10;

/// Tokens by their first bytes.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    text: Vec<u8>,
    /// In the order of their bytes.
    keys: Vec<Key>,
    /// The keys that begin with byte `b` are `first[b]..first[b + 1]`.
    first: Box<[u32; 257]>,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    start: u32,
    len: u16,
    id: u32,
}

/// A token is longer than [`TOKEN_BYTES_MAX`], or all together than 4 GiB.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl PrefixIndex {
    /// Index of the tokens. The highest id of equal texts counts; empty ones never match.
    pub fn new(
        tokens: impl Iterator<Item = (u32, impl AsRef<[u8]>)>,
    ) -> Result<PrefixIndex, TooLong> {
        let (mut text, mut keys) = (Vec::new(), Vec::new());
        for (id, token) in tokens {
            let token = token.as_ref();
            if token.len() > TOKEN_BYTES_MAX {
                return Err(TooLong);
            }
            let start = u32::try_from(text.len()).map_err(|_| TooLong)?;
            text.extend_from_slice(token);
            if !token.is_empty() {
                keys.push(Key { start, len: token.len() as u16, id });
            }
        }
        let bytes = |key: &Key| &text[key.start as usize..][..usize::from(key.len)];
        keys.sort_unstable_by(|a, b| (bytes(a), b.id).cmp(&(bytes(b), a.id)));
        keys.dedup_by(|later, first| bytes(later) == bytes(first));
        let below = |byte: usize| keys.partition_point(|key| usize::from(bytes(key)[0]) < byte);
        let first = Box::new(std::array::from_fn(|byte| below(byte) as u32));
        Ok(PrefixIndex { text, keys, first })
    }

    /// The tokens that `text` begins with, as (bytes, id), shortest first.
    pub fn matches<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut keys = &self.keys[..];
        let found = text.iter().enumerate().map_while(move |(depth, &byte)| {
            keys = match depth {
                0 => {
                    let [low, high] = [0, 1].map(|next| self.first[usize::from(byte) + next]);
                    &keys[low as usize..high as usize]
                }
                _ => {
                    let keys =
                        &keys[keys.partition_point(|key| self.byte(key, depth) < Some(byte))..];
                    &keys[..keys.partition_point(|key| self.byte(key, depth) == Some(byte))]
                }
            };
            // Keys that have these bytes in common: one without more of them comes first.
            let first = keys.first()?;
            Some((usize::from(first.len) == depth + 1).then_some((depth + 1, first.id)))
        });
        found.flatten()
    }

    /// The longest token that `text` begins with.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.matches(text).last()
    }

    /// A byte of a key, `None` behind its end.
    fn byte(&self, key: &Key, at: usize) -> Option<u8> {
        (at < usize::from(key.len)).then(|| self.text[key.start as usize + at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_and_duplicates() {
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(PrefixIndex::new([(0, &long)].into_iter()).unwrap_err(), TooLong);
        let tokens = [(0, "ab"), (1, ""), (2, "ab"), (3, "a")];
        let index = PrefixIndex::new(tokens.into_iter()).unwrap();
        assert_eq!(index.matches(b"abc").collect::<Vec<_>>(), [(1, 3), (2, 2)]);
        assert_eq!((index.longest(b"b"), index.longest(b"")), (None, None));
    }

    proptest! {
        #[test]
        fn finds_every_prefix(tokens in proptest::collection::btree_set("[ab\u{ff}]{1,4}", 0..20),
                              text in "[ab\u{ff}]{0,8}") {
            let tokens: Vec<_> = tokens.into_iter().rev().collect();
            let index = PrefixIndex::new((0..).zip(&tokens)).unwrap();
            let mut naive: Vec<_> = (0..).zip(&tokens)
                .filter(|(_, token)| text.starts_with(&token[..]))
                .map(|(id, token)| (token.len(), id))
                .collect();
            naive.sort_unstable();
            prop_assert_eq!(index.matches(text.as_bytes()).collect::<Vec<_>>(), naive);
        }
    }
}
