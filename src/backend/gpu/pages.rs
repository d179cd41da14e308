//! Pages of the KV cache on a device: a buffer for each layer that grows with the numbers of pages,
//! `[pages]([kv heads][slots] rows of keys, [kv heads][slots] rows of values)`. A row is a head's key or value
//! in whole words: elements in pairs, of which a head of an odd number has one more, or scales and codes.

use super::device::{Device, DeviceResult};
use crate::backend::pages::{BLOCK, KvType, PAGE_TOKENS, PageId, SCALE_BYTES};
use crate::backend::program::KvShape;
use half::f16;

/// Usage of a buffer that shaders write, and that is copied from and to.
pub(super) const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// Pages that a buffer begins with.
const PAGES_MIN: usize = 4;

/// Words of a row: the key or the value of one head, as `kv_*.wgsl` say.
fn row_words(dim: usize, kind: KvType) -> usize {
    match kind {
        KvType::F32 => dim.next_multiple_of(2),
        KvType::F16 => dim.div_ceil(2),
        KvType::Q8_0 => scale_words(dim) + dim.div_ceil(BLOCK) * BLOCK / 4,
        KvType::Q4_0 => unreachable!("{UNSUPPORTED}"),
    }
}

/// Words of the scales that a row of blocks begins with.
fn scale_words(dim: usize) -> usize {
    dim.div_ceil(BLOCK).div_ceil(2)
}

/// Words of a page of a layer.
pub(super) fn page_words(shape: &KvShape, kind: KvType) -> usize {
    let rows = shape.n_kv_heads * PAGE_TOKENS;
    rows * (row_words(shape.k_dim, kind) + row_words(shape.v_dim, kind))
}

/// Bytes of a page of a layer.
fn page_bytes(shape: &KvShape, kind: KvType) -> usize {
    4 * page_words(shape, kind)
}

/// Numbers of a row that lie one behind the other.
#[derive(Clone, Copy)]
struct Run {
    n: usize,
    /// Bytes of a number.
    size: usize,
    /// Bytes before the first.
    from: usize,
}

/// The numbers of a row, in the order of stored pages.
fn runs(dim: usize, kind: KvType) -> Vec<Run> {
    let plain = |size| vec![Run { n: dim, size, from: 0 }];
    match kind {
        KvType::F32 => plain(size_of::<f32>()),
        KvType::F16 => plain(size_of::<f16>()),
        KvType::Q8_0 => {
            let n_blocks = dim.div_ceil(BLOCK);
            let codes = Run { n: n_blocks * BLOCK, size: 1, from: 4 * scale_words(dim) };
            vec![codes, Run { n: n_blocks, size: SCALE_BYTES, from: 0 }]
        }
        KvType::Q4_0 => unreachable!("{UNSUPPORTED}"),
    }
}

/// Layers with such a cache stay on the CPU.
const UNSUPPORTED: &str = "no shader reads such a cache";

/// The pages of a layer.
pub(super) struct LayerPages {
    shape: KvShape,
    kind: KvType,
    buffer: wgpu::Buffer,
    n_pages: usize,
}

impl LayerPages {
    pub fn new(device: &Device, shape: KvShape, kind: KvType) -> DeviceResult<LayerPages> {
        let bytes = PAGES_MIN * page_bytes(&shape, kind);
        let buffer = device.buffer("pages of keys and values", bytes, STORAGE)?;
        Ok(LayerPages { shape, kind, buffer, n_pages: PAGES_MIN })
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        page_bytes(&self.shape, self.kind)
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.n_pages * self.page_bytes()
    }

