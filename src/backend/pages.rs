//! Pages of the KV cache and slots of recurrent states as numbers: what the cache and the backends
//! say to each other about memory that a backend has.
//!
//! A page holds the keys and values of [`PAGE_TOKENS`] tokens for all layers of a group: layers of
//! one shape and window need the same pages, so they share a table, and a page has one number for
//! all of them. Which sequence a page belongs to is the business of [`crate::kv`].

use super::program::KvShape;
use std::fmt;

/// Tokens in a page. A multiple of every kernel's tile, small enough that a short answer to a
/// short question takes little memory.
pub const PAGE_TOKENS: usize = 32;
/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block's scale, with which it begins.
pub(super) const SCALE_BYTES: usize = 2;

/// Number of a page among those of its group of layers, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// Number of the memory for the recurrent states of one sequence, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateSlot(pub u32);

/// Pages of one sequence: `[group][position / PAGE_TOKENS]`, `None` where the window has passed.
pub type PageTable = Vec<Vec<Option<PageId>>>;

/// Tokens of a step that go to one page: batch token `token + i` to slot `slot + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFill {
    /// Group of layers that the page belongs to.
    pub group: usize,
    /// The page.
    pub page: PageId,
    /// First token of the batch that the page takes.
    pub token: usize,
    /// Slot of that token in the page.
    pub slot: usize,
    /// Number of tokens.
    pub n: usize,
}

/// A change of the memory of pages and states that a backend makes before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOp {
    /// Copies a page to another one, in all layers of the group.
    CopyPage {
        /// Group of layers.
        group: usize,
        /// Source.
        from: PageId,
        /// Destination.
        to: PageId,
    },
    /// Copies all states of a slot to another one.
    CopyStates {
        /// Source.
        from: StateSlot,
        /// Destination.
        to: StateSlot,
    },
    /// Sets all states of a slot to zeros.
    ClearStates(StateSlot),
}

/// Layers that share page tables, as they have the same shape and window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// Shape of every layer of the group.
    pub shape: KvShape,
    /// The layers, ascending indices into [`super::program::Program::kv`].
    pub layers: Vec<usize>,
}

impl LayerGroup {
    /// The groups of a program's layers, in the order of their first layers.
    pub fn of_layers(layers: &[KvShape]) -> Vec<LayerGroup> {
        let mut groups: Vec<LayerGroup> = Vec::new();
        for (layer, &shape) in layers.iter().enumerate() {
            match groups.iter_mut().find(|group| group.shape == shape) {
                Some(group) => group.layers.push(layer),
                None => groups.push(LayerGroup { shape, layers: vec![layer] }),
            }
        }
        groups
    }

    /// Bytes of a page in all layers of the group.
    pub fn page_bytes(&self, kind: KvType) -> usize {
        let KvShape { n_kv_heads, k_dim, v_dim, .. } = self.shape;
        self.layers.len() * PAGE_TOKENS * kind.token_bytes(n_kv_heads, k_dim, v_dim)
    }
}

/// Type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// 8 bits and a scale for 32 elements.
    Q8_0,
    /// 4 bits and a scale for 32 elements, rotated.
    Q4_0,
}

impl KvType {
    /// All types, the most exact first.
    pub const ALL: [KvType; 4] = [KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0];

    /// The spelling of `from_str`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// Bytes of the key or the value of one head, of `dim` elements.
    pub fn head_bytes(self, dim: usize) -> usize {
        match self {
            KvType::F32 => 4 * dim,
            KvType::F16 => 2 * dim,
            KvType::Q8_0 => dim.div_ceil(BLOCK) * (SCALE_BYTES + BLOCK),
            KvType::Q4_0 => dim.div_ceil(BLOCK) * (SCALE_BYTES + BLOCK / 2),
        }
    }

    /// Bytes of the keys and values of one token in a layer.
    pub fn token_bytes(self, n_kv_heads: usize, k_dim: usize, v_dim: usize) -> usize {
        n_kv_heads * (self.head_bytes(k_dim) + self.head_bytes(v_dim))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<KvType, String> {
        let found = KvType::ALL.into_iter().find(|kind| kind.name() == name);
        let known = || KvType::ALL.map(KvType::name).join(", ");
        found.ok_or_else(|| format!("unknown KV type `{name}`, known are: {}", known()))
    }
}
