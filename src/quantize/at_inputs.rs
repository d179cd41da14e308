//! Matrices quantized for inputs that are known: by a method alone, with feedback of errors, with scales
//! that are fitted again, and with columns and rows multiplied by factors that something else takes back.

use super::clip::Clip;
use super::error::QuantizeError;
use super::feedback::{Feed, Feedback};
use super::form::{Buffers, Form};
use super::method::Method;
use super::refit::Refit;
use super::share::share;
use super::zeros::{self, KeepZeros};
use crate::receipt::Loss;
use teff_kernels::{KernelTable, TypeKernels};

/// Rows that go through a product together.
const ROWS: usize = 32;

/// Loss of a matrix's outputs: the trace of `E H E^T`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputLoss {
    /// Loss by the method's first step alone.
    pub before: f64,
    /// Loss of what was written.
    pub after: f64,
    /// Loss of no weights at all: the size of the output.
    pub size: f64,
}

impl OutputLoss {
    /// Adds what other rows lost.
    pub fn add(&mut self, other: OutputLoss) {
        self.before += other.before;
        self.after += other.after;
        self.size += other.size;
    }
}

/// Factors of a matrix: its columns' inputs are divided by theirs, its rows' outputs multiplied, elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// For each column.
    pub cols: &'a [f32],
    /// For each row.
    pub rows: &'a [f32],
}

impl Factors<'_> {
    /// Multiplies a matrix, `[rows][columns]`.
    pub fn apply(&self, x: &mut [f32]) {
        for (x, row) in x.chunks_exact_mut(self.cols.len()).zip(self.rows) {
            x.iter_mut().zip(self.cols).for_each(|(x, col)| *x *= col * row);
        }
    }
}

/// Sum of the losses of a matrix's parts, in their order.
pub(super) fn sum(parts: Vec<(OutputLoss, Loss)>) -> (OutputLoss, Loss) {
    let mut sum = (OutputLoss::default(), Loss::default());
    for (outputs, weights) in parts {
        sum.0.add(outputs);
        sum.1.add(weights);
    }
    sum
}

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug)]
pub struct AtInputs<'a> {
    /// Kernels that multiply.
    pub table: &'a KernelTable,
    /// Kernels of the type.
    pub kernels: &'a TypeKernels,
    /// The method: its rows, and whether scales are fitted again.
    pub method: &'static Method,
    /// Cost of errors, of columns that are multiplied by their factors.
    pub form: &'a Form,
    /// Feedback of errors to the columns behind them, where the method has that.
    pub feedback: Option<&'a Feedback>,
    /// Factors of the matrix.
    pub factors: Option<Factors<'a>>,
    /// Which zeros of rows stay zeros: none where the type has no code for them.
    pub keep_zeros: KeepZeros,
}

impl AtInputs<'_> {
    /// Writes the blocks of the rows `x`, `[rows][columns]`; no row loses more than by the method alone,
    /// factors aside. The bytes do not depend on the number of threads.
    ///
    /// # Errors
    /// The method has no way to the type, or there are no threads.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn quantize(
        &self,
        x: &[f32],
        blocks: &mut [u8],
        threads: usize,
    ) -> Result<(OutputLoss, Loss), QuantizeError> {
        let (n, ty) = (self.form.cols(), self.kernels.ty);
        let row_bytes = n / ty.block_len() * ty.block_bytes();
        let n_rows = x.len() / n;
        assert!(x.len() == n_rows * n && blocks.len() == n_rows * row_bytes, "whole rows");
        assert!(self.factors.is_none_or(|f| (f.cols.len(), f.rows.len()) == (n, n_rows)));
        let clip = self.method.clips.then(|| Clip::new(self));
        let refit = match self.method.refits {
            true => Refit::new(self.form, self.table, self.kernels),
            false => None,
        };
        let mut losses = vec![(OutputLoss::default(), Loss::default()); n_rows.div_ceil(ROWS)];
        let parts = x.chunks(ROWS * n).zip(blocks.chunks_mut(ROWS * row_bytes)).zip(&mut losses);
        let parts = parts.enumerate().map(|(number, ((x, blocks), loss))| {
            let rows = self.factors.map(|factors| &factors.rows[number * ROWS..][..x.len() / n]);
            (Part { way: self, clip: clip.as_ref(), refit: refit.as_ref(), x, rows }, blocks, loss)
        });
        let work = |(part, blocks, loss): (Part<'_>, &mut [u8], &mut _), buffers: &mut Buffers| {
            *loss = part.quantize(blocks, buffers)?;
            Ok(())
        };
        share(parts.collect(), threads, &work)?;
        Ok(sum(losses))
    }

    /// Blocks of rows by the method alone; `importance` is that of their columns.
    pub(super) fn alone(
        &self,
        x: &[f32],
        importance: &[f32],
        blocks: &mut [u8],
    ) -> Result<(), QuantizeError> {
        alone(self.kernels, self.method, x, importance, blocks)?;
        let n = importance.len();
        let row_bytes = n / self.kernels.ty.block_len() * self.kernels.ty.block_bytes();
        let rows = x.chunks_exact(n).zip(blocks.chunks_exact_mut(row_bytes));
        for (x, blocks) in rows.filter(|(x, _)| self.keep_zeros.keeps(x)) {
            zeros::keep(self.kernels, x, Some(importance), blocks)
                .map_err(|zeros::NoZero(ty)| QuantizeError::NoZero { name: String::new(), ty })?;
        }
        Ok(())
    }
}

