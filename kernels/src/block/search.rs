//! Scales for a group of weights that lose least, by weighted least squares.
//!
//! Weights `x` become `scale * code` or `scale * code - min` with whole codes. Rounding makes the
//! error a jagged function of the scale, so each method tries a grid of scales around the obvious
//! one, gives every candidate's codes their best-fitting scale in closed form, and keeps the
//! candidate of least error. Methods, grids and weights are those of ggml's reference quantizers
//! (`ggml-quants.c`; I. Kawrakow, llama.cpp #1684 and #4861), sums in the same order, so files come
//! out as good as everybody's. Cost: about 20 passes per group, 40 with an importance matrix.
//!
//! The groups of super-blocks are searched side by side, a lane of vectors each ([`super::side_by_side`]),
//! a block of 32 with the elements in lanes.
//!
//! The importance of a column is the mean square of its activations: an error there counts so
//! much more. NaN and infinity make useless codes but never a panic.

use super::F16;
use super::encode::{Coder, Group, Scales};
use super::side_by_side::{affine_lanes, side_by_side};

/// A group whose largest magnitude is below this is all zero: its reciprocal would overflow.
pub(super) const ZERO: f32 = 1e-15;

/// Groups that are searched side by side: two vectors of the oldest x86-64, one of AVX2.
pub(super) const LANES: usize = 8;

/// Most passes of the coordinate descents; few groups need more than three.
const DESCENTS_MAX: usize = 5;

/// `x` to the nearest whole number, ties to even; exact for |x| < 2^22, where this adds so much
/// that no fraction bits are left. (`f32::round_ties_even` is a library call on plain x86-64.)
#[inline(always)]
pub(crate) fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// A whole number in 0..=255 as a code; NaN is 0. (From f32 to u8 there is no instruction, so compilers make
/// no vectors of that.)
#[inline(always)]
pub(crate) fn whole(x: f32) -> u8 {
    x as i32 as u8
}

/// `x` to the nearest whole number, halves away from zero; exact for |x| < 2^22. (`f32::round` is a
/// library call on most CPUs.)
#[inline(always)]
pub(super) fn away_from_zero(x: f32) -> f32 {
    let even = nearest(x);
    let rest = x - even;
    let even = if rest == 0.5 && x > 0.0 { even + 1.0 } else { even };
    if rest == -0.5 && x < 0.0 { even - 1.0 } else { even }
}

/// The element of largest magnitude, the first of equals; NaN is passed over.
#[inline(always)]
pub(crate) fn extreme(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut least, mut most) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in chunks {
        for i in 0..LANES {
            least[i] = if x[i] < least[i] { x[i] } else { least[i] };
            most[i] = if x[i] > most[i] { x[i] } else { most[i] };
        }
    }
    let below = least.iter().chain(rest).fold(0.0, |max: f32, &x| larger(-x, max));
    let above = most.iter().chain(rest).fold(0.0, |max: f32, &x| larger(x, max));
    if above > below {
        above
    } else if below > above {
        -below
    } else {
        let first = x.iter().copied().find(|x| x.abs() == above && above > 0.0);
        first.unwrap_or(0.0)
    }
}

/// `x`, if it is larger than `max`.
#[inline(always)]
fn larger(x: f32, max: f32) -> f32 {
    if x > max { x } else { max }
}

/// The least and the largest element; NaN is passed over.
#[inline(always)]
pub(crate) fn range(x: &[f32]) -> (f32, f32) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut least, mut most) = ([f32::MAX; LANES], [f32::MIN; LANES]);
    for x in chunks {
        for i in 0..LANES {
            least[i] = if x[i] < least[i] { x[i] } else { least[i] };
            most[i] = if x[i] > most[i] { x[i] } else { most[i] };
        }
    }
    let min = least.iter().chain(rest).fold(f32::MAX, |min: f32, &x| if x < min { x } else { min });
    let max = most.iter().chain(rest).fold(f32::MIN, |max: f32, &x| larger(x, max));
    (min, max)
}

/// Costs of an error at each element, given the columns' importance: `w * sqrt(sigma2 + x^2)`.
#[inline(always)]
pub(crate) fn emphasize<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    sigma2: f32,
) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (sigma2 + x[i] * x[i]).sqrt())
}

/// The sum of squares over the count.
#[inline(always)]
pub(crate) fn mean_square(x: &[f32]) -> f32 {
    sum(x.iter().map(|x| x * x)) / x.len() as f32
}

/// The scale of `x ~ scale * code`, codes in `-n..=n - 1`: 19 candidates.
#[inline(always)]
pub(crate) fn symmetric<const N: usize>(x: &[f32; N], weights: &[f32; N], n: f32) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO {
        return 0.0;
    }
    let (xl, ll) = symmetric_sums(x, weights, -n / max, n);
    let mut scale = if ll == 0.0 { 0.0 } else { xl / ll };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = symmetric_sums(x, weights, -(n + 0.1 * step as f32) / max, n);
        // Least squares leave sum(w x^2) - xl^2 / ll.
        if ll > 0.0 && xl * xl > best * ll {
            scale = xl / ll;
            best = scale * xl;
        }
    }
    scale
}

/// The sums of `w x code` and `w code^2` for the codes of `inverse * x`.
#[inline(always)]
fn symmetric_sums<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    inverse: f32,
    n: f32,
) -> (f32, f32) {
    let mut codes = [0.0; N];
    for i in 0..N {
        codes[i] = within(nearest(inverse * x[i]), -n, n - 1.0);
    }
    (
        sum_by(&codes, weights, x, |l, w, x| w * x * l),
        sum_by(&codes, weights, x, |l, w, _| w * l * l),
    )
}

