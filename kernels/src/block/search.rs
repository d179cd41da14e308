//! Scales for a group of weights that lose least, by weighted least squares.
//!
//! Weights `x` become `scale * code` or `scale * code - min` with whole codes. Rounding makes the
//! error a jagged function of the scale, so each method tries a grid of scales around the obvious
//! one, gives every candidate's codes their best-fitting scale in closed form, and keeps the
//! candidate of least error. Methods, grids and weights are those of ggml's reference quantizers
//! (`ggml-quants.c`; I. Kawrakow, llama.cpp #1684 and #4861), sums in the same order, so files come
//! out as good as everybody's. Cost: about 20 passes per group, 40 with an importance matrix.
//!
//! The groups of a super-block are searched side by side, a lane of vectors each: the operations of a lane
//! are those of one group alone, in their order, so the bits are, too.
//!
//! The importance of a column is the mean square of its activations: an error there counts so
//! much more. NaN and infinity make useless codes but never a panic.

use super::F16;
use super::encode::{Coder, Group, Scales};

/// A group whose largest magnitude is below this is all zero: its reciprocal would overflow.
pub(super) const ZERO: f32 = 1e-15;

/// Groups that are searched side by side: two vectors of the oldest x86-64, one of AVX2.
const LANES: usize = 8;

/// Most passes of the coordinate descents; few groups need more than three.
const DESCENTS_MAX: usize = 5;

/// `x` to the nearest whole number, ties to even; exact for |x| < 2^22, where this adds so much
/// that no fraction bits are left. (`f32::round_ties_even` is a library call on plain x86-64.)
pub(crate) fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// The element of largest magnitude, the first of equals; NaN is passed over.
pub(crate) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max: f32, &x| if x.abs() > max.abs() { x } else { max })
}

/// The least and the largest element; NaN is passed over.
pub(crate) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| {
        (if x < min { x } else { min }, if x > max { x } else { max })
    })
}

/// What an error at each element costs given the columns' importance: `w * sqrt(sigma2 + x^2)`.
pub(crate) fn emphasize<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    sigma2: f32,
) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (sigma2 + x[i] * x[i]).sqrt())
}

/// The sum of squares over the count.
pub(crate) fn mean_square(x: &[f32]) -> f32 {
    sum(x.iter().map(|x| x * x)) / x.len() as f32
}

/// The scale of `x ~ scale * code`, codes in `-n..=n - 1`: 19 candidates.
pub(crate) fn symmetric<const N: usize>(x: &[f32; N], weights: &[f32; N], n: f32) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let fit = |n_tried: f32| {
        let inverse = -n_tried / max;
        let (mut xl, mut ll) = (0.0, 0.0);
        for (&x, &w) in x.iter().zip(weights) {
            let l = nearest(inverse * x).clamp(-n, n - 1.0);
            xl += w * x * l;
            ll += w * l * l;
        }
        (xl, ll)
    };
    let (xl, ll) = fit(n);
    let mut scale = if ll == 0.0 { 0.0 } else { xl / ll };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = fit(n + 0.1 * step as f32);
        // Least squares leave sum(w x^2) - xl^2 / ll.
        if ll > 0.0 && xl * xl > best * ll {
            scale = xl / ll;
            best = scale * xl;
        }
    }
    scale
}

/// As [`symmetric`], moving one code at a time as long as that helps; better for very few codes.
pub(crate) fn symmetric_by_descent<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: f32,
) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let inverse = -n / max;
    let mut codes = x.map(|x| nearest(inverse * x).clamp(-n, n - 1.0));
    descend(x, weights, &mut codes, -n, n - 1.0)
}

