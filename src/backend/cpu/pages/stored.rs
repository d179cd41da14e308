//! Pages as bytes that are the same on every machine, as
//! [`Executor::read_page`](crate::backend::Executor::read_page) says: the order of the memory itself,
//! which no instruction set changes, with little-endian numbers.

use super::{Arena, Codes, Page};
use crate::backend::cpu::pool::SlotMemory;
use crate::backend::pages::{PAGE_TOKENS, PageId};
use crate::tensor::memory::OutOfMemory;

/// A number in memory that has bytes in files.
pub trait Number: Copy + Default {
    /// Appends numbers.
    fn append(numbers: &[Self], out: &mut Vec<u8>);

    /// Takes as many numbers as there are from the front of `bytes`.
    ///
    /// # Panics
    /// If there are fewer bytes.
    fn take(bytes: &mut &[u8], numbers: &mut [Self]);
}

/// The first `n * N` bytes, as `n` arrays.
fn split<'b, const N: usize>(bytes: &mut &'b [u8], n: usize) -> &'b [[u8; N]] {
    let (front, rest) = bytes.split_at(n * N);
    *bytes = rest;
    front.as_chunks().0
}

impl Number for u8 {
    fn append(numbers: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(numbers);
    }

    fn take(bytes: &mut &[u8], numbers: &mut [u8]) {
        let front = split(bytes, numbers.len());
        numbers.iter_mut().zip(front).for_each(|(x, &[byte])| *x = byte);
    }
}

impl Number for u16 {
    fn append(numbers: &[u16], out: &mut Vec<u8>) {
        numbers.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    }

    fn take(bytes: &mut &[u8], numbers: &mut [u16]) {
        let front = split(bytes, numbers.len());
        numbers.iter_mut().zip(front).for_each(|(x, &bytes)| *x = u16::from_le_bytes(bytes));
    }
}

impl Number for f32 {
    fn append(numbers: &[f32], out: &mut Vec<u8>) {
        numbers.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    }

    fn take(bytes: &mut &[u8], numbers: &mut [f32]) {
        let front = split(bytes, numbers.len());
        numbers.iter_mut().zip(front).for_each(|(x, &bytes)| *x = f32::from_le_bytes(bytes));
    }
}

/// How the tokens of a page lie in memory.
#[derive(Clone, Copy, PartialEq)]
enum Tokens {
    /// A token is every [`PAGE_TOKENS`]th element.
    Lanes,
    /// A token is a row.
    Rows,
}

/// Appends memory, with defaults in place of the tokens behind the first `n`.
fn append<T: Number>(memory: &mut SlotMemory<T>, tokens: Tokens, n: usize, out: &mut Vec<u8>) {
    let width = if tokens == Tokens::Rows { memory.width() } else { 1 };
    let zeros = vec![T::default(); (PAGE_TOKENS - n) * width];
    for page in memory.get_mut().chunks_exact(PAGE_TOKENS * width.max(1)) {
        T::append(&page[..n * width], out);
        T::append(&zeros, out);
    }
}

impl Arena {
    /// Appends a page, with zeros in place of the tokens behind the first `n`.
    ///
    /// # Panics
    /// If the page is not there.
    pub fn store(&mut self, group: usize, id: PageId, n: usize, out: &mut Vec<u8>) {
        for &layer in &self.groups[group].layers {
            match &mut self.pages[layer][id.0 as usize] {
                Page::F32 { k, v } => {
                    append(k, Tokens::Lanes, n, out);
                    append(v, Tokens::Rows, n, out);
                }
                Page::F16 { k, v } => {
                    append(k, Tokens::Lanes, n, out);
                    append(v, Tokens::Rows, n, out);
                }
                Page::Quantized { k, v } => {
                    for (Codes { codes, scales }, tokens) in [(k, Tokens::Lanes), (v, Tokens::Rows)]
                    {
                        append(codes, tokens, n, out);
                        append(scales, tokens, n, out);
                    }
                }
            }
        }
    }

    /// Makes a page hold what was appended.
    ///
    /// # Errors
    /// The system has no memory for the page.
    ///
    /// # Panics
    /// If these are not the bytes of a page.
    pub fn restore(
        &mut self,
        group: usize,
        id: PageId,
        mut bytes: &[u8],
    ) -> Result<(), OutOfMemory> {
        self.make(group, id.0 as usize + 1)?;
        for &layer in &self.groups[group].layers {
            let bytes = &mut bytes;
            match &mut self.pages[layer][id.0 as usize] {
                Page::F32 { k, v } => [k, v].map(|memory| f32::take(bytes, memory.get_mut())),
                Page::F16 { k, v } => [k, v].map(|memory| u16::take(bytes, memory.get_mut())),
                Page::Quantized { k, v } => [k, v].map(|Codes { codes, scales }| {
                    u8::take(bytes, codes.get_mut());
                    u16::take(bytes, scales.get_mut());
                }),
            };
        }
        assert!(bytes.is_empty(), "the bytes of a page");
        Ok(())
    }
}
