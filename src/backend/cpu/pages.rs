//! Memory of the KV cache: pages of [`PAGE_TOKENS`] tokens of one layer, made when first needed.
//!
//! Values lie token by token, keys dimension by dimension, `[kv heads][k_dim][PAGE_TOKENS]`: so
//! scores and weighted sums are the same product, without sums across lanes. Storing a key costs
//! as many writes as it has dimensions, once.
//!
//! The quantized types store what GGUF's blocks of 32 hold, codes and a half-precision scale; a last
//! block that a head does not fill is filled with zeros. Q4_0 is fine enough only for numbers
//! without outliers. So queries, keys and values are rotated before by a Hadamard transform of the
//! elements that share a scale, which changes no product of two of them, and attention's result is
//! rotated back (as in QuaRot, arXiv:2404.00456, with its transforms of whole heads). Blocks of 32
//! are better than whole heads: an outlier stays within its block. Divergence (KL) from an F32
//! cache, on 245 tokens: Gemma-3-270M without rotation 0.094, heads 0.061, blocks 0.034;
//! SmolLM2-135M 0.113, 0.037, 0.038.
//!
//! Which sequence a page belongs to is the business of [`crate::kv`].

mod stored;

pub(super) use stored::Number;

use super::pool::{Fill, PageSpace, Phase, SlotMemory, Ticket};
use crate::backend::pages::{
    BLOCK, KvType, LayerGroup, PAGE_TOKENS, PageFill, PageId, SCALE_BYTES,
};
use crate::backend::program::KvShape;
use crate::tensor::memory::OutOfMemory;
use gguf_rs_lite::GgmlType;
use std::ops::Range;
use teff_kernels::{Ahead, FloatOps, KernelTable};

/// Rows that a page of halves or more is widened for: fewer are one tile of the kernels, which
/// widen as they go.
const WIDENED_ROWS_MIN: usize = 7;

impl KvType {
    /// Rotates queries, keys or values of `dim` elements, if the type asks for it, or what was
    /// made of rotated values back: the rotation undoes itself.
    pub fn rotate(self, heads: &mut [f32], dim: usize, ops: &FloatOps) {
        if self == KvType::Q4_0 {
            for head in heads.chunks_exact_mut(dim) {
                head.chunks_mut(BLOCK).for_each(ops.hadamard);
            }
        }
    }
}

/// Keys and values of one page.
enum Page {
    F32 { k: SlotMemory<f32>, v: SlotMemory<f32> },
    F16 { k: SlotMemory<u16>, v: SlotMemory<u16> },
    Quantized { k: Codes, v: Codes },
}

/// Quantized keys or values.
struct Codes {
    /// The codes of blocks, `[kv heads]` of rows or lanes of whole blocks.
    codes: SlotMemory<u8>,
    /// A scale per block, the bits of a half.
    scales: SlotMemory<u16>,
}

impl Codes {
    fn new(
        space: &mut PageSpace,
        kind: KvType,
        heads: usize,
        dim: usize,
    ) -> Result<Codes, OutOfMemory> {
        let n_blocks = dim.div_ceil(BLOCK);
        let codes = kind.head_bytes(dim) - n_blocks * SCALE_BYTES;
        Ok(Codes {
            codes: SlotMemory::new(space, heads, PAGE_TOKENS, codes)?,
            scales: SlotMemory::new(space, heads, PAGE_TOKENS, n_blocks)?,
        })
    }
}

/// Calls a method on all memory of a page.
macro_rules! for_each_memory {
    ($page:expr, $memory:ident => $do:expr) => {
        match $page {
            Page::F32 { k, v } => [k, v].into_iter().for_each(|$memory| $do),
            Page::F16 { k, v } => [k, v].into_iter().for_each(|$memory| $do),
            Page::Quantized { k, v } => {
                for Codes { codes, scales } in [k, v] {
                    let $memory = codes;
                    $do;
                    let $memory = scales;
                    $do;
                }
            }
        }
    };
}

/// Memory of all pages: `pages[layer][id]`.
pub(super) struct Arena {
    kind: KvType,
    space: PageSpace,
    groups: Vec<LayerGroup>,
    /// Index into `groups` of each layer.
    group_of: Vec<usize>,
    pages: Vec<Vec<Page>>,
}

