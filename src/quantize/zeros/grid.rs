//! Scales of types with a minimum for which the minimum is a whole number of steps, so that zero is one of
//! the values.

use teff_kernels::block::F16;
use teff_kernels::{Encoder, Scales};

/// Factors of the scale that just covers a group which are tried.
const FACTORS: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

/// Rounds in which a scale is fitted to codes and these to it.
const ROUNDS: usize = 2;

/// Bits of a half's mantissa, the one that is not stored included.
const HALF_BITS: u32 = 11;

/// A group's weights, and how much an error of each counts.
struct Weights<'a> {
    x: &'a [f32],
    importance: Option<&'a [f32]>,
    /// The largest level.
    most: u32,
}

impl Weights<'_> {
    /// The codes' values without the scale for a scale and the level that is zero, with weights and what
    /// errors count. Zeros are exact whatever the scale is.
    fn levels(&self, scale: f32, zero: u32) -> impl Iterator<Item = (f32, f32, f32)> {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let (zero, most) = (zero as f32, self.most as f32);
        self.x.iter().enumerate().filter(|(_, x)| **x != 0.0).map(move |(i, &x)| {
            let code = (x * inverse + zero).round_ties_even().clamp(0.0, most);
            (x, code - zero, self.importance.map_or(1.0, |all| all[i]))
        })
    }

    /// What the errors of a scale cost.
    fn cost(&self, scale: f32, zero: u32) -> f32 {
        self.levels(scale, zero).map(|(x, level, w)| w * (x - scale * level).powi(2)).sum()
    }

    /// The best scale for a level that is zero.
    fn scale(&self, zero: u32) -> f32 {
        let (low, high) =
            self.x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        // A side without levels is cut off.
        let steps = |reach: f32, n: u32| if n == 0 { 0.0 } else { reach / n as f32 };
        let cover = steps(-low, zero).max(steps(high, self.most - zero));
        let mut best = (self.cost(cover, zero), cover);
        for factor in FACTORS {
            let mut scale = factor * cover;
            for _ in 0..ROUNDS {
                let sums = self.levels(scale, zero).fold((0.0, 0.0), |(a, b), (x, level, w)| {
                    (a + w * x * level, b + w * level * level)
                });
                scale = if sums.1 > 0.0 { (sums.0 / sums.1).max(0.0) } else { scale };
                let cost = self.cost(scale, zero);
                if cost < best.0 {
                    best = (cost, scale);
                }
            }
        }
        best.1
    }

    /// Levels that may be zero: near the one that a minimum would have, and the middle ones.
    fn zeros(&self) -> impl Iterator<Item = u32> + use<> {
        let (low, high) =
            self.x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let most = self.most;
        let wanted =
            if high > low { (-low / (high - low) * most as f32).round() as u32 } else { 0 };
        (0..=most).filter(move |zero| zero.abs_diff(wanted) <= most.div_ceil(4))
    }
}

/// Scales of a block with one scale and a minimum, halves both: the scale has as few digits as its multiple
/// needs to be a half, too.
pub(super) fn block(encoder: &Encoder, x: &[f32], importance: Option<&[f32]>) -> Option<Scales> {
    let own = Weights { x, importance, most: encoder.codes as u32 - 1 };
    let mut best: Option<(f32, Scales)> = None;
    for zero in own.zeros() {
        let d = F16::from_f32(with_bits(own.scale(zero), bits_beside(zero)));
        let exact = -d.to_f32() * zero as f32;
        let m = F16::from_f32(exact);
        if m.to_f32() != exact || !d.to_f32().is_finite() {
            continue;
        }
        let cost = own.cost(d.to_f32(), zero);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, Scales::of_block(d, m)));
        }
    }
    best.map(|(_, scales)| scales)
}

/// Binary digits that a half may have so that its product with `n` is one, too.
fn bits_beside(n: u32) -> u32 {
    let odd = n >> n.trailing_zeros().min(31);
    HALF_BITS - if odd > 1 { u32::BITS - odd.leading_zeros() } else { 0 }
}