/// Lowers the weighted error of `scale * codes` code by code; returns the scale.
fn descend<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    codes: &mut [f32; N],
    least: f32,
    most: f32,
) -> f32 {
    let (mut xl, mut ll) = (0.0, 0.0);
    for i in 0..N {
        xl += weights[i] * x[i] * codes[i];
        ll += weights[i] * codes[i] * codes[i];
    }
    for _ in 0..DESCENTS_MAX {
        let mut changed = false;
        for i in 0..N {
            // The sums without element i, and the code that their scale asks for.
            let w = weights[i];
            let mut new_xl = xl - w * x[i] * codes[i];
            let mut new_ll = ll - w * codes[i] * codes[i];
            if !(new_xl > 0.0 && new_ll > 0.0) {
                continue;
            }
            let code = nearest(x[i] * new_ll / new_xl).clamp(least, most);
            if code == codes[i] {
                continue;
            }
            new_xl += w * x[i] * code;
            new_ll += w * code * code;
            if new_xl * new_xl * ll > xl * xl * new_ll {
                (codes[i], xl, ll) = (code, new_xl, new_ll);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if ll > 0.0 { xl / ll } else { 0.0 }
}

/// Codes in `0..=n` and the scale of `x ~ scale * code` for non-negative `x`.
fn unsigned<const N: usize>(x: &[f32; N], weights: &[f32; N], n: f32) -> ([u8; N], f32) {
    let max = x.iter().fold(0.0, |max: f32, &x| max.max(x));
    if max < ZERO {
        return ([0; N], 0.0);
    }
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        sum(x.iter().zip(weights).map(|(&x, &w)| {
            let diff = x - scale * nearest(inverse * x).min(n);
            w * diff * diff
        }))
    };
    let mut inverse = n / max;
    let mut best = error(inverse);
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = (0.1 * step as f32 + n) / max;
        let error = error(tried);
        if error < best {
            (best, inverse) = (error, tried);
        }
    }
    let mut codes = x.map(|x| nearest(inverse * x).clamp(0.0, n));
    let scale = descend(x, weights, &mut codes, 0.0, n);
    (codes.map(|code| code as u8), scale)
}

/// How [`affine`] searches: `steps + 1` candidates of `n + first + i * step` levels.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    pub first: f32,
    pub step: f32,
    pub steps: usize,
    /// Errors count by their magnitude, not their square: kinder to two-bit codes.
    pub absolute: bool,
}

/// With an importance matrix, every type's.
pub(crate) const FINE_GRID: Grid = Grid { first: -0.9, step: 0.05, steps: 36, absolute: false };

