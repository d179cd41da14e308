//! What a CPU can do, and the kernels that use it: a folder per level, a file per algorithm.
//!
//! A level's kernels are safe functions with `#[target_feature]`. They are called through the
//! function pointers of one table, which [`crate::table`] hands out only against the level's
//! token; a token exists only if [`detect`] has found the features.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
pub(crate) mod detect;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_dot;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_i8mm;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod sse41;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tokens;

/// Sets of instructions of this architecture, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Any CPU.
    Scalar,
    /// x86-64 with SSE4.1 and SSSE3: Penryn, Nehalem, Bulldozer and later.
    #[cfg(target_arch = "x86_64")]
    Sse41,
    /// x86-64 with AVX2, FMA and F16C: Haswell, Zen and later.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with AVX-512 VNNI: Zen 4, Ice Lake and later.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Any 64-bit ARM: Cortex-A53 and A72, which are Raspberry Pi 3 and 4.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with dot products of bytes: Cortex-A76 (Raspberry Pi 5), Apple M1.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// The same with matrix products of bytes: Apple M2, Neoverse V1 and N2, and later.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Level {
    /// All levels, worst first.
    pub const ALL: &[Level] = &[
        Level::Scalar,
        #[cfg(target_arch = "x86_64")]
        Level::Sse41,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni,
        #[cfg(target_arch = "aarch64")]
        Level::Neon,
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot,
        #[cfg(target_arch = "aarch64")]
        Level::NeonI8mm,
    ];

    pub(crate) const BEST: Level = Level::ALL[Level::ALL.len() - 1];

    /// The spelling of [`Level::from_str`].
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Sse41 => "sse41",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => "neon_dot",
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => "neon_i8mm",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no level's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLevel(pub String);

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown instruction set \"{}\", known are:", self.0)?;
        Level::ALL.iter().try_for_each(|level| write!(f, " {level}"))
    }
}

impl std::error::Error for UnknownLevel {}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Level, UnknownLevel> {
        let found = Level::ALL.iter().copied().find(|level| level.name() == name);
        found.ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}