/// A sum over codes, weights and elements in lanes.
#[inline(always)]
fn sum_by<const N: usize>(
    codes: &[f32; N],
    weights: &[f32; N],
    x: &[f32; N],
    f: impl Fn(f32, f32, f32) -> f32,
) -> f32 {
    let mut sums = [0.0; LANES];
    for first in (0..N).step_by(LANES) {
        for i in 0..LANES {
            sums[i] += f(codes[first + i], weights[first + i], x[first + i]);
        }
    }
    sum_of_lanes(&sums)
}

/// `x` in `least..=most`; NaN stays.
#[inline(always)]
pub(super) fn within(x: f32, least: f32, most: f32) -> f32 {
    let x = if x < least { least } else { x };
    if x > most { most } else { x }
}

/// The sum of the lanes, pairs of halves first.
#[inline(always)]
pub(super) fn sum_of_lanes(x: &[f32; LANES]) -> f32 {
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}

/// As [`symmetric`], moving one code at a time as long as that helps; better for very few codes.
#[inline(always)]
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
#[inline(always)]
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
#[inline(always)]
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

/// Grid that [`affine`] searches: `steps + 1` candidates of `n + first + i * step` levels.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    pub first: f32,
    pub step: f32,
    pub steps: usize,
    /// Errors count by their magnitude, not their square: kinder to two-bit codes.
    pub absolute: bool,
}

/// Grid of every type with an importance matrix.
pub(crate) const FINE_GRID: Grid = Grid { first: -0.9, step: 0.05, steps: 36, absolute: false };

/// The scale and the min >= 0 (unless all of `x` is equal) of `x ~ scale * code - min`, codes in
/// `0..=n`.
#[inline(always)]
pub(crate) fn affine<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    n: f32,
    grid: &Grid,
) -> (f32, f32) {
    let (least, max) = range(x);
    let least = if least > 0.0 { 0.0 } else { least };
    let mut codes = [0.0; N];
    let sum_w = sum_by(&codes, weights, x, |_, w, _| w);
    let sum_x = sum_by(&codes, weights, x, |_, w, x| w * x);
    if max <= least {
        return (0.0, -least);
    }
    let (mut scale, mut min) = (1.0 / (n / (max - least)), least);
    affine_codes(x, n / (max - min), min, n, &mut codes);
    let mut best = affine_error(x, weights, &codes, scale, min, grid.absolute);
    for i in 0..=grid.steps {
        // From the best minimum so far, which moves the grid along.
        let levels = grid.first + grid.step * i as f32 + n;
        affine_codes(x, levels / (max - min), min, n, &mut codes);
        let sum_l = sum_by(&codes, weights, x, |l, w, _| w * l);
        let sum_ll = sum_by(&codes, weights, x, |l, w, _| w * l * l);
        let sum_xl = sum_by(&codes, weights, x, |l, w, x| w * l * x);
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
        let error = affine_error(x, weights, &codes, new_scale, new_min, grid.absolute);
        if error < best {
            (best, scale, min) = (error, new_scale, new_min);
        }
    }
    (scale, -min)
}

/// Codes of one group.
#[inline(always)]
fn affine_codes<const N: usize>(
    x: &[f32; N],
    inverse: f32,
    min: f32,
    n: f32,
    codes: &mut [f32; N],
) {
    for i in 0..N {
        codes[i] = within(nearest(inverse * (x[i] - min)), 0.0, n);
    }
}

/// The weighted error of the codes of one group.
#[inline(always)]
fn affine_error<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    codes: &[f32; N],
    scale: f32,
    min: f32,
    absolute: bool,
) -> f32 {
    let diff = |l: f32, x: f32| scale * l + min - x;
    if absolute {
        return sum_by(codes, weights, x, |l, w, x| w * diff(l, x).abs());
    }
    sum_by(codes, weights, x, |l, w, x| w * (diff(l, x) * diff(l, x)))
}

/// Search of a type's super-blocks.
pub(crate) struct AffineMethod {
    /// Largest code.
    pub code_max: f32,
    /// Largest scale and min.
    pub scale_max: f32,
    /// The grid without importances.
    pub grid: Grid,
    /// x|`, plus the group's RMS if this is set.|Whether, without importances, an error at `x` costs the group's RMS beside `|x|`.|x|`, plus the group's RMS if this is set.
    pub add_rms: bool,
    /// Weight of the variance against `x^2`, with importances.
    pub sigma2_factor: f32,
}

impl AffineMethod {
    /// The scales for 256 weights; `N * G` must be 256.
    #[inline(always)]
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
    #[inline(always)]
    pub fn code(&self, coder: &Coder, x: f32) -> u8 {
        if coder.by == 0.0 {
            return 0;
        }
        whole(nearest((x + coder.min) / coder.by).clamp(0.0, self.code_max))
    }

    /// Scales (or mins) as codes of a common one, the largest of them exact.
    #[inline(always)]
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
#[inline(always)]
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
#[inline(always)]
pub(crate) fn symmetric_code(coder: &Coder, x: f32, n: f32) -> u8 {
    if coder.by == 0.0 {
        return n as u8;
    }
    whole(nearest(x / coder.by).clamp(-n, n - 1.0) + n)
}

/// Signed scales as codes in `-n..=n - 1` of a common one, the extreme one exactly `-n`.
#[inline(always)]
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
#[inline(always)]
pub(crate) fn symmetric_scales_of(scales: &[f32; 16], d: F16, n: f32) -> [i8; 16] {
    let d = d.to_f32();
    if d == 0.0 {
        return [0; 16];
    }
    scales.map(|s| nearest(s / d).clamp(-n, n - 1.0) as i8)
}

/// One addition after another from 0, as the reference adds.
#[inline(always)]
pub(crate) fn sum(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |sum, x| sum + x)
}
