//! How much a file may ask for. Every count and length is held against a limit and against the
//! bytes that are left in the file before anything is allocated or walked.
//!
//! Metadata stays in the map, so the reader's own memory is a 20-byte row per metadata entry and
//! some 110 bytes and the name per tensor: under the default limits less than 32 MiB, whatever the
//! file claims, and in a file made for it 8 MiB over the file's own size (`tests/mutation.rs`).

/// Upper bounds of what [`GgufFile`](crate::GgufFile) accepts; the writer keeps the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Metadata entries of one file. Published models carry 20 to 60.
    pub entries_max: u64,
    /// Tensors of one file. The widest known model with one tensor per expert has about 46,000.
    pub tensors_max: u64,
    /// Bytes of a key; the format's own limit.
    pub key_bytes_max: u64,
    /// Bytes of a tensor's name. The format says 64; some writers go further.
    pub name_bytes_max: u64,
    /// Bytes of a string value. A whole `tokenizer.json` in one string takes some 35 MB.
    pub string_bytes_max: u64,
    /// Elements of an array. The largest vocabularies have under 10^6 entries and merges.
    pub array_len_max: u64,
    /// Arrays within arrays; a flat array has depth 1. Bounds the reader's recursion.
    pub array_depth_max: u8,
    /// Files of one split model. Shards are a few GB each, so this covers several TB.
    pub shards_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries_max: 1 << 16,
            tensors_max: 1 << 16,
            key_bytes_max: (1 << 16) - 1,
            name_bytes_max: 128,
            string_bytes_max: 1 << 28,
            array_len_max: 1 << 28,
            array_depth_max: 8,
            shards_max: 1024,
        }
    }
}
