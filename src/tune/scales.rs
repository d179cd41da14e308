//! Scales and minimums of blocks as parameters: codes stay as they are.
//!
//! A weight is `d * factor * level - m * factor`, where a type's groups have factors that are stored in few
//! bits. `d` and `m` are parameters relative to what they were, factors relative to the largest of their
//! block. What is stored is rounded; gradients are those of the rounded weights and pass through to the
//! parameters (straight-through; arXiv:1308.3432).

use super::TuneError;
use super::machine::Machine;
use crate::quantize::ScaleKind;
use crate::tensor::Weight;
use std::array::from_fn;
use teff_kernels::block::F16;
use teff_kernels::{Encoder, KernelTable, Scales};

/// Blocks that a thread takes at a time.
const PART_BLOCKS: usize = 1024;

/// What a type's parameters are of, in this order: `d`, `m`, factors of scales, factors of minimums.
pub(super) const KINDS: [&str; 4] = ["d", "m", "scales", "mins"];

/// The parameters of a tensor's blocks, or their gradients; empty where the type has none.
pub(super) type Values<'a> = [&'a [f32]; 4];

/// A tensor whose scales are trained.
pub(super) struct BlockScales {
    /// The tensor as it was.
    source: Weight,
    /// As it is now.
    pub current: Weight,
    encoder: Encoder,
    has: [bool; 4],
    /// Factors that can be stored, ascending, with their codes: of scales and of minimums.
    tables: [Vec<(f32, u8)>; 2],
    /// What the parameters are relative to, `[blocks]` each.
    units: [Vec<f32>; 4],
}

/// Whether each factor is twice the one below.
fn are_powers_of_two(table: &[(f32, u8)]) -> bool {
    table.windows(2).all(|pair| pair[1].0 == 2.0 * pair[0].0)
}

/// Scales with factors alone.
fn bare(scales: &Scales) -> Scales {
    let one = F16::from_f32(1.0);
    Scales::new(one, one, scales.scales, scales.mins)
}

impl BlockScales {
    /// The parameters of a weight; `None` if its type has no scales of its own, or only exponents, which
    /// are too far apart for the steps of training.
    pub fn new(
        on: Machine,
        kernels: &'static KernelTable,
        weight: &Weight,
    ) -> Result<Option<BlockScales>, TuneError> {
        let encoder = kernels.types(weight.ty).and_then(|kernels| kernels.encoder().ok());
        let Some(&encoder) = encoder else { return Ok(None) };
        let kind = ScaleKind::of(&encoder);
        let table = |which: usize| {
            let value = |&code: &u8| {
                let mut scales = bare(&Scales::default());
                [&mut scales.scales, &mut scales.mins][which][0] = code;
                let group = encoder.group_of(&scales, 0);
                ([group.scale, group.min][which], code)
            };
            let mut values: Vec<(f32, u8)> = kind.stored[which].iter().map(value).collect();
            values.retain(|(value, _)| value.is_finite());
            values.sort_by(|a, b| a.0.total_cmp(&b.0));
            values
        };
        let tables = [table(0), table(1)];
        let [by_d, by_m] = kind.is_linear;
        let has =
            [by_d, by_m && kind.has_min, tables[0].len() > 1, tables[1].len() > 1 && kind.has_min];
        let are_exponents = has == [false, false, true, false] && are_powers_of_two(&tables[0]);
        if has == [false; 4] || are_exponents {
            return Ok(None);
        }
        let (source, current) = (weight.clone(), weight.clone());
        let mut own =
            BlockScales { source, current, encoder, has, tables, units: from_fn(|_| Vec::new()) };
        own.find_units(on)?;
        Ok(Some(own))
    }

    fn n_blocks(&self) -> usize {
        self.source.bytes().len() / self.encoder.ty.block_bytes()
    }

    fn groups(&self) -> usize {
        self.encoder.len / self.encoder.group
    }

    /// Parameters of each kind.
    pub fn lengths(&self) -> [usize; 4] {
        let n = self.n_blocks();
        let all = [n, n, n * self.groups(), n * self.groups()];
        from_fn(|kind| if self.has[kind] { all[kind] } else { 0 })
    }

    /// Factor of a group's scale (0) or minimum (1).
    fn factor(&self, scales: &Scales, g: usize, which: usize) -> f32 {
        let group = self.encoder.group_of(&bare(scales), g);
        [group.scale, group.min][which]
    }

