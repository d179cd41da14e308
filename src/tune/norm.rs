//! Norms of rows, and their gradients.

use super::TuneError;
use super::machine::{Machine, add, zeros};
use crate::backend::program::NormKind;

/// Rows that a thread takes at a time; sums over rows are taken in parts of so many, in their order.
const PART_ROWS: usize = 32;

/// A norm with the factors that it has now.
#[derive(Clone, Copy)]
pub(super) struct NormValues<'a> {
    pub kind: NormKind,
    pub eps: f32,
    /// Elements that are normalized together.
    pub dim: usize,
    /// As long as `dim`, or as the row.
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
}

/// The part of factors that is for the elements from `first` on.
fn part(values: Option<&[f32]>, first: usize, dim: usize) -> Option<&[f32]> {
    values.map(|values| if values.len() == dim { values } else { &values[first..first + dim] })
}

impl NormValues<'_> {
    /// What is taken away from elements, and the factor of the rest.
    fn statistics(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f64;
        let sum: f64 = x.iter().map(|&x| f64::from(x)).sum();
        let center = if self.kind == NormKind::Layer { sum / n } else { 0.0 };
        let squares: f64 = x.iter().map(|&x| (f64::from(x) - center).powi(2)).sum();
        (center as f32, (1.0 / (squares / n + f64::from(self.eps)).sqrt()) as f32)
    }

    /// Normalizes a row.
    pub fn row(&self, x: &[f32], y: &mut [f32]) {
        for (i, (x, y)) in x.chunks_exact(self.dim).zip(y.chunks_exact_mut(self.dim)).enumerate() {
            let (center, factor) = self.statistics(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - center) * factor);
            if let Some(weight) = part(self.weight, i * self.dim, self.dim) {
                y.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
            }
            if let Some(bias) = part(self.bias, i * self.dim, self.dim) {
                add(y, bias);
            }
        }
    }

    /// The gradient of a row `x` from that of its norm; adds the factors' to `dweight`, if they have some.
    pub fn row_back(&self, x: &[f32], dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
        let dim = self.dim;
        let n = dim as f64;
        for i in 0..x.len() / dim {
            let at = i * dim..(i + 1) * dim;
            let (x, dy, dx) = (&x[at.clone()], &dy[at.clone()], &mut dx[at]);
            let (center, factor) = self.statistics(x);
            let weight = part(self.weight, i * dim, dim);
            let [mut sum, mut along] = [0.0_f64; 2];
            for (j, dx) in dx.iter_mut().enumerate() {
                let g = dy[j] * weight.map_or(1.0, |w| w[j]);
                *dx = g;
                sum += f64::from(g);
                along += f64::from(g) * f64::from((x[j] - center) * factor);
            }
            let mean = if self.kind == NormKind::Layer { (sum / n) as f32 } else { 0.0 };
            let along = (along / n) as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (*dx - mean - (x - center) * factor * along);
            }
            if !dweight.is_empty() {
                let first = if dweight.len() == dim { 0 } else { i * dim };
                for (j, dw) in dweight[first..first + dim].iter_mut().enumerate() {
                    *dw += dy[j] * (x[j] - center) * factor;
                }
            }
        }
    }

    /// Normalizes rows of `width`.
    pub fn forward(&self, on: Machine, x: &[f32], width: usize) -> Result<Vec<f32>, TuneError> {
        let mut y = zeros(x.len())?;
        let parts = y.chunks_mut(PART_ROWS * width).zip(x.chunks(PART_ROWS * width));
        on.each(parts, |(y, x)| {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                self.row(x, y);
            }
        })?;
        Ok(y)
    }

    /// The gradient of rows of `width`, and that of the factors, which is empty if there are none.
    pub fn backward(
        &self,
        on: Machine,
        x: &[f32],
        dy: &[f32],
        width: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), TuneError> {
        let part_len = PART_ROWS * width;
        let n_factors = self.weight.map_or(0, <[f32]>::len);
        let mut dx = zeros(x.len())?;
        let mut sums = vec![vec![0.0; n_factors]; x.len().div_ceil(part_len)];
        let parts = dx.chunks_mut(part_len).zip(&mut sums);
        let parts = parts.zip(x.chunks(part_len).zip(dy.chunks(part_len)));
        on.each(parts, |((dx, sum), (x, dy))| {
            let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
            for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(rows) {
                self.row_back(x, dy, dx, sum);
            }
        })?;
        let mut dweight = vec![0.0; n_factors];
        sums.iter().for_each(|sum| add(&mut dweight, sum));
        Ok((dx, dweight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testing::{check_gradient, draw, machine};

    fn norm<'a>(kind: NormKind, dim: usize, w: &'a [f32], b: &'a [f32]) -> NormValues<'a> {
        let some = |values: &'a [f32]| (!values.is_empty()).then_some(values);
        NormValues { kind, eps: 1e-2, dim, weight: some(w), bias: some(b) }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let on = machine();
        for kind in [NormKind::Rms, NormKind::Layer] {
            for (dim, factors) in [(24, 24), (8, 8), (8, 24), (24, 0)] {
                let (x, w, b) = (draw(1, 24 * 40), draw(2, factors), draw(3, factors));
                let dy = draw(4, x.len());
                let of = |x: &[f32], w: &[f32]| norm(kind, dim, w, &b).forward(on, x, 24).unwrap();
                let (dx, dw) = norm(kind, dim, &w, &b).backward(on, &x, &dy, 24).unwrap();
                check_gradient(&x, &dx, &dy, |x| of(x, &w));
                check_gradient(&w, &dw, &dy, |w| of(&x, w));
            }
        }
    }
}
