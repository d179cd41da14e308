//! Tokens: zero-sized proofs that the CPU has a level's features.

/// Proof of AVX2, FMA and F16C, and of an operating system that saves the wide registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// `None` on CPUs without.
    pub fn new() -> Option<Avx2> {
        cpufeatures::new!(avx2_fma, "avx2", "fma");
        (avx2_fma::get() && has_f16c()).then_some(Avx2(()))
    }
}

/// Proof of SSE4.1 and SSSE3.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sse41(());

#[cfg(target_arch = "x86_64")]
impl Sse41 {
    /// `None` on CPUs without.
    pub fn new() -> Option<Sse41> {
        cpufeatures::new!(sse41_ssse3, "sse4.1", "ssse3");
        sse41_ssse3::get().then_some(Sse41(()))
    }
}

/// CPUID leaf 1, ecx bit 29, which `cpufeatures` does not know.
#[cfg(target_arch = "x86_64")]
fn has_f16c() -> bool {
    std::arch::x86_64::__cpuid(1).ecx >> 29 & 1 == 1
}
