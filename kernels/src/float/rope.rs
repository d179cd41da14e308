//! Rotary position embedding of one head (Su et al., arXiv 2104.09864).

use super::fma;

/// Pairing of the dimensions that turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// `2i` and `2i + 1`: as in the paper; llama.cpp's "norm".
    Norm,
    /// `i` and `i + n / 2` of the `n` rotated dimensions, as GPT-NeoX lays them out.
    Neox,
}

/// Rotates the first `2 * cos.len()` dimensions of `x`; pair `i` by the angle of `cos[i]`, `sin[i]`.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], pairing: RopePairing) {
    let pairs = cos.len();
    assert!(sin.len() == pairs && 2 * pairs <= x.len(), "pairs fit the head");
    let x = &mut x[..2 * pairs];
    let angles = cos.iter().zip(sin);
    match pairing {
        RopePairing::Norm => {
            for (pair, (cos, sin)) in x.chunks_exact_mut(2).zip(angles) {
                (pair[0], pair[1]) = turn(pair[0], pair[1], *cos, *sin);
            }
        }
        RopePairing::Neox => {
            let (first, second) = x.split_at_mut(pairs);
            for ((x, y), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                (*x, *y) = turn(*x, *y, *cos, *sin);
            }
        }
    }
}

/// `(a cos - b sin, b cos + a sin)`, the first product of each exact.
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (fma(a, cos, -(b * sin)), fma(b, cos, a * sin))
}