    fn find_units(&mut self, on: Machine) -> Result<(), TuneError> {
        let n = self.n_blocks();
        let mut units = vec![[0.0_f32; 4]; n];
        let block_bytes = self.encoder.ty.block_bytes();
        let parts = units.chunks_mut(PART_BLOCKS);
        on.each(
            parts.zip(self.source.bytes().chunks(PART_BLOCKS * block_bytes)),
            |(units, bytes)| {
                let (_, scales) = self.take_apart(bytes);
                for (units, scales) in units.iter_mut().zip(&scales) {
                    let most = |which| {
                        let factors =
                            (0..self.groups()).map(|g| self.factor(scales, g, which).abs());
                        factors.fold(0.0, f32::max)
                    };
                    *units = [scales.d.to_f32(), scales.m.to_f32(), most(0), most(1)];
                }
            },
        )?;
        self.units = from_fn(|kind| {
            let of = units.iter().map(|units| units[kind]);
            if self.has[kind] { of.collect() } else { Vec::new() }
        });
        Ok(())
    }

    fn take_apart(&self, bytes: &[u8]) -> (Vec<u8>, Vec<Scales>) {
        let n = bytes.len() / self.encoder.ty.block_bytes();
        let (mut codes, mut scales) = (vec![0; n * self.encoder.len], vec![Scales::default(); n]);
        self.encoder.take_apart(bytes, &mut codes, &mut scales);
        (codes, scales)
    }

    /// The nearest factor that can be stored.
    fn nearest(&self, which: usize, factor: f32) -> u8 {
        let table = &self.tables[which];
        let above = table.partition_point(|(value, _)| *value < factor).min(table.len() - 1);
        let below = above.saturating_sub(1);
        let is_below = factor - table[below].0 <= table[above].0 - factor;
        table[if is_below { below } else { above }].1
    }

    /// The scales of a block with these parameters.
    fn moved(&self, block: usize, old: &Scales, values: &Values<'_>) -> Scales {
        let relative = |kind: usize, old: F16| match values[kind].get(block) {
            Some(&by) if by != 0.0 => {
                let new = F16::from_f32(self.units[kind][block] * (1.0 + by));
                // Beyond what halves hold it stays.
                if new.to_f32().is_finite() { new } else { old }
            }
            _ => old,
        };
        let (mut scales, mut mins) = (old.scales, old.mins);
        for (which, stored) in [&mut scales, &mut mins].into_iter().enumerate() {
            let kind = 2 + which;
            for (g, stored) in stored.iter_mut().enumerate().take(self.groups()) {
                let by = values[kind].get(block * self.groups() + g).copied().unwrap_or(0.0);
                if by != 0.0 {
                    let factor = self.factor(old, g, which) + by * self.units[kind][block];
                    *stored = self.nearest(which, factor);
                }
            }
        }
        Scales::new(relative(0, old.d), relative(1, old.m), scales, mins)
    }

    /// Has the blocks get these parameters.
    pub fn apply(&mut self, on: Machine, values: Values<'_>) -> Result<(), TuneError> {
        let mut bytes = super::machine::zeros(self.source.bytes().len())?;
        let part = PART_BLOCKS * self.encoder.ty.block_bytes();
        let parts = bytes.chunks_mut(part).zip(self.source.bytes().chunks(part)).enumerate();
        on.each(parts, |(number, (bytes, old))| {
            let (codes, mut scales) = self.take_apart(old);
            for (i, scales) in scales.iter_mut().enumerate() {
                *scales = self.moved(number * PART_BLOCKS + i, scales, &values);
            }
            self.encoder.assemble(&codes, &scales, bytes);
        })?;
        let Weight { name, ty, rows, cols, n, .. } = &self.source;
        self.current = Weight::owned(name, *ty, [*n, *rows, *cols], bytes);
        Ok(())
    }

    /// Adds to the gradients of the parameters what follows from that of the weights, `[rows][cols]`.
    pub fn add_gradients(
        &self,
        on: Machine,
        dw: &[f32],
        gradients: [&mut [f32]; 4],
    ) -> Result<(), TuneError> {
        let per_block = [1, 1, self.groups(), self.groups()];
        let mut pieces = gradients.into_iter().zip(per_block).map(|(all, n)| {
            let mut chunks = all.chunks_mut(PART_BLOCKS * n);
            let n_parts = self.n_blocks().div_ceil(PART_BLOCKS);
            (0..n_parts).map(|_| chunks.next().unwrap_or_default()).collect::<Vec<&mut [f32]>>()
        });
        let [d, m, scales, mins] = from_fn(|_| pieces.next().unwrap_or_default());
        let parts = d.into_iter().zip(m).zip(scales.into_iter().zip(mins));
        let part = PART_BLOCKS * self.encoder.ty.block_bytes();
        let inputs =
            self.current.bytes().chunks(part).zip(dw.chunks(PART_BLOCKS * self.encoder.len));
        let levels: Vec<f32> = (0..=u8::MAX)
            .map(|code| {
                let is_code = usize::from(code) < self.encoder.codes;
                if is_code { self.encoder.level(code).into() } else { 0.0 }
            })
            .collect();
        let work = parts.zip(inputs).enumerate();
        on.each(work, |(number, (((d, m), (scales, mins)), (bytes, dw)))| {
            self.part_gradients(number * PART_BLOCKS, bytes, dw, &levels, [d, m, scales, mins]);
        })
    }

