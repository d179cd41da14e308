//! Encoders of the codebook types IQ1, IQ2 and IQ3: points that lose least, and scales for them.
//!
//! Eight (IQ3: four) weights at a time become a point of a codebook times a scale; the best point for a
//! scale is found exactly, see [`super::book`].
//!
//! A group's scale is searched among a few candidates around its largest weight, then refined: the
//! best points for a scale, the best scale for the points (least squares). A super-block's scale is
//! the one that rounds the groups' scales with least loss; at the end points are searched once more
//! for the scales as stored. Weights of errors and the range of scales are those of ggml's reference
//! quantizers (`ggml-quants.c`; I. Kawrakow, llama.cpp #4773, #4856, #4897, #5453, #5676, #6302).
//! Cost: about five searches of a point.
//!
//! NaN and infinity make useless codes but never a panic.

use super::F16;
use super::book::{Book, Choices, Points, sum_by_halves};
use super::codebook::{IQ1, IQ1_POINTS, moved};
use super::encode::all;
use super::search::{ZERO, emphasize, mean_square, nearest};

/// Rounds of refinement; few groups need a third.
const REFINEMENTS_MAX: usize = 2;

/// Largest weights of a group, as parts of the largest level, that scales are tried for. Without
/// refinement six of them find what two do with it.
const MAGNITUDE_TRIES: [f32; 2] = [0.88, 1.02];

/// Weight of the mean square without importances, against an element's own square.
const PLAIN_MEAN_SQUARE: f32 = 0.25;

/// Candidates of a super-block's scale: the largest group's, and smaller and larger ones.
const SCALE_STEPS: i32 = 12;

/// Coding of a type's magnitudes.
pub(super) struct Magnitudes<B: 'static, const P: usize, const V: usize> {
    /// Points.
    pub book: &'static B,
    /// Levels of coordinates, ascending.
    pub levels: [u8; V],
    /// Magnitudes of a point.
    pub values: fn(usize) -> [u8; P],
    /// Whether only even numbers of negative signs among eight can be stored.
    pub even_signs: bool,
    /// Value of a scale of 1 times a level of 1.
    pub unit: f32,
}

/// The codes of a super-block: `points[i]` of elements `P * i..`, `signs[i]` of elements `8 * i..`,
/// `scales[g]` of group `g` (value `2 * scale + 1`).
pub(super) struct Coded {
    pub d: F16,
    pub scales: [u8; 16],
    pub points: [u16; 64],
    pub signs: [u8; 32],
}

/// Weights of the errors of all elements.
#[inline(always)]
pub(super) fn costs(
    x: &[f32; 256],
    importance: Option<&[f32; 256]>,
    sigma2_factor: f32,
) -> [f32; 256] {
    let sigma2 = sigma2_factor * mean_square(x);
    match importance {
        Some(importance) => emphasize(x, importance, sigma2),
        None => x.map(|x| PLAIN_MEAN_SQUARE * sigma2 + x * x),
    }
}

impl<B: Points<P, V>, const P: usize, const V: usize> Magnitudes<B, P, V> {
    /// Codes of the weights of a super-block, with groups of `G`; an error counts `w`.
    #[inline(always)]
    pub(super) fn encode<const G: usize>(&self, x: &[f32; 256], w: &[f32; 256]) -> Coded {
        let (x, signs) = self.signed(x, w);
        let mut coded = Coded { d: F16::default(), scales: [0; 16], points: [0; 64], signs };
        let (xs, ws) = (x.as_chunks::<G>().0, w.as_chunks::<G>().0);
        // Scale and what an error of it costs.
        let mut fits = [(0.0, 0.0); 16];
        for ((x, w), fit) in xs.iter().zip(ws).zip(&mut fits) {
            *fit = self.fit(x, w);
        }
        let n_groups = 256 / G;
        let Some((d, scales)) = round_scales(&fits[..n_groups], self.unit, 15) else {
            return coded;
        };
        let (mut xl, mut ll) = (0.0, 0.0);
        for (g, (x, w)) in xs.iter().zip(ws).enumerate() {
            let scale = f32::from(2 * scales[g] + 1);
            let points = &mut coded.points[g * (G / P)..][..G / P];
            let sums = self.code(x, w, d * self.unit * scale, points);
            xl += scale * sums.0;
            ll += scale * scale * sums.1;
        }
        coded.scales = scales;
        coded.d = best_d(d, xl, ll, self.unit);
        coded
    }

