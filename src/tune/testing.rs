//! What tests of gradients share.

use super::machine::Machine;
use crate::random::SplitMix64;
use teff_kernels::KernelTable;

/// The machine's kernels, on three threads.
pub(super) fn machine() -> Machine {
    Machine { kernels: KernelTable::detect(), threads: 3 }
}

/// Numbers between -1 and 1.
pub(super) fn draw(seed: u64, n: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..n).map(|_| (random.next_u64() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect()
}

/// Half the distance of the two points of a difference.
const H: f32 = 1e-2;

/// Holds `dx`, the gradient of `dy . f` at `x`, against differences along some directions.
pub(super) fn check_gradient(x: &[f32], dx: &[f32], dy: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
    assert_eq!(x.len(), dx.len(), "a gradient for each number");
    let at = |direction: &[f32], h: f32| -> f64 {
        let x: Vec<f32> = x.iter().zip(direction).map(|(x, d)| x + h * d).collect();
        let y = f(&x);
        let dy = |i: usize| if dy.len() == 1 { dy[0] } else { dy[i] };
        y.iter().enumerate().map(|(i, y)| f64::from(*y) * f64::from(dy(i))).sum()
    };
    let mut directions: Vec<Vec<f32>> = (0..4).map(|seed| draw(100 + seed, x.len())).collect();
    // And along single numbers.
    for i in [0, x.len() / 2, x.len().saturating_sub(1)] {
        let mut one = vec![0.0; x.len()];
        one.iter_mut().skip(i).take(1).for_each(|x| *x = 1.0);
        directions.push(one);
    }
    let length = dx.iter().map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt();
    for direction in directions {
        let size = direction.iter().map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt();
        let told: f64 =
            direction.iter().zip(dx).map(|(d, dx)| f64::from(*d) * f64::from(*dx)).sum();
        let difference = (at(&direction, H) - at(&direction, -H)) / f64::from(2.0 * H);
        let error = (told - difference).abs();
        assert!(
            error <= 2e-3 * (length * size.min(1.0) + told.abs()) + 1e-4,
            "{told} {difference}"
        );
    }
}
