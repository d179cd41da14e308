//! GPT-2's byte alphabet: every byte as one printable character, so that vocabularies are text.
//!
//! Printable Latin-1 stands for itself; the other 68 bytes are U+0100 and up in order, which
//! makes a space "Ġ" and a newline "Ċ" (`bytes_to_unicode` in openai/gpt-2's encoder.py).

use std::sync::LazyLock;

static TO_CHAR: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("68 characters from U+0100 are assigned")
        }
    })
});

/// Every character of the alphabet is below this.
const LIMIT: usize = 0x100 + 68;

static TO_BYTE: LazyLock<[Option<u8>; LIMIT]> = LazyLock::new(|| {
    let mut bytes = [None; LIMIT];
    for (byte, &character) in TO_CHAR.iter().enumerate() {
        bytes[character as usize] = Some(byte as u8);
    }
    bytes
});

/// The alphabet's spelling of some bytes.
#[cfg(feature = "convert")]
pub(crate) fn spelling(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| TO_CHAR[usize::from(byte)]).collect()
}

/// Appends the alphabet's spelling of `text`.
pub(super) fn encode(text: &str, out: &mut String) {
    out.extend(text.bytes().map(|byte| TO_CHAR[usize::from(byte)]));
}

/// The bytes a token stands for; a character outside the alphabet stands for itself.
pub(super) fn decode(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match TO_BYTE.get(character as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            let spelled: String = TO_CHAR[usize::from(byte)].into();
            assert_eq!(decode(&spelled), [byte]);
        }
        let mut out = String::new();
        encode(" é\n", &mut out);
        assert_eq!(out, "ĠÃ©Ċ");
    }

    #[test]
    fn foreign_characters_survive() {
        assert_eq!(decode("Ġ▁"), " ▁".as_bytes());
    }
}
