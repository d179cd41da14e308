//! A backend in plain loops, the oracle for the others: it runs any [`Program`], one operation
//! after the other and in each one token after the other.
//!
//! No threads, no tiles, no tables of kernels but those that dequantize weights, row by row.
//! Activations are f32 and never quantized; sums, exponentials and statistics are taken in f64. So
//! a backend differs by its own rounding and by how it quantizes activations, nothing else. Keys
//! and values are f32, kept for every position. Buffers start as NaN in each step: what is read
//! unwritten shows in the results.
//!
//! Cost: some hundred times that of the CPU backend.

mod attention;
mod float;
mod moe;
mod recurrent;
mod seam;

pub use seam::RefBackend;

use super::program::{
    BoundWeight, Buf, CopyPieces, Epilogue, HeadLinear, Linear, MixStreams, Norm, Op, Output, Part,
    Program, Tokens,
};
use float::{activate, activate_all, dot, length, mean_and_variance, normalize};
use std::ops::Range;
use teff_kernels::{Activation, KernelTable, Level};

/// A program that is run in plain loops for whole sequences; [`RefBackend`] runs it behind the seam.
pub struct RefRunner<'a> {
    program: &'a Program,
}

/// Keys, values and states that a sequence leaves for its next tokens.
#[derive(Clone, Debug)]
pub struct RefSequence {
    /// Keys of each layer, `[positions][n_kv_heads][k_dim]`.
    keys: Vec<Vec<f32>>,
    /// Values of each layer, `[positions][n_kv_heads][v_dim]`.
    values: Vec<Vec<f32>>,
    /// Recurrent states, by their numbers.
    states: Vec<Vec<f32>>,
    /// Tokens so far.
    len: usize,
}

impl<'a> RefRunner<'a> {
    /// A runner of a program that [`Program::check`] accepts.
    pub fn new(program: &'a Program) -> RefRunner<'a> {
        RefRunner { program }
    }

    /// A sequence without tokens.
    pub fn sequence(&self) -> RefSequence {
        RefSequence {
            keys: vec![Vec::new(); self.program.kv.len()],
            values: vec![Vec::new(); self.program.kv.len()],
            states: self.program.states.iter().map(|&len| vec![0.0; len]).collect(),
            len: 0,
        }
    }

    /// Feeds tokens to a sequence. Returns the rows of results of the tokens at the ascending
    /// indices `outputs`, `[outputs][n_out]`.
    ///
    /// # Panics
    /// If the program fails its check, an index is not below the number of tokens, a token id not
    /// below that of the vocabulary, or a position beyond a learned table.
    pub fn step(&self, sequence: &mut RefSequence, tokens: &[u32], outputs: &[usize]) -> Vec<f32> {
        let before = sequence.clone();
        let mut step = Step::new(self.program, before, tokens.to_vec(), outputs.to_vec());
        self.program.ops.iter().for_each(|op| step.run(op));
        *sequence = step.sequence;
        sequence.len += tokens.len();
        step.results
    }
}

/// A step of one sequence.
struct Step<'a> {
    program: &'a Program,
    kernels: &'static KernelTable,
    /// Keys and values of all tokens so far, states behind the last of them.
    sequence: RefSequence,
    tokens: Vec<u32>,
    /// Tokens whose results are wanted, by their indices in `tokens`.
    outputs: Vec<usize>,
    /// Position of the first token.
    first: usize,
    /// `[tokens][width]` each.
    buffers: Vec<Vec<f32>>,
    results: Vec<f32>,
}