    /// Magnitudes and signs. Where the number of signs has to be even, the weight that it costs
    /// least has the wrong one, and a negative magnitude.
    #[inline(always)]
    fn signed(&self, x: &[f32; 256], w: &[f32; 256]) -> ([f32; 256], [u8; 32]) {
        let (mut magnitudes, mut signs) = ([0.0; 256], [0u8; 32]);
        for (i, out) in magnitudes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (x, w) = (&x.as_chunks::<8>().0[i], &w.as_chunks::<8>().0[i]);
            for (n, (out, &x)) in out.iter_mut().zip(x).enumerate() {
                *out = x.abs();
                signs[i] |= u8::from(x < 0.0) << n;
            }
            if self.even_signs && !signs[i].count_ones().is_multiple_of(2) {
                let cost = |n: usize| w[n] * x[n] * x[n];
                let cheapest = (1..8).fold(0, |a, b| if cost(b) < cost(a) { b } else { a });
                out[cheapest] = -out[cheapest];
                signs[i] ^= 1 << cheapest;
            }
        }
        (magnitudes, signs)
    }

    /// The scale of a group's levels, and the sum of squared levels.
    #[inline(always)]
    fn fit<const G: usize>(&self, x: &[f32; G], w: &[f32; G]) -> (f32, f32) {
        let max = x.iter().fold(0.0, |max: f32, &x| if x > max { x } else { max });
        if max < ZERO {
            return (0.0, 0.0);
        }
        let top = f32::from(self.levels[V - 1]);
        let mut points = [0; 8];
        let (mut best, mut sums) = (0.0, (0.0, 0.0));
        let mut consider = |scale: f32| {
            let (xl, ll) = self.code(x, w, scale, &mut points[..G / P]);
            let is_better = ll > 0.0 && xl > 0.0 && xl * xl > best * ll;
            if is_better {
                (best, sums) = (xl * xl / ll, (xl, ll));
            }
            is_better.then(|| xl / ll)
        };
        let mut scale = None;
        for part in MAGNITUDE_TRIES {
            scale = consider(max / (part * top)).or(scale);
        }
        for _ in 0..REFINEMENTS_MAX {
            let Some(last) = scale else { break };
            scale = consider(last);
        }
        if sums.1 > 0.0 { (sums.0 / sums.1, sums.1) } else { (0.0, 0.0) }
    }

    /// The points of a group for a scale of its levels; returns the sums of `w x level` and
    /// `w level^2`.
    #[inline(always)]
    fn code<const G: usize>(
        &self,
        x: &[f32; G],
        w: &[f32; G],
        scale: f32,
        points: &mut [u16],
    ) -> (f32, f32) {
        let levels = self.levels.map(|level| scale * f32::from(level));
        let (mut xl, mut ll) = ([0.0; P], [0.0; P]);
        let parts = x.as_chunks::<P>().0.iter().zip(w.as_chunks::<P>().0);
        for ((x, w), out) in parts.zip(points) {
            let (point, _) = self.book.nearest(&Choices::new(x, w, &levels));
            *out = point as u16;
            add_products(x, w, &(self.values)(point).map(f32::from), &mut xl, &mut ll);
        }
        (sum_by_halves(&xl), sum_by_halves(&ll))
    }
}

/// Adds `w x value` and `w value^2`.
#[inline(always)]
fn add_products<const P: usize>(
    x: &[f32; P],
    w: &[f32; P],
    values: &[f32; P],
    xl: &mut [f32; P],
    ll: &mut [f32; P],
) {
    for i in 0..P {
        let weighted = w[i] * values[i];
        xl[i] += weighted * x[i];
        ll[i] += weighted * values[i];
    }
}

/// Values of a point of [`IQ1`], an eighth down or up, in eighths.
#[inline(always)]
fn ternary(point: usize, down: bool) -> [f32; 8] {
    moved(IQ1[point], down).map(f32::from)
}

/// Encodes a row, super-block by super-block.
#[inline(always)]
pub(super) fn blocks<B>(
    x: &[f32],
    importance: Option<&[f32]>,
    out: &mut [B],
    encode: impl Fn(&[f32; 256], Option<&[f32; 256]>) -> B,
) {
    for (i, (x, block)) in x.as_chunks::<256>().0.iter().zip(out).enumerate() {
        let importance = importance.map(|w| all(&w[256 * i..]));
        *block = encode(x, importance);
    }
}

/// Four-bit scales, low nibbles first.
#[inline(always)]
pub(super) fn pack_scales<const N: usize>(scales: &[u8; 16]) -> [u8; N] {
    std::array::from_fn(|i| scales[2 * i] | scales[2 * i + 1] << 4)
}

