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

/// Proof of what [`Avx2`] shows and of AVX-512 F, BW, DQ, VL and VNNI, likewise saved.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Vnni(());

#[cfg(target_arch = "x86_64")]
impl Avx512Vnni {
    /// `None` on CPUs without.
    pub fn new() -> Option<Avx512Vnni> {
        cpufeatures::new!(avx512, "avx512f", "avx512bw", "avx512dq", "avx512vl");
        Avx2::new().filter(|_| avx512::get() && has_avx512vnni()).map(|_| Avx512Vnni(()))
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

/// CPUID leaf 7, ecx bit 11, which `cpufeatures` does not know; CPUs with AVX2 have the leaf.
#[cfg(target_arch = "x86_64")]
fn has_avx512vnni() -> bool {
    std::arch::x86_64::__cpuid_count(7, 0).ecx >> 11 & 1 == 1
}

/// Proof of the dot products of FEAT_DotProd.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeonDot(());

#[cfg(target_arch = "aarch64")]
impl NeonDot {
    /// `None` on CPUs without, or if some of a machine's different cores are without.
    pub fn new() -> Option<NeonDot> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(NeonDot(()))
    }
}

/// Proof of what [`NeonDot`] shows and of the matrix products of FEAT_I8MM.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeonI8mm(());

#[cfg(target_arch = "aarch64")]
impl NeonI8mm {
    /// `None` on CPUs without, or if some of a machine's different cores are without.
    pub fn new() -> Option<NeonI8mm> {
        let has = NeonDot::new().is_some() && std::arch::is_aarch64_feature_detected!("i8mm");
        has.then_some(NeonI8mm(()))
    }
}
