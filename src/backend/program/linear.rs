//! Products of activations with weights, and the functions of their results.

use super::{BoundWeight, Buf, Norm, Tokens};
use teff_kernels::Activation;

/// `out = epilogue(scale * W norm(input) + bias + addend)` for each of `parts`, whose outputs are
/// laid out one behind the other.
#[derive(Debug)]
pub struct Linear {
    /// Source.
    pub input: Buf,
    /// Applied to the input.
    pub norm: Option<Norm>,
    /// The matrices.
    pub parts: Vec<Part>,
    /// Added to the products of all parts, as wide as they are together.
    pub addend: Option<Buf>,
    /// Applied to the products.
    pub epilogue: Epilogue,
    /// Destination.
    pub out: Output,
    /// Tokens that are computed.
    pub rows: Tokens,
}

impl Linear {
    /// Rows of all matrices.
    pub fn n_products(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.weight.rows))
    }

    /// Columns of the result.
    pub fn n_rows(&self) -> usize {
        match self.epilogue {
            Epilogue::Glu(..) => self.n_products() / 2,
            Epilogue::None | Epilogue::Act(_) => self.n_products(),
        }
    }
}

/// A matrix of a [`Linear`].
#[derive(Clone, Debug)]
pub struct Part {
    /// Matrix `[rows][width of the input]`.
    pub weight: BoundWeight,
    /// Factor of the product.
    pub scale: f32,
    /// Added after the factor.
    pub bias: Option<Vec<f32>>,
}

/// Function of the products that is applied before they are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// `f(y)`.
    Act(Activation),
    /// The parts are a gate and an up projection of equal shape, or one part has the rows of both:
    /// `f(gate) * up`, both bounded before if there are bounds.
    Glu(Activation, Option<GluClamp>),
}

/// Destination of a [`Linear`]'s result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Overwrites a buffer.
    Store(Buf),
    /// `buffer += scale * result`: the residual stream.
    Add(Buf, f32),
    /// The rows of logits, in the order of the tokens that want them: `softcap * tanh(scale * y /
    /// softcap)`.
    Logits {
        /// Factor.
        scale: f32,
        /// Bound, if any.
        softcap: Option<f32>,
    },
}

/// `f(min(gate, gate_max)) * (clamp(up, -up_max, up_max) + up_plus)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GluClamp {
    /// Bound of the gate, before its activation.
    pub gate_max: f32,
    /// Bound of the up projection, to both sides.
    pub up_max: f32,
    /// Added to the up projection.
    pub up_plus: f32,
}

impl GluClamp {
    /// Bounds `gate` and `up`.
    pub fn apply(self, gate: &mut [f32], up: &mut [f32]) {
        let GluClamp { gate_max, up_max, up_plus } = self;
        gate.iter_mut().for_each(|x| *x = x.min(gate_max));
        up.iter_mut().for_each(|x| *x = x.clamp(-up_max, up_max) + up_plus);
    }
}

/// `out[h] = scale * W[h] input[h]` for each head.
#[derive(Debug)]
pub struct HeadLinear {
    /// Source, `[heads][input_stride]`; the leading elements of each head are read.
    pub input: Buf,
    /// Elements from one head of the input to the next.
    pub input_stride: usize,
    /// `[heads][rows][cols]`.
    pub weight: BoundWeight,
    /// Factor of the product.
    pub scale: f32,
    /// Destination, `[heads][out_stride]`; the leading elements of each head are written.
    pub out: Buf,
    /// Elements from one head of the output to the next.
    pub out_stride: usize,
    /// Tokens that are computed.
    pub rows: Tokens,
}
