//! Distances between computed and expected numbers: the one place that says when two results agree.
//!
//! Every distance is infinite if a number on either side is NaN or infinite, if the lengths differ,
//! or if there is nothing to compare, so that `distance <= bound` cannot hold by accident.

/// Largest normalized mean square error of any row of `width` numbers: the sum of squared
/// differences by the sum of squares of `truth`. A row of zeros has distance 0 from itself alone.
pub fn nmse_max(ours: &[f32], truth: &[f32], width: usize) -> f64 {
    let of_row = |(a, b): (&[f32], &[f32])| {
        let sums = a.iter().zip(b).fold((0.0, 0.0), |(error, norm), (&a, &b)| {
            (error + (f64::from(a) - f64::from(b)).powi(2), norm + f64::from(b).powi(2))
        });
        if sums.0 == 0.0 { 0.0 } else { sums.0 / sums.1 }
    };
    match rows(ours, truth, width) {
        Some(rows) => largest(rows.map(of_row)),
        None => f64::INFINITY,
    }
}

/// Largest absolute difference of two numbers at the same place.
pub fn difference_max(ours: &[f32], truth: &[f32]) -> f64 {
    match rows(ours, truth, 1) {
        Some(rows) => largest(rows.map(|(a, b)| (f64::from(a[0]) - f64::from(b[0])).abs())),
        None => f64::INFINITY,
    }
}

/// Mean Kullback-Leibler divergence, in nats, over rows of `width` logits, of the distribution of
/// `ours` from that of `truth`.
pub fn kl_mean(ours: &[f32], truth: &[f32], width: usize) -> f64 {
    let log_softmax = |row: &[f32]| {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect::<Vec<_>>()
    };
    let of_row = |(ours, truth): (&[f32], &[f32])| -> f64 {
        let pairs = log_softmax(truth).into_iter().zip(log_softmax(ours));
        pairs.map(|(p, q)| p.exp() * (p - q)).sum()
    };
    match rows(ours, truth, width) {
        Some(rows) => rows.map(of_row).sum::<f64>() / (truth.len() / width) as f64,
        None => f64::INFINITY,
    }
}

/// Root mean square difference of two series.
pub fn rms(ours: &[f64], truth: &[f64]) -> f64 {
    let finite = ours.iter().chain(truth).all(|x| x.is_finite());
    if ours.is_empty() || ours.len() != truth.len() || !finite {
        return f64::INFINITY;
    }
    let sum: f64 = ours.iter().zip(truth).map(|(a, b)| (a - b).powi(2)).sum();
    (sum / ours.len() as f64).sqrt()
}

/// Bits of every number.
///
/// # Panics
/// If a number is NaN or infinite: two results that are equally broken are not the same result.
pub fn bits(x: &[f32]) -> Vec<u32> {
    assert_finite(x);
    x.iter().map(|x| x.to_bits()).collect()
}

/// # Panics
/// If a number is NaN or infinite.
pub fn assert_finite(x: &[f32]) {
    if let Some(i) = x.iter().position(|x| !x.is_finite()) {
        panic!("number {i} of {} is {}", x.len(), x[i]);
    }
}

/// Pairs of rows, or `None` if there are none, if they do not fit, or if a number is not finite.
fn rows<'a>(
    ours: &'a [f32],
    truth: &'a [f32],
    width: usize,
) -> Option<impl Iterator<Item = (&'a [f32], &'a [f32])>> {
    let fits = ours.len() == truth.len() && !truth.is_empty() && width > 0;
    let fits = fits && truth.len().is_multiple_of(width);
    let finite = |x: &[f32]| x.iter().all(|x| x.is_finite());
    (fits && finite(ours) && finite(truth)).then(|| ours.chunks(width).zip(truth.chunks(width)))
}

/// Largest of numbers of which none is NaN.
fn largest(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |max, error| if error <= max { max } else { error })
}

#[test]
fn equal_results_have_no_distance() {
    let x = [1.0, -2.0, 0.0, 0.0];
    assert_eq!(nmse_max(&x, &x, 2), 0.0);
    assert_eq!(difference_max(&x, &x), 0.0);
    assert_eq!(kl_mean(&x, &x, 2), 0.0);
    assert_eq!(rms(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    assert_eq!(bits(&x), x.map(f32::to_bits));
}

#[test]
fn distances_are_what_the_formulas_say() {
    // The second row has the larger error: (0.5^2 + 0) / (1 + 1).
    assert_eq!(nmse_max(&[1.0, 2.0, 1.5, 1.0], &[1.0, 2.0, 1.0, 1.0], 2), 0.125);
    assert_eq!(nmse_max(&[1.0], &[0.0], 1), f64::INFINITY);
    assert_eq!(difference_max(&[1.0, -1.0], &[1.25, 1.0]), 2.0);
    assert_eq!(rms(&[1.0, 1.0], &[1.0, 3.0]), 2f64.sqrt());
    // Distributions (1/2, 1/2) and (3/4, 1/4): ln(2/3)/2 + ln(2)/2.
    let kl = kl_mean(&[3f32.ln(), 0.0], &[0.0, 0.0], 2);
    assert!((kl - (4f64 / 3.0).ln() / 2.0).abs() < 1e-7, "{kl}");
}

#[test]
fn broken_results_are_infinitely_far_from_everything() {
    let good = [1.0, 2.0, 3.0, 4.0];
    let distances = |a: &[f32], b: &[f32]| {
        let f64s = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        [nmse_max(a, b, 2), difference_max(a, b), kl_mean(a, b, 2), rms(&f64s(a), &f64s(b))]
    };
    for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for i in 0..good.len() {
            let mut bad = good;
            bad[i] = broken;
            for (a, b) in [(&bad, &good), (&good, &bad), (&bad, &bad)] {
                assert_eq!(distances(a, b), [f64::INFINITY; 4], "{broken} at {i}");
            }
            assert!(std::panic::catch_unwind(|| bits(&bad)).is_err(), "{broken} at {i}");
        }
        let all = [broken; 4];
        assert_eq!(distances(&all, &all), [f64::INFINITY; 4], "{broken} everywhere");
    }
    for (a, b) in [(&good[..3], &good[..]), (&good[..], &good[..3]), (&[], &[])] {
        assert_eq!(distances(a, b), [f64::INFINITY; 4], "{} and {}", a.len(), b.len());
    }
    assert_eq!(nmse_max(&good, &good, 3), f64::INFINITY);
    assert_eq!(nmse_max(&good, &good, 0), f64::INFINITY);
}
