//! Requests for lines of memory ahead of the kernels over interleaved rows: which, and how far ahead.

use std::sync::atomic::{AtomicBool, Ordering};

/// How far ahead memory is asked for: the hardware stops at the end of each page of 4 KiB.
pub(in crate::isa) const AHEAD_BYTES: usize = 4096;

/// How far ahead every line is asked for into L2: L1 has fewer lines under way than these kernels
/// can use.
pub(in crate::isa) const FAR_BYTES: usize = 16 << 10;

/// Whether this CPU reads faster if kernels of any speed ask for every line.
static ASKS_FOR_ALL: AtomicBool = AtomicBool::new(false);

/// Sets what kernels ask for from the CPU's maker and instructions. Results do not depend on it.
///
/// Measured with weights of 4 bits and more: a Zen 4 reads 11 to 47 % faster if its prefetcher is led by
/// one request per block (3 to 13 % with AVX2), an Intel Sapphire Rapids 11 to 42 % faster if every line
/// is asked for. So Intel's CPUs with AVX-512 ask for all, others lead.
pub(in crate::isa) fn look_at_cpu() {
    let leaf = std::arch::x86_64::__cpuid(0);
    let maker = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    let all = maker.as_flattened() == b"GenuineIntel" && is_x86_feature_detected!("avx512f");
    ASKS_FOR_ALL.store(all, Ordering::Relaxed);
}

/// Whether a kernel is done with `bytes` that hold `weights`, for so many tokens, before memory
/// brings the next: that is so with one token and weights of 4 bits or more. A slower kernel comes too
/// late for the hardware to follow, and gains by asking for every line.
pub(in crate::isa) const fn outruns_memory(bytes: usize, weights: usize, tokens: usize) -> bool {
    tokens == 1 && 2 * bytes >= weights
}

/// Whether kernels that outrun memory ask for the first line of a block alone: the prefetcher of such
/// a CPU, once led to a page, keeps more lines under way than the core may ask for by itself.
#[inline]
pub(in crate::isa) fn leads_prefetcher() -> bool {
    !ASKS_FOR_ALL.load(Ordering::Relaxed)
}
