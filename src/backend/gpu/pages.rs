//! Pages of the KV cache on a device: a buffer for each layer that grows with the numbers of pages,
//! `[pages]([kv heads][slots][k_dim], [kv heads][slots][v_dim])`, elements in pairs. A head of an odd
//! number of elements has one more.

use super::device::{Device, DeviceResult};
use crate::backend::pages::{KvType, PAGE_TOKENS, PageId};
use crate::backend::program::KvShape;
use half::f16;

/// Usage of a buffer that shaders write, and that is copied from and to.
pub(super) const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// Pages that a buffer begins with.
const PAGES_MIN: usize = 4;

/// Pairs of elements in a page of a layer.
pub(super) fn page_pairs(shape: &KvShape) -> usize {
    shape.n_kv_heads * PAGE_TOKENS * (shape.k_dim.div_ceil(2) + shape.v_dim.div_ceil(2))
}

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

    /// Where a page begins.
    pub fn offset(&self, page: PageId) -> u64 {
        (page.0 as usize * self.page_bytes()) as u64
    }

    /// Appends a page's first `n` tokens to `out` as [`Executor::read_page`] says.
    ///
    /// [`Executor::read_page`]: crate::backend::Executor::read_page
    pub fn store(&self, bytes: &[u8], n: usize, out: &mut Vec<u8>) {
        let KvShape { n_kv_heads, k_dim, v_dim, .. } = self.shape;
        let element = self.element_bytes();
        let keys = self.element_order(k_dim, 0, true);
        let values = self.element_order(v_dim, keys_len(n_kv_heads, k_dim), false);
        for (place, slot) in keys.chain(values) {
            match slot < n {
                true => out.extend_from_slice(&bytes[place * element..][..element]),
                false => out.extend([0; 4][..element].iter()),
            }
        }
    }

    /// The bytes of a page of which [`Executor::read_page`] gave these.
    ///
    /// [`Executor::read_page`]: crate::backend::Executor::read_page
    pub fn restore(&self, stored: &[u8]) -> Vec<u8> {
        let KvShape { n_kv_heads, k_dim, v_dim, .. } = self.shape;
        let element = self.element_bytes();
        let mut bytes = vec![0; self.page_bytes()];
        let keys = self.element_order(k_dim, 0, true);
        let values = self.element_order(v_dim, keys_len(n_kv_heads, k_dim), false);
        for ((place, _), stored) in keys.chain(values).zip(stored.chunks_exact(element)) {
            bytes[place * element..][..element].copy_from_slice(stored);
        }
        bytes
    }

    fn element_bytes(&self) -> usize {
        self.kind.head_bytes(1)
    }

    /// Places of elements, with their slots, in the order of stored pages: keys
    /// `[kv heads][dim][slots]`, values `[kv heads][slots][dim]`.
    fn element_order(
        &self,
        dim: usize,
        first: usize,
        is_key: bool,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let padded = dim.next_multiple_of(2);
        (0..self.shape.n_kv_heads).flat_map(move |head| {
            (0..dim * PAGE_TOKENS).map(move |i| {
                let (slot, d) = match is_key {
                    true => (i % PAGE_TOKENS, i / PAGE_TOKENS),
                    false => (i / dim, i % dim),
                };
                (first + (head * PAGE_TOKENS + slot) * padded + d, slot)
            })
        })
    }
}

fn keys_len(n_kv_heads: usize, k_dim: usize) -> usize {
    n_kv_heads * PAGE_TOKENS * k_dim.next_multiple_of(2)
}

fn page_bytes(shape: &KvShape, kind: KvType) -> usize {
    let pair = match kind {
        KvType::F32 => 2 * size_of::<f32>(),
        _ => 2 * size_of::<f16>(),
    };
    page_pairs(shape) * pair
}
