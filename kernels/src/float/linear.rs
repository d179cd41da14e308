//! The linear operations on vectors.

use super::{LANES, Lanes};

/// `a . b`, in the room's order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.len() == b.len(), "vectors of one length");
    let (a_groups, a_tail) = a.as_chunks::<LANES>();
    let (b_groups, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = Lanes::default();
    for (a, b) in a_groups.iter().zip(b_groups) {
        lanes.add_products(a, b);
    }
    for (i, (a, b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes.0[i] += a * b;
    }
    lanes.sum()
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

/// `y += x * f`.
pub fn add_scaled(y: &mut [f32], x: &[f32], f: f32) {
    assert!(y.len() == x.len(), "vectors of one length");
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * f;
    }
}
