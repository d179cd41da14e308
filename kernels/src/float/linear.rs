//! The linear operations on vectors.

use super::fma;

/// `a . b`, in the room's order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len(), "vectors of one length");
    super::dot_of(a, b, |a| a)
}

/// `y += x`.
pub fn add(y: &mut [f32], x: &[f32]) {
    assert!(y.len() == x.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y *= f`.
pub fn scale(y: &mut [f32], f: f32) {
    for y in y {
        *y *= f;
    }
}

/// `y += x * f`, rounded once.
pub fn add_scaled(y: &mut [f32], x: &[f32], f: f32) {
    assert!(y.len() == x.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y = fma(*x, f, *y);
    }
}
