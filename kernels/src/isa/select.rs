//! The choice of a level: the best of the CPU, or what the environment allows of it.

use std::sync::OnceLock;

use super::detect::{Level, UnknownLevel, token};
use crate::table::KernelTable;

/// The name of the environment variable that lowers the level.
const TEFF_ISA: &str = "TEFF_ISA";

impl KernelTable {
    /// The table of the best level of this CPU, unless the environment variable `TEFF_ISA` names a
    /// lower one. A name that is no level's is passed over: [`KernelTable::from_env`] tells. Both are looked
    /// at once: asking a CPU what it has takes tens of microseconds in a virtual machine.
    pub fn detect() -> &'static KernelTable {
        static DETECTED: OnceLock<&KernelTable> = OnceLock::new();
        DETECTED.get_or_init(|| {
            KernelTable::from_env().unwrap_or_else(|_| KernelTable::at_most(Level::BEST))
        })
    }

    /// [`KernelTable::detect`] that reports a wrong name.
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
        #[cfg(target_arch = "x86_64")]
        super::avx2::lines::look_at_cpu();
        let levels = Level::ALL.iter().rev().filter(|&&candidate| candidate <= level);
        levels.copied().find_map(table).expect("every CPU has the lowest level")
    }
}

/// `level: its table's function`.
macro_rules! tables {
    ($($(#[$cfg:meta])* $level:ident: $table:path;)*) => {
        /// The table of a level, if the CPU has it.
        fn table(level: Level) -> Option<&'static KernelTable> {
            match level {
                $($(#[$cfg])* Level::$level => token::$level::new().map($table),)*
            }
        }
    };
}

tables! {
    Scalar: super::scalar::table;
    #[cfg(target_arch = "x86_64")]
    Sse41: super::sse41::table;
    #[cfg(target_arch = "x86_64")]
    Avx2: super::avx2::table;
    #[cfg(all(test, target_arch = "x86_64"))]
    AvxVnniPlayed: super::avxvnni::played::table;
    #[cfg(all(any(test, feature = "evex"), target_arch = "x86_64"))]
    AvxVnniEvex: super::avxvnni::evex::table;
    #[cfg(target_arch = "x86_64")]
    AvxVnni: super::avxvnni::vex::table;
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni: super::avx512vnni::table;
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi2: super::avx512vbmi2::table;
    #[cfg(target_arch = "aarch64")]
    Neon: super::neon::table;
    #[cfg(target_arch = "aarch64")]
    NeonDot: super::neon_dot::table;
    #[cfg(target_arch = "aarch64")]
    NeonI8mm: super::neon_i8mm::table;
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use crate::act::{ActFormat, ActPlan, ActUnit, Acts, PANEL_TOKENS, PanelOrder};
    use crate::{KernelTable, Level, Scratch};
    use gguf_rs_lite::GgmlType;

    /// Levels of tests are laid over AVX2, where the CPU has the instructions.
    #[test]
    fn levels_for_tests_are_there() {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let evex = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        for (level, has) in [(Level::AvxVnniPlayed, avx2), (Level::AvxVnniEvex, evex)] {
            let table = KernelTable::at_most(level);
            assert_eq!(table.level() == level, has, "{level}");
            let q4_k = table.types(GgmlType::Q4_K).expect("a type of every level");
            assert!(!has || q4_k.level == level, "{level}");
        }
    }

    /// A level above may have panels in another order: levels that it may be laid over take both.
    #[test]
    fn lower_levels_take_panels_of_either_order() {
        let (rows, cols, n) = (7, 256, PANEL_TOKENS + 1);
        let x: Vec<f32> = (0..n * cols).map(|i| (i as f32 * 0.61).cos()).collect();
        for level in [Level::Scalar, Level::Sse41, Level::Avx2] {
            let table = KernelTable::at_most(level);
            for kernels in table.types.iter().filter(|k| k.act == ActFormat::Q8x32) {
                let bytes = rows * cols / kernels.ty.block_len() * kernels.ty.block_bytes();
                let w: Vec<u8> = (0..bytes).map(|i| (i * 37 + i / 251) as u8 & 0xbb).collect();
                let plan = table.plan(kernels.act, cols, n);
                let units = plan.units();
                let (mut q, mut d) =
                    (vec![0; units * plan.q_len()], vec![0.0; units * plan.d_len()]);
                let mut s = vec![0; units * plan.s_len()];
                for u in 0..units {
                    let tokens = plan.tokens_of(u);
                    let unit = ActUnit {
                        q: &mut q[u * plan.q_len()..][..plan.q_len()],
                        d: &mut d[u * plan.d_len()..][..plan.d_len()],
                        s: &mut s[u * plan.s_len()..][..plan.s_len()],
                        x: &mut [],
                    };
                    table.pack(&plan, &x[tokens.start * cols..tokens.end * cols], unit);
                }
                let acts = Acts { plan: &plan, q: &q, d: &d, s: &s, x: &[] };
                let order = match plan.order {
                    PanelOrder::Plus128 => PanelOrder::ByHalves,
                    PanelOrder::ByHalves => PanelOrder::Plus128,
                };
                let mut q = vec![0; acts.q.len()];
                acts.reorder(order, &mut q);
                let other = Acts { plan: &ActPlan { order, ..plan }, q: &q, ..acts };
                let product = |acts: &Acts<'_>| {
                    let mut y = vec![7.0; rows * n];
                    kernels.matmul(&w, rows, acts, &mut Scratch::default(), &mut y);
                    y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                assert_eq!(product(&other), product(&acts), "{} at {level}", kernels.ty);
            }
        }
    }
}
