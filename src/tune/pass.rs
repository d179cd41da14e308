//! A program run forward over whole sequences, and backward.
//!
//! Going back, each buffer has the gradient of what it held at that point: an operation that overwrites
//! takes the gradient away, one that adds leaves it, and both add to those of their inputs. What an
//! operation needs of its inputs is kept on the way forward.

use super::TuneError;
use super::attention::{Heads, KeysValues};
use super::linear::Net;
use super::machine::{add, add_scaled, zeros};
use super::parameters::Gradients;
use super::rope::{HeadNorms, Rotation};
use crate::backend::program::{
    Attention, BoundWeight, Buf, Epilogue, HeadNorm, Linear, Op, Output, Program, RopeKv,
};
use std::ops::Range;

/// Floats of logits that there are at a time.
const LOGITS_LEN: usize = 16 << 20;

/// Takes the logits of tokens, `[tokens][n_vocab]`, and leaves gradients in their place.
pub(super) type OnLogits<'a> = dyn FnMut(Range<usize>, &mut [f32]) -> Result<(), TuneError> + 'a;

/// What an operation needs on the way back.
enum Saved {
    Nothing,
    /// Rows that it read.
    Rows(Vec<f32>),
    /// Rows that a product's norm read, and the products where a function follows.
    Linear(Vec<f32>, Vec<f32>),
    /// Rows that the head's norm read, and the gradient of the normed ones.
    Head(Vec<f32>, Vec<f32>),
}

/// A batch on its way through a program.
pub(super) struct Pass<'a> {
    net: Net<'a>,
    program: &'a Program,
    tokens: &'a [u32],
    sequences: &'a [Range<usize>],
    buffers: Vec<Vec<f32>>,
    /// By layer.
    kv: Vec<KeysValues>,
    /// For each operation, if gradients are wanted.
    saved: Option<Vec<Saved>>,
}

/// Refuses programs with an operation whose gradient is not known.
pub(super) fn check(program: &Program) -> Result<(), TuneError> {
    let refused = |op: &Op| match op {
        Op::Embed { .. }
        | Op::Normalize { .. }
        | Op::Scale { .. }
        | Op::Attention(_)
        | Op::AddNorm { .. }
        | Op::Add { .. } => None,
        Op::Linear(linear) if super::parameters::is_plain(linear.epilogue) => None,
        Op::Linear(_) => Some("Linear with bounds"),
        Op::RopeKv(op) if op.clamp.is_none() => None,
        Op::RopeKv(_) => Some("RopeKv with bounds"),
        other => Some(other.name()),
    };
    if let Some(op) = program.ops.iter().find_map(refused) {
        return Err(TuneError::Operation { op });
    }
    let is_head = |op: &Op| {
        matches!(op, Op::Linear(Linear { out: Output::Logits { .. }, parts, epilogue: Epilogue::None, .. })
            if parts.len() == 1)
    };
    match program.ops.last().is_some_and(is_head) && !program.bidirectional {
        true => Ok(()),
        false => Err(TuneError::NoLogits),
    }
}

