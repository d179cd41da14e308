//! Points of codebooks that lose least: what the encoders of [`super::lattice`] ask for.
//!
//! Costs of each level of each coordinate are known. If the levels that are best for each coordinate
//! alone make a point, it is the best one, which is so for every second search. Else the costs are
//! summed for all levels of the first half of the coordinates and of the second, and a point costs the
//! sum of two entries. Points are sorted by their second half, so most are passed over together: those
//! whose second half costs more than the best point, even with the cheapest first half. No lists of
//! neighbours are needed, and no memory but the stack.

/// Levels of all coordinates of half a point, at most: three to the fourth, or eight squared.
const HALVES_MAX: usize = 81;

/// A codebook, taken apart into halves of points.
pub(super) struct Book<const N: usize> {
    /// First half of each point, as the number of its levels.
    first: [u8; N],
    /// Number of the first point of each second half.
    start: [u16; HALVES_MAX + 1],
    /// The first halves that go with each second half, a bit each.
    has: [u128; HALVES_MAX],
}

impl<const N: usize> Book<N> {
    /// Takes sorted points of indices of `bits` bits apart.
    pub(super) const fn new(points: &[u16; N], bits: u32) -> Book<N> {
        let (start, has) = ([0; HALVES_MAX + 1], [0; HALVES_MAX]);
        let mut book = Book { first: [0; N], start, has };
        let half_bits = if bits == 2 { 8 } else { 6 };
        let mut n = 0;
        while n < N {
            assert!(n == 0 || points[n - 1] < points[n]);
            let second = half(points[n] >> half_bits, bits) as usize;
            book.first[n] = half(points[n] & ((1 << half_bits) - 1), bits);
            book.start[second + 1] = n as u16 + 1;
            book.has[second] |= 1 << book.first[n];
            n += 1;
        }
        // Halves that no point has begin where the next one does.
        let mut h = 1;
        while h <= HALVES_MAX {
            if book.start[h] < book.start[h - 1] {
                book.start[h] = book.start[h - 1];
            }
            h += 1;
        }
        book
    }

    /// The number of the point of two halves, if there is one.
    #[inline(always)]
    fn find(&self, first: usize, second: usize) -> Option<usize> {
        let has = self.has[second];
        // Points are sorted, so its place is how many come before it.
        let before = (has & ((1 << first) - 1)).count_ones() as usize;
        (has >> first & 1 == 1).then(|| usize::from(self.start[second]) + before)
    }

    /// The number of the point of least cost, and that cost.
    #[inline(always)]
    fn cheapest<const R: usize, const H: usize>(
        &self,
        first: &Half<R, H>,
        second: &Half<R, H>,
        cheapest: usize,
    ) -> (usize, f32) {
        let (mut point, mut best) = (0, f32::MAX);
        let mut visit = |h: usize, best: &mut f32| {
            let points = usize::from(self.start[h])..usize::from(self.start[h + 1]);
            for (n, &half) in points.clone().zip(&self.first[points]) {
                let cost = first.costs[usize::from(half)] + second.costs[h];
                if cost < *best {
                    (point, *best) = (n, cost);
                }
            }
        };
        // The cheapest second half first, so that most others are passed over.
        visit(cheapest, &mut best);
        for (r, &row) in second.rows.iter().enumerate() {
            if row + first.least < best {
                for (i, &cost) in second.costs[r * R..][..R].iter().enumerate() {
                    if cost + first.least < best {
                        visit(r * R + i, &mut best);
                    }
                }
            }
        }
        (point, best)
    }
}

/// Number of half a point: indices of three levels in base 3, of eight in base 8.
const fn half(indices: u16, bits: u32) -> u8 {
    if bits == 3 {
        return indices as u8;
    }
    let (mut number, mut i) = (0, 4);
    while i > 0 {
        i -= 1;
        number = 3 * number + (indices >> (2 * i) & 3);
    }
    number as u8
}

/// Costs of the halves of points: `R` rows of as many.
struct Half<const R: usize, const H: usize> {
    costs: [f32; H],
    /// The least of each row.
    rows: [f32; R],
    /// The least of all.
    least: f32,
}

