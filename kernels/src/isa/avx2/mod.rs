//! AVX2, FMA and F16C.

use crate::act;
use crate::isa::Level;
use crate::isa::detect::Avx2;
use crate::table::{KernelTable, SCALAR_FLOAT, SCALAR_TYPES};

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: Avx2) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable =
    KernelTable { level: Level::Avx2, types: &SCALAR_TYPES, float: SCALAR_FLOAT, pack: act::pack };