impl<'a> Pass<'a> {
    pub fn new(
        net: Net<'a>,
        program: &'a Program,
        (tokens, sequences): (&'a [u32], &'a [Range<usize>]),
        gradients: bool,
    ) -> Result<Pass<'a>, TuneError> {
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= program.n_vocab) {
            return Err(TuneError::TokenId { id, n_vocab: program.n_vocab });
        }
        let buffers = program.widths.iter().map(|width| zeros(width * tokens.len()));
        let buffers = buffers.collect::<Result<_, _>>()?;
        let kv = vec![KeysValues::default(); program.kv.len()];
        let saved = gradients.then(Vec::new);
        Ok(Pass { net, program, tokens, sequences, buffers, kv, saved })
    }

    /// Runs all operations; `on_logits` gets rows as they come.
    pub fn forward(&mut self, on_logits: &mut OnLogits<'_>) -> Result<(), TuneError> {
        let program = self.program;
        for op in &program.ops {
            let saved = self.op(op, on_logits)?;
            self.saved.iter_mut().for_each(|all| all.push(Saved::Nothing));
            if let Some(last) = self.saved.as_mut().and_then(|all| all.last_mut()) {
                *last = saved;
            }
        }
        Ok(())
    }

    fn width(&self, buf: Buf) -> usize {
        self.program.widths[buf.0]
    }

    /// The first `n` columns of a buffer.
    fn columns(&self, buf: Buf, n: usize) -> Result<Vec<f32>, TuneError> {
        columns_of(&self.buffers[buf.0], self.width(buf), n)
    }

    fn op(&mut self, op: &Op, on_logits: &mut OnLogits<'_>) -> Result<Saved, TuneError> {
        match op {
            Op::Embed { table, scale, addend, positions, out } => {
                self.embed(table, *scale, positions.as_ref(), *out)?;
                if let Some(addend) = addend {
                    let rows = self.buffers[out.0].chunks_exact_mut(addend.len());
                    rows.for_each(|row| add(row, addend));
                }
                Ok(Saved::Nothing)
            }
            Op::Normalize { buf, norm, .. } => {
                let x = std::mem::take(&mut self.buffers[buf.0]);
                self.buffers[buf.0] = self.net.normed(Some(norm), &x, self.width(*buf))?;
                Ok(Saved::Rows(x))
            }
            Op::Scale { buf, factors, .. } => {
                scale_rows(&mut self.buffers[buf.0], factors);
                Ok(Saved::Nothing)
            }
            Op::Linear(op) => self.linear(op, on_logits),
            Op::RopeKv(op) => {
                let width = self.width(op.qkv);
                let mut rows = std::mem::take(&mut self.buffers[op.qkv.0]);
                let saved = match op.q_norm.is_some() || op.k_norm.is_some() || op.v_norm.is_some()
                {
                    true => Saved::Rows(rows.clone()),
                    false => Saved::Nothing,
                };
                let kv = self.rotation(op).forward(&mut rows, width);
                if op.stores {
                    self.kv[op.layer] = kv;
                }
                self.buffers[op.qkv.0] = rows;
                Ok(saved)
            }
            Op::Attention(op) => {
                let q = self.columns(op.qkv, op.n_heads * self.program.kv[op.layer].k_dim)?;
                let out = self.heads(op).forward(self.net.on, &q, &self.kv[op.layer])?;
                self.store(op.out, &out);
                Ok(Saved::Rows(q))
            }
            Op::AddNorm { input, norm, scale, out, .. } => {
                let x = self.buffers[input.0].clone();
                let y = self.net.normed(Some(norm), &x, self.width(*input))?;
                add_scaled(&mut self.buffers[out.0], &y, *scale);
                Ok(Saved::Rows(x))
            }
            Op::Add { input, out, from, .. } => {
                let (n, width) = (self.width(*input), self.width(*out));
                let x = std::mem::take(&mut self.buffers[input.0]);
                for (row, x) in self.buffers[out.0].chunks_exact_mut(width).zip(x.chunks_exact(n)) {
                    row[*from..].chunks_mut(n).for_each(|part| add(part, x));
                }
                self.buffers[input.0] = x;
                Ok(Saved::Nothing)
            }
            other => Err(TuneError::Operation { op: other.name() }),
        }
    }

    fn embed(
        &mut self,
        table: &BoundWeight,
        scale: f32,
        positions: Option<&BoundWeight>,
        out: Buf,
    ) -> Result<(), TuneError> {
        let kernels = self.net.on.kernels;
        let row_of = |weight: &BoundWeight, row: usize, x: &mut [f32]| {
            let (name, ty) = (weight.name.clone(), weight.ty);
            let kernels = kernels.types(ty).ok_or(TuneError::Type { name, ty })?;
            kernels.dequantize(weight.rows_of(0, row..row + 1), x);
            Ok::<_, TuneError>(())
        };
        let width = self.width(out);
        let buffer = &mut self.buffers[out.0];
        let mut position = vec![0.0; width];
        for tokens in self.sequences {
            for (at, t) in tokens.clone().enumerate() {
                let row = &mut buffer[t * width..(t + 1) * width];
                row_of(table, self.tokens[t] as usize, row)?;
                row.iter_mut().for_each(|x| *x *= scale);
                if let Some(positions) = positions {
                    row_of(positions, at.min(positions.rows - 1), &mut position)?;
                    add(row, &position);
                }
            }
        }
        Ok(())
    }

    fn rotation<'s>(&'s self, op: &'s RopeKv) -> Rotation<'s> {
        let values = |norm: &'s Option<HeadNorm>| {
            norm.as_ref().map(|norm| self.net.parameters.norm(&norm.norm, norm.dim))
        };
        let norms =
            HeadNorms { q: values(&op.q_norm), k: values(&op.k_norm), v: values(&op.v_norm) };
        Rotation { op, program: self.program, sequences: self.sequences, norms }
    }

    fn heads<'s>(&'s self, op: &'s Attention) -> Heads<'s> {
        let shape = self.program.kv[op.layer];
        Heads { op, shape, sequences: self.sequences, width: op.n_heads * shape.k_dim }
    }

    /// Overwrites the first columns of a buffer.
    fn store(&mut self, buf: Buf, rows: &[f32]) {
        let width = self.width(buf);
        let n = rows.len() / self.tokens.len();
        for (row, x) in self.buffers[buf.0].chunks_exact_mut(width).zip(rows.chunks_exact(n)) {
            row[..n].copy_from_slice(x);
        }
    }

    fn linear(&mut self, op: &Linear, on_logits: &mut OnLogits<'_>) -> Result<Saved, TuneError> {
        let x = self.columns(op.input, op.parts[0].weight.cols)?;
        if let Output::Logits { scale, softcap } = op.out {
            let dinput = self.head(op, &x, (scale, softcap), on_logits)?;
            return Ok(Saved::Head(x, dinput));
        }
        let mut y = self.net.products(op, &x)?;
        if let Some(addend) = op.addend {
            add(&mut y, &self.columns(addend, op.n_products())?);
        }
        let is_plain = op.epilogue == Epilogue::None;
        let out = if is_plain { std::mem::take(&mut y) } else { self.net.epilogue(op, &y)? };
        match op.out {
            Output::Store(buf) => self.store(buf, &out),
            Output::Add(buf, scale) => {
                let (width, n) = (self.width(buf), op.n_rows());
                let rows = self.buffers[buf.0].chunks_exact_mut(width).zip(out.chunks_exact(n));
                rows.for_each(|(row, x)| add_scaled(&mut row[..n], x, scale));
            }
            Output::Logits { .. } => {}
        }
        Ok(Saved::Linear(x, y))
    }

    /// Hands out logits, some rows at a time; returns the gradient of the head's normed input, empty if
    /// nobody wants it.
    fn head(
        &self,
        op: &Linear,
        x: &[f32],
        (scale, softcap): (f32, Option<f32>),
        on_logits: &mut OnLogits<'_>,
    ) -> Result<Vec<f32>, TuneError> {
        let (on, part) = (self.net.on, &op.parts[0]);
        let (n_vocab, cols) = (part.weight.rows, part.weight.cols);
        let input = self.net.normed(op.norm.as_ref(), x, cols)?;
        let w = on.matrix(&on.values(&part.weight)?, cols)?;
        let mut dinput = zeros(if self.saved.is_some() { input.len() } else { 0 })?;
        let rows = (LOGITS_LEN / n_vocab).max(1);
        for (number, input) in input.chunks(rows * cols).enumerate() {
            let mut logits = on.product(&w, input)?;
            for row in logits.chunks_exact_mut(n_vocab) {
                (on.ops().scale)(row, part.scale);
                part.bias.iter().for_each(|bias| add(row, bias));
                (on.ops().scale)(row, scale);
                softcap.iter().for_each(|&cap| (on.ops().soft_cap)(row, cap));
            }
            let n = input.len() / cols;
            let capped = softcap.map(|cap| (cap, logits.clone()));
            on_logits(number * rows..number * rows + n, &mut logits)?;
            if dinput.is_empty() {
                continue;
            }
            if let Some((cap, capped)) = capped {
                let slopes = capped.iter().map(|z| 1.0 - (z / cap).powi(2));
                logits.iter_mut().zip(slopes).for_each(|(dz, slope)| *dz *= slope);
            }
            (on.ops().scale)(&mut logits, scale * part.scale);
            let at = number * rows * cols..(number * rows + n) * cols;
            self.net.input_back(&part.weight, &logits, &mut dinput[at])?;
        }
        Ok(dinput)
    }

    /// Adds to the gradients of parameters, behind [`Pass::forward`].
    pub fn backward(mut self, into: &mut Gradients) -> Result<(), TuneError> {
        let widths = self.program.widths.iter();
        let grads = widths.map(|width| zeros(width * self.tokens.len()));
        let mut back = Back {
            grads: grads.collect::<Result<_, _>>()?,
            kv: vec![KeysValues::default(); self.program.kv.len()],
            into,
        };
        let mut saved = self.saved.take().unwrap_or_default();
        // Gradients take the place of what the buffers held.
        self.buffers.clear();
        for op in self.program.ops.iter().rev() {
            let saved = saved.pop().unwrap_or(Saved::Nothing);
            self.op_back(op, saved, &mut back)?;
        }
        Ok(())
    }

    fn op_back(&self, op: &Op, saved: Saved, back: &mut Back<'_>) -> Result<(), TuneError> {
        match (op, saved) {
            (Op::Normalize { buf, norm, .. }, Saved::Rows(x)) => {
                let dy = std::mem::take(&mut back.grads[buf.0]);
                let dx = self.net.normed_back(Some(norm), &x, dy, self.width(*buf), back.into)?;
                back.grads[buf.0] = dx;
            }
            (Op::Scale { buf, factors, .. }, _) => scale_rows(&mut back.grads[buf.0], factors),
            (Op::Linear(op), Saved::Head(x, dinput)) => {
                let n = op.parts[0].weight.cols;
                let dx = self.net.normed_back(op.norm.as_ref(), &x, dinput, n, back.into)?;
                back.add(op.input, self.width(op.input), &dx, n);
            }
            (Op::Linear(op), Saved::Linear(x, y)) => self.linear_back(op, (&x, &y), back)?,
            (Op::RopeKv(op), saved) => self.rope_back(op, saved, back)?,
            (Op::Attention(op), Saved::Rows(q)) => {
                let shape = self.program.kv[op.layer];
                let n = op.n_heads * shape.v_dim;
                let dout = back.take(op.out, self.width(op.out), n)?;
                let kv = &self.kv[op.layer];
                let found = self.heads(op).backward(self.net.on, &q, kv, &dout)?;
                back.add(op.qkv, self.width(op.qkv), &found.queries, op.n_heads * shape.k_dim);
                let sums = &mut back.kv[op.layer];
                if sums.keys.is_empty() {
                    *sums = found.kv;
                } else {
                    add(&mut sums.keys, &found.kv.keys);
                    add(&mut sums.values, &found.kv.values);
                }
            }
            (Op::AddNorm { input, norm, scale, out, .. }, Saved::Rows(x)) => {
                let mut dy = back.grads[out.0].clone();
                (self.net.on.ops().scale)(&mut dy, *scale);
                let width = self.width(*input);
                let dx = self.net.normed_back(Some(norm), &x, dy, width, back.into)?;
                add(&mut back.grads[input.0], &dx);
            }
            (Op::Add { input, out, from, .. }, _) => {
                let (n, width) = (self.width(*input), self.width(*out));
                let grads = std::mem::take(&mut back.grads[out.0]);
                let rows = back.grads[input.0].chunks_exact_mut(n);
                for (dx, row) in rows.zip(grads.chunks_exact(width)) {
                    row[*from..].chunks(n).for_each(|part| add(dx, part));
                }
                back.grads[out.0] = grads;
            }
            _ => {}
        }
        Ok(())
    }

    fn linear_back(
        &self,
        op: &Linear,
        (x, y): (&[f32], &[f32]),
        back: &mut Back<'_>,
    ) -> Result<(), TuneError> {
        let n = op.n_rows();
        let dout = match op.out {
            Output::Store(buf) => back.take(buf, self.width(buf), n)?,
            Output::Add(buf, scale) => {
                let mut dout = columns_of(&back.grads[buf.0], self.width(buf), n)?;
                (self.net.on.ops().scale)(&mut dout, scale);
                dout
            }
            Output::Logits { .. } => return Err(TuneError::NoLogits),
        };
        let dy = match op.epilogue {
            Epilogue::None => dout,
            _ => self.net.epilogue_back(op, y, &dout)?,
        };
        if let Some(addend) = op.addend {
            back.add(addend, self.width(addend), &dy, op.n_products());
        }
        let dx = self.net.products_back(op, x, &dy, back.into)?;
        back.add(op.input, self.width(op.input), &dx, op.parts[0].weight.cols);
        Ok(())
    }

    fn rope_back(&self, op: &RopeKv, saved: Saved, back: &mut Back<'_>) -> Result<(), TuneError> {
        let x = if let Saved::Rows(x) = saved { x } else { Vec::new() };
        let mut rows = std::mem::take(&mut back.grads[op.qkv.0]);
        let kv = match op.stores {
            true => std::mem::take(&mut back.kv[op.layer]),
            false => KeysValues::default(),
        };
        let rotation = self.rotation(op);
        let width = self.width(op.qkv);
        let factors = rotation.backward(self.net.on, &x, &mut rows, width, &kv)?;
        back.grads[op.qkv.0] = rows;
        let norms = [(&op.q_norm, factors.q), (&op.k_norm, factors.k), (&op.v_norm, factors.v)];
        for (norm, gradient) in norms {
            if let Some(norm) = norm {
                self.net.parameters.add_norm_gradient(&norm.norm, &gradient, back.into);
            }
        }
        Ok(())
    }
}

