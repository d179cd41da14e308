//! The unknowns of one row.

use super::Kind;
use teff_kernels::block::F16;
use teff_kernels::{Encoder, Group, Scales};

/// Rounds of conjugate gradients at most.
const ROUNDS_MAX: usize = 30;
/// They end where the residual is this part of what it was.
const PRECISION: f64 = 1e-3;
/// Turns over all that a row stores.
const TURNS_MAX: usize = 6;
/// Turns end where they gain less than this part of all that was gained.
const TURN_GAIN: f64 = 1e-3;

/// Normal equations `A t = r`: a change `t` of the unknowns lowers the cost by `2 r t - t A t`.
#[derive(Clone, Debug)]
pub(super) struct Normal {
    n: usize,
    /// `[n][n]`.
    a: Vec<f64>,
    /// The right side.
    pub right: Vec<f64>,
}

impl Normal {
    /// Equations of zeros.
    pub fn new(n: usize) -> Normal {
        Normal { n, a: vec![0.0; n * n], right: vec![0.0; n] }
    }

    /// Adds to an element right of the diagonal.
    pub fn add(&mut self, i: usize, j: usize, x: f64) {
        self.a[i * self.n + j] += x;
    }

    /// Fills the half left of the diagonal.
    pub fn mirror(&mut self) {
        for i in 0..self.n {
            for j in 0..i {
                self.a[i * self.n + j] = self.a[j * self.n + i];
            }
        }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.a[i * self.n..][..self.n]
    }

    fn diagonal(&self, i: usize) -> f64 {
        self.a[i * self.n + i]
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        (0..self.n).map(|i| dot(self.row(i), x)).collect()
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The change of the unknowns that gains most, by conjugate gradients with the diagonal as
/// preconditioner; unknowns that change nothing stay.
pub(super) fn solve(system: &Normal) -> Vec<f64> {
    let n = system.n;
    let inverse: Vec<f64> =
        (0..n).map(|i| system.diagonal(i)).map(|d| if d > 0.0 { 1.0 / d } else { 0.0 }).collect();
    let condition = |r: &[f64]| -> Vec<f64> {
        r.iter().zip(&inverse).map(|(r, inverse)| r * inverse).collect()
    };
    let mut change = vec![0.0; n];
    let mut residual = system.right.clone();
    let mut z = condition(&residual);
    let mut direction = z.clone();
    let mut size = dot(&residual, &z);
    let enough = size * PRECISION * PRECISION;
    for _ in 0..ROUNDS_MAX {
        let product = system.times(&direction);
        let step = size / dot(&direction, &product);
        if !step.is_finite() || size <= enough {
            break;
        }
        change.iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
        residual.iter_mut().zip(&product).for_each(|(r, p)| *r -= step * p);
        z = condition(&residual);
        let next = dot(&residual, &z);
        let keep = next / size;
        direction.iter_mut().zip(&z).for_each(|(d, z)| *d = z + keep * *d);
        size = next;
    }
    change
}

/// Scales of a row's blocks on their way to better ones.
#[derive(Clone)]
pub(super) struct Search<'a> {
    encoder: &'a Encoder,
    kind: &'a Kind,
    system: &'a Normal,
    scales: Vec<Scales>,
    /// Half of what the cost falls by for each unknown, at where they are.
    slope: Vec<f64>,
    /// Gain: how far the cost has fallen.
    gain: f64,
    /// Scales, then minimums, as they are.
    values: Vec<f32>,
}

impl<'a> Search<'a> {
    /// Begins with the scales that errors were measured with.
    pub fn new(
        encoder: &'a Encoder,
        kind: &'a Kind,
        system: &'a Normal,
        scales: &[Scales],
    ) -> Search<'a> {
        let mut own = Search {
            encoder,
            kind,
            system,
            scales: scales.to_vec(),
            slope: system.right.clone(),
            gain: 0.0,
            values: vec![0.0; system.n],
        };
        for (number, scales) in scales.iter().enumerate() {
            for (unknown, value) in own.unknowns(number, scales) {
                own.values[unknown] = value;
            }
        }
        own
    }

    /// Gain: how far the cost has fallen.
    pub fn gain(&self) -> f64 {
        self.gain
    }

    /// The scales.
    pub fn into_scales(self) -> Vec<Scales> {
        self.scales
    }

    /// All groups after a change.
    pub fn groups(&self, change: &[f64]) -> Vec<Group> {
        let n_groups = self.n_groups();
        let at = |i: usize| (f64::from(self.values[i]) + change[i]) as f32;
        let min = |g: usize| if self.kind.has_min { at(n_groups + g) } else { 0.0 };
        (0..n_groups).map(|g| Group { scale: at(g), min: min(g) }).collect()
    }

    fn per_block(&self) -> usize {
        self.encoder.len / self.encoder.group
    }

    fn n_groups(&self) -> usize {
        self.scales.len() * self.per_block()
    }

