//! Derivatives of activations.

use std::f32::consts::{FRAC_1_SQRT_2, PI};
use teff_kernels::Activation;
use teff_kernels::FloatOps;

/// Factor of the cube in the tanh form of GELU.
const GELU_CUBE: f32 = 0.044_715;

/// Turns each `x` into the derivative of `f` there.
pub(super) fn derivative(ops: &FloatOps, f: Activation, x: &mut [f32]) {
    let inner: Vec<f32> = x.to_vec();
    let of = |f: Activation, change: &dyn Fn(f32) -> f32| {
        let mut y: Vec<f32> = inner.iter().map(|&x| change(x)).collect();
        (ops.act)(f, &mut y);
        y
    };
    let mut each = |y: Vec<f32>, derivative: &dyn Fn(f32, f32) -> f32| {
        x.iter_mut().zip(y).for_each(|(x, y)| *x = derivative(*x, y));
    };
    match f {
        Activation::Silu => {
            each(of(Activation::Sigmoid, &|x| x), &|x, s| s * (1.0 + x * (1.0 - s)));
        }
        Activation::GeluQuick => {
            let y = of(Activation::Sigmoid, &|x| 1.702 * x);
            each(y, &|x, s| s * (1.0 + 1.702 * x * (1.0 - s)));
        }
        Activation::Gelu => {
            let c = (2.0 / PI).sqrt();
            let y = of(Activation::Tanh, &|x| c * (x + GELU_CUBE * x * x * x));
            each(y, &|x, t| {
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * GELU_CUBE * x * x)
            });
        }
        Activation::GeluErf => {
            // The function itself is x times the normal distribution.
            let y = inner.iter().map(|&x| teff_kernels::float::erf(x * FRAC_1_SQRT_2)).collect();
            each(y, &|x, erf| 0.5 * (1.0 + erf) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt());
        }
        Activation::Relu => each(Vec::from(&inner[..]), &|x, _| f32::from(u8::from(x > 0.0))),
        Activation::ReluSqr => each(Vec::from(&inner[..]), &|x, _| 2.0 * x.max(0.0)),
        Activation::Tanh => each(of(Activation::Tanh, &|x| x), &|_, t| 1.0 - t * t),
        Activation::Sigmoid => each(of(Activation::Sigmoid, &|x| x), &|_, s| s * (1.0 - s)),
        Activation::Softplus => each(of(Activation::Sigmoid, &|x| x), &|_, s| s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testing::{check_gradient, draw, machine};

    #[test]
    fn derivatives_are_those_of_differences() {
        let ops = machine().ops();
        for f in Activation::ALL {
            // Away from the kinks.
            let x: Vec<f32> = draw(5, 200).iter().map(|x| 3.0 * x + x.signum() * 0.02).collect();
            let mut dx = x.clone();
            derivative(ops, f, &mut dx);
            check_gradient(&x, &dx, &vec![1.0; x.len()], |x| {
                let mut y = x.to_vec();
                (ops.act)(f, &mut y);
                y
            });
        }
    }
}
