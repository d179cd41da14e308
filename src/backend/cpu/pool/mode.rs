//! Use of a shared buffer: which pool has it, and what the current phase does with it.
//!
//! The first claim of a phase fixes the use; every other claim of that phase must be equal. A claim
//! that finds the use already fixed costs one relaxed load. No ordering is needed: the words only
//! say who may touch the memory, barriers order the accesses themselves.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a phase's number: enough for half a year of a small model's decoding.
const PHASE_BITS: u32 = 40;
const KIND_BITS: u32 = 2;
/// Bits of a parameter in the word of the use itself; a bit beside them says that there are more.
const LOW_BITS: u32 = 21;
/// Bits of a parameter in the word beside it.
const HIGH_BITS: u32 = 24;
/// Elements that a buffer may have, so that the size of every cell is a parameter.
pub const LEN_MAX: u64 = 1 << (LOW_BITS + HIGH_BITS);

const _: () = assert!(PHASE_BITS + KIND_BITS + 1 + LOW_BITS == u64::BITS);
const _: () = assert!(PHASE_BITS + HIGH_BITS == u64::BITS);
const _: () = assert!(Use::Slots as u64 >> KIND_BITS == 0);

/// Kind of use of a buffer within a phase.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// All workers read all of it.
    Read,
    /// Item `i` of the phase has the elements from `i * parameter` on.
    Cells,
    /// Item `i * parameter` of the phase has column `i` of every row.
    Columns,
    /// Item `i` has the slot of batch token `i`, in one of two layouts.
    Slots,
}

/// Phase of some pool. Numbers are unique in the process: a phase is never mistaken for another's.
#[derive(Clone, Copy)]
pub(super) struct PhaseId {
    pub number: u64,
    pub pool: u64,
}

/// Number of the next phase of any pool.
pub(super) fn next_phase() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let phase = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(phase < 1 << PHASE_BITS, "phase numbers are used up");
    phase
}

/// Number of the next pool, from 1.
pub(super) fn next_pool() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Owner and current use of a buffer.
#[derive(Default)]
pub(super) struct Mode {
    /// Number of the latest phase that used the buffer, its kind of use, the low bits of the
    /// parameter.
    word: AtomicU64,
    /// Number of the latest phase with a parameter of more bits, and these.
    high: AtomicU64,
    /// Pool that has used the buffer since [`Mode::release`]; 0 for none.
    pool: AtomicU64,
}

impl Mode {
    /// Claims a kind of use for the phase.
    ///
    /// # Panics
    /// If the phase already uses the buffer otherwise, or if the buffer is another pool's.
    #[inline]
    pub fn claim(&self, phase: PhaseId, kind: Use, param: usize) {
        let param = param as u64;
        let high = param >> LOW_BITS;
        let low = param & ((1 << LOW_BITS) - 1) | u64::from(high > 0) << LOW_BITS;
        let word = (phase.number << KIND_BITS | kind as u64) << (LOW_BITS + 1) | low;
        if self.word.load(Ordering::Relaxed) != word {
            self.agree(&self.word, phase, word);
        }
        if high > 0 {
            self.claim_high(phase, high);
        }
    }

    #[cold]
    fn claim_high(&self, phase: PhaseId, high: u64) {
        assert!(high < 1 << HIGH_BITS, "a cell of a shared buffer is too long");
        self.agree(&self.high, phase, phase.number << HIGH_BITS | high);
    }

    /// Sets one of the two words to `value`, unless the phase has set it already.
    #[cold]
    fn agree(&self, word: &AtomicU64, phase: PhaseId, value: u64) {
        self.own(phase.pool);
        let mut now = word.load(Ordering::Relaxed);
        while now != value {
            let is_set = now >> (u64::BITS - PHASE_BITS) == phase.number;
            assert!(!is_set, "a buffer is used in two ways within one phase");
            match word.compare_exchange(now, value, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Makes the buffer the pool's.
    fn own(&self, pool: u64) {
        if self.pool.load(Ordering::Relaxed) == pool {
            return;
        }
        let owner = self.pool.compare_exchange(0, pool, Ordering::Relaxed, Ordering::Relaxed);
        if let Err(owner) = owner
            && owner != pool
        {
            panic!("pool {pool} uses a buffer of pool {owner}");
        }
    }

    /// Makes the buffer nobody's: exclusive access proves that no phase is using it.
    pub fn release(&mut self) {
        *self.pool.get_mut() = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn claims(mode: &Mode, number: u64, kind: Use, param: usize) -> bool {
        let phase = PhaseId { number, pool: 1 };
        catch_unwind(AssertUnwindSafe(|| mode.claim(phase, kind, param))).is_ok()
    }

    #[test]
    fn a_phase_agrees_on_all_bits_of_a_parameter() {
        let wide = if usize::BITS > 32 { LEN_MAX as usize - 1 } else { usize::MAX };
        let params = [0, 1, (1 << LOW_BITS) - 1, 1 << LOW_BITS, (1 << LOW_BITS) + 1, wide];
        let mode = Mode::default();
        for (i, &param) in params.iter().enumerate() {
            let phase = i as u64 + 1;
            assert!(claims(&mode, phase, Use::Cells, param), "{param}");
            assert!(claims(&mode, phase, Use::Cells, param), "{param}");
            for &other in params.iter().filter(|&&other| other != param) {
                assert!(!claims(&mode, phase, Use::Cells, other), "{param} and {other}");
            }
            assert!(!claims(&mode, phase, Use::Columns, param), "{param}");
            assert!(!claims(&mode, phase, Use::Read, 0), "{param}");
        }
        #[cfg(target_pointer_width = "64")]
        assert!(!claims(&mode, 100, Use::Cells, LEN_MAX as usize), "too long");
    }
}