    /// The unknowns of a block, with their values for given scales.
    fn unknowns(&self, block: usize, scales: &Scales) -> Vec<(usize, f32)> {
        let (n_groups, first) = (self.n_groups(), block * self.per_block());
        let groups = (0..self.per_block()).map(|g| self.encoder.group_of(scales, g));
        let mut unknowns: Vec<(usize, f32)> =
            groups.clone().enumerate().map(|(g, group)| (first + g, group.scale)).collect();
        if self.kind.has_min {
            unknowns.extend(groups.enumerate().map(|(g, x)| (n_groups + first + g, x.min)));
        }
        unknowns
    }

    /// The unknowns that scales of a block would change, and by how much.
    fn changes(&self, block: usize, scales: &Scales) -> Vec<(usize, f64)> {
        let change = |(i, value): (usize, f32)| (i, f64::from(value) - f64::from(self.values[i]));
        let all = self.unknowns(block, scales).into_iter().map(change);
        all.filter(|(_, change)| *change != 0.0).collect()
    }

    fn gain_of(&self, changes: &[(usize, f64)]) -> f64 {
        let mut gain = 0.0;
        for &(i, x) in changes {
            let row = self.system.row(i);
            let product: f64 = changes.iter().map(|&(j, y)| row[j] * y).sum();
            gain += x * (2.0 * self.slope[i] - product);
        }
        gain
    }

    /// Sets a block's scales.
    fn set(&mut self, block: usize, scales: &Scales) {
        let changes = self.changes(block, scales);
        self.gain += self.gain_of(&changes);
        for (i, x) in changes {
            let row = self.system.row(i);
            self.slope.iter_mut().zip(row).for_each(|(slope, a)| *slope -= x * a);
        }
        for (i, value) in self.unknowns(block, scales) {
            self.values[i] = value;
        }
        self.scales[block] = *scales;
    }

    /// Sets a block's scales if that lowers the cost.
    fn try_set(&mut self, block: usize, scales: &Scales) {
        if self.gain_of(&self.changes(block, scales)) > 0.0 {
            self.set(block, scales);
        }
    }

    /// Sets the scales of all blocks.
    pub fn move_to(&mut self, scales: &[Scales]) {
        for (block, scales) in scales.iter().enumerate() {
            self.set(block, scales);
        }
    }

    /// Changes one stored number after the other to its best, as long as that gains something.
    pub fn improve(&mut self) {
        let start = self.gain;
        for _ in 0..TURNS_MAX {
            let before = self.gain;
            for block in 0..self.scales.len() {
                for g in 0..self.per_block() {
                    self.choose(block, g, 0);
                    self.choose(block, g, 1);
                }
                self.factor(block, 0);
                self.factor(block, 1);
            }
            if self.gain - before <= TURN_GAIN * (self.gain - start) {
                break;
            }
        }
    }

    /// The best stored scale (0) or minimum (1) of a group.
    fn choose(&mut self, block: usize, g: usize, which: usize) {
        if self.kind.stored[which].len() < 2 || (which == 1 && !self.kind.has_min) {
            return;
        }
        let unknown = which * self.n_groups() + block * self.per_block() + g;
        let (slope, square) = (self.slope[unknown], self.system.diagonal(unknown));
        let (mut best, mut best_gain) = (None, 0.0);
        for &stored in &self.kind.stored[which] {
            let mut scales = self.scales[block];
            *place(&mut scales, which, g) = stored;
            let group = self.encoder.group_of(&scales, g);
            let value = [group.scale, group.min][which];
            let change = f64::from(value) - f64::from(self.values[unknown]);
            let gain = change * (2.0 * slope - change * square);
            if gain > best_gain {
                (best, best_gain) = (Some(scales), gain);
            }
        }
        if let Some(scales) = best {
            self.set(block, &scales);
        }
    }

    /// The best factor of a block's scales (0), or of its minimums (1).
    fn factor(&mut self, block: usize, which: usize) {
        if !self.kind.is_linear[which] || (which == 1 && !self.kind.has_min) {
            return;
        }
        let with = |factor: f32| {
            let mut scales = self.scales[block];
            *factor_of(&mut scales, which) = F16::from_f32(factor);
            scales
        };
        let now = factor_of(&mut self.scales[block].clone(), which).to_f32();
        // What one more of the factor changes.
        let unit = self.unknowns(block, &with(1.0));
        let n_groups = self.n_groups();
        let is_own = |i: usize| (i >= n_groups) == (which == 1);
        let unit: Vec<(usize, f64)> =
            unit.into_iter().filter(|(i, _)| is_own(*i)).map(|(i, x)| (i, x.into())).collect();
        let slope: f64 = unit.iter().map(|&(i, x)| x * self.slope[i]).sum();
        let square: f64 = unit
            .iter()
            .map(|&(i, x)| x * unit.iter().map(|&(j, y)| self.system.row(i)[j] * y).sum::<f64>())
            .sum();
        let better = (f64::from(now) + slope / square) as f32;
        let scales = with(better);
        if factor_of(&mut scales.clone(), which).to_f32().is_finite() {
            self.try_set(block, &scales);
        }
    }
}

fn place(scales: &mut Scales, which: usize, g: usize) -> &mut u8 {
    if which == 0 { &mut scales.scales[g] } else { &mut scales.mins[g] }
}

fn factor_of(scales: &mut Scales, which: usize) -> &mut F16 {
    if which == 0 { &mut scales.d } else { &mut scales.m }
}
