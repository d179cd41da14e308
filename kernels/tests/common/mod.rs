//! Levels and random numbers, for tests of all levels.

use teff_kernels::{KernelTable, Level};

/// Every level of this CPU.
pub fn tables() -> Vec<&'static KernelTable> {
    let mut tables: Vec<_> = Level::ALL.iter().map(|&level| KernelTable::at_most(level)).collect();
    tables.dedup_by_key(|table| table.level());
    tables
}

/// A generator, xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