impl Arena {
    /// No pages yet, for those layers of a program of which `is_here` says so.
    pub fn new(kind: KvType, layers: &[KvShape], is_here: &[bool]) -> Arena {
        let mut groups = LayerGroup::of_layers(layers);
        let mut group_of = vec![0; layers.len()];
        for (i, group) in groups.iter().enumerate() {
            group.layers.iter().for_each(|&layer| group_of[layer] = i);
        }
        groups.iter_mut().for_each(|group| group.layers.retain(|&layer| is_here[layer]));
        let pages = layers.iter().map(|_| Vec::new()).collect();
        Arena { kind, space: PageSpace::default(), groups, group_of, pages }
    }

    /// Has pages of all of the program's layers from now on. Those of a layer that was elsewhere are made
    /// when they are filled.
    #[cfg(any(feature = "gpu", target_vendor = "apple"))]
    pub fn take_all(&mut self, layers: &[KvShape]) {
        self.groups = LayerGroup::of_layers(layers);
    }

    /// Type of the stored elements.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// The group of a layer, which says which table lists its pages.
    pub fn group_of(&self, layer: usize) -> usize {
        self.group_of[layer]
    }

    /// Makes the pages of a group up to `end`, where they are not there yet: those of one layer lie
    /// together, as they are read.
    fn make(&mut self, group: usize, end: usize) -> Result<(), OutOfMemory> {
        let LayerGroup { shape, layers } = &self.groups[group];
        let KvShape { n_kv_heads: heads, k_dim: k, v_dim: v, .. } = *shape;
        for &layer in layers {
            while self.pages[layer].len() < end {
                let space = &mut self.space;
                self.pages[layer].push(match self.kind {
                    KvType::F32 => Page::F32 {
                        k: SlotMemory::new(space, heads, PAGE_TOKENS, k)?,
                        v: SlotMemory::new(space, heads, PAGE_TOKENS, v)?,
                    },
                    KvType::F16 => Page::F16 {
                        k: SlotMemory::new(space, heads, PAGE_TOKENS, k)?,
                        v: SlotMemory::new(space, heads, PAGE_TOKENS, v)?,
                    },
                    KvType::Q8_0 | KvType::Q4_0 => Page::Quantized {
                        k: Codes::new(space, self.kind, heads, k)?,
                        v: Codes::new(space, self.kind, heads, v)?,
                    },
                });
            }
        }
        Ok(())
    }

    /// Copies the content of one page to another of the group, in all its layers.
    ///
    /// # Errors
    /// The system has no memory for the other page.
    pub fn copy(&mut self, group: usize, from: PageId, to: PageId) -> Result<(), OutOfMemory> {
        self.make(group, from.0.max(to.0) as usize + 1)?;
        for &layer in &self.groups[group].layers {
            copy_page(&mut self.pages[layer], from, to);
        }
        Ok(())
    }

    /// Makes the pages that a step writes.
    ///
    /// # Errors
    /// The system has no memory for all of them.
    pub fn make_filled(&mut self, fills: &[PageFill]) -> Result<(), OutOfMemory> {
        for group in 0..self.groups.len() {
            let fills = fills.iter().filter(|fill| fill.group == group);
            let end = fills.map(|fill| fill.page.0 as usize + 1).max().unwrap_or(0);
            self.make(group, end)?;
        }
        Ok(())
    }

    /// Says which tokens of a step the pages take, which are there.
    pub fn set_fills(&mut self, fills: &[PageFill]) {
        for &PageFill { group, page, token, slot, n } in fills {
            for &layer in &self.groups[group].layers {
                let page = &mut self.pages[layer][page.0 as usize];
                for_each_memory!(page, memory => memory.set_fill(Fill { token, slot, n }));
            }
        }
    }

    /// Stores key and value of one head of a batch token; `blocks` is room for them as stored.
    pub fn write(
        &self,
        (layer, id): (usize, PageId),
        ticket: &mut Ticket<'_>,
        (token, head): (usize, usize),
        (key, value): (&[f32], &[f32]),
        kernels: &KernelTable,
        scratch: &mut WriteScratch,
    ) {
        const TAKES: &str = "the page takes the token: `set_fills` said so";
        match &self.pages[layer][id.0 as usize] {
            Page::F32 { k, v } => {
                k.write_lane(ticket, token, head, key).expect(TAKES);
                v.write_slot(ticket, token, head).expect(TAKES).copy_from_slice(value);
            }
            Page::F16 { k, v } => {
                let narrow = kernels.float().f32_to_f16;
                scratch.halves.resize(key.len(), 0);
                narrow(key, &mut scratch.halves);
                k.write_lane(ticket, token, head, &scratch.halves).expect(TAKES);
                narrow(value, v.write_slot(ticket, token, head).expect(TAKES));
            }
            Page::Quantized { k, v } => {
                scratch.quantize(self.kind, key, kernels);
                k.codes.write_lane(ticket, token, head, &scratch.codes).expect(TAKES);
                k.scales.write_lane(ticket, token, head, &scratch.halves).expect(TAKES);
                scratch.quantize(self.kind, value, kernels);
                let to = v.codes.write_slot(ticket, token, head).expect(TAKES);
                to.copy_from_slice(&scratch.codes);
                let to = v.scales.write_slot(ticket, token, head).expect(TAKES);
                to.copy_from_slice(&scratch.halves);
            }
        }
    }

