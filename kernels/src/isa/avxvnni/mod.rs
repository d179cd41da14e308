//! AVX-VNNI: AVX2's kernels with `vpdpbusd`, which multiplies four bytes by four and adds them to an
//! i32, where AVX2 takes three instructions and limits on the codes. Intel's laptop and desktop CPUs
//! have it since Alder Lake (2021), AMD's since Zen 5, most of them without AVX-512.
//!
//! Sources are AVX2's, by a [`Dot`] of their own; what would gain nothing, decoding of most types from
//! rows of the file, is AVX2's machine code. The instruction comes in two encodings, so there are two
//! levels: VEX's, which is AVX-VNNI, and EVEX's, which CPUs with AVX-512 VNNI have. There the second
//! is below the level of 512 bits, hence never chosen unless asked for: it is there, in the crate's own
//! tests and with the feature `evex`, so that CPUs without the first can test and time these kernels.
//! In the crate's own tests a third level has AVX2 instructions in place of the one, so that all else
//! is tested on any CPU with AVX2.
//!
//! Instructions are written in assembly: an intrinsic would be inlined only into functions with its
//! feature, and kernels that are generic over the step have AVX2's features alone.

use crate::act::{PanelOrder, ROWS_MAX};
use crate::isa::avx2::dot::Dot;
use crate::isa::avx2::{self, Kernels};
use crate::isa::detect::{Level, token};
use crate::isa::scalar::N_TYPES;
use crate::table::{KernelTable, TypeKernels, overlaid, sparse, with_rows_max};
use std::arch::asm;
use std::arch::x86_64::__m256i;

/// `doc, module: level, step, { the step's function }`.
macro_rules! level {
    ($(#[$attribute:meta])* $module:ident: $level:ident, $step:ident, $dot:item) => {
        $(#[$attribute])*
        pub(in crate::isa) mod $module {
            use super::*;

            /// The table, for those who can show that the CPU has the features.
            pub(in crate::isa) fn table(_: token::$level) -> &'static KernelTable {
                static TABLE: KernelTable = KernelTable {
                    level: Level::$level,
                    types: &TYPES,
                    sparse: &sparse(&TYPES, Kernels::<$step>::SPARSE),
                    float: avx2::FLOAT,
                    pack: avx2::entry_pack,
                    order: $step::ORDER,
                    interleaved_rows_max: ROWS_MAX,
                };
                &TABLE
            }

            static TYPES: [TypeKernels; N_TYPES] = with_rows_max(
                overlaid(
                    Level::$level,
                    avx2::TYPES,
                    Kernels::<$step>::MATMULS,
                    Kernels::<$step>::INTERLEAVED,
                ),
                // Rows are AVX2's, panels faster.
                avx2::ROWS_OF_TYPES,
            );

            struct $step;

            impl Dot for $step {
                const FOUR: bool = true;
                const ORDER: PanelOrder = PanelOrder::Plus128;

                #[inline(always)]
                fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
                    // SAFETY: kernels with this step are reached from the table above alone.
                    unsafe { dot(sum, unsigned, signed) }
                }
            }

            $dot
        }
    };
}

/// `vpdpbusd` in an encoding.
macro_rules! level_of_encoding {
    ($(#[$doc:meta])* $module:ident: $level:ident, $step:ident, $encoding:literal) => {
        level! {
            $(#[$doc])*
            $module: $level, $step,
            /// # Safety
            /// The CPU has the instruction in this encoding.
            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn dot(mut sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
                // SAFETY: arithmetic on registers, and the CPU has it.
                unsafe {
                    asm!(
                        concat!("{{", $encoding, "}} vpdpbusd {0}, {1}, {2}"),
                        inout(ymm_reg) sum,
                        in(ymm_reg) unsigned,
                        in(ymm_reg) signed,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                sum
            }
        }
    };
}

level_of_encoding! {
    /// AVX-VNNI.
    vex: AvxVnni, Vex, "vex"
}
#[cfg(any(test, feature = "evex"))]
level_of_encoding! {
    /// AVX-512 VNNI and VL: the same instruction in another encoding.
    evex: AvxVnniEvex, Evex, "evex"
}
#[cfg(test)]
level! {
    /// AVX2, by the instruction's definition.
    played: AvxVnniPlayed, Played,
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        use std::arch::x86_64::*;

        // Of each four bytes the first and third, the second and fourth, as i16.
        let low = _mm256_set1_epi16(0xff);
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed));
        let even = _mm256_madd_epi16(_mm256_and_si256(unsigned, low), even);
        let odd = _mm256_srai_epi16::<8>(signed);
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(unsigned), odd);
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }
}