/// Gradients on the way back.
struct Back<'a> {
    /// Of the buffers.
    grads: Vec<Vec<f32>>,
    /// Of the keys and values of layers, empty where nothing reads them.
    kv: Vec<KeysValues>,
    into: &'a mut Gradients,
}

impl Back<'_> {
    /// Takes the gradient of a buffer's first `n` columns away.
    fn take(&mut self, buf: Buf, width: usize, n: usize) -> Result<Vec<f32>, TuneError> {
        let taken = columns_of(&self.grads[buf.0], width, n)?;
        self.grads[buf.0].chunks_exact_mut(width).for_each(|row| row[..n].fill(0.0));
        Ok(taken)
    }

    /// Adds to the gradient of a buffer's first `n` columns.
    fn add(&mut self, buf: Buf, width: usize, rows: &[f32], n: usize) {
        for (row, x) in self.grads[buf.0].chunks_exact_mut(width).zip(rows.chunks_exact(n)) {
            add(&mut row[..n], x);
        }
    }
}

/// The first `n` columns of rows of `width`.
fn columns_of(rows: &[f32], width: usize, n: usize) -> Result<Vec<f32>, TuneError> {
    let mut out = zeros(rows.len() / width * n)?;
    for (out, row) in out.chunks_exact_mut(n).zip(rows.chunks_exact(width)) {
        out.copy_from_slice(&row[..n]);
    }
    Ok(out)
}

/// Multiplies the columns of rows by factors.
fn scale_rows(rows: &mut [f32], factors: &[f32]) {
    for row in rows.chunks_exact_mut(factors.len()) {
        row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
    }
}
