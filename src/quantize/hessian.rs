//! Hessians of products: how errors of a weight's columns act together.
//!
//! With inputs `X`, `[tokens][cols]`, an error `e` of a row costs `e H e`, where `H = X^T X`. Its
//! diagonal is what an importance matrix has. [`Inputs`] collects it while a layer runs, once for the
//! weights that read one input, for each expert apart. Memory: 4 bytes times the square of the columns.

use super::error::QuantizeError;
use super::product::{bytes_of, product};
use super::share::share;
use crate::backend::program::{Op, Program, WeightId};
use crate::backend::{Observer, Product};
use crate::tensor::memory::reserve;
use std::collections::HashMap;
use teff_kernels::{KernelTable, Scratch};

/// Rows of a Hessian that a thread takes at a time.
const PART_ROWS: usize = 96;

/// `X^T X` of the inputs of a product.
#[derive(Clone, Debug)]
pub struct Hessian {
    /// Columns of the inputs.
    pub cols: usize,
    /// Rows that were added.
    pub rows: u64,
    /// `[cols][cols]`, of which those right of the diagonal and it are filled.
    sums: Vec<f32>,
}

impl Hessian {
    /// A Hessian of no inputs.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(cols: usize) -> Result<Hessian, QuantizeError> {
        let mut sums = Vec::new();
        reserve(&mut sums, cols.saturating_mul(cols), "the Hessian of a product")?;
        sums.resize(cols * cols, 0.0);
        Ok(Hessian { cols, rows: 0, sums })
    }

    /// Adds inputs, `[rows][cols]`. The sums do not depend on the number of threads.
    ///
    /// # Errors
    /// There are no threads.
    ///
    /// # Panics
    /// If `x` holds no whole rows.
    pub fn add(
        &mut self,
        kernels: &KernelTable,
        x: &[f32],
        threads: usize,
    ) -> Result<(), QuantizeError> {
        let (cols, n) = (self.cols, x.len() / self.cols);
        assert!(x.len() == n * cols, "whole rows");
        if n == 0 {
            return Ok(());
        }
        let mut columns = vec![0.0; x.len()];
        for (t, x) in x.chunks_exact(cols).enumerate() {
            x.iter().enumerate().for_each(|(c, &x)| columns[c * n + t] = x);
        }
        let bytes = bytes_of(&columns);
        let part = |(number, sums): (usize, &mut [f32]), (scratch, y): &mut (Scratch, Vec<f32>)| {
            let (first, n_rows) = (number * PART_ROWS, sums.len() / cols);
            let rows = &bytes[first * n * size_of::<f32>()..][..n_rows * n * size_of::<f32>()];
            product(kernels, rows, &columns[first * n..], n, scratch, y);
            for (t, y) in y.chunks_exact(n_rows).enumerate() {
                for (r, y) in y.iter().enumerate().take(t + 1) {
                    sums[r * cols + first + t] += y;
                }
            }
            Ok(())
        };
        share(self.sums.chunks_mut(PART_ROWS * cols).enumerate().collect(), threads, &part)?;
        self.rows += n as u64;
        Ok(())
    }

    /// Divides the inputs' columns by factors.
    ///
    /// # Panics
    /// If there are not as many factors as columns.
    pub fn scale(&mut self, factors: &[f32]) {
        assert!(factors.len() == self.cols, "a factor for each column");
        for (row, a) in self.sums.chunks_exact_mut(self.cols).zip(factors) {
            row.iter_mut().zip(factors).for_each(|(sum, b)| *sum /= a * b);
        }
    }

    /// The sum of the products of two columns.
    pub fn at(&self, a: usize, b: usize) -> f32 {
        self.sums[a.min(b) * self.cols + a.max(b)]
    }

    /// The sums of squares of the columns.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.cols).map(|c| self.at(c, c)).collect()
    }
}

/// An input that weights share.
#[derive(Debug)]
struct Input {
    cols: usize,
    /// Rows that are not added yet, for each matrix of a stack.
    waiting: Vec<Vec<f32>>,
    /// Those of matrices that have met rows.
    hessians: Vec<Option<Hessian>>,
    /// Sums of magnitudes of each column, of the same matrices.
    sizes: Vec<Vec<f64>>,
}

/// Observer that collects the Hessians of a program's products.
#[derive(Debug, Default)]
pub struct Inputs {
    inputs: Vec<Input>,
    /// Number of the input of each weight.
    of: HashMap<WeightId, usize>,
    /// Numbers of weights by name.
    names: HashMap<String, WeightId>,
    /// The weight of each input whose calls count: others see the same rows.
    leaders: Vec<WeightId>,
}