/// Blocks of rows by a method alone.
pub(super) fn alone(
    kernels: &TypeKernels,
    method: &'static Method,
    x: &[f32],
    importance: &[f32],
    blocks: &mut [u8],
) -> Result<(), QuantizeError> {
    let n = importance.len();
    let row_bytes = n / kernels.ty.block_len() * kernels.ty.block_bytes();
    for (x, blocks) in x.chunks_exact(n).zip(blocks.chunks_exact_mut(row_bytes)) {
        method.quantize(kernels, x, Some(importance), blocks).map_err(|_| {
            let (ty, method) = (kernels.ty, method.name);
            QuantizeError::NoMethod { name: String::new(), ty, method }
        })?;
    }
    Ok(())
}

/// Differences of weights from their blocks.
pub(super) fn errors(kernels: &TypeKernels, x: &[f32], blocks: &[u8]) -> Vec<f32> {
    let mut errors = vec![0.0; x.len()];
    kernels.dequantize(blocks, &mut errors);
    errors.iter_mut().zip(x).for_each(|(e, x)| *e = x - *e);
    errors
}

/// Some rows of a matrix.
struct Part<'a> {
    way: &'a AtInputs<'a>,
    clip: Option<&'a Clip<'a>>,
    refit: Option<&'a Refit<'a>>,
    /// The rows as they are.
    x: &'a [f32],
    /// Their factors.
    rows: Option<&'a [f32]>,
}