    /// Keys and values of one head in a page of a layer, for reading.
    pub fn read<'p>(
        &'p self,
        (layer, id): (usize, PageId),
        head: usize,
        phase: &'p Phase<'_>,
    ) -> HeadView<'p> {
        fn of<'p, T: Copy + Default>(
            memory: &'p SlotMemory<T>,
            head: usize,
            phase: &'p Phase<'_>,
        ) -> &'p [T] {
            let n = PAGE_TOKENS * memory.width();
            &memory.read(phase)[head * n..][..n]
        }
        let stored = match &self.pages[layer][id.0 as usize] {
            Page::F32 { k, v } => Stored::F32 { k: of(k, head, phase), v: of(v, head, phase) },
            Page::F16 { k, v } => Stored::F16 { k: of(k, head, phase), v: of(v, head, phase) },
            Page::Quantized { k, v } => Stored::Quantized {
                kind: self.kind,
                k: (of(&k.codes, head, phase), of(&k.scales, head, phase)),
                v: (of(&v.codes, head, phase), of(&v.scales, head, phase)),
            },
        };
        let shape = &self.groups[self.group_of[layer]].shape;
        HeadView { stored, k_dim: shape.k_dim, v_dim: shape.v_dim }
    }
}

/// Copies the content of one page of a layer to another.
fn copy_page(pages: &mut [Page], from: PageId, to: PageId) {
    fn copy<T: Copy + Default>(from: &mut SlotMemory<T>, to: &mut SlotMemory<T>) {
        to.get_mut().copy_from_slice(from.get_mut());
    }
    let (from, to) = (from.0 as usize, to.0 as usize);
    let Ok([from, to]) = pages.get_disjoint_mut([from, to]) else {
        panic!("a page is copied to another page");
    };
    match (from, to) {
        (Page::F32 { k, v }, Page::F32 { k: to_k, v: to_v }) => {
            copy(k, to_k);
            copy(v, to_v);
        }
        (Page::F16 { k, v }, Page::F16 { k: to_k, v: to_v }) => {
            copy(k, to_k);
            copy(v, to_v);
        }
        (Page::Quantized { k, v }, Page::Quantized { k: to_k, v: to_v }) => {
            for (from, to) in [(k, to_k), (v, to_v)] {
                copy(&mut from.codes, &mut to.codes);
                copy(&mut from.scales, &mut to.scales);
            }
        }
        _ => unreachable!("an arena has pages of one kind"),
    }
}

/// Room for a key or value on its way to a page.
#[derive(Default)]
pub struct WriteScratch {
    padded: Vec<f32>,
    importances: Vec<f32>,
    blocks: Vec<u8>,
    codes: Vec<u8>,
    /// Halves or scales.
    halves: Vec<u16>,
}

impl WriteScratch {
    /// Leaves codes and scales of `x`.
    fn quantize(&mut self, kind: KvType, x: &[f32], kernels: &KernelTable) {
        let ty = if kind == KvType::Q8_0 { GgmlType::Q8_0 } else { GgmlType::Q4_0 };
        self.padded.clear();
        self.padded.extend_from_slice(x);
        self.padded.resize(x.len().next_multiple_of(BLOCK), 0.0);
        self.blocks.resize(kind.head_bytes(x.len()), 0);
        let kernels = kernels.types(ty).expect("every level has every type");
        // With importances, equal ones, the scale of Q4_0 is searched for.
        self.importances.resize(self.padded.len(), 1.0);
        let written = kernels.quantize(&self.padded, Some(&self.importances), &mut self.blocks);
        written.expect("both types can be written");
        self.codes.clear();
        self.halves.clear();
        for block in self.blocks.chunks_exact(ty.block_bytes()) {
            let (scale, codes) = block.split_at(SCALE_BYTES);
            self.halves.push(u16::from_le_bytes([scale[0], scale[1]]));
            self.codes.extend_from_slice(codes);
        }
    }
}

