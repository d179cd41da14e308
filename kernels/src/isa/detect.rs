//! The levels of instruction sets, a row each, and tokens: zero-sized proofs that the CPU has what a
//! level needs.

use std::fmt;
use std::str::FromStr;

/// [`Level`] and [`token`] from rows, worst first: `doc and cfg, name = spelling: whether the CPU
/// has it`.
macro_rules! levels {
    ($(
        #[doc = $doc:literal]
        $(#[$cfg:meta])*
        $name:ident = $spelling:literal: $has:expr;
    )*) => {
        /// Sets of instructions of this architecture, worst first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Level {
            $(#[doc = $doc] $(#[$cfg])* $name,)*
        }

        impl Level {
            /// All levels, worst first.
            pub const ALL: &[Level] = &[$($(#[$cfg])* Level::$name,)*];

            /// The spelling of [`Level::from_str`].
            pub const fn name(self) -> &'static str {
                match self {
                    $($(#[$cfg])* Level::$name => $spelling,)*
                }
            }
        }

        /// Proofs that the CPU has a level's instructions and, for wide registers, an operating
        /// system that saves them.
        pub(crate) mod token {
            #[allow(clippy::wildcard_imports, reason = "the questions are this file's")]
            use super::*;
            $(
                #[doc = $doc]
                $(#[$cfg])*
                #[derive(Clone, Copy, Debug)]
                pub(crate) struct $name(());

                $(#[$cfg])*
                impl $name {
                    /// `None` on CPUs without.
                    pub fn new() -> Option<$name> {
                        $has.then_some($name(()))
                    }
                }
            )*
        }
    };
}

levels! {
    /// Any CPU.
    Scalar = "scalar": true;
    /// x86-64 with SSE4.1 and SSSE3: Penryn, Nehalem, Bulldozer and later.
    #[cfg(target_arch = "x86_64")]
    Sse41 = "sse41": has_sse41();
    /// x86-64 with AVX2, FMA and F16C: Haswell, Zen and later.
    #[cfg(target_arch = "x86_64")]
    Avx2 = "avx2": has_avx2();
    /// AVX2, by AVX-VNNI's kernels.
    #[cfg(all(test, target_arch = "x86_64"))]
    AvxVnniPlayed = "avxvnni-played": has_avx2();
    /// AVX2 with the 256-bit part of AVX-512 VNNI: AVX-VNNI's kernels in another encoding, for tests.
    #[cfg(all(any(test, feature = "evex"), target_arch = "x86_64"))]
    AvxVnniEvex = "avxvnni-evex": has_avx512vnni();
    /// AVX2 with AVX-VNNI: Intel's since Alder Lake, Zen 5 and later.
    #[cfg(target_arch = "x86_64")]
    AvxVnni = "avxvnni": has_avxvnni();
    /// AVX2 with AVX-512 F, BW, DQ, VL and VNNI: Cascade Lake.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni = "avx512vnni": has_avx512vnni();
    /// AVX-512 VNNI with VBMI2: Zen 4, Ice Lake and later.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi2 = "avx512vbmi2": has_avx512vbmi2();
    /// Any 64-bit ARM: Cortex-A53 and A72, which are Raspberry Pi 3 and 4.
    #[cfg(target_arch = "aarch64")]
    Neon = "neon": true;
    /// NEON with dot products of bytes, FEAT_DotProd: Cortex-A76 (Raspberry Pi 5), Apple M1.
    #[cfg(target_arch = "aarch64")]
    NeonDot = "neon_dot": has_neon_dot();
    /// NEON with dot and matrix products of bytes, FEAT_I8MM: Apple M2, Neoverse V1 and N2, and later.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm = "neon_i8mm": has_neon_i8mm();
}

impl Level {
    pub(crate) const BEST: Level = Level::ALL[Level::ALL.len() - 1];
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

#[cfg(target_arch = "x86_64")]
fn has_sse41() -> bool {
    cpufeatures::new!(sse41_ssse3, "sse4.1", "ssse3");
    sse41_ssse3::get()
}

/// F16C is CPUID leaf 1, ecx bit 29, which `cpufeatures` does not know.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    cpufeatures::new!(avx2_fma, "avx2", "fma");
    avx2_fma::get() && std::arch::x86_64::__cpuid(1).ecx >> 29 & 1 == 1
}

/// AVX-VNNI is CPUID leaf 7, subleaf 1, eax bit 4, which `cpufeatures` does not know; subleaf 0 says
/// in eax which subleaves there are. Its registers are AVX2's.
#[cfg(target_arch = "x86_64")]
fn has_avxvnni() -> bool {
    let leaf_7 = |subleaf| std::arch::x86_64::__cpuid_count(7, subleaf).eax;
    has_avx2() && leaf_7(0) >= 1 && leaf_7(1) >> 4 & 1 == 1
}

/// VNNI is CPUID leaf 7, ecx bit 11, which `cpufeatures` does not know; CPUs with AVX2 have the leaf.
#[cfg(target_arch = "x86_64")]
fn has_avx512vnni() -> bool {
    cpufeatures::new!(avx512, "avx512f", "avx512bw", "avx512dq", "avx512vl");
    has_avx2() && avx512::get() && std::arch::x86_64::__cpuid_count(7, 0).ecx >> 11 & 1 == 1
}

/// VBMI2 is CPUID leaf 7, ecx bit 6, which `cpufeatures` does not know; POPCNT is older.
#[cfg(target_arch = "x86_64")]
fn has_avx512vbmi2() -> bool {
    cpufeatures::new!(bits, "popcnt");
    has_avx512vnni() && bits::get() && std::arch::x86_64::__cpuid_count(7, 0).ecx >> 6 & 1 == 1
}

/// FEAT_DotProd, in all of a machine's different cores.
#[cfg(target_arch = "aarch64")]
fn has_neon_dot() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// FEAT_I8MM, in all of a machine's different cores.
#[cfg(target_arch = "aarch64")]
fn has_neon_i8mm() -> bool {
    has_neon_dot() && std::arch::is_aarch64_feature_detected!("i8mm")
}
