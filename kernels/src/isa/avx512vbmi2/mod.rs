//! AVX-512 VBMI2: the kernels of AVX-512 VNNI, and decoding from rows of which half are zeros, wherever
//! they are.
//!
//! `vpexpandb` puts packed bytes in the places that a mask has, which without it takes longer than
//! reading the zeros from memory.
//!
//! An entry's one `unsafe` calls a function of the level's features. It is sound because entries
//! leave this file only inside [`TABLE`], and that only against the level's token, which
//! also proves what the entries of the levels below need.

#![allow(clippy::needless_range_loop, reason = "as in AVX2's kernels")]

mod half;

use super::avx2;
use super::avx512vnni::{self, lanes::LANES};
use crate::act::{PanelOrder, ROWS_MAX};
use crate::isa::detect::{Level, token};
use crate::table::{GroupBlocks, Interleaved, KernelTable, TypeKernels, sparse};
use gguf_rs_lite::GgmlType;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: token::Avx512Vbmi2) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable = KernelTable {
    level: Level::Avx512Vbmi2,
    types: &avx512vnni::TYPES,
    sparse: &SPARSE,
    float: avx512vnni::FLOAT,
    pack: avx2::entry_pack,
    order: PanelOrder::Plus128,
    interleaved_rows_max: ROWS_MAX,
};

/// Two of every four first: they need no mask, and are faster. Q4_0 with half of its codes anywhere
/// gains too little, see `benches/record`.
static SPARSE: [TypeKernels; 3] = {
    let [q8_0, q4_0] = *avx512vnni::SPARSE;
    sparse(&avx512vnni::TYPES, &[q8_0, q4_0, (GgmlType::Q8_0, HALF)])
};

const HALF: Interleaved = Interleaved {
    lanes: LANES,
    matmul: |w, group_bytes, skip, acts, y| {
        // SAFETY: the CPU has the features, see above.
        unsafe { half::matmul(w, group_bytes, skip, acts, y) }
    },
    // SAFETY: as above.
    interleave: |_, rows, out| unsafe { half::interleave(rows, out) },
    // SAFETY: as above.
    restore: |_, group, out| unsafe { half::restore(group, out) },
    blocks: GroupBlocks::Sparse(half::BLOCK_BYTES),
};
