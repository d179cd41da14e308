//! The searches of [`super::search`] for the groups of a super-block side by side, a lane of vectors each.
//!
//! The operations of a lane are those of a group alone, in their order, so the bits are, too.

use super::search::{Grid, LANES, ZERO, nearest, within};

/// Groups side by side: `[i][g]` is element `i` of group `g`. Each lane does what one group's search
/// would do, operation by operation, so the results are the same bits.
pub(super) type Lanes<const N: usize, const G: usize> = [[f32; G]; N];

/// Element `i` of group `g` at `[i][g]`.
#[inline(always)]
pub(super) fn side_by_side<const N: usize, const G: usize>(groups: &[[f32; N]]) -> Lanes<N, G> {
    std::array::from_fn(|i| std::array::from_fn(|g| groups[g][i]))
}

/// [`affine`] of `G` groups at a time.
#[inline(always)]
pub(super) fn affine_lanes<const N: usize, const G: usize>(
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
    let mut scale: [f32; G] = std::array::from_fn(|g| 1.0 / (n / (max[g] - least[g])));
    let mut min = least;
    let mut codes = [[0.0; G]; N];
    codes_of(x, n, &max, &min, n, &mut codes);
    let mut best = errors_of(x, weights, &codes, &scale, &min, grid.absolute);
    for i in 0..=grid.steps {
        let levels = grid.first + grid.step * i as f32 + n;
        codes_of(x, levels, &max, &min, n, &mut codes);
        let sum_l = sums_by(&codes, x, weights, |l, w, _| w * l);
        let sum_ll = sums_by(&codes, x, weights, |l, w, _| w * l * l);
        let sum_xl = sums_by(&codes, x, weights, |l, w, x| w * l * x);
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
        let error = errors_of(x, weights, &codes, &new_scale, &new_min, grid.absolute);
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

/// Sums over the codes, weights and elements of groups side by side. Compilers make vectors of loops
/// with one of them.
#[inline(always)]
fn sums_by<const N: usize, const G: usize>(
    codes: &Lanes<N, G>,
    x: &Lanes<N, G>,
    weights: &Lanes<N, G>,
    f: impl Fn(f32, f32, f32) -> f32,
) -> [f32; G] {
    let mut sums = [0.0; G];
    for ((l, w), x) in codes.iter().zip(weights).zip(x) {
        for g in 0..G {
            sums[g] += f(l[g], w[g], x[g]);
        }
    }
    sums
}

/// Codes of groups side by side, for so many levels from `min` to `max`.
#[inline(always)]
fn codes_of<const N: usize, const G: usize>(
    x: &Lanes<N, G>,
    levels: f32,
    max: &[f32; G],
    min: &[f32; G],
    n: f32,
    codes: &mut Lanes<N, G>,
) {
    let mut inverse = [0.0; G];
    for g in 0..G {
        inverse[g] = levels / (max[g] - min[g]);
    }
    for (codes, x) in codes.iter_mut().zip(x) {
        for g in 0..G {
            codes[g] = within(nearest(inverse[g] * (x[g] - min[g])), 0.0, n);
        }
    }
}

/// The weighted errors of codes of groups side by side.
#[inline(always)]
fn errors_of<const N: usize, const G: usize>(
    x: &Lanes<N, G>,
    weights: &Lanes<N, G>,
    codes: &Lanes<N, G>,
    scale: &[f32; G],
    min: &[f32; G],
    absolute: bool,
) -> [f32; G] {
    let mut sums = [0.0; G];
    for ((codes, x), w) in codes.iter().zip(x).zip(weights) {
        for g in 0..G {
            let diff = scale[g] * codes[g] + min[g] - x[g];
            sums[g] += w[g] * if absolute { diff.abs() } else { diff * diff };
        }
    }
    sums
}

/// [`symmetric`] of the groups of a super-block.
#[inline(always)]
pub(super) fn symmetric_groups(x: &[[f32; 16]], weights: &[[f32; 16]; 16], n: f32) -> [f32; 16] {
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
    let (xl, ll) = sums_of(x, weights, n, &max, n);
    let mut scale: [f32; G] =
        std::array::from_fn(|g| if ll[g] == 0.0 { 0.0 } else { xl[g] / ll[g] });
    let mut best: [f32; G] = std::array::from_fn(|g| scale[g] * xl[g]);
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = sums_of(x, weights, n + 0.1 * step as f32, &max, n);
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

/// The sums of [`symmetric_sums`] of groups side by side, one element after the other.
#[inline(always)]
fn sums_of<const N: usize, const G: usize>(
    x: &Lanes<N, G>,
    weights: &Lanes<N, G>,
    n_tried: f32,
    max: &[f32; G],
    n: f32,
) -> ([f32; G], [f32; G]) {
    let (mut inverse, mut xl, mut ll) = ([0.0; G], [0.0; G], [0.0; G]);
    for g in 0..G {
        inverse[g] = -n_tried / max[g];
    }
    for (x, w) in x.iter().zip(weights) {
        for g in 0..G {
            let l = within(nearest(inverse[g] * x[g]), -n, n - 1.0);
            xl[g] += w[g] * x[g] * l;
            ll[g] += w[g] * l * l;
        }
    }
    (xl, ll)
}

#[cfg(test)]
mod tests {
    use super::super::search::FINE_GRID;
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
            let one = |group: &[f32; 16]| side_by_side::<16, 1>(std::slice::from_ref(group));
            let alone: [f32; 16] =
                std::array::from_fn(|g| symmetric_lanes(&one(&x[g]), &one(&w[g]), 32.0)[0]);
            let together = symmetric_groups(&x, &w, 32.0);
            // Processors choose the bits of a NaN.
            let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
            assert_eq!(together.map(bits), alone.map(bits), "{seed}");
            for absolute in [false, true] {
                let grid = Grid { absolute, ..FINE_GRID };
                let alone = std::array::from_fn(|g| {
                    let (scales, mins) = affine_lanes(&one(&x[g]), &one(&w[g]), 3.0, &grid);
                    (scales[0], mins[0])
                });
                let (scales, mins) =
                    affine_lanes::<16, 16>(&side_by_side(&x), &side_by_side(&w), 3.0, &grid);
                let together: [_; 16] = std::array::from_fn(|g| (scales[g], mins[g]));
                let all = |fits: [(f32, f32); 16]| fits.map(|(s, m)| (bits(s), bits(m)));
                assert_eq!(all(together), all(alone), "{seed}");
            }
        }
    }
}