/// Keys and values of one head in one page.
#[derive(Clone, Copy)]
pub struct HeadView<'p> {
    stored: Stored<'p>,
    k_dim: usize,
    v_dim: usize,
}

#[derive(Clone, Copy)]
enum Stored<'p> {
    F32 {
        k: &'p [f32],
        v: &'p [f32],
    },
    F16 {
        k: &'p [u16],
        v: &'p [u16],
    },
    /// Codes and scales.
    Quantized {
        kind: KvType,
        k: (&'p [u8], &'p [u16]),
        v: (&'p [u8], &'p [u16]),
    },
}

/// A matrix as products take it.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision, as bits.
    F16(&'a [u16]),
}

impl<'a> Matrix<'a> {
    /// Some rows of `cols` elements.
    pub fn rows(self, rows: Range<usize>, cols: usize) -> Matrix<'a> {
        let range = rows.start * cols..rows.end * cols;
        match self {
            Matrix::F32(x) => Matrix::F32(&x[range]),
            Matrix::F16(x) => Matrix::F16(&x[range]),
        }
    }

    /// Itself, or in `wide` what is worth widening for products with `n_rows` rows.
    fn widened(self, n_rows: usize, ops: &FloatOps, wide: &'a mut Vec<f32>) -> Matrix<'a> {
        match self {
            Matrix::F16(x) if n_rows >= WIDENED_ROWS_MIN => {
                wide.resize(x.len(), 0.0);
                (ops.f16_to_f32)(x, wide);
                Matrix::F32(wide)
            }
            other => other,
        }
    }
}

/// The codes; the scales, a few lines, are asked for at once.
fn quantized_ahead((codes, scales): (&[u8], &[u16]), ops: &FloatOps) -> Ahead {
    ops.prefetch(scales);
    Ahead::of(codes)
}

impl<'p> HeadView<'p> {
    /// The keys, `[k_dim][PAGE_TOKENS]`, for products with `n_rows` queries; `wide` is room.
    pub fn keys<'a>(self, n_rows: usize, ops: &FloatOps, wide: &'a mut Vec<f32>) -> Matrix<'a>
    where
        'p: 'a,
    {
        match self.stored {
            Stored::F32 { k, .. } => Matrix::F32(k),
            Stored::F16 { k, .. } => Matrix::F16(k).widened(n_rows, ops, wide),
            Stored::Quantized { kind, k: (codes, scales), .. } => {
                wide.resize(self.k_dim * PAGE_TOKENS, 0.0);
                match kind {
                    KvType::Q8_0 => (ops.widen_lanes_q8_0)(codes, scales, PAGE_TOKENS, wide),
                    _ => (ops.widen_lanes_q4_0)(codes, scales, PAGE_TOKENS, wide),
                }
                Matrix::F32(wide)
            }
        }
    }

    /// The keys as memory that is read next.
    pub fn keys_ahead(self, ops: &FloatOps) -> Ahead {
        match self.stored {
            Stored::F32 { k, .. } => Ahead::of(k),
            Stored::F16 { k, .. } => Ahead::of(k),
            Stored::Quantized { k, .. } => quantized_ahead(k, ops),
        }
    }

    /// The values as memory that is read next.
    pub fn values_ahead(self, ops: &FloatOps) -> Ahead {
        match self.stored {
            Stored::F32 { v, .. } => Ahead::of(v),
            Stored::F16 { v, .. } => Ahead::of(v),
            Stored::Quantized { v, .. } => quantized_ahead(v, ops),
        }
    }

    /// The values, `[PAGE_TOKENS][v_dim]`, for products with `n_rows` rows; `wide` is room.
    pub fn values<'a>(self, n_rows: usize, ops: &FloatOps, wide: &'a mut Vec<f32>) -> Matrix<'a>
    where
        'p: 'a,
    {
        match self.stored {
            Stored::F32 { v, .. } => Matrix::F32(v),
            Stored::F16 { v, .. } => Matrix::F16(v).widened(n_rows, ops, wide),
            Stored::Quantized { kind, v: (codes, scales), .. } => {
                wide.resize(PAGE_TOKENS * self.v_dim, 0.0);
                match kind {
                    KvType::Q8_0 => (ops.widen_rows_q8_0)(codes, scales, self.v_dim, wide),
                    _ => (ops.widen_rows_q4_0)(codes, scales, self.v_dim, wide),
                }
                Matrix::F32(wide)
            }
        }
    }
}