/// The scale and the min >= 0 (unless all of `x` is equal) of `x ~ scale * code - min`, codes in
/// `0..=n`.
pub(crate) fn affine<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: f32,
    grid: &Grid,
) -> (f32, f32) {
    let (least, max) = range(x);
    let least = if least > 0.0 { 0.0 } else { least };
    let sum_w = sum(weights.iter().copied());
    let sum_x = sum(x.iter().zip(weights).map(|(x, w)| w * x));
    if max <= least {
        return (0.0, -least);
    }
    let error = |codes: &[f32; N], scale: f32, min: f32| {
        sum((0..N).map(|i| {
            let diff = scale * codes[i] + min - x[i];
            weights[i] * if grid.absolute { diff.abs() } else { diff * diff }
        }))
    };
    let codes_of = |levels: f32, min: f32| {
        let inverse = levels / (max - min);
        x.map(|x| nearest(inverse * (x - min)).clamp(0.0, n))
    };

    let (mut scale, mut min) = (1.0 / (n / (max - least)), least);
    let mut best = error(&codes_of(n, min), scale, min);
    for i in 0..=grid.steps {
        // From the best minimum so far, which moves the grid along.
        let codes = codes_of(grid.first + grid.step * i as f32 + n, min);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((&l, &w), &x) in codes.iter().zip(weights).zip(x) {
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut new_min = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        if new_min > 0.0 {
            new_min = 0.0;
            new_scale = sum_xl / sum_ll;
        }
        let error = error(&codes, new_scale, new_min);
        if error < best {
            (best, scale, min) = (error, new_scale, new_min);
        }
    }
    (scale, -min)
}

/// Groups side by side: `[i][g]` is element `i` of group `g`. Each lane does what one group's search
/// would do, operation by operation, so the results are the same bits.
type Lanes<const N: usize, const G: usize> = [[f32; G]; N];

/// Element `i` of group `g` at `[i][g]`.
fn side_by_side<const N: usize, const G: usize>(groups: &[[f32; N]]) -> Lanes<N, G> {
    std::array::from_fn(|i| std::array::from_fn(|g| groups[g][i]))
}

/// [`affine`] of `G` groups at a time.
#[inline(always)]
fn affine_lanes<const N: usize, const G: usize>(
    x: &Lanes<N, G>,
    weights: &Lanes<N, G>,
    n: f32,
    grid: &Grid,
) -> ([f32; G], [f32; G]) {
    let (mut least, mut max) = ([f32::MAX; G], [f32::MIN; G]);
    let (mut sum_w, mut sum_x) = ([0.0; G], [0.0; G]);
    for (x, w) in x.iter().zip(weights) {
        for g in 0..G {
            least[g] = if x[g] < least[g] { x[g] } else { least[g] };
            max[g] = if x[g] > max[g] { x[g] } else { max[g] };
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    let least = least.map(|least| if least > 0.0 { 0.0 } else { least });
    let codes_of = |levels: f32, min: &[f32; G]| -> Lanes<N, G> {
        let inverse: [f32; G] = std::array::from_fn(|g| levels / (max[g] - min[g]));
        let mut codes = [[0.0; G]; N];
        for (codes, x) in codes.iter_mut().zip(x) {
            *codes = std::array::from_fn(|g| clamped(nearest(inverse[g] * (x[g] - min[g])), n));
        }
        codes
    };
    let error = |codes: &Lanes<N, G>, scale: &[f32; G], min: &[f32; G]| {
        let mut sums = [0.0; G];
        if grid.absolute {
            for ((codes, x), w) in codes.iter().zip(x).zip(weights) {
                sums = std::array::from_fn(|g| {
                    sums[g] + w[g] * (scale[g] * codes[g] + min[g] - x[g]).abs()
                });
            }
            return sums;
        }
        for ((codes, x), w) in codes.iter().zip(x).zip(weights) {
            sums = std::array::from_fn(|g| {
                let diff = scale[g] * codes[g] + min[g] - x[g];
                sums[g] + w[g] * (diff * diff)
            });
        }
        sums
    };

    let mut scale: [f32; G] = std::array::from_fn(|g| 1.0 / (n / (max[g] - least[g])));
    let mut min = least;
    let mut best = error(&codes_of(n, &min), &scale, &min);
    for i in 0..=grid.steps {
        let codes = codes_of(grid.first + grid.step * i as f32 + n, &min);
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0.0; G], [0.0; G], [0.0; G]);
        for ((l, w), x) in codes.iter().zip(weights).zip(x) {
            let wl: [f32; G] = std::array::from_fn(|g| w[g] * l[g]);
            sum_l = std::array::from_fn(|g| sum_l[g] + wl[g]);
            sum_ll = std::array::from_fn(|g| sum_ll[g] + wl[g] * l[g]);
            sum_xl = std::array::from_fn(|g| sum_xl[g] + wl[g] * x[g]);
        }
        let (mut new_scale, mut new_min, mut is_fit) = ([0.0; G], [0.0; G], [false; G]);
        for g in 0..G {
            let determinant = sum_w[g] * sum_ll[g] - sum_l[g] * sum_l[g];
            is_fit[g] = determinant > 0.0;
            let scale = (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / determinant;
            let min = (sum_ll[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / determinant;
            let is_above = min > 0.0;
            new_scale[g] = if is_above { sum_xl[g] / sum_ll[g] } else { scale };
            new_min[g] = if is_above { 0.0 } else { min };
        }
        let error = error(&codes, &new_scale, &new_min);
        for g in 0..G {
            let is_better = is_fit[g] & (error[g] < best[g]);
            best[g] = if is_better { error[g] } else { best[g] };
            scale[g] = if is_better { new_scale[g] } else { scale[g] };
            min[g] = if is_better { new_min[g] } else { min[g] };
        }
    }
    for g in 0..G {
        if max[g] <= least[g] {
            (scale[g], min[g]) = (0.0, least[g]);
        }
    }
    (scale, min.map(|min| -min))
}

/// `x` in `0..=n`; NaN stays.
#[inline(always)]
fn clamped(x: f32, n: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > n { n } else { x }
}

/// [`symmetric`] of the groups of a super-block.
pub(crate) fn symmetric_groups(x: &[[f32; 16]], weights: &[[f32; 16]; 16], n: f32) -> [f32; 16] {
    let mut scales = [0.0; 16];
    for first in (0..16).step_by(LANES) {
        let (x, w) = (side_by_side(&x[first..]), side_by_side(&weights[first..]));
        scales[first..][..LANES].copy_from_slice(&symmetric_lanes::<16, LANES>(&x, &w, n));
    }
    scales
}

/// [`symmetric`] of `G` groups at a time.
#[inline(always)]
fn symmetric_lanes<const N: usize, const G: usize>(
    x: &Lanes<N, G>,
    weights: &Lanes<N, G>,
    n: f32,
) -> [f32; G] {
    let mut max = [0.0f32; G];
    for x in x {
        for g in 0..G {
            max[g] = if x[g].abs() > max[g].abs() { x[g] } else { max[g] };
        }
    }
    let fit = |n_tried: f32| {
        let inverse: [f32; G] = std::array::from_fn(|g| -n_tried / max[g]);
        let (mut xl, mut ll) = ([0.0; G], [0.0; G]);
        for (x, w) in x.iter().zip(weights) {
            for g in 0..G {
                let l = nearest(inverse[g] * x[g]);
                let l = if l < -n { -n } else { l };
                let l = if l > n - 1.0 { n - 1.0 } else { l };
                xl[g] += w[g] * x[g] * l;
                ll[g] += w[g] * l * l;
            }
        }
        (xl, ll)
    };
    let (xl, ll) = fit(n);
    let mut scale: [f32; G] =
        std::array::from_fn(|g| if ll[g] == 0.0 { 0.0 } else { xl[g] / ll[g] });
    let mut best: [f32; G] = std::array::from_fn(|g| scale[g] * xl[g]);
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = fit(n + 0.1 * step as f32);
        for g in 0..G {
            let is_better = (ll[g] > 0.0) & (xl[g] * xl[g] > best[g] * ll[g]);
            let fitted = xl[g] / ll[g];
            scale[g] = if is_better { fitted } else { scale[g] };
            best[g] = if is_better { fitted * xl[g] } else { best[g] };
        }
    }
    for g in 0..G {
        if max[g].abs() < ZERO {
            scale[g] = 0.0;
        }
    }
    scale
}

/// How a type's super-blocks are searched.
pub(crate) struct AffineMethod {
    /// Largest code.
    pub code_max: f32,
    /// Largest scale and min.
    pub scale_max: f32,
    /// The grid without importances.
    pub grid: Grid,
    /// Without importances an error at `x` costs `|x|`, plus the group's RMS if this is set.
    pub add_rms: bool,
    /// With importances the variance counts this often against `x^2`.
    pub sigma2_factor: f32,
}

impl AffineMethod {
    /// The scales for 256 weights; `N * G` must be 256.
    pub fn fit<const N: usize, const G: usize>(
        &self,
        x: &[f32; 256],
        importance: Option<&[f32; 256]>,
    ) -> Scales {
        const { assert!(N * G == 256) };
        let groups: &[[f32; N]] = x.as_chunks().0;
        let (mut scales, mut mins, mut group_weights) = ([0.0; G], [0.0; G], [0.0; G]);
        let sigma2 = self.sigma2_factor * sum(x.iter().map(|x| x * x)) / 256.0;
        let mut costs = [[0.0; N]; G];
        for (g, x) in groups.iter().enumerate() {
            costs[g] = match importance {
                Some(w) => emphasize(x, &w.as_chunks::<N>().0[g], sigma2),
                None => {
                    let rms = if self.add_rms { mean_square(x).sqrt() } else { 0.0 };
                    x.map(|x| rms + x.abs())
                }
            };
            group_weights[g] = sum(costs[g].iter().copied());
        }
        let grid = if importance.is_some() { &FINE_GRID } else { &self.grid };
        const { assert!(G.is_multiple_of(LANES)) };
        for first in (0..G).step_by(LANES) {
            let (x, w) = (side_by_side(&groups[first..]), side_by_side(&costs[first..]));
            let (fitted, least) = affine_lanes::<N, LANES>(&x, &w, self.code_max, grid);
            scales[first..][..LANES].copy_from_slice(&fitted);
            mins[first..][..LANES].copy_from_slice(&least);
        }
        match importance {
            Some(_) => stored(
                unsigned(&scales, &group_weights, self.scale_max),
                unsigned(&mins, &group_weights, self.scale_max),
            ),
            None => stored(self.to_whole(&scales), self.to_whole(&mins)),
        }
    }

    /// The scales nearest to given ones, the largest scale and the largest minimum exact.
    pub fn compose<const G: usize>(&self, groups: &[Group; G]) -> Scales {
        stored(self.to_whole(&groups.map(|g| g.scale)), self.to_whole(&groups.map(|g| g.min)))
    }

    /// The code nearest to `x`.
    pub fn code(&self, coder: &Coder, x: f32) -> u8 {
        if coder.by == 0.0 {
            return 0;
        }
        nearest((x + coder.min) / coder.by).clamp(0.0, self.code_max) as u8
    }

    /// Scales (or mins) as codes of a common one, the largest of them exact.
    fn to_whole<const G: usize>(&self, values: &[f32; G]) -> ([u8; G], f32) {
        let max = values.iter().fold(0.0, |max: f32, &v| if v > max { v } else { max });
        if max <= 0.0 {
            return ([0; G], 0.0);
        }
        let inverse = self.scale_max / max;
        let codes = values.map(|v| nearest(inverse * v).clamp(0.0, self.scale_max) as u8);
        (codes, max / self.scale_max)
    }
}

/// Scales and minimums of groups with what they are multiplied with.
fn stored<const G: usize>((scales, d): ([u8; G], f32), (mins, dmin): ([u8; G], f32)) -> Scales {
    let at = |codes: &[u8; G], g: usize| codes.get(g).copied().unwrap_or(0);
    Scales::new(
        F16::from_f32(d),
        F16::from_f32(dmin),
        std::array::from_fn(|g| at(&scales, g)),
        std::array::from_fn(|g| at(&mins, g)),
    )
}

/// The code `0..2 * n` of the level nearest to `x` in `-n..=n - 1`.
pub(crate) fn symmetric_code(coder: &Coder, x: f32, n: f32) -> u8 {
    if coder.by == 0.0 {
        return n as u8;
    }
    (nearest(x / coder.by).clamp(-n, n - 1.0) as i8 + n as i8) as u8
}

/// Signed scales as codes in `-n..=n - 1` of a common one, the extreme one exactly `-n`.
pub(crate) fn symmetric_scales(scales: &[f32; 16], n: f32) -> ([i8; 16], F16) {
    let max = extreme(scales);
    if max.abs() < ZERO {
        return ([0; 16], F16::default());
    }
    let inverse = -n / max;
    let codes = scales.map(|s| nearest(inverse * s).clamp(-n, n - 1.0) as i8);
    (codes, F16::from_f32(1.0 / inverse))
}

/// Signed scales as codes in `-n..=n - 1` of `d`.
pub(crate) fn symmetric_scales_of(scales: &[f32; 16], d: F16, n: f32) -> [i8; 16] {
    let d = d.to_f32();
    if d == 0.0 {
        return [0; 16];
    }
    scales.map(|s| nearest(s / d).clamp(-n, n - 1.0) as i8)
}

/// One addition after another from 0, as the reference adds.
pub(crate) fn sum(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |sum, x| sum + x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in -1..1 by a simple rule.
    fn drawn(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    #[test]
    fn groups_side_by_side_get_the_bits_of_one_alone() {
        for seed in 0..40 {
            let mut next = drawn(seed);
            let mut x: [[f32; 16]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
            let w = std::array::from_fn(|_| std::array::from_fn(|_| next().abs()));
            // Groups without anything to search for.
            (x[1], x[2], x[3][5], x[4]) = ([0.0; 16], [0.25; 16], f32::NAN, [-0.5; 16]);
            x[5] = x[5].map(f32::abs);
            let alone: [f32; 16] = std::array::from_fn(|g| symmetric(&x[g], &w[g], 32.0));
            let together = symmetric_groups(&x, &w, 32.0);
            // Processors choose the bits of a NaN.
            let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
            assert_eq!(together.map(bits), alone.map(bits), "{seed}");
            for absolute in [false, true] {
                let grid = Grid { absolute, ..FINE_GRID };
                let alone = std::array::from_fn(|g| affine(&x[g], &w[g], 3.0, &grid));
                let (scales, mins) =
                    affine_lanes::<16, 16>(&side_by_side(&x), &side_by_side(&w), 3.0, &grid);
                let together: [_; 16] = std::array::from_fn(|g| (scales[g], mins[g]));
                let all = |fits: [(f32, f32); 16]| fits.map(|(s, m)| (bits(s), bits(m)));
                assert_eq!(all(together), all(alone), "{seed}");
            }
        }
    }
}
