//! Memory of the KV cache: pages of [`PAGE_TOKENS`] tokens of one layer, made when first needed.
//!
//! Which sequence a page belongs to is the business of [`crate::kv`].

use super::cpu::pool::{Fill, Phase, SlotMemory, Ticket};
use super::program::KvShape;
use std::collections::HashMap;
use teff_kernels::FloatOps;

/// Tokens in a page. A multiple of every kernel's tile, small enough that a short answer to a
/// short question takes little memory.
pub const PAGE_TOKENS: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
}

impl KvType {
    /// Bytes of one element.
    pub fn element_bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

impl std::str::FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<KvType, String> {
        match name {
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            _ => Err(format!("unknown KV type `{name}`: f16 or f32")),
        }
    }
}

/// Number of a page in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageId(u32);

/// Keys and values of one page: `[n_kv_heads][PAGE_TOKENS][dim]` each.
enum Page {
    F32 { k: SlotMemory<f32>, v: SlotMemory<f32> },
    F16 { k: SlotMemory<u16>, v: SlotMemory<u16> },
}

/// All pages.
pub struct Arena {
    kind: KvType,
    pages: Vec<Page>,
    free: HashMap<(usize, usize, usize), Vec<PageId>>,
}

impl Arena {
    /// No pages yet.
    pub fn new(kind: KvType) -> Arena {
        Arena { kind, pages: Vec::new(), free: HashMap::new() }
    }

    /// How elements are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Bytes of a page of a layer.
    pub fn page_bytes(&self, shape: &KvShape) -> usize {
        PAGE_TOKENS * shape.n_kv_heads * (shape.k_dim + shape.v_dim) * self.kind.element_bytes()
    }

    /// A page for a layer of this shape; its content is arbitrary.
    pub fn take(&mut self, shape: &KvShape) -> PageId {
        if let Some(id) = self.free.get_mut(&key(shape)).and_then(Vec::pop) {
            return id;
        }
        let (heads, k, v) = key(shape);
        self.pages.push(match self.kind {
            KvType::F32 => Page::F32 {
                k: SlotMemory::new(heads, PAGE_TOKENS, k),
                v: SlotMemory::new(heads, PAGE_TOKENS, v),
            },
            KvType::F16 => Page::F16 {
                k: SlotMemory::new(heads, PAGE_TOKENS, k),
                v: SlotMemory::new(heads, PAGE_TOKENS, v),
            },
        });
        PageId(u32::try_from(self.pages.len() - 1).expect("fewer than 2^32 pages"))
    }

    /// Gives a page back for reuse by layers of the same shape.
    pub fn give_back(&mut self, shape: &KvShape, id: PageId) {
        self.free.entry(key(shape)).or_default().push(id);
    }

    /// Copies the content of one page to another of the same shape.
    pub fn copy(&mut self, from: PageId, to: PageId) {
        let (from, to) = (from.0 as usize, to.0 as usize);
        let Ok([from, to]) = self.pages.get_disjoint_mut([from, to]) else {
            panic!("a page is copied to another page");
        };
        match (from, to) {
            (Page::F32 { k, v }, Page::F32 { k: to_k, v: to_v }) => {
                to_k.get_mut().copy_from_slice(k.get_mut());
                to_v.get_mut().copy_from_slice(v.get_mut());
            }
            (Page::F16 { k, v }, Page::F16 { k: to_k, v: to_v }) => {
                to_k.get_mut().copy_from_slice(k.get_mut());
                to_v.get_mut().copy_from_slice(v.get_mut());
            }
            _ => unreachable!("an arena has pages of one kind"),
        }
    }

    /// Says which tokens of the coming step a page takes.
    pub fn set_fill(&mut self, id: PageId, fill: Fill) {
        match &mut self.pages[id.0 as usize] {
            Page::F32 { k, v } => {
                k.set_fill(fill);
                v.set_fill(fill);
            }
            Page::F16 { k, v } => {
                k.set_fill(fill);
                v.set_fill(fill);
            }
        }
    }

    /// Stores key and value of one head of a batch token.
    pub fn write(
        &self,
        id: PageId,
        ticket: &mut Ticket<'_>,
        (token, head): (usize, usize),
        (key, value): (&[f32], &[f32]),
        ops: &FloatOps,
    ) {
        const TAKES: &str = "the page takes the token: `set_fill` said so";
        match &self.pages[id.0 as usize] {
            Page::F32 { k, v } => {
                k.write_slot(ticket, token, head).expect(TAKES).copy_from_slice(key);
                v.write_slot(ticket, token, head).expect(TAKES).copy_from_slice(value);
            }
            Page::F16 { k, v } => {
                (ops.f32_to_f16)(key, k.write_slot(ticket, token, head).expect(TAKES));
                (ops.f32_to_f16)(value, v.write_slot(ticket, token, head).expect(TAKES));
            }
        }
    }

    /// Keys and values of a page, for reading.
    pub fn read<'p>(&'p self, id: PageId, phase: &'p Phase<'_>) -> PageView<'p> {
        match &self.pages[id.0 as usize] {
            Page::F32 { k, v } => PageView::F32 { k: k.read(phase), v: v.read(phase) },
            Page::F16 { k, v } => PageView::F16 { k: k.read(phase), v: v.read(phase) },
        }
    }
}

fn key(shape: &KvShape) -> (usize, usize, usize) {
    (shape.n_kv_heads, shape.k_dim, shape.v_dim)
}

/// Keys and values of a page: `[n_kv_heads][PAGE_TOKENS][dim]` each.
#[derive(Clone, Copy)]
pub enum PageView<'p> {
    /// Single precision.
    F32 {
        /// Keys.
        k: &'p [f32],
        /// Values.
        v: &'p [f32],
    },
    /// Half precision, as bits.
    F16 {
        /// Keys.
        k: &'p [u16],
        /// Values.
        v: &'p [u16],
    },
}
