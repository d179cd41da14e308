//! A position in the bytes of a file. Every read is checked; a failed one names its offset.

use byteorder::{BE, ByteOrder as _, LE};

use crate::byte_order::ByteOrder;
use crate::error::{Fault, Located};

/// Encoding of a file, which its first eight bytes settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    /// 1, 2 or 3.
    pub version: u32,
    pub order: ByteOrder,
}

impl Encoding {
    /// Bytes of a count, a string's length, or a dimension: version 1 had 32 bits.
    pub fn length_bytes(self) -> u64 {
        if self.version == 1 { 4 } else { 8 }
    }

    pub fn u16(self, b: &[u8]) -> u16 {
        if self.order == ByteOrder::Little { LE::read_u16(b) } else { BE::read_u16(b) }
    }

    pub fn u32(self, b: &[u8]) -> u32 {
        if self.order == ByteOrder::Little { LE::read_u32(b) } else { BE::read_u32(b) }
    }

    pub fn u64(self, b: &[u8]) -> u64 {
        if self.order == ByteOrder::Little { LE::read_u64(b) } else { BE::read_u64(b) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    /// Never past the end.
    at: usize,
    encoding: Encoding,
}

impl<'a> Cursor<'a> {
    /// `at` must lie within `bytes` or at its end.
    pub fn new(bytes: &'a [u8], at: usize, encoding: Encoding) -> Cursor<'a> {
        assert!(at <= bytes.len(), "a cursor starts inside its bytes");
        Cursor { bytes, at, encoding }
    }

    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: u64) -> Result<&'a [u8], Located> {
        let left = self.left();
        if n > left {
            return Err(Located::new(self.offset(), Fault::Truncated { needed: n, left }));
        }
        let start = self.at;
        self.at += n as usize;
        Ok(&self.bytes[start..self.at])
    }

    pub fn u32(&mut self) -> Result<u32, Located> {
        let encoding = self.encoding;
        self.take(4).map(|b| encoding.u32(b))
    }

    pub fn u64(&mut self) -> Result<u64, Located> {
        let encoding = self.encoding;
        self.take(8).map(|b| encoding.u64(b))
    }

    /// A count, length or dimension, as wide as the version has it.
    pub fn length(&mut self) -> Result<u64, Located> {
        if self.encoding.version == 1 { self.u32().map(u64::from) } else { self.u64() }
    }

    /// A count of things of at least `each` bytes: at most `max`, and they fit into the file.
    pub fn count(&mut self, what: &'static str, max: u64, each: u64) -> Result<u64, Located> {
        let offset = self.offset();
        let count = self.length()?;
        self.check_count(offset, what, count, max, each)?;
        Ok(count)
    }

    /// The checks of [`Cursor::count`] for a number that was read at `offset`.
    pub fn check_count(
        &self,
        offset: u64,
        what: &'static str,
        count: u64,
        max: u64,
        each: u64,
    ) -> Result<(), Located> {
        let left = self.left();
        if count > left / each {
            return Err(Located::new(offset, Fault::Count { what, count, left }));
        }
        if count > max {
            return Err(Located::new(offset, Fault::Limit { what, value: count, max }));
        }
        Ok(())
    }

    /// The bytes of a string, at most `max`.
    pub fn string_bytes(&mut self, what: &'static str, max: u64) -> Result<&'a [u8], Located> {
        let offset = self.offset();
        let n = self.length()?;
        if n > max {
            return Err(Located::new(offset, Fault::Limit { what, value: n, max }));
        }
        self.take(n)
    }

    /// A string of at most `max` bytes, checked to be UTF-8.
    pub fn string(&mut self, what: &'static str, max: u64) -> Result<&'a str, Located> {
        let bytes = self.string_bytes(what, max)?;
        let start = self.offset() - bytes.len() as u64;
        std::str::from_utf8(bytes)
            .map_err(|error| Located::new(start + error.valid_up_to() as u64, Fault::Utf8))
    }
}