impl<const R: usize, const H: usize> Half<R, H> {
    /// The sums of a row's cost and a column's.
    #[inline(always)]
    fn new(columns: &[f32; R], rows: &[f32; R]) -> Half<R, H> {
        const { assert!(R * R == H) };
        let mut costs = [0.0; H];
        for r in 0..R {
            for c in 0..R {
                costs[R * r + c] = columns[c] + rows[r];
            }
        }
        // Rounding keeps the order of sums, so these are entries of the table.
        let least = |x: &[f32; R]| x.iter().fold(x[0], |a, &b| if b < a { b } else { a });
        let column = least(columns);
        let mut of_rows = *rows;
        for row in &mut of_rows {
            *row += column;
        }
        Half { costs, rows: of_rows, least: column + least(rows) }
    }
}

/// Costs of the levels of coordinates, and the levels that are best for each coordinate alone.
pub(super) struct Choices<const P: usize, const V: usize> {
    /// By level, then coordinate.
    costs: [[f32; P]; V],
    best: [u32; P],
    /// Cost of the best levels: no point costs less.
    pub least: f32,
}

impl<const P: usize, const V: usize> Choices<P, V> {
    #[inline(always)]
    pub fn new(x: &[f32; P], w: &[f32; P], levels: &[f32; V]) -> Choices<P, V> {
        let mut costs = [[0.0; P]; V];
        for v in 0..V {
            for i in 0..P {
                let error = x[i] - levels[v];
                costs[v][i] = w[i] * error * error;
            }
        }
        let (mut least, mut best) = (costs[0], [0; P]);
        for (v, costs) in costs.iter().enumerate().skip(1) {
            for i in 0..P {
                let is_better = costs[i] < least[i];
                least[i] = if is_better { costs[i] } else { least[i] };
                best[i] = if is_better { v as u32 } else { best[i] };
            }
        }
        Choices { costs, best, least: sum_by_halves(&least) }
    }

    /// Numbers of the halves of the best levels.
    #[inline(always)]
    fn halves(&self) -> (usize, usize) {
        let (first, second) = self.best.split_at(P / 2);
        let number = |half: &[u32]| {
            half.iter().rev().fold(0, |number, &level| V as u32 * number + level) as usize
        };
        (number(first), number(second))
    }
}

/// The sum of the first half and of the second, each likewise: as costs of points are summed.
#[inline(always)]
pub(super) fn sum_by_halves<const P: usize>(x: &[f32; P]) -> f32 {
    if P == 4 {
        return (x[0] + x[1]) + (x[2] + x[3]);
    }
    ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
}

/// Points of `P` coordinates, each one of `V` levels.
pub(super) trait Points<const P: usize, const V: usize> {
    /// The number of the best point, and its cost.
    fn nearest(&self, choices: &Choices<P, V>) -> (usize, f32);
}

impl<const N: usize> Points<8, 3> for Book<N> {
    #[inline(always)]
    fn nearest(&self, choices: &Choices<8, 3>) -> (usize, f32) {
        let (first, second) = choices.halves();
        match self.find(first, second) {
            Some(point) => (point, choices.least),
            None => self.search_8(choices, second),
        }
    }
}

impl<const N: usize> Points<4, 8> for Book<N> {
    #[inline(always)]
    fn nearest(&self, choices: &Choices<4, 8>) -> (usize, f32) {
        let (first, second) = choices.halves();
        match self.find(first, second) {
            Some(point) => (point, choices.least),
            None => self.search_4(choices, second),
        }
    }
}

impl<const N: usize> Book<N> {
    /// Halves of four coordinates of three levels.
    #[inline(always)]
    fn search_8(&self, choices: &Choices<8, 3>, cheapest: usize) -> (usize, f32) {
        let half = |first: usize| {
            let (mut columns, mut rows) = ([0.0; 9], [0.0; 9]);
            for n in 0..9 {
                let cost = |i: usize, level: usize| choices.costs[level][first + i];
                columns[n] = cost(0, n % 3) + cost(1, n / 3);
                rows[n] = cost(2, n % 3) + cost(3, n / 3);
            }
            Half::<9, 81>::new(&columns, &rows)
        };
        self.cheapest(&half(0), &half(4), cheapest)
    }

    /// Halves of two coordinates of eight levels.
    #[inline(always)]
    fn search_4(&self, choices: &Choices<4, 8>, cheapest: usize) -> (usize, f32) {
        let half = |first: usize| {
            let (mut columns, mut rows) = ([0.0; 8], [0.0; 8]);
            for n in 0..8 {
                (columns[n], rows[n]) = (choices.costs[n][first], choices.costs[n][first + 1]);
            }
            Half::<8, 64>::new(&columns, &rows)
        };
        self.cheapest(&half(0), &half(2), cheapest)
    }
}