impl<'a> Step<'a> {
    /// A step before its first operation.
    fn new(
        program: &'a Program,
        sequence: RefSequence,
        tokens: Vec<u32>,
        outputs: Vec<usize>,
    ) -> Step<'a> {
        let buffers = program.widths.iter().map(|width| vec![f32::NAN; width * tokens.len()]);
        Step {
            program,
            kernels: KernelTable::at_most(Level::Scalar),
            buffers: buffers.collect(),
            first: sequence.len,
            sequence,
            tokens,
            outputs,
            results: Vec::new(),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Embed { table, scale, addend, positions, out } => {
                for t in 0..self.tokens.len() {
                    let mut row = self.row_of(table, 0, self.tokens[t] as usize);
                    row.iter_mut().for_each(|x| *x *= scale);
                    add(&mut row, addend.as_deref().unwrap_or_default());
                    if let Some(positions) = positions {
                        add(&mut row, &self.row_of(positions, 0, self.first + t));
                    }
                    self.set(*out, t, &row);
                }
            }
            Op::Normalize { buf, norm, rows } => {
                self.change(*buf, *rows, |_, _, row| row.copy_from_slice(&normalize(norm, row)));
            }
            Op::Scale { buf, factors, rows } => self.change(*buf, *rows, |_, _, row| {
                row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }),
            Op::Xielu { buf, f, rows } => self.change(*buf, *rows, |_, _, row| {
                row.iter_mut().for_each(|x| *x = f.at(*x));
            }),
            Op::MulBroadcast { gate, buf, rows } => self.change(*buf, *rows, |step, t, row| {
                let gate = step.row(*gate, t);
                let n = row.len() / gate.len();
                for (part, factor) in row.chunks_mut(n).zip(gate) {
                    part.iter_mut().for_each(|x| *x *= factor);
                }
            }),
            Op::Linear(op) => self.linear(op),
            Op::HeadLinear(op) => self.head_linear(op),
            Op::CopyPieces(op) => self.copy_pieces(op),
            Op::RopeKv(op) => self.rope_kv(op),
            Op::Conv(op) => self.conv(op),
            Op::Scan(op) => self.scan(op),
            Op::Attention(op) => self.attention(op),
            Op::AddNorm { input, norm, scale, out, rows } => {
                self.change(*out, *rows, |step, t, row| {
                    let normed = normalize(norm, step.row(*input, t));
                    row.iter_mut().zip(normed).for_each(|(x, y)| *x += scale * y);
                });
            }
            Op::Sparsify { buf, deviations, rows } => self.change(*buf, *rows, |_, _, row| {
                let (mean, variance) = mean_and_variance(row);
                let n = row.len() as f64;
                // Of the sample, not of the population.
                let deviation = (variance * n / (n - 1.0).max(1.0)).sqrt();
                let cut = mean + f64::from(*deviations) * deviation;
                row.iter_mut().for_each(|x| *x = (f64::from(*x) - cut).max(0.0) as f32);
            }),
            Op::MatchLength { to, buf, rows } => self.change(*buf, *rows, |step, t, row| {
                let to = step.row(*to, t);
                for part in row.chunks_mut(to.len()) {
                    let own = length(part);
                    if own > 0.0 {
                        let factor = (length(to) / own) as f32;
                        part.iter_mut().for_each(|x| *x *= factor);
                    }
                }
            }),
            Op::MixStreams(op) => self.mix_streams(op),
            Op::Add { input, out, from, rows } => self.change(*out, *rows, |step, t, row| {
                let input = step.row(*input, t);
                row[*from..].chunks_mut(input.len()).for_each(|part| add(part, input));
            }),
            Op::Moe(op) => self.moe(op),
            Op::Result { input, norm } => {
                for t in self.selected(Tokens::Outputs) {
                    let row = self.row(*input, t);
                    let row = norm.as_ref().map_or(row.to_vec(), |norm| normalize(norm, row));
                    self.results.extend(row);
                }
            }
        }
    }

    /// The tokens that an operation computes.
    fn selected(&self, rows: Tokens) -> Vec<usize> {
        match rows {
            Tokens::All => (0..self.tokens.len()).collect(),
            Tokens::Outputs => self.outputs.clone(),
        }
    }

    fn columns(&self, buf: Buf, t: usize) -> Range<usize> {
        let width = self.program.widths[buf.0];
        t * width..(t + 1) * width
    }

    /// A token's row of a buffer.
    fn row(&self, buf: Buf, t: usize) -> &[f32] {
        &self.buffers[buf.0][self.columns(buf, t)]
    }

    /// Writes the first columns of a token's row.
    fn set(&mut self, buf: Buf, t: usize, values: &[f32]) {
        let columns = self.columns(buf, t);
        self.buffers[buf.0][columns][..values.len()].copy_from_slice(values);
    }

    /// Changes a row for each token: `f(step, token, row)`.
    fn change(&mut self, buf: Buf, rows: Tokens, f: impl Fn(&Self, usize, &mut [f32])) {
        for t in self.selected(rows) {
            let mut row = self.row(buf, t).to_vec();
            f(self, t, &mut row);
            self.set(buf, t, &row);
        }
    }

    /// A row of a matrix of a stack.
    fn row_of(&self, weight: &BoundWeight, index: usize, row: usize) -> Vec<f32> {
        let kernels = self.kernels.types(weight.ty).expect("scalar code knows every type");
        let mut values = vec![0.0; weight.cols];
        kernels.dequantize(weight.rows_of(index, row..row + 1), &mut values);
        values
    }

    /// `W x` with a matrix of a stack for each of some inputs.
    fn products(&self, weight: &BoundWeight, index: usize, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let mut outputs = vec![Vec::with_capacity(weight.rows); inputs.len()];
        for row in 0..weight.rows {
            let row = self.row_of(weight, index, row);
            for (x, y) in inputs.iter().zip(&mut outputs) {
                y.push(dot(&row, x) as f32);
            }
        }
        outputs
    }

    /// `scale * W x + bias` for each of some inputs.
    fn part(&self, part: &Part, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let mut outputs = self.products(&part.weight, 0, inputs);
        for y in &mut outputs {
            y.iter_mut().for_each(|y| *y *= part.scale);
            add(y, part.bias.as_deref().unwrap_or_default());
        }
        outputs
    }

    /// The first `cols` elements of a buffer's rows, normalized.
    fn inputs(
        &self,
        buf: Buf,
        cols: usize,
        norm: Option<&Norm>,
        tokens: &[usize],
    ) -> Vec<Vec<f32>> {
        let row = |&t: &usize| {
            let x = &self.row(buf, t)[..cols];
            norm.map_or(x.to_vec(), |norm| normalize(norm, x))
        };
        tokens.iter().map(row).collect()
    }

    fn linear(&mut self, op: &Linear) {
        let tokens = self.selected(op.rows);
        let inputs = self.inputs(op.input, op.parts[0].weight.cols, op.norm.as_ref(), &tokens);
        let mut products = vec![Vec::new(); tokens.len()];
        for part in &op.parts {
            for (y, more) in products.iter_mut().zip(self.part(part, &inputs)) {
                y.extend(more);
            }
        }
        for (t, mut y) in tokens.into_iter().zip(products) {
            if let Some(addend) = op.addend {
                add(&mut y, self.row(addend, t));
            }
            match op.epilogue {
                Epilogue::None => {}
                Epilogue::Act(act) => activate_all(act, &mut y),
                Epilogue::Glu(act, clamp) => {
                    let mut up = y.split_off(op.n_rows());
                    if let Some(clamp) = clamp {
                        clamp.apply(&mut y, &mut up);
                    }
                    glu(act, &mut y, &up);
                }
            }
            match op.out {
                Output::Store(buf) => self.set(buf, t, &y),
                Output::Add(buf, scale) => {
                    let mut row = self.row(buf, t)[..y.len()].to_vec();
                    row.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
                    self.set(buf, t, &row);
                }
                Output::Logits { scale, softcap } => {
                    let logit = |y: f32| match softcap {
                        None => scale * y,
                        Some(cap) => cap * (scale * y / cap).tanh(),
                    };
                    self.results.extend(y.into_iter().map(logit));
                }
            }
        }
    }

    fn head_linear(&mut self, op: &HeadLinear) {
        for t in self.selected(op.rows) {
            for head in 0..op.weight.n {
                let x = self.row(op.input, t)[head * op.input_stride..][..op.weight.cols].to_vec();
                let y = self.products(&op.weight, head, &[x]).remove(0);
                let first = self.columns(op.out, t).start + head * op.out_stride;
                let out = &mut self.buffers[op.out.0][first..][..y.len()];
                out.iter_mut().zip(y).for_each(|(out, y)| *out = op.scale * y);
            }
        }
    }

    fn copy_pieces(&mut self, op: &CopyPieces) {
        self.change(op.out, op.rows, |step, t, row| {
            for piece in &op.pieces {
                for i in 0..piece.n {
                    let from = piece.from + i * piece.from_stride;
                    let mut x = step.row(piece.input, t)[from..][..piece.len].to_vec();
                    if let Some(norm) = &piece.norm {
                        x = normalize(norm, &x);
                    }
                    if let Some(act) = piece.act {
                        activate_all(act, &mut x);
                    }
                    row[piece.to + i * piece.to_stride..][..piece.len].copy_from_slice(&x);
                }
            }
        });
    }

    fn mix_streams(&mut self, op: &MixStreams) {
        self.change(op.streams, op.rows, |step, t, row| {
            let width = row.len() / op.n;
            let old = row.to_vec();
            let made = op.made.map(|made| step.row(made, t));
            let x = normalize(&op.norm, made.unwrap_or(&old[..width]));
            let modes: Vec<f64> =
                op.router.chunks(width).map(|weights| dot(weights, &x).tanh()).collect();
            let coefficients = op.coefficients.chunks(op.n).map(|row| {
                row.iter().zip(&modes).map(|(&a, mode)| f64::from(a) * mode).sum::<f64>() as f32
            });
            match made {
                Some(made) => {
                    for (stream, by) in row.chunks_mut(width).zip(coefficients) {
                        for ((x, made), old) in stream.iter_mut().zip(made).zip(&old) {
                            *x += (1.0 + by) * (made - old);
                        }
                    }
                }
                None => {
                    for (i, by) in coefficients.enumerate() {
                        let (to, from) = (i / op.n, i % op.n);
                        let from = &old[from * width..][..width];
                        let to = &mut row[to * width..][..width];
                        to.iter_mut().zip(from).for_each(|(x, y)| *x += by * y);
                    }
                }
            }
        });
    }
}

/// `x += y`, as far as both go.
fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `gate = f(gate) * up`.
fn glu(f: Activation, gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = activate(f, *gate) * up);
}
