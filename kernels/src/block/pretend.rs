//! A type that no file has, for tests of what a new type needs: this file, its line and its row in
//! `block/mod.rs`, and a row in gguf-rs-lite, in place of which it takes the id of Q8_1: weights never
//! have that, and its blocks are long enough.
//!
//! Six bits and a scale per 32, as a Q6_0 would be. Value = `d * (code - 32)`.

use super::encode::{Coder, Encode, Group, Scales, all};
use super::{Block, Block32, F16, Unpacked32, search::extreme};
use gguf_rs_lite::GgmlType;

/// One block: 32 elements in 26 bytes, and what Q8_1 has more.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockPretend {
    /// Scale.
    pub d: F16,
    /// The low four bits of elements `i` and `16 + i`.
    pub qs: [u8; 16],
    /// Bits `2j` and `2j + 1` of byte `i` are the high ones of element `8j + i`.
    pub qh: [u8; 8],
    /// Bytes of no meaning.
    pub rest: [u8; 10],
}

impl BlockPretend {
    fn codes(&self) -> [i8; 32] {
        let low = super::nibbles(&self.qs);
        std::array::from_fn(|i| {
            let high = self.qh[i % 8] >> (2 * (i / 8)) & 3;
            (low[i] | high << 4) as i8 - 32
        })
    }
}

impl Block for BlockPretend {
    const TY: GgmlType = GgmlType::Q8_1;
    const LEN: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, q) in out.iter_mut().zip(self.codes()) {
            *y = f32::from(q) * d;
        }
    }
}

impl Encode for BlockPretend {
    const GROUP: usize = 32;
    const CODES: usize = 64;

    fn fit(x: &[f32], _: Option<&[f32]>, _: f32) -> Scales {
        Scales::unrounded(extreme(x) / -32.0, 0.0)
    }

    fn compose(groups: &[Group]) -> Scales {
        Scales::rounded(groups[0].scale, 0.0)
    }

    fn group(scales: &Scales, _: usize) -> Group {
        scales.only_group()
    }

    fn level(code: u8) -> i8 {
        code as i8 - 32
    }

    fn coder(scales: &Scales, _: usize) -> Coder {
        scales.coder()
    }

    fn code(coder: &Coder, x: f32) -> u8 {
        ((x * coder.by).round().clamp(-32.0, 31.0) + 32.0) as u8
    }

    fn take_apart(&self, codes: &mut [u8]) -> Scales {
        codes.copy_from_slice(&self.codes().map(|q| (q + 32) as u8));
        Scales::of_block(self.d, F16::default())
    }

    fn assemble(codes: &[u8], scales: &Scales) -> BlockPretend {
        let mut qh = [0; 8];
        for (i, code) in codes.iter().enumerate() {
            qh[i % 8] |= code >> 4 << (2 * (i / 8));
        }
        let qs = super::pack_nibbles(all(codes));
        BlockPretend { d: scales.d, qs, qh, rest: [0; 10] }
    }
}

impl Block32 for BlockPretend {
    const HAS_MIN: bool = false;

    fn unpack(&self) -> Unpacked32 {
        Unpacked32 { codes: self.codes(), d: self.d.to_f32(), m: 0.0 }
    }
}

mod tests {
    use super::*;
    use crate::act::{ActUnit, Acts};
    use crate::block::{Act32, as_blocks, dot32};
    use crate::{KernelTable, Level, NoQuantizer, Scratch};

    /// The products of rows of `cols` with rows of inputs by a table's kernels, and by definition.
    fn products(table: &KernelTable, w: &[u8], cols: usize, x: &[f32]) -> [Vec<f32>; 2] {
        let kernels = table.types(BlockPretend::TY).expect("every level has every type");
        let plan = table.plan(kernels.act, cols, x.len() / cols);
        let units = plan.units();
        let (mut q, mut d) = (vec![0; units * plan.q_len()], vec![0.0; units * plan.d_len()]);
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
        let blocks = as_blocks::<BlockPretend>(w);
        let rows = blocks.len() * 32 / cols;
        let mut got = vec![7.0; rows * plan.n_tokens];
        kernels.matmul(w, rows, &acts, &mut Scratch::default(), &mut got);
        let dot = |(t, row): (usize, &[BlockPretend])| {
            let acts: Vec<Act32> = (0..cols / 32).map(|b| acts.block(t, b)).collect();
            dot32(row, &acts)
        };
        let pairs =
            (0..plan.n_tokens).flat_map(|t| blocks.chunks_exact(cols / 32).map(move |r| (t, r)));
        [got, pairs.map(dot).collect()]
    }

    #[test]
    fn a_new_type_runs_at_every_level() {
        let (rows, cols) = (7, 96);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        for table in Level::ALL.iter().map(|&level| KernelTable::at_most(level)) {
            let kernels = table.types(BlockPretend::TY).expect("every level has every type");
            assert!(kernels.level <= table.level() && kernels.lanes().is_none());
            let mut w = vec![1; rows * cols / 32 * size_of::<BlockPretend>()];
            assert_eq!(kernels.quantize(&values, None, &mut w), Ok::<(), NoQuantizer>(()));
            let mut back = vec![0.0; values.len()];
            kernels.dequantize(&w, &mut back);
            for (back, value) in back.iter().zip(&values) {
                // Half a step; a whole one at the end of the scale that lacks a code.
                assert!((back - value).abs() <= 1.0 / 31.0, "{back} for {value}");
            }
            for n in [1, 3, 9, 20] {
                let x: Vec<f32> = (0..n * cols).map(|i| (i as f32 * 0.61).cos()).collect();
                let [got, want] = products(table, &w, cols, &x);
                assert_eq!(got, want, "level {}, {n} tokens", table.level());
            }
        }
    }
}