impl Part<'_> {
    fn quantize(
        &self,
        blocks: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<(OutputLoss, Loss), QuantizeError> {
        let (way, n) = (self.way, self.way.form.cols());
        let importance = way.form.importance();
        let changed = self.changed();
        let x = changed.as_deref().unwrap_or(self.x);
        way.alone(x, importance, blocks)?;
        let mut costs = way.form.costs(way.table, &errors(way.kernels, x, blocks), buffers);
        let before = match way.factors {
            Some(factors) => self.costs_without(factors, buffers)?,
            None => costs.clone(),
        };
        if let Some(clip) = self.clip {
            clip.rows(x, blocks, &mut costs, buffers)?;
        }
        if let Some(feedback) = way.feedback {
            let mut fed = vec![0; blocks.len()];
            let row_bytes = blocks.len() / costs.len();
            let feed = Feed { feedback, way, x, row_bytes };
            let errors = feed.quantize(&mut fed, buffers)?;
            let after = way.form.costs(way.table, &errors, buffers);
            let rows = blocks.chunks_exact_mut(row_bytes).zip(fed.chunks_exact(row_bytes));
            for (((blocks, fed), cost), after) in rows.zip(&mut costs).zip(after) {
                if after < *cost {
                    blocks.copy_from_slice(fed);
                    *cost = after;
                }
            }
        }
        if let Some(refit) = self.refit {
            let (old, old_costs) = (blocks.to_vec(), costs.clone());
            refit.rows(x, blocks, &mut costs, buffers);
            self.take_back(x, blocks, &mut costs, (&old, &old_costs));
        }
        let sizes = way.form.costs(way.table, x, buffers);
        let mut loss = OutputLoss::default();
        for (row, ((before, after), size)) in before.into_iter().zip(costs).zip(sizes).enumerate() {
            // Outputs are told as they are once the factors are taken back.
            let back = self.rows.map_or(1.0, |rows| f64::from(rows[row]).powi(-2));
            loss.add(OutputLoss { before, after: after * back, size: size * back });
        }
        let errors = errors(way.kernels, x, blocks);
        let weights = x.chunks_exact(n).zip(errors.chunks_exact(n)).enumerate();
        let mut weight_loss = Loss::default();
        weights.for_each(|(row, (x, errors))| weight_loss.add(self.loss(row, x, errors)));
        Ok((loss, weight_loss))
    }

    /// Gives rows their old blocks and costs where new scales have taken the zeros.
    fn take_back(&self, x: &[f32], blocks: &mut [u8], costs: &mut [f64], old: (&[u8], &[f64])) {
        let (n, row_bytes) = (self.way.form.cols(), blocks.len() / costs.len());
        let mut y = vec![0.0; n];
        for (row, x) in x.chunks_exact(n).enumerate() {
            let own = row * row_bytes..(row + 1) * row_bytes;
            if !self.way.keep_zeros.keeps(x) {
                continue;
            }
            self.way.kernels.dequantize(&blocks[own.clone()], &mut y);
            if !zeros::is_kept(x, &y) {
                blocks[own.clone()].copy_from_slice(&old.0[own]);
                costs[row] = old.1[row];
            }
        }
    }

    /// The rows times their factors.
    fn changed(&self) -> Option<Vec<f32>> {
        let (cols, rows) = (self.way.factors?.cols, self.rows?);
        let mut x = self.x.to_vec();
        Factors { cols, rows }.apply(&mut x);
        Some(x)
    }

    /// What the rows cost by the method alone, and without factors.
    fn costs_without(
        &self,
        factors: Factors<'_>,
        buffers: &mut Buffers,
    ) -> Result<Vec<f64>, QuantizeError> {
        let (way, n) = (self.way, factors.cols.len());
        let ty = way.kernels.ty;
        let importance = way.form.importance().iter().zip(factors.cols);
        let importance: Vec<f32> = importance.map(|(i, c)| i * c * c).collect();
        let mut blocks = vec![0; self.x.len() / ty.block_len() * ty.block_bytes()];
        way.alone(self.x, &importance, &mut blocks)?;
        let mut errors = errors(way.kernels, self.x, &blocks);
        for errors in errors.chunks_exact_mut(n) {
            errors.iter_mut().zip(factors.cols).for_each(|(e, c)| *e *= c);
        }
        Ok(way.form.costs(way.table, &errors, buffers))
    }

    /// What a row of weights lost, once its factors are taken back.
    fn loss(&self, row: usize, x: &[f32], errors: &[f32]) -> Loss {
        let mut loss = Loss { elements: x.len() as u64, ..Loss::default() };
        for (c, (x, e)) in x.iter().zip(errors).enumerate() {
            let col = self.way.factors.map_or(1.0, |factors| f64::from(factors.cols[c]));
            let back = 1.0 / (col * self.rows.map_or(1.0, |rows| f64::from(rows[row])));
            loss.error2 += (f64::from(*e) * back).powi(2);
            loss.weight2 += (f64::from(*x) * back).powi(2);
            loss.written2 += (f64::from(x - e) * back).powi(2);
        }
        loss
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::quantize::METHODS;
    use crate::quantize::hessian::Hessian;
    use crate::random::SplitMix64;
    use gguf_rs_lite::GgmlType;

    const COLS: usize = 512;

    fn draws(seed: u64) -> impl FnMut() -> f32 {
        let mut random = SplitMix64::new(seed);
        move || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    /// A Hessian of inputs whose columns go together, some of which are zero, and rows of weights.
    pub fn drawn(seed: u64, inputs: usize, rows: usize) -> (Hessian, Vec<f32>) {
        let mut draw = draws(seed);
        let mut x = Vec::new();
        for _ in 0..inputs {
            let common: Vec<f32> = (0..8).map(|_| draw()).collect();
            let column = |c: usize| match c % 50 {
                49 => 0.0,
                _ => (common[c % 8] + 0.3 * draw()) * (1.0 + (c % 5) as f32),
            };
            let row: Vec<f32> = (0..COLS).map(column).collect();
            x.extend(row);
        }
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(KernelTable::detect(), &x, 1).unwrap();
        (hessian, (0..rows * COLS).map(|_| draw() + draw() + draw()).collect())
    }

    /// The trace of `E H E^T` in f64.
    fn trace(hessian: &Hessian, damping: f64, errors: &[f32]) -> f64 {
        let mut sum = 0.0;
        for e in errors.chunks_exact(COLS) {
            for a in 0..COLS {
                let row = (0..COLS).map(|b| f64::from(hessian.at(a, b)) * f64::from(e[b]));
                let row = row.sum::<f64>() + damping * f64::from(e[a]);
                sum += f64::from(e[a]) * row;
            }
        }
        sum
    }

    #[test]
    fn costs_are_those_of_the_hessian() {
        let (hessian, w) = drawn(7, 300, 3);
        let form = Form::new(&hessian).unwrap();
        let costs = form.costs(KernelTable::detect(), &w, &mut Default::default());
        for (w, cost) in w.chunks_exact(COLS).zip(costs) {
            let sum = trace(&hessian, form.damping(), w);
            assert!((cost - sum).abs() <= 1e-4 * sum, "{cost} {sum}");
        }
    }

    pub struct Made {
        pub blocks: Vec<u8>,
        pub errors: Vec<f32>,
        pub loss: OutputLoss,
    }

    /// What a method makes of weights, for two numbers of threads.
    pub fn make(ty: GgmlType, method: &'static str, hessian: &Hessian, w: &[f32]) -> Made {
        let table = KernelTable::detect();
        let (kernels, method) = (table.types(ty).unwrap(), Method::from_name(method).unwrap());
        let form = Form::new(hessian).unwrap();
        let feedback =
            method.feeds_back.then(|| Feedback::new(hessian, ty.block_len(), 2).unwrap());
        let (feedback, factors) = (feedback.as_ref(), None);
        let keep_zeros = KeepZeros::Auto;
        let way = AtInputs { table, kernels, method, form: &form, feedback, factors, keep_zeros };
        let made = [1, 3].map(|threads| {
            let mut blocks = vec![0; w.len() / ty.block_len() * ty.block_bytes()];
            let (loss, weights) = way.quantize(w, &mut blocks, threads).unwrap();
            assert!(weights.elements == w.len() as u64 && weights.error2 > 0.0);
            (blocks, loss)
        });
        assert!(made[0] == made[1], "{ty}: threads");
        let [(blocks, loss), _] = made;
        let mut errors = vec![0.0; w.len()];
        kernels.dequantize(&blocks, &mut errors);
        errors.iter_mut().zip(w).for_each(|(e, w)| *e = w - *e);
        // What is told is what the blocks hold.
        let sum = trace(hessian, form.damping(), &errors);
        assert!((sum - loss.after).abs() <= 1e-4 * sum, "{ty}: {sum} {}", loss.after);
        Made { blocks, errors, loss }
    }

    /// Feedback loses less where columns go together, never more, in types of every kind.
    #[test]
    fn outputs_lose_less_in_all_types() {
        let (hessian, w) = drawn(7, 700, 40);
        use GgmlType::*;
        for ty in [Q4_0, Q4_1, Q8_0, Q2_K, Q3_K, Q4_K, Q6_K, IQ4_NL, IQ4_XS, IQ3_S, IQ2_XS, MXFP4] {
            let Made { loss, .. } = make(ty, "gptq", &hessian, &w);
            // Codebooks have whole blocks fed back only, of which there are two here: that gains little or
            // nothing.
            let has_codes = KernelTable::detect().types(ty).unwrap().encoder().is_ok();
            let most = if has_codes { 0.9 } else { 1.0 };
            assert!(loss.after <= most * loss.before, "{ty}: {loss:?}");
            assert!(loss.after > 0.0 && loss.before < loss.size, "{ty}: {loss:?}");
        }
    }

    /// Refitted scales never lose more, on Hessians of few inputs and of many, and less in all types that
    /// have more than a power of two to say.
    #[test]
    fn refitted_scales_never_lose_more() {
        use GgmlType::*;
        let types = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS];
        for (seed, inputs) in [(1, 5), (2, 90), (3, 1500)] {
            let (hessian, w) = drawn(seed, inputs, 12);
            let points = [IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_S, IQ1_M];
            for ty in types.into_iter().chain([MXFP4, TQ2_0, TQ1_0]).chain(points) {
                let [alone, refitted] =
                    ["search", "refit"].map(|method| make(ty, method, &hessian, &w));
                let rows = |made: &Made| -> Vec<f64> {
                    let rows = made.errors.chunks_exact(COLS);
                    rows.map(|e| trace(&hessian, 0.0, e)).collect()
                };
                for (alone, refitted) in rows(&alone).into_iter().zip(rows(&refitted)) {
                    assert!(refitted <= alone * (1.0 + 1e-5), "{ty}: {refitted} {alone}");
                }
                let most = if types.contains(&ty) && ty != Q8_0 { 0.98 } else { 1.0 };
                let (after, before) = (refitted.loss.after, refitted.loss.before);
                assert!(after <= most * before, "{ty} {inputs}: {after} {before}");
                if let Ok(encoder) = KernelTable::detect().types(ty).unwrap().encoder() {
                    let codes = |made: &Made| {
                        let mut codes = vec![0; w.len()];
                        let mut scales = vec![Default::default(); w.len() / ty.block_len()];
                        encoder.take_apart(&made.blocks, &mut codes, &mut scales);
                        codes
                    };
                    assert!(codes(&alone) == codes(&refitted), "{ty}: codes stay");
                } else {
                    // Points and the scales within blocks stay: values are multiples by blocks.
                    let blocks = alone.errors.chunks(256).zip(refitted.errors.chunks(256));
                    for ((alone, refitted), w) in blocks.zip(w.chunks(256)) {
                        let [old, new] = [alone, refitted].map(|errors| {
                            w.iter().zip(errors).map(|(w, e)| f64::from(w - e)).collect::<Vec<_>>()
                        });
                        let dot = |a: &[f64], b: &[f64]| -> f64 {
                            a.iter().zip(b).map(|(a, b)| a * b).sum()
                        };
                        let (both, own) = (dot(&old, &new), dot(&old, &old) * dot(&new, &new));
                        assert!(both * both >= own * (1.0 - 1e-4), "{ty}: {both} {own}");
                    }
                    assert!(after < before, "{ty} {inputs}: {after} {before}");
                }
                if ty == Q4_K {
                    let both = make(ty, "gptq+refit", &hessian, &w).loss;
                    let fed = make(ty, "gptq", &hessian, &w).loss;
                    assert!(both.after <= fed.after, "{both:?} {fed:?}");
                }
            }
        }
    }

    /// Factors are no loss: what is told is that of outputs and weights as they will be.
    #[test]
    fn factors_are_taken_back() {
        let (mut hessian, w) = drawn(9, 300, 40);
        let table = KernelTable::detect();
        let kernels = table.types(GgmlType::Q4_0).unwrap();
        let method = &METHODS[0];
        let quantize = |hessian: &Hessian, factors: Option<Factors<'_>>| {
            let form = &Form::new(hessian).unwrap();
            let keep_zeros = KeepZeros::Auto;
            let way =
                AtInputs { table, kernels, method, form, feedback: None, factors, keep_zeros };
            let mut blocks = vec![0; w.len() / 32 * 18];
            (way.quantize(&w, &mut blocks, 2).unwrap(), blocks)
        };
        let ((plain, weights), blocks) = quantize(&hessian, None);
        // Powers of two change nothing but exponents.
        let rows: Vec<f32> = (0..40).map(|row| [0.5, 1.0, 4.0][row % 3]).collect();
        let cols = vec![2.0; COLS];
        hessian.scale(&cols);
        let factors = Factors { cols: &cols, rows: &rows };
        let ((scaled, scaled_weights), scaled_blocks) = quantize(&hessian, Some(factors));
        assert!(scaled_blocks != blocks);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * b;
        assert!(near(scaled.before, plain.before) && near(scaled.after, plain.after));
        assert!(near(scaled.size, plain.size) && near(scaled_weights.error2, weights.error2));
        assert!(near(scaled_weights.weight2, weights.weight2));
    }

    #[test]
    fn inputs_of_zeros_feed_nothing_back() {
        let hessian = Hessian::new(64).unwrap();
        let feedback = Feedback::new(&hessian, 32, 1).unwrap();
        let (table, w) = (KernelTable::detect(), vec![0.3; 64]);
        let kernels = table.types(GgmlType::Q4_0).unwrap();
        let [mut fed, mut alone] = [vec![0; 36], vec![0; 36]];
        let form = &Form::new(&hessian).unwrap();
        let (method, feedback, factors) = (&METHODS[0], Some(&feedback), None);
        let keep_zeros = KeepZeros::Auto;
        let way = AtInputs { table, kernels, method, form, feedback, factors, keep_zeros };
        way.quantize(&w, &mut fed, 1).unwrap();
        kernels.quantize(&w, Some(&[0.0; 64]), &mut alone).unwrap();
        assert_eq!(fed, alone);
    }

    #[test]
    fn inputs_that_are_no_numbers_are_an_error() {
        let mut hessian = Hessian::new(64).unwrap();
        let mut x = vec![1.0; 64];
        x[3] = f32::NAN;
        hessian.add(KernelTable::detect(), &x, 1).unwrap();
        let error = Feedback::new(&hessian, 32, 1).unwrap_err();
        assert!(matches!(error, QuantizeError::NotFiniteInputs), "{error}");
        assert!(matches!(Form::new(&hessian).unwrap_err(), QuantizeError::NotFiniteInputs));
    }
}