/// A number rounded to so many binary digits.
fn with_bits(x: f32, bits: u32) -> f32 {
    let cut = f32::MANTISSA_DIGITS - bits;
    let half = 1u32 << (cut - 1);
    f32::from_bits((x.to_bits().saturating_add(half)) & !((1 << cut) - 1))
}

/// Scales of a block whose groups have a scale and a minimum of a few bits, up to `most`: the scale of the
/// minimums is one of `ratios` times that of the scales, so that the minimums which are multiples of their
/// scales are whole numbers.
pub(super) fn super_block(
    encoder: &Encoder,
    x: &[f32],
    importance: Option<&[f32]>,
    most: u32,
    ratios: &[u32],
) -> Option<Scales> {
    let levels = encoder.codes as u32 - 1;
    let groups: Vec<Weights<'_>> = x
        .chunks_exact(encoder.group)
        .enumerate()
        .map(|(g, x)| {
            let importance = importance.map(|all| &all[g * encoder.group..][..encoder.group]);
            Weights { x, importance, most: levels }
        })
        .collect();
    // Each group's best scale for each level that may be zero.
    let wanted: Vec<Vec<(u32, f32)>> = groups
        .iter()
        .map(|own| own.zeros().map(|zero| (zero, own.scale(zero))).collect())
        .collect();
    let mut best: Option<(f32, Scales)> = None;
    for &ratio in ratios {
        // What the scales that cost their groups least ask for, of those whose minimums are free.
        let least = |(own, wanted): (&Weights<'_>, &Vec<(u32, f32)>)| {
            let free = wanted.iter().filter(|(zero, _)| zero.is_multiple_of(ratio));
            let by_cost = |a: &&(u32, f32), b: &&(u32, f32)| {
                own.cost(a.1, a.0).total_cmp(&own.cost(b.1, b.0))
            };
            let found = free.min_by(by_cost).or_else(|| wanted.iter().min_by(by_cost));
            found.map_or(0.0, |(zero, scale)| {
                // The largest scale as stored whose minimum can be stored, too.
                let largest = (most * ratio).checked_div(*zero).map_or(most, |n| n.min(most));
                scale / largest as f32
            })
        };
        let wanted_d = groups.iter().zip(&wanted).map(least).fold(0.0, f32::max);
        let d = F16::from_f32(with_bits(wanted_d, bits_beside(ratio)));
        let exact = d.to_f32() * ratio as f32;
        let m = F16::from_f32(exact);
        if m.to_f32() != exact || !exact.is_finite() {
            continue;
        }
        let (mut scales, mut mins, mut sum) = ([0; 16], [0; 16], 0.0);
        for (g, (own, wanted)) in groups.iter().zip(&wanted).enumerate() {
            let (cost, scale, min) = group(own, wanted, d.to_f32(), ratio, most);
            (scales[g], mins[g]) = (scale as u8, min as u8);
            sum += cost;
        }
        if best.is_none_or(|(least, _)| sum < least) {
            best = Some((sum, Scales::new(d, m, scales, mins)));
        }
    }
    best.map(|(_, scales)| scales)
}

/// The scale and minimum of a group, as stored, and what they cost: of those whose minimum is `zero` times
/// the scale, for a level `zero`.
fn group(
    own: &Weights<'_>,
    wanted: &[(u32, f32)],
    d: f32,
    ratio: u32,
    most: u32,
) -> (f32, u32, u32) {
    // No weights at all, of no scale and minimum.
    let mut best = (own.cost(0.0, 0), 0, 0);
    for &(zero, scale) in wanted.iter().filter(|_| d > 0.0) {
        let step = ratio / gcd(ratio, zero);
        let near = (scale / d / step as f32).round() as u32;
        for stored in (near.saturating_sub(1)..=near + 1).map(|n| n * step) {
            let min = stored * zero / ratio;
            if stored == 0 || stored > most || min > most {
                continue;
            }
            let cost = own.cost(d * stored as f32, zero);
            if cost < best.0 {
                best = (cost, stored, min);
            }
        }
    }
    best
}

/// The greatest common divisor; that of 0 and a number is the number.
fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
