//! Vocabularies of SentencePiece: `tokenizer.model`, a protobuf message.
//!
//! Read are the pieces with their scores and types, the kind of model, and what is done to texts
//! before they are cut. The reader takes any bytes: lengths are checked against what is there, and
//! fields that are not read are passed over by their wire type.

/// Pieces of a vocabulary: four times the largest published one.
const PIECES_MAX: usize = 1 << 20;

/// A piece of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, a space being U+2581.
    pub text: String,
    /// The higher, the earlier it is merged; the logarithm of its probability in unigram models.
    pub score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte: as in GGUF.
    pub ty: u64,
}

/// A vocabulary of SentencePiece.
#[derive(Clone, Debug, PartialEq)]
pub struct SentencePiece {
    /// The pieces; their places are the ids.
    pub pieces: Vec<Piece>,
    /// Whether pieces are chosen by probabilities and not by merges.
    pub unigram: bool,
    /// Table of what is replaced before texts are cut.
    pub charsmap: Vec<u8>,
    /// Whether a space is put before texts.
    pub adds_prefix: bool,
    /// Whether runs of spaces become one, and those around texts none.
    pub removes_spaces: bool,
    /// Whether a space belongs to the end of words.
    pub space_is_suffix: bool,
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Other,
}

/// Reads fields one after the other.
struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn number(&mut self) -> Result<u64, String> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or("ends within a number")?;
            self.bytes = rest;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).ok().filter(|&n| n <= self.bytes.len());
        let (taken, rest) = self.bytes.split_at(n.ok_or("ends within a field")?);
        self.bytes = rest;
        Ok(taken)
    }

    /// The next field and its number.
    fn field(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let field = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let n = self.number()?;
                Field::Bytes(self.take(n)?)
            }
            5 => {
                let taken = self.take(4)?;
                Field::Fixed32([taken[0], taken[1], taken[2], taken[3]])
            }
            ty => return Err(format!("wire type {ty}")),
        };
        Ok(Some((tag >> 3, field)))
    }
}

/// Reads a vocabulary.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read(bytes: &[u8]) -> Result<SentencePiece, String> {
    let mut all = SentencePiece {
        pieces: Vec::new(),
        unigram: true,
        charsmap: Vec::new(),
        adds_prefix: true,
        removes_spaces: true,
        space_is_suffix: false,
    };
    let mut message = Message { bytes };
    while let Some((number, field)) = message.field()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => {
                if all.pieces.len() >= PIECES_MAX {
                    return Err(format!("more than {PIECES_MAX} pieces"));
                }
                let place = all.pieces.len();
                let piece = read_piece(bytes).map_err(|e| format!("piece {place}: {e}"))?;
                all.pieces.push(piece);
            }
            (2, Field::Bytes(bytes)) => {
                let mut trainer = Message { bytes };
                while let Some(field) = trainer.field()? {
                    match field {
                        (3, Field::Number(1)) => all.unigram = true,
                        (3, Field::Number(2)) => all.unigram = false,
                        (3, Field::Number(_)) => {
                            return Err("a model of words or characters".into());
                        }
                        (24, Field::Number(n)) => all.space_is_suffix = n != 0,
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(bytes)) => {
                let mut normalizer = Message { bytes };
                while let Some(field) = normalizer.field()? {
                    match field {
                        (2, Field::Bytes(map)) => all.charsmap = map.to_vec(),
                        (3, Field::Number(n)) => all.adds_prefix = n != 0,
                        (4, Field::Number(n)) => all.removes_spaces = n != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if all.pieces.is_empty() { Err("no pieces".into()) } else { Ok(all) }
}

fn read_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, ty: 1 };
    let mut message = Message { bytes };
    while let Some((number, field)) = message.field()? {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
                text.clone_into(&mut piece.text);
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_le_bytes(bits),
            (3, Field::Number(ty @ 1..=6)) => piece.ty = ty,
            (3, Field::Number(ty)) => return Err(format!("type {ty}")),
            _ => {}
        }
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One piece, "ab" with score -1 and type 4, of a BPE model that adds no space.
    const MODEL: &[u8] = &[
        0x0a, 11, 0x0a, 2, b'a', b'b', 0x15, 0, 0, 0x80, 0xbf, 0x18, 4, 0x12, 2, 0x18, 2, 0x1a, 2,
        0x18, 0,
    ];

    #[test]
    fn a_model_is_read() {
        let all = read(MODEL).expect("a model");
        assert_eq!(all.pieces, [Piece { text: "ab".into(), score: -1.0, ty: 4 }]);
        assert!(!all.unigram && !all.adds_prefix && all.removes_spaces);
    }

    #[test]
    fn no_bytes_are_too_odd() {
        for end in 0..MODEL.len() {
            let _ = read(&MODEL[..end]);
        }
        for at in 0..MODEL.len() {
            for byte in 0..=255 {
                let mut bytes = MODEL.to_vec();
                bytes[at] = byte;
                let _ = read(&bytes);
            }
        }
        assert!(read(&[]).is_err());
        assert!(read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }
}