/// Four times seven signs, and a scale on top of them.
#[inline(always)]
pub(super) fn signs_and_scale(signs: &[u8; 32], j: usize, scale: u8) -> u32 {
    let seven = |l: usize| u32::from(signs[4 * j + l] & 127) << (7 * l);
    (0..4).fold(u32::from(scale) << 28, |word, l| word | seven(l))
}

/// Codes of a super-block of IQ1_S or IQ1_M.
pub(super) struct Ternary {
    pub d: F16,
    pub scales: [u8; 16],
    pub points: [u16; 32],
    /// Whether the values of each eight elements are an eighth down.
    pub down: [bool; 32],
}

static TERNARY: Book<2048> = Book::new(&IQ1_POINTS, 2);

/// Scales that are tried, times the root mean square of a group.
const TERNARY_TRIES: [f32; 2] = [1.0, 1.4];

/// Codes of a super-block in groups of `G`, all eight elements of which are moved alike if they are
/// `moved_together`.
#[inline(always)]
pub(super) fn encode_ternary<const G: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    moved_together: bool,
) -> Ternary {
    let (points, down) = ([0; 32], [false; 32]);
    let mut coded = Ternary { d: F16::default(), scales: [0; 16], points, down };
    let (xs, ws) = (x.as_chunks::<G>().0, w.as_chunks::<G>().0);
    let mut fits = [(0.0, 0.0); 16];
    let mut part = TernaryGroup { moved_together, points: [0; 4], down: [false; 4] };
    for ((x, w), fit) in xs.iter().zip(ws).zip(&mut fits) {
        *fit = part.fit(x, w);
    }
    const UNIT: f32 = 0.125;
    let Some((d, scales)) = round_scales(&fits[..256 / G], UNIT, 7) else { return coded };
    let (mut xl, mut ll) = (0.0, 0.0);
    for (g, (x, w)) in xs.iter().zip(ws).enumerate() {
        let scale = f32::from(2 * scales[g] + 1);
        let sums = part.code(x, w, d * UNIT * scale);
        xl += scale * sums.0;
        ll += scale * scale * sums.1;
        coded.points[g * (G / 8)..][..G / 8].copy_from_slice(&part.points[..G / 8]);
        coded.down[g * (G / 8)..][..G / 8].copy_from_slice(&part.down[..G / 8]);
    }
    coded.scales = scales;
    coded.d = best_d(d, xl, ll, UNIT);
    coded
}

/// The points of a group of up to 32.
struct TernaryGroup {
    moved_together: bool,
    points: [u16; 4],
    down: [bool; 4],
}

impl TernaryGroup {
    #[inline(always)]
    fn fit<const G: usize>(&mut self, x: &[f32; G], w: &[f32; G]) -> (f32, f32) {
        let mean_square = mean_square(x);
        let max = x.iter().fold(0.0, |max: f32, x| if x.abs() > max { x.abs() } else { max });
        if max < ZERO {
            return (0.0, 0.0);
        }
        let (mut best, mut sums) = (0.0, (0.0, 0.0));
        let mut consider = |scale: f32| {
            let (xl, ll) = self.code(x, w, scale);
            let is_better = ll > 0.0 && xl > 0.0 && xl * xl > best * ll;
            if is_better {
                (best, sums) = (xl * xl / ll, (xl, ll));
            }
            is_better.then(|| xl / ll)
        };
        let mut scale = None;
        for part in TERNARY_TRIES {
            scale = consider(part * mean_square.sqrt() / 8.0).or(scale);
        }
        for _ in 0..REFINEMENTS_MAX {
            let Some(last) = scale else { break };
            scale = consider(last);
        }
        if sums.1 > 0.0 { (sums.0 / sums.1, sums.1) } else { (0.0, 0.0) }
    }

    /// The points for a scale of eighths; returns the sums of `w x value` and `w value^2`.
    #[inline(always)]
    fn code<const G: usize>(&mut self, x: &[f32; G], w: &[f32; G], scale: f32) -> (f32, f32) {
        let n = G / 8;
        let (xs, ws) = (x.as_chunks::<8>().0, w.as_chunks::<8>().0);
        if self.moved_together {
            self.code_together(xs, ws, scale);
        } else {
            for i in 0..n {
                let part = one(&xs[i], &ws[i], scale);
                (self.points[i], self.down[i]) = (part.0 as u16, part.1);
            }
        }
        let (mut xl, mut ll) = ([0.0; 8], [0.0; 8]);
        for i in 0..n {
            let values = ternary(self.points[i].into(), self.down[i]);
            add_products(&xs[i], &ws[i], &values, &mut xl, &mut ll);
        }
        (sum_by_halves(&xl), sum_by_halves(&ll))
    }

