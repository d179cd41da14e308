//! The fields of a session's file as bytes; `mod.rs` has the layout.

use super::error::{Part, SessionFault};
use std::fmt;

/// First bytes of a file.
pub const MAGIC: [u8; 8] = *b"TEFFSESS";
/// The newest version of the format.
pub const VERSION: u32 = 1;
/// Bytes before the fields of the header: the magic, the version and the header's length.
pub const PREFIX_BYTES: usize = 16;
/// Bytes of a checksum.
pub const CHECKSUM_BYTES: usize = 8;
/// Bytes of a header without its checksum, at most: names, and a number for each group of layers.
pub const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Bytes before the content of a record.
pub const RECORD_BYTES: usize = 16;

/// The header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Version of the program.
    pub teff: String,
    /// Name of the model, for messages.
    pub model: String,
    /// Bytes of the model's file.
    pub model_bytes: u64,
    /// Hash of the model's metadata, its table of tensors and a part of their data.
    pub model_hash: u64,
    /// The adapters, in their order.
    pub adapters: Vec<Adapted>,
    /// Name of the type of keys and values.
    pub kv_type: String,
    /// Tokens in the context.
    pub n_ctx: u64,
    /// Hash of the angles of positions.
    pub positions: u64,
    /// Bytes of a page of each group of layers.
    pub page_bytes: Vec<u64>,
    /// Bytes of the recurrent states.
    pub state_bytes: u64,
    /// Whether pages and states were to be saved.
    pub has_kv: bool,
    /// Number of token ids.
    pub n_tokens: u64,
    /// Number of answers.
    pub n_answers: u64,
    /// Bytes of the caller.
    pub extra_bytes: u64,
}

/// An adapter of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapted {
    /// Name of the file, for messages.
    pub name: String,
    /// Hash of the file as of the model's.
    pub hash: u64,
    /// Bits of the factor.
    pub scale_bits: u32,
}

impl fmt::Display for Adapted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} times {}", self.name, f32::from_bits(self.scale_bits))
    }
}

impl Header {
    /// Bytes of the header but the checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let text = |fields: &mut Vec<u8>, text: &str| {
            fields.extend((text.len() as u32).to_le_bytes());
            fields.extend(text.bytes());
        };
        text(&mut fields, &self.teff);
        text(&mut fields, &self.model);
        fields.extend(self.model_bytes.to_le_bytes());
        fields.extend(self.model_hash.to_le_bytes());
        fields.extend((self.adapters.len() as u32).to_le_bytes());
        for Adapted { name, hash, scale_bits } in &self.adapters {
            text(&mut fields, name);
            fields.extend(hash.to_le_bytes());
            fields.extend(scale_bits.to_le_bytes());
        }
        text(&mut fields, &self.kv_type);
        fields.extend(self.n_ctx.to_le_bytes());
        fields.extend(self.positions.to_le_bytes());
        fields.extend((self.page_bytes.len() as u32).to_le_bytes());
        self.page_bytes.iter().for_each(|bytes| fields.extend(bytes.to_le_bytes()));
        fields.extend(self.state_bytes.to_le_bytes());
        fields.extend(u32::from(self.has_kv).to_le_bytes());
        for n in [self.n_tokens, self.n_answers, self.extra_bytes] {
            fields.extend(n.to_le_bytes());
        }
        let len = (PREFIX_BYTES + fields.len()) as u32;
        [&MAGIC[..], &VERSION.to_le_bytes(), &len.to_le_bytes(), &fields].concat()
    }

    /// The header of its fields, which follow the first [`PREFIX_BYTES`].
    ///
    /// # Errors
    /// The fields are none of a header.
    pub fn from_fields(fields: &[u8]) -> Result<Header, SessionFault> {
        let malformed = |problem: &str| {
            let (part, problem) = (Part::Header, problem.to_owned());
            SessionFault::Malformed { part, problem }
        };
        let mut fields = Fields(fields);
        let header = fields.header().ok_or_else(|| malformed("a field is missing or no text"))?;
        match fields.0 {
            [] => Ok(header),
            _ => Err(malformed("there are fields that this program does not know")),
        }
    }
}