    fn part_gradients(
        &self,
        first: usize,
        bytes: &[u8],
        dw: &[f32],
        levels: &[f32],
        gradients: [&mut [f32]; 4],
    ) {
        let (len, group, groups) = (self.encoder.len, self.encoder.group, self.groups());
        let (codes, scales) = self.take_apart(bytes);
        for (b, scales) in scales.iter().enumerate() {
            let of = [scales.d, scales.m].map(F16::to_f32);
            let of: [f32; 2] = from_fn(|which| if self.has[which] { of[which] } else { 1.0 });
            for g in 0..groups {
                let at = b * len + g * group..b * len + (g + 1) * group;
                let [mut by_scale, mut by_min] = [0.0_f32; 2];
                for (dw, code) in dw[at.clone()].iter().zip(&codes[at]) {
                    by_scale += dw * levels[usize::from(*code)];
                    by_min -= dw;
                }
                for (which, by) in [by_scale, by_min].into_iter().enumerate() {
                    if self.has[which] {
                        let unit = self.units[which][first + b];
                        gradients[which][b] += by * self.factor(scales, g, which) * unit;
                    }
                    if self.has[2 + which] {
                        let unit = self.units[2 + which][first + b];
                        gradients[2 + which][b * groups + g] += by * of[which] * unit;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testing::{draw, machine};
    use gguf_rs_lite::GgmlType;

    /// The gradient of a sum of weights by parameters that need no rounding to take effect.
    #[test]
    fn gradients_are_those_of_the_blocks() {
        let on = machine();
        use GgmlType::*;
        for ty in [
            Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ2_0, Q2_0,
        ] {
            let (rows, cols) = (6, 512);
            let x = draw(7, rows * cols);
            let kernels = on.kernels.types(ty).unwrap();
            let mut bytes = vec![0; ty.bytes_of((rows * cols) as u64).unwrap() as usize];
            let row_bytes = bytes.len() / rows;
            for (x, bytes) in x.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
                kernels.quantize(x, None, bytes).unwrap();
            }
            let weight = Weight::owned("w", ty, [1, rows, cols], bytes);
            let mut own = BlockScales::new(on, on.kernels, &weight).unwrap().unwrap();
            let lengths = own.lengths();
            assert!(lengths[0] > 0, "{ty}");
            own.apply(on, lengths.map(|n| &[0.0; 4096][..n])).unwrap();
            assert!(own.current.bytes() == weight.bytes(), "{ty}: nothing moves by zeros");
            let dw = draw(8, rows * cols);
            let mut gradients = lengths.map(|n| vec![0.0; n]);
            let [a, b, c, d] = &mut gradients;
            own.add_gradients(on, &dw, [a, b, c, d]).unwrap();
            let before = on.values(&weight).unwrap();
            for kind in 0..2 {
                if lengths[kind] == 0 {
                    continue;
                }
                // By a fourth: halves hold that but for one part in a thousand.
                let moved = vec![0.25; lengths[kind]];
                let mut values: [&[f32]; 4] = [&[]; 4];
                values[kind] = &moved;
                own.apply(on, values).unwrap();
                let after = on.values(&own.current).unwrap();
                let len = own.encoder.len;
                for (b, g) in gradients[kind].iter().enumerate() {
                    let at = b * len..(b + 1) * len;
                    let change: f32 = (at.clone()).map(|i| (after[i] - before[i]) * dw[i]).sum();
                    let size: f32 = at.map(|i| (before[i] * dw[i]).abs()).sum();
                    assert!(
                        (change - 0.25 * g).abs() < 2e-3 * size,
                        "{ty} {kind} {b}: {change} {g}"
                    );
                }
            }
        }
    }

    /// A factor moves by whole codes, to the nearest.
    #[test]
    fn factors_are_stored_as_the_nearest() {
        let on = machine();
        let ty = GgmlType::Q4_K;
        let kernels = on.kernels.types(ty).unwrap();
        let mut bytes = vec![0; ty.block_bytes()];
        kernels.quantize(&draw(3, 256), None, &mut bytes).unwrap();
        let weight = Weight::owned("w", ty, [1, 1, 256], bytes);
        let mut own = BlockScales::new(on, on.kernels, &weight).unwrap().unwrap();
        let (_, before) = own.take_apart(weight.bytes());
        let g = (0..8).find(|&g| before[0].scales[g] > 8).unwrap();
        let mut moved = vec![0.0; 8];
        moved[g] = -2.6 / own.units[2][0];
        own.apply(on, [&[], &[], &moved, &[]]).unwrap();
        let (_, after) = own.take_apart(own.current.bytes());
        assert_eq!(after[0].scales[g], before[0].scales[g] - 3);
        assert_eq!((after[0].d, after[0].mins), (before[0].d, before[0].mins));
    }
}
