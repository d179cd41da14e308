//! Products with weights, with norms before and functions behind them, and their gradients.

use super::TuneError;
use super::activation::derivative;
use super::machine::{Machine, add, add_scaled, zeros};
use super::parameters::{Gradients, Pair, Parameters, add_to};
use crate::backend::program::{BoundWeight, Epilogue, Linear, Norm, Part};
use teff_kernels::Activation;

/// Rows of weights whose products go into one gradient of inputs at a time: what is turned around takes
/// memory, most for vocabularies.
const ROWS_BACK: usize = 8192;
/// Outputs that a thread takes at a time.
const PART_LEN: usize = 1 << 13;

/// Weights, their parameters and what computes with them.
#[derive(Clone, Copy)]
pub(super) struct Net<'a> {
    pub on: Machine,
    pub parameters: &'a Parameters,
}

impl Net<'_> {
    /// The norm of rows, or the rows themselves.
    pub fn normed(
        &self,
        norm: Option<&Norm>,
        x: &[f32],
        width: usize,
    ) -> Result<Vec<f32>, TuneError> {
        match norm {
            Some(norm) => self.parameters.norm(norm, width).forward(self.on, x, width),
            None => {
                let mut y = zeros(x.len())?;
                y.copy_from_slice(x);
                Ok(y)
            }
        }
    }

    /// The gradient of rows from that of their norm.
    pub fn normed_back(
        &self,
        norm: Option<&Norm>,
        x: &[f32],
        dy: Vec<f32>,
        width: usize,
        into: &mut Gradients,
    ) -> Result<Vec<f32>, TuneError> {
        let Some(norm) = norm else { return Ok(dy) };
        let (dx, dweight) = self.parameters.norm(norm, width).backward(self.on, x, &dy, width)?;
        self.parameters.add_norm_gradient(norm, &dweight, into);
        Ok(dx)
    }

    /// The products of an operation with rows `x` that its norm comes before, `[tokens][rows of all parts]`.
    pub fn products(&self, op: &Linear, x: &[f32]) -> Result<Vec<f32>, TuneError> {
        let (cols, total) = (op.parts[0].weight.cols, op.n_products());
        let input = self.normed(op.norm.as_ref(), x, cols)?;
        let mut y = zeros(x.len() / cols * total)?;
        let mut first = 0;
        for part in &op.parts {
            let of_part = self.part(part, &input)?;
            let rows = part.weight.rows;
            for (y, own) in y.chunks_exact_mut(total).zip(of_part.chunks_exact(rows)) {
                y[first..first + rows].copy_from_slice(own);
            }
            first += rows;
        }
        Ok(y)
    }

    /// `scale * W x + bias`, and what an adapter adds to `W`.
    fn part(&self, part: &Part, x: &[f32]) -> Result<Vec<f32>, TuneError> {
        let (on, weight) = (self.on, self.parameters.weight(&part.weight));
        let mut y = on.product(&on.matrix(&on.values(weight)?, weight.cols)?, x)?;
        if part.scale != 1.0 {
            (on.ops().scale)(&mut y, part.scale);
        }
        if let Some(bias) = &part.bias {
            y.chunks_exact_mut(bias.len()).for_each(|y| add(y, bias));
        }
        if let Some(pair) = self.parameters.pair(&part.weight) {
            let u = self.down(&pair, weight.cols, x)?;
            let b = on.matrix(&self.parameters.all[pair.b].values, pair.rank)?;
            add_scaled(&mut y, &on.product(&b, &u)?, pair.factor);
        }
        Ok(y)
    }

    /// `A x`.
    fn down(&self, pair: &Pair, cols: usize, x: &[f32]) -> Result<Vec<f32>, TuneError> {
        let a = self.on.matrix(&self.parameters.all[pair.a].values, cols)?;
        self.on.product(&a, x)
    }

    /// The gradient of an operation's rows `x` from that of its products.
    pub fn products_back(
        &self,
        op: &Linear,
        x: &[f32],
        dy: &[f32],
        into: &mut Gradients,
    ) -> Result<Vec<f32>, TuneError> {
        let (on, cols, total) = (self.on, op.parts[0].weight.cols, op.n_products());
        let input = self.normed(op.norm.as_ref(), x, cols)?;
        let is_trained = |part: &Part| {
            self.parameters.has_scales(&part.weight) || self.parameters.pair(&part.weight).is_some()
        };
        let columns = match op.parts.iter().any(is_trained) {
            true => Some(on.transposed(&input, cols)?),
            false => None,
        };
        let mut dinput = zeros(input.len())?;
        let mut first = 0;
        for part in &op.parts {
            let rows = part.weight.rows;
            let mut of_part = zeros(dy.len() / total * rows)?;
            for (own, dy) in of_part.chunks_exact_mut(rows).zip(dy.chunks_exact(total)) {
                own.copy_from_slice(&dy[first..first + rows]);
            }
            if let (Some(columns), Some(pair)) = (&columns, self.parameters.pair(&part.weight)) {
                self.pair_back(&pair, (&input, columns), (&of_part, &mut dinput), cols, into)?;
            }
            if part.scale != 1.0 {
                (on.ops().scale)(&mut of_part, part.scale);
            }
            if let Some(columns) =
                columns.as_ref().filter(|_| self.parameters.has_scales(&part.weight))
            {
                self.weight_back(&part.weight, columns, &of_part, into)?;
            }
            self.input_back(&part.weight, &of_part, &mut dinput)?;
            first += rows;
        }
        self.normed_back(op.norm.as_ref(), x, dinput, cols, into)
    }

    /// Adds the gradient of an input from that of its products with a weight.
    pub fn input_back(
        &self,
        weight: &BoundWeight,
        dy: &[f32],
        dx: &mut [f32],
    ) -> Result<(), TuneError> {
        let (on, weight) = (self.on, self.parameters.weight(weight));
        let (rows, cols) = (weight.rows, weight.cols);
        let values = on.values(weight)?;
        if rows <= ROWS_BACK {
            add(dx, &on.product(&on.transposed_matrix(&values, cols)?, dy)?);
            return Ok(());
        }
        for (number, values) in values.chunks(ROWS_BACK * cols).enumerate() {
            let (first, n) = (number * ROWS_BACK, values.len() / cols);
            let mut part = zeros(dy.len() / rows * n)?;
            for (part, dy) in part.chunks_exact_mut(n).zip(dy.chunks_exact(rows)) {
                part.copy_from_slice(&dy[first..first + n]);
            }
            add(dx, &on.product(&on.transposed_matrix(values, cols)?, &part)?);
        }
        Ok(())
    }

    /// Adds the gradients of a weight's scales; `columns` is the input transposed.
    fn weight_back(
        &self,
        weight: &BoundWeight,
        columns: &[f32],
        dy: &[f32],
        into: &mut Gradients,
    ) -> Result<(), TuneError> {
        let (on, n) = (self.on, dy.len() / weight.rows);
        let dw = on.product(&on.matrix(columns, n)?, &on.transposed(dy, weight.rows)?)?;
        self.parameters.add_weight_gradient(on, weight, &dw, into)
    }

    /// Adds the gradients of an adapter, and of the input by way of it.
    fn pair_back(
        &self,
        pair: &Pair,
        (input, columns): (&[f32], &[f32]),
        (dy, dinput): (&[f32], &mut [f32]),
        cols: usize,
        into: &mut Gradients,
    ) -> Result<(), TuneError> {
        let (on, Pair { rank, factor, .. }) = (self.on, *pair);
        let [a, b] = [pair.a, pair.b].map(|number| &self.parameters.all[number].values);
        let (n, rows) = (input.len() / cols, b.len() / rank);
        let u = self.down(pair, cols, input)?;
        let mut du = on.product(&on.transposed_matrix(b, rank)?, dy)?;
        (on.ops().scale)(&mut du, factor);
        let db = on.product(&on.transposed_matrix(&u, rank)?, &on.transposed(dy, rows)?)?;
        let da = on.product(&on.matrix(columns, n)?, &on.transposed(&du, rank)?)?;
        add_to(into, pair.a, &da, 1.0);
        add_to(into, pair.b, &db, factor);
        add(dinput, &on.product(&on.transposed_matrix(a, cols)?, &du)?);
        Ok(())
    }

    /// The results of an operation's products, `[tokens][n_rows]`.
    pub fn epilogue(&self, op: &Linear, y: &[f32]) -> Result<Vec<f32>, TuneError> {
        let (ops, n, total) = (self.on.ops(), op.n_rows(), op.n_products());
        let mut out = zeros(y.len() / total * n)?;
        let rows = (PART_LEN / total).max(1);
        let parts = out.chunks_mut(rows * n).zip(y.chunks(rows * total));
        self.on.each(parts, |(out, y)| {
            for (out, y) in out.chunks_exact_mut(n).zip(y.chunks_exact(total)) {
                match op.epilogue {
                    Epilogue::None => out.copy_from_slice(y),
                    Epilogue::Act(act) => {
                        out.copy_from_slice(y);
                        (ops.act)(act, out);
                    }
                    Epilogue::Glu(act, _) => (ops.glu)(act, &y[..n], &y[n..], out),
                }
            }
        })?;
        Ok(out)
    }

    /// The gradient of an operation's products from that of its results.
    pub fn epilogue_back(
        &self,
        op: &Linear,
        y: &[f32],
        dout: &[f32],
    ) -> Result<Vec<f32>, TuneError> {
        let (n, total) = (op.n_rows(), op.n_products());
        let mut dy = zeros(dout.len() / n * total)?;
        if op.epilogue == Epilogue::None {
            dy.copy_from_slice(dout);
            return Ok(dy);
        }
        let rows = (PART_LEN / total).max(1);
        let parts = dy.chunks_mut(rows * total);
        let inputs = y.chunks(rows * total).zip(dout.chunks(rows * n));
        self.on.each(parts.zip(inputs), |(dy, (y, dout))| {
            let rows = dy.chunks_exact_mut(total).zip(y.chunks_exact(total));
            for ((dy, y), dout) in rows.zip(dout.chunks_exact(n)) {
                match op.epilogue {
                    Epilogue::Glu(act, _) => self.glu_back(act, y, dout, dy),
                    Epilogue::None => {}
                    Epilogue::Act(act) => {
                        dy.copy_from_slice(y);
                        derivative(self.on.ops(), act, dy);
                        dy.iter_mut().zip(dout).for_each(|(dy, d)| *dy *= d);
                    }
                }
            }
        })?;
        Ok(dy)
    }

    /// The gradient of a row `[gate | up]` from that of `f(gate) * up`.
    fn glu_back(&self, act: Activation, y: &[f32], dout: &[f32], dy: &mut [f32]) {
        let ops = self.on.ops();
        let (gate, up) = y.split_at(dout.len());
        let (dgate, dup) = dy.split_at_mut(dout.len());
        dup.copy_from_slice(gate);
        (ops.act)(act, dup);
        dgate.copy_from_slice(gate);
        derivative(ops, act, dgate);
        for (i, d) in dout.iter().enumerate() {
            dgate[i] *= d * up[i];
            dup[i] *= d;
        }
    }
}