    /// Makes room for `n` pages. Returns whether there is another buffer now.
    pub fn make(&mut self, device: &Device, n: usize) -> DeviceResult<bool> {
        if n <= self.n_pages {
            return Ok(false);
        }
        // Twice as many, or as many as are wanted where a buffer cannot have that.
        let bytes = |n: usize| n * self.page_bytes();
        let doubled = n.max(2 * self.n_pages);
        let limit =
            device.limits.max_storage_buffer_binding_size.min(device.limits.max_buffer_size);
        let n = if bytes(doubled) as u64 <= limit { doubled } else { n };
        let buffer = device.buffer("pages of keys and values", bytes(n), STORAGE)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &buffer, 0, self.bytes() as u64);
        device.queue.submit([encoder.finish()]);
        self.buffer = buffer;
        self.n_pages = n;
        Ok(true)
    }

    /// Offset of a page.
    pub fn offset(&self, page: PageId) -> u64 {
        (page.0 as usize * self.page_bytes()) as u64
    }

    /// Appends a page's first `n` tokens to `out` as [`Executor::read_page`] says.
    ///
    /// [`Executor::read_page`]: crate::backend::Executor::read_page
    pub fn store(&self, bytes: &[u8], n: usize, out: &mut Vec<u8>) {
        for Number { at, size, slot } in numbers(self.shape, self.kind) {
            match slot < n {
                true => out.extend_from_slice(&bytes[at..][..size]),
                false => out.extend([0; 4][..size].iter()),
            }
        }
    }

    /// The bytes of a page of which [`Executor::read_page`] gave these.
    ///
    /// [`Executor::read_page`]: crate::backend::Executor::read_page
    pub fn restore(&self, stored: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; self.page_bytes()];
        let mut rest = stored;
        for Number { at, size, .. } in numbers(self.shape, self.kind) {
            let (number, others) = rest.split_at(size);
            bytes[at..][..size].copy_from_slice(number);
            rest = others;
        }
        bytes
    }
}

/// Numbers of a page in the order of stored pages: keys `[kv heads][numbers][slots]`, values
/// `[kv heads][slots][numbers]`, of each first one run of a row and then the next.
fn numbers(shape: KvShape, kind: KvType) -> impl Iterator<Item = Number> {
    let KvShape { n_kv_heads, k_dim, v_dim, .. } = shape;
    let values_from = 4 * n_kv_heads * PAGE_TOKENS * row_words(k_dim, kind);
    let sides = [(k_dim, 0, true), (v_dim, values_from, false)];
    sides.into_iter().flat_map(move |(dim, first, is_key)| {
        let row_bytes = 4 * row_words(dim, kind);
        runs(dim, kind).into_iter().flat_map(move |Run { n, size, from }| {
            (0..n_kv_heads * n * PAGE_TOKENS).map(move |i| {
                let (head, i) = (i / (n * PAGE_TOKENS), i % (n * PAGE_TOKENS));
                let (slot, number) = match is_key {
                    true => (i % PAGE_TOKENS, i / PAGE_TOKENS),
                    false => (i / n, i % n),
                };
                let row = first + (head * PAGE_TOKENS + slot) * row_bytes;
                Number { at: row + from + number * size, size, slot }
            })
        })
    })
}

/// A number of a page.
struct Number {
    /// First byte of the number.
    at: usize,
    /// Bytes of the number.
    size: usize,
    slot: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_page_fill_it_without_meeting() {
        for (n_kv_heads, k_dim, v_dim) in [(1, 32, 32), (2, 64, 40), (3, 5, 96), (1, 33, 1)] {
            let shape = KvShape { n_kv_heads, k_dim, v_dim, window: None };
            for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
                let mut is_taken = vec![false; page_bytes(&shape, kind)];
                let (mut n_bytes, mut slots) = (0, [0; PAGE_TOKENS]);
                for Number { at, size, slot } in numbers(shape, kind) {
                    assert!(at % size == 0, "{shape:?}, {kind}");
                    for taken in &mut is_taken[at..at + size] {
                        assert!(!std::mem::replace(taken, true), "{shape:?}, {kind}");
                    }
                    n_bytes += size;
                    slots[slot] += size;
                }
                // As many as a stored page has, and the same of each token.
                let of_token = kind.token_bytes(n_kv_heads, k_dim, v_dim);
                assert_eq!(n_bytes, PAGE_TOKENS * of_token, "{shape:?}, {kind}");
                assert_eq!(slots, [of_token; PAGE_TOKENS], "{shape:?}, {kind}");
            }
        }
    }
}