impl Inputs {
    /// The inputs of the products with the weights of which `wanted` is true.
    pub fn new(program: &Program, wanted: impl Fn(&str) -> bool) -> Inputs {
        let mut own = Inputs {
            inputs: Vec::new(),
            of: HashMap::new(),
            names: HashMap::new(),
            leaders: Vec::new(),
        };
        for op in &program.ops {
            let mut shared = None;
            let down = match op {
                Op::Moe(moe) => Some(moe.down.weight.id()),
                _ => None,
            };
            for weight in op.products().filter(|weight| wanted(&weight.name)) {
                // One that several operations read has the input of the first.
                if own.of.contains_key(&weight.id()) {
                    continue;
                }
                let shares = match op {
                    Op::Linear(_) => true,
                    Op::Moe(_) => down != Some(weight.id()) && weight.n > 1,
                    _ => false,
                };
                let number = match shared.filter(|_| shares) {
                    Some(number) => number,
                    None => own.add_input(weight.id(), weight.cols, weight.n),
                };
                shared = if shares { Some(number) } else { shared };
                own.of.insert(weight.id(), number);
                own.names.insert(weight.name.clone(), weight.id());
            }
        }
        own
    }

    fn add_input(&mut self, leader: WeightId, cols: usize, n: usize) -> usize {
        let (waiting, hessians) = (vec![Vec::new(); n], vec![None; n]);
        self.inputs.push(Input { cols, waiting, hessians, sizes: vec![Vec::new(); n] });
        self.leaders.push(leader);
        self.inputs.len() - 1
    }

    /// Adds what was seen since the last call.
    ///
    /// # Errors
    /// There is no memory, or there are no threads.
    pub fn flush(&mut self, kernels: &KernelTable, threads: usize) -> Result<(), QuantizeError> {
        for input in &mut self.inputs {
            let matrices = input.waiting.iter_mut().zip(&mut input.hessians);
            for ((rows, hessian), sizes) in matrices.zip(&mut input.sizes) {
                if rows.is_empty() {
                    continue;
                }
                if hessian.is_none() {
                    *hessian = Some(Hessian::new(input.cols)?);
                }
                if let Some(hessian) = hessian {
                    hessian.add(kernels, rows, threads)?;
                }
                sizes.resize(input.cols, 0.0);
                for row in rows.chunks_exact(input.cols) {
                    sizes.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
                }
                rows.clear();
            }
        }
        Ok(())
    }

    /// Whether the inputs of a weight are collected.
    pub fn knows(&self, name: &str) -> bool {
        self.input(name).is_some()
    }

    /// The input of a matrix of a weight, by its number, which weights that share it have in common, and
    /// its Hessian; `None` if it met nothing.
    pub fn of_matrix(&self, name: &str, matrix: usize) -> Option<(usize, &Hessian)> {
        let input = self.input(name)?;
        let hessians = &self.inputs[input].hessians;
        Some((input, hessians[at(matrix, hessians.len())].as_ref()?))
    }

    /// The same, to be changed.
    pub fn of_matrix_mut(&mut self, name: &str, matrix: usize) -> Option<(usize, &mut Hessian)> {
        let input = self.input(name)?;
        let hessians = &mut self.inputs[input].hessians;
        let at = at(matrix, hessians.len());
        Some((input, hessians[at].as_mut()?))
    }

    /// The sums of magnitudes of an input's columns, of one matrix; empty if it met nothing.
    pub fn sizes(&self, input: usize, matrix: usize) -> &[f64] {
        let sizes = &self.inputs[input].sizes;
        &sizes[at(matrix, sizes.len())]
    }

    fn input(&self, name: &str) -> Option<usize> {
        self.names.get(name).and_then(|id| self.of.get(id)).copied()
    }
}

/// Which of `n` matrices' rows a matrix meets: heads that are parts of one matrix meet those that one has.
fn at(matrix: usize, n: usize) -> usize {
    if matrix < n { matrix } else { 0 }
}

impl Observer for Inputs {
    fn matmul_input(&mut self, product: Product, cols: usize, rows: &[f32]) {
        let Some(&number) = self.of.get(&product.weight) else { return };
        let input = &mut self.inputs[number];
        if self.leaders[number] == product.weight && cols == input.cols {
            input.waiting[product.index].extend_from_slice(rows);
        }
    }
}
