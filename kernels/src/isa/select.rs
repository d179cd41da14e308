//! The choice of a level: the best of the CPU, or what the environment allows of it.

use super::detect::{Level, UnknownLevel, token};
use crate::table::KernelTable;

/// The name of the environment variable that lowers the level.
const TEFF_ISA: &str = "TEFF_ISA";

impl KernelTable {
    /// The table of the best level of this CPU, unless the environment variable `TEFF_ISA` names a
    /// lower one. A name that is no level's is passed over: [`KernelTable::from_env`] tells.
    pub fn detect() -> &'static KernelTable {
        KernelTable::from_env().unwrap_or_else(|_| KernelTable::at_most(Level::BEST))
    }

    /// As [`KernelTable::detect`].
    ///
    /// # Errors
    /// `TEFF_ISA` names no level.
    pub fn from_env() -> Result<&'static KernelTable, UnknownLevel> {
        match std::env::var_os(TEFF_ISA) {
            None => Ok(KernelTable::at_most(Level::BEST)),
            Some(name) => Ok(KernelTable::at_most(name.to_string_lossy().parse()?)),
        }
    }

    /// The best level of this CPU that is not above `level`.
    pub fn at_most(level: Level) -> &'static KernelTable {
        let levels = Level::ALL.iter().rev().filter(|&&candidate| candidate <= level);
        levels.copied().find_map(table).expect("every CPU has the lowest level")
    }
}

/// The tables of levels in this module's siblings of those names.
macro_rules! tables {
    ($($(#[$cfg:meta])* $level:ident: $folder:ident;)*) => {
        /// The table of a level, if the CPU has it.
        fn table(level: Level) -> Option<&'static KernelTable> {
            match level {
                $($(#[$cfg])* Level::$level => token::$level::new().map(super::$folder::table),)*
            }
        }
    };
}

tables! {
    Scalar: scalar;
    #[cfg(target_arch = "x86_64")]
    Sse41: sse41;
    #[cfg(target_arch = "x86_64")]
    Avx2: avx2;
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni: avx512vnni;
    #[cfg(target_arch = "aarch64")]
    Neon: neon;
    #[cfg(target_arch = "aarch64")]
    NeonDot: neon_dot;
    #[cfg(target_arch = "aarch64")]
    NeonI8mm: neon_i8mm;
}