    /// The points of all eights, moved up or all moved down.
    #[inline(always)]
    fn code_together(&mut self, xs: &[[f32; 8]], ws: &[[f32; 8]], scale: f32) {
        let [up, down] = [false, true].map(|down| {
            let levels = ternary_levels(scale, down);
            let choices: [_; 4] = std::array::from_fn(|i| Choices::new(&xs[i], &ws[i], &levels));
            let least = choices.iter().map(|part| part.least).sum::<f32>();
            (choices, least)
        });
        let is_down_first = down.1 < up.1;
        let (first, second) = if is_down_first { (&down, &up) } else { (&up, &down) };
        let points = |choices: &[Choices<8, 3>; 4]| {
            let (mut points, mut cost) = ([0; 4], 0.0);
            for (point, choices) in points.iter_mut().zip(choices) {
                let (number, part) = TERNARY.nearest(choices);
                (*point, cost) = (number as u16, cost + part);
            }
            (points, cost)
        };
        let (mut found, mut is_down) = (points(&first.0), is_down_first);
        if second.1 < found.1 {
            let other = points(&second.0);
            if other.1 < found.1 {
                (found, is_down) = (other, !is_down_first);
            }
        }
        (self.points, self.down) = (found.0, [is_down; 4]);
    }
}

/// The best point for eight weights, and whether it is moved down.
#[inline(always)]
fn one(x: &[f32; 8], w: &[f32; 8], scale: f32) -> (usize, bool) {
    let [up, down] = [false, true].map(|down| Choices::new(x, w, &ternary_levels(scale, down)));
    let is_down_first = down.least < up.least;
    let (first, second) = if is_down_first { (&down, &up) } else { (&up, &down) };
    let found = TERNARY.nearest(first);
    if second.least < found.1 {
        let other = TERNARY.nearest(second);
        if other.1 < found.1 {
            return (other.0, !is_down_first);
        }
    }
    (found.0, is_down_first)
}

/// Levels of -1, 0 and 1, an eighth down or up.
#[inline(always)]
fn ternary_levels(scale: f32, down: bool) -> [f32; 3] {
    [-1.0, 0.0, 1.0].map(|code: f32| scale * (8.0 * code + if down { -1.0 } else { 1.0 }))
}

/// A scale of the scales and these as odd numbers up to `2 * most + 1`, such that their errors, squared
/// and weighed, are least; `None` if all are zero. `d` is as stored.
#[inline(always)]
fn round_scales(fits: &[(f32, f32)], unit: f32, most: u8) -> Option<(f32, [u8; 16])> {
    let max = fits.iter().fold(0.0, |max: f32, fit| if fit.0 > max { fit.0 } else { max });
    if max <= 0.0 {
        return None;
    }
    let top = f32::from(2 * most + 1);
    let code = |scale: f32, d: f32| nearest((scale / d - 1.0) * 0.5).clamp(0.0, most.into());
    let loss = |d: f32| {
        fits.iter().fold(0.0, |sum, &(scale, ll)| {
            let error = scale - d * (2.0 * code(scale, d) + 1.0);
            sum + ll * error * error
        })
    };
    let (mut d, mut least) = (0.0, f32::MAX);
    for step in -SCALE_STEPS..=SCALE_STEPS {
        // Such that the largest scale is a step of half a code below or above the top.
        let tried = max / (top - 0.5 * step as f32 * (top / 31.0));
        let tried = F16::from_f32(tried / unit).to_f32();
        let loss = loss(tried * unit);
        if tried > 0.0 && loss < least {
            (d, least) = (tried, loss);
        }
    }
    if d == 0.0 {
        // Smaller than any half: the smallest one, unless that is more wrong than nothing.
        let smallest = F16([1, 0]).to_f32();
        let nothing = fits.iter().fold(0.0, |sum, fit| sum + fit.1 * fit.0 * fit.0);
        let is_less_wrong = loss(smallest * unit) < nothing;
        if !is_less_wrong {
            return None;
        }
        d = smallest;
    }
    let scale_of = |g: usize| fits.get(g).map_or(0, |fit| code(fit.0, d * unit) as u8);
    Some((d, std::array::from_fn(scale_of)))
}

/// The super-block's scale for the points that were chosen with `d`: by least squares, unless the
/// result is no number.
#[inline(always)]
fn best_d(d: f32, xl: f32, ll: f32, unit: f32) -> F16 {
    let fitted = xl / ll / unit;
    F16::from_f32(if fitted.is_finite() && fitted > 0.0 { fitted } else { d })
}
