//! Observation of a step besides its results: the inputs of products, for importance matrices and for
//! methods of quantization that measure errors at them.

use super::program::WeightId;

/// A matrix of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// The weight.
    pub weight: WeightId,
    /// Number of the matrix in a stack: of the expert, or of the head; 0 for a weight that is none.
    pub index: usize,
}

/// Sees the inputs of products and changes nothing.
///
/// A step calls it once for each product, in the order of the program: for weights that share an input
/// once each, for a mixture of experts once for each expert that was chosen and each of its matrices. A
/// matrix that several operations multiply by is a product of each. How many workers share the step
/// and how tokens are cut into steps changes neither rows nor their order within an operation.
pub trait Observer: Send {
    /// The input of a product, `[tokens][cols]` in f32: normalized, in mixtures that weigh it
    /// multiplied by the expert's weight, and not yet quantized. Tokens are those of the batch that
    /// the operation computes, for an expert those that chose it, in the batch's order.
    ///
    /// Called by one thread at a time, while the others wait; a panic ends the step in all of them.
    fn matmul_input(&mut self, product: Product, cols: usize, rows: &[f32]);
}
