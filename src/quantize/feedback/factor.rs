//! Factors of Hessians, with columns in the order in which they are rounded.

use super::super::error::QuantizeError;
use super::super::hessian::Hessian;
use super::super::share::share;

/// Columns of the factorization that are finished together.
const FACTOR_COLUMNS: usize = 32;
/// Rows of the factorization that a thread takes.
const FACTOR_ROWS: usize = 16;

/// Columns block by block, blocks and columns of each by falling importance.
pub(super) fn order(importance: &[f32], len: usize) -> Vec<usize> {
    let sum =
        |block: usize| importance[block * len..][..len].iter().map(|&x| f64::from(x)).sum::<f64>();
    let mut blocks: Vec<(f64, usize)> =
        (0..importance.len() / len).map(|block| (sum(block), block)).collect();
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let columns = |(_, block): (f64, usize)| {
        let mut columns: Vec<usize> = (block * len..(block + 1) * len).collect();
        columns.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]).then(a.cmp(&b)));
        columns
    };
    blocks.into_iter().flat_map(columns).collect()
}

/// Fills the lower half with the Hessian, rows and columns in reversed order, damped.
pub(super) fn fill_reversed(
    factor: &mut Vec<f64>,
    hessian: &Hessian,
    order: &[usize],
    damping: f64,
) {
    let n = order.len();
    factor.clear();
    factor.resize(n * n, 0.0);
    for i in 0..n {
        for j in 0..=i {
            factor[i * n + j] = f64::from(hessian.at(order[n - 1 - i], order[n - 1 - j]));
        }
        factor[i * n + i] += damping;
    }
}

/// Replaces the lower half of a symmetric matrix by its Cholesky factor; false if it is not positive
/// definite.
pub(super) fn factorize(l: &mut [f64], n: usize, threads: usize) -> Result<bool, QuantizeError> {
    for first in (0..n).step_by(FACTOR_COLUMNS) {
        let end = n.min(first + FACTOR_COLUMNS);
        for i in first..end {
            let (top, row) = l.split_at_mut(i * n);
            let row = &mut row[..n];
            for j in first..i {
                row[j] = (row[j] - dot(&row[..j], &top[j * n..][..j])) / top[j * n + j];
            }
            let square = row[i] - dot(&row[..i], &row[..i]);
            if !(square > 0.0 && square.is_finite()) {
                return Ok(false);
            }
            row[i] = square.sqrt();
        }
        let (top, below) = l.split_at_mut(end * n);
        let work = |rows: &mut [f64], _: &mut ()| {
            for row in rows.chunks_exact_mut(n) {
                for j in first..end {
                    row[j] = (row[j] - dot(&row[..j], &top[j * n..][..j])) / top[j * n + j];
                }
            }
            Ok(())
        };
        share(below.chunks_mut(FACTOR_ROWS * n).collect(), threads, &work)?;
    }
    Ok(true)
}

/// A sum in eight chains, which compilers turn into vectors.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let ((x8, x_rest), (y8, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for (x, y) in x8.iter().zip(y8) {
        (0..8).for_each(|i| sums[i] += x[i] * y[i]);
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}
