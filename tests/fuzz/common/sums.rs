//! The checksums of a session's file, made to fit what its parts hold: so that damage gets past them, to
//! what looks at the content.

#[path = "../../../src/engine/saved/xxh64.rs"]
mod xxh64;

use xxh64::xxh64;

/// Bytes before the header's fields.
const PREFIX: usize = 16;
/// Bytes of a checksum.
const SUM: usize = 8;
/// Bytes before the content of a record.
const HEAD: usize = 16;

/// Gives every part that the header's lengths lead to its checksum.
pub fn repair(bytes: &mut [u8]) {
    let _ = repaired(bytes);
}

/// `None` where a length leads out of the file.
fn repaired(bytes: &mut [u8]) -> Option<()> {
    let header = number(bytes, 12, 4)?;
    let seed = set(bytes, 0, header, 0)?;
    let fields = fields(bytes.get(..header)?)?;
    let mut at = header + SUM;
    for len in fields.parts {
        set(bytes, at, len, seed)?;
        at = at.checked_add(len)? + SUM;
    }
    for n in 1.. {
        let group = number(bytes, at + 4, 4)?;
        let len = match number(bytes, at, 4)? {
            0 => 0,
            1 => *fields.pages.get(group)?,
            _ => fields.states,
        };
        let len = len.checked_add(HEAD)?;
        set(bytes, at, len, seed.wrapping_add(n))?;
        if len == HEAD {
            return Some(());
        }
        at += len + SUM;
    }
    None
}

/// Lengths that a header tells.
struct Fields {
    pages: Vec<usize>,
    states: usize,
    /// Of tokens with answers, and of the caller's part.
    parts: [usize; 2],
}

fn fields(header: &[u8]) -> Option<Fields> {
    let mut at = PREFIX;
    let text = |at: &mut usize| {
        *at = at.checked_add(number(header, *at, 4)?)?.checked_add(4)?;
        Some(())
    };
    text(&mut at)?;
    text(&mut at)?;
    let n_adapters = number(header, at + 16, 4)?;
    at += 20;
    for _ in 0..n_adapters {
        text(&mut at)?;
        at += 12;
    }
    text(&mut at)?;
    let n_groups = number(header, at + 16, 4)?;
    at += 20;
    let pages = (0..n_groups).map(|i| number(header, at + 8 * i, 8)).collect::<Option<Vec<_>>>()?;
    at += 8 * pages.len();
    let [tokens, answers, extra] = [12, 20, 28].map(|of| number(header, at + of, 8));
    let words = tokens?.checked_add(answers?)?.checked_mul(4)?;
    Some(Fields { pages, states: number(header, at, 8)?, parts: [words, extra?] })
}

/// A little-endian number of `n` bytes.
fn number(bytes: &[u8], at: usize, n: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(n)?)?;
    usize::try_from(bytes.iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte))).ok()
}

/// Writes the checksum behind a part, and returns it.
fn set(bytes: &mut [u8], at: usize, len: usize, seed: u64) -> Option<u64> {
    let end = at.checked_add(len)?;
    let sum = xxh64(bytes.get(at..end)?, seed);
    bytes.get_mut(end..end.checked_add(SUM)?)?.copy_from_slice(&sum.to_le_bytes());
    Some(sum)
}