/// Fields that are yet to be read; `None` of a method says that there are none left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.bytes(len)?.to_vec()).ok()
    }

    /// A list, whose length comes first. It grows as its items are read, so a length that is not
    /// true takes no memory.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.u32()?).map(|_| item(self)).collect()
    }

    fn header(&mut self) -> Option<Header> {
        Some(Header {
            teff: self.text()?,
            model: self.text()?,
            model_bytes: self.u64()?,
            model_hash: self.u64()?,
            adapters: self.list(|fields| {
                let (name, hash) = (fields.text()?, fields.u64()?);
                Some(Adapted { name, hash, scale_bits: fields.u32()? })
            })?,
            kv_type: self.text()?,
            n_ctx: self.u64()?,
            positions: self.u64()?,
            page_bytes: self.list(Fields::u64)?,
            state_bytes: self.u64()?,
            has_kv: match self.u32()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            n_tokens: self.u64()?,
            n_answers: self.u64()?,
            extra_bytes: self.u64()?,
        })
    }
}

/// Head of a record, before its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// [`END`], [`PAGE`] or [`STATES`].
    pub kind: u32,
    /// Group of layers of a page.
    pub group: u32,
    /// Tokens up to the last one that the record is of; of the end, the number of records.
    pub len: u64,
}

/// Kind of the last record.
pub const END: u32 = 0;
/// Kind of a page.
pub const PAGE: u32 = 1;
/// Kind of recurrent states.
pub const STATES: u32 = 2;

impl RecordHead {
    /// Bytes of the head in the file.
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.group.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Reads the head of a record from its bytes.
    pub fn from_bytes(bytes: [u8; RECORD_BYTES]) -> RecordHead {
        let n = u128::from_le_bytes(bytes);
        RecordHead { kind: n as u32, group: (n >> 32) as u32, len: (n >> 64) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written_and_not_otherwise() {
        let header = Header {
            teff: "1.2.3".into(),
            model: "Modèle".into(),
            model_bytes: 1 << 40,
            model_hash: 7,
            adapters: vec![Adapted { name: "a".into(), hash: 8, scale_bits: 1_f32.to_bits() }],
            kv_type: "q8_0".into(),
            n_ctx: 4096,
            positions: 9,
            page_bytes: vec![100, 200],
            state_bytes: 10,
            has_kv: true,
            n_tokens: 11,
            n_answers: 12,
            extra_bytes: 13,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..8], MAGIC);
        assert_eq!(bytes[8..16], [1, 0, 0, 0, bytes.len() as u8, 0, 0, 0]);
        let fields = &bytes[PREFIX_BYTES..];
        assert_eq!(Header::from_fields(fields).unwrap(), header);
        for n in 0..fields.len() {
            assert!(Header::from_fields(&fields[..n]).is_err(), "{n} bytes");
        }
        assert!(Header::from_fields(&[fields, &[0]].concat()).is_err());
        // No text, and neither true nor false.
        let no_text = [&fields[..4], &[0xff], &fields[5..]].concat();
        assert!(Header::from_fields(&no_text).is_err());
        let mut neither = fields.to_vec();
        neither[fields.len() - 28] = 2;
        assert!(Header::from_fields(&neither).is_err());
    }

    #[test]
    fn heads_of_records_are_read_as_they_were_written() {
        let head = RecordHead { kind: PAGE, group: 0x0102_0304, len: 0x0506_0708_090a_0b0c };
        assert_eq!(RecordHead::from_bytes(head.to_bytes()), head);
        assert_eq!(head.to_bytes()[..8], [1, 0, 0, 0, 4, 3, 2, 1]);
    }
}
