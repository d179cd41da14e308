//! Writes GGUF bytes by hand, valid or not, without the crate's own writer.

#![allow(dead_code, reason = "every test binary uses a part of it")]

/// Bytes of a file in one version and byte order.
#[derive(Clone)]
pub struct Raw {
    pub version: u32,
    pub big: bool,
    pub bytes: Vec<u8>,
}

/// Ids of metadata types.
pub const U8: u32 = 0;
pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Ids of tensor types.
pub const T_F32: u32 = 0;
pub const T_Q4_0: u32 = 2;
pub const T_I8: u32 = 24;

impl Raw {
    /// Header of a file with these counts.
    pub fn new(version: u32, big: bool, tensors: u64, entries: u64) -> Raw {
        let raw = Raw { version, big, bytes: b"GGUF".to_vec() };
        raw.u32(version).len(tensors).len(entries)
    }

    /// Version 3, little-endian: the header has 24 bytes.
    pub fn v3(tensors: u64, entries: u64) -> Raw {
        Raw::new(3, false, tensors, entries)
    }

    pub fn at(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn raw(mut self, bytes: &[u8]) -> Raw {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(self, v: u8) -> Raw {
        self.raw(&[v])
    }

    pub fn u16(self, v: u16) -> Raw {
        let b = if self.big { v.to_be_bytes() } else { v.to_le_bytes() };
        self.raw(&b)
    }

    pub fn u32(self, v: u32) -> Raw {
        let b = if self.big { v.to_be_bytes() } else { v.to_le_bytes() };
        self.raw(&b)
    }

    pub fn u64(self, v: u64) -> Raw {
        let b = if self.big { v.to_be_bytes() } else { v.to_le_bytes() };
        self.raw(&b)
    }

    pub fn f32(self, v: f32) -> Raw {
        self.u32(v.to_bits())
    }

    /// A length: 32 bits in version 1.
    pub fn len(self, v: u64) -> Raw {
        if self.version == 1 { self.u32(v as u32) } else { self.u64(v) }
    }

    pub fn str(self, s: impl AsRef<[u8]>) -> Raw {
        self.len(s.as_ref().len() as u64).raw(s.as_ref())
    }

    /// A key and its type; the value comes next.
    pub fn key(self, key: &str, ty: u32) -> Raw {
        self.str(key).u32(ty)
    }

    /// Type and length of an array; the elements come next.
    pub fn array(self, ty: u32, len: u64) -> Raw {
        self.u32(ty).len(len)
    }

    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let raw = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.len(dim)).u32(ty).u64(offset)
    }

    /// Zeros up to a multiple of `alignment`.
    pub fn pad(mut self, alignment: usize) -> Raw {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }

    /// `n` bytes of tensor data.
    pub fn data(self, n: usize) -> Raw {
        let data: Vec<u8> = (0..n).map(|i| i as u8).collect();
        self.raw(&data)
    }
}

/// A small file with every kind of thing in it: its tensor data ends with the file.
pub fn sample(version: u32, big: bool) -> Vec<u8> {
    Raw::new(version, big, 3, 7)
        .key("general.architecture", STR)
        .str("llama")
        .key("general.alignment", U32)
        .u32(64)
        .key("tokenizer.tokens", ARRAY)
        .array(STR, 4)
        .str("<s>")
        .str("")
        .str("▁é")
        .str("c")
        .key("scores", ARRAY)
        .array(F32, 3)
        .f32(0.5)
        .f32(-1.0)
        .f32(1e9)
        .key("flags", ARRAY)
        .array(BOOL, 2)
        .u8(1)
        .u8(0)
        .key("nested", ARRAY)
        .array(ARRAY, 3)
        .array(U16, 2)
        .u16(1)
        .u16(65535)
        .array(STR, 1)
        .str("x")
        .array(ARRAY, 1)
        .array(U8, 1)
        .u8(9)
        .key("count", U64)
        .u64(u64::MAX)
        .tensor("a", &[3, 2], T_F32, 0)
        .tensor("b", &[32, 2], T_Q4_0, 64)
        .tensor("c", &[], T_I8, 128)
        .pad(64)
        .data(24)
        .pad(64)
        .data(36)
        .pad(64)
        .data(1)
        .bytes
}

/// Shard `no` (from 0) of a model of `count` shards with one tensor each.
pub fn shard(no: u64, count: u64) -> Vec<u8> {
    Raw::v3(1, 4)
        .key("split.no", U16)
        .u16(no as u16)
        .key("split.count", U16)
        .u16(count as u16)
        .key("split.tensors.count", I32)
        .u32(count as u32)
        .key("shard", U32)
        .u32(no as u32 * 10)
        .tensor(&format!("blk.{no}"), &[4], T_I8, 0)
        .pad(32)
        .raw(&[no as u8; 4])
        .bytes
}
