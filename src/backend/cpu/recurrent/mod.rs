//! Operations with a state: the channels or heads are dealt out, each takes the tokens of a
//! sequence in order. So every result is a fixed chain of f32 operations, whatever the batch and
//! the threads. Exponentials, products of rows and activations are those of the kernels, whose
//! levels agree bit by bit; the rest are single additions and multiplications.
//!
//! Heads of several elements are scanned as [`steps`] says; channels, which are heads of one
//! element with a decay for each element of their state, as [`channels`] says.

mod channels;
mod steps;

use super::pool::{Phase, Ticket};
use super::{Context, WorkerScratch, at_least};
use crate::backend::program::Buf;
use crate::backend::program::{Conv, Scan, ScanKind};
use std::ops::Range;
use steps::{STEPS_MAX, Steps};
use teff_kernels::Activation;

/// Channels of a ticket: enough of a row to fill cache lines.
const CHANNELS: usize = 64;

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Outputs of a ticket for the tokens of a sequence.
    y: Vec<f32>,
    /// The window of a convolution, decays of a channel, or a head before its norm.
    shared: Vec<f32>,
    steps: Steps,
}

impl Context<'_> {
    /// The sequences of the step and the tokens of each.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut start = 0;
        self.input.sequence.chunk_by(|a, b| a == b).map(move |run| {
            let tokens = start..start + run.len();
            start = tokens.end;
            (run[0] as usize, tokens)
        })
    }

    /// `n` columns of a token's row of a buffer.
    fn columns<'p>(
        &'p self,
        phase: &'p Phase<'_>,
        token: usize,
        (buf, first): (Buf, usize),
        n: usize,
    ) -> &'p [f32] {
        &self.backend.buffers[buf.0].read_row(phase, token)[first..][..n]
    }

    pub(super) fn conv(&self, op: &Conv, scratch: &mut WorkerScratch) {
        let n_channels = op.n_channels();
        let (input, out) = (&self.backend.buffers[op.input.0], &self.backend.buffers[op.out.0]);
        let past = op.taps - 1;
        let Scratch { y, shared: window, .. } = &mut scratch.recurrent;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n_channels, CHANNELS) {
                let channels = ticket.items();
                let width = channels.len();
                for (sequence, tokens) in self.runs() {
                    // `[past + tokens][width]`
                    let x = at_least(window, (past + tokens.len()) * width);
                    let (before, now) = x.split_at_mut(past * width);
                    for (token, x) in tokens.clone().zip(now.chunks_exact_mut(width)) {
                        let row = input.read_row(phase, token);
                        x.copy_from_slice(&row[op.from + channels.start..][..width]);
                        if let Some((first, _)) = op.factors {
                            let factors = &row[first + channels.start..][..width];
                            x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
                        }
                    }
                    let state = self.backend.states.get(self.input.states[sequence], op.state);
                    let state = state.write_cells(&mut ticket, past);
                    for (i, state) in state.chunks_exact(past.max(1)).enumerate() {
                        for (j, state) in state.iter().enumerate() {
                            before[j * width + i] = *state;
                        }
                    }
                    for (i, state) in state.chunks_exact_mut(past.max(1)).enumerate() {
                        for (j, state) in state.iter_mut().enumerate() {
                            *state = x[(tokens.len() + j) * width + i];
                        }
                    }
                    let y = at_least(y, width);
                    for (i, token) in tokens.enumerate() {
                        y.fill(0.0);
                        let taps = x[i * width..].chunks_exact(width);
                        for (x, weight) in taps.zip(op.weight.chunks_exact(n_channels)) {
                            let products = x.iter().zip(&weight[channels.clone()]);
                            y.iter_mut()
                                .zip(products)
                                .for_each(|(y, (x, weight))| *y += x * weight);
                        }
                        if let Some(bias) = &op.bias {
                            (self.ops.add)(y, &bias[channels.clone()]);
                        }
                        if let Some(act) = op.act {
                            (self.ops.act)(act, y);
                        }
                        if let Some((_, second)) = op.factors {
                            let row = input.read_row(phase, token);
                            let factors = &row[second + channels.start..][..width];
                            y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
                        }
                        let out = out.write_columns(&mut ticket, token, channels.clone());
                        out.copy_from_slice(y);
                    }
                }
            }
        });
    }
}

impl Context<'_> {
    pub(super) fn scan(&self, op: &Scan, scratch: &mut WorkerScratch) {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        // Heads of a single element come in runs.
        let chunk = head_dim.max(CHANNELS / head_dim * head_dim);
        let Scratch { y, shared, steps } = &mut scratch.recurrent;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n_heads * head_dim, chunk) {
                let columns = ticket.items();
                let width = columns.len();
                for (sequence, tokens) in self.runs() {
                    let y = at_least(y, tokens.len() * width);
                    let state = self.backend.states.get(self.input.states[sequence], op.state);
                    let state = state.write_cells(&mut ticket, state_dim);
                    if head_dim == 1 && matches!(op.kind, ScanKind::StateSpace { .. }) {
                        for (token, y) in tokens.clone().zip(y.chunks_exact_mut(width)) {
                            self.channels(op, columns.clone(), (phase, token), state, y, shared);
                        }
                    } else {
                        let states = state.chunks_exact_mut(head_dim * state_dim);
                        for (i, state) in states.enumerate() {
                            let head = columns.start / head_dim + i;
                            let y = (&mut y[i * head_dim..], width);
                            self.scan_head(op, head, (phase, tokens.clone()), state, y, steps);
                        }
                    }
                    self.store_scan(op, phase, &mut ticket, (tokens, y), shared);
                }
            }
        });
    }

    /// The outputs of a head for tokens of a sequence; rows of `y` begin every so many elements.
    fn scan_head(
        &self,
        op: &Scan,
        head: usize,
        (phase, tokens): (&Phase<'_>, Range<usize>),
        state: &mut [f32],
        (y, stride): (&mut [f32], usize),
        steps: &mut Steps,
    ) {
        for first in tokens.clone().step_by(STEPS_MAX) {
            steps.clear(op.state_dim);
            for token in first..tokens.end.min(first + STEPS_MAX) {
                self.add_step(op, head, (phase, token), steps);
            }
            let y = &mut y[(first - tokens.start) * stride..];
            steps.run(state, (y, stride), op.head_dim, self.ops);
        }
    }

    /// Adds one token's inputs to the steps of a head's state.
    fn add_step(
        &self,
        op: &Scan,
        head: usize,
        (phase, token): (&Phase<'_>, usize),
        steps: &mut Steps,
    ) {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        let columns = |buf: Buf, first: usize, n| self.columns(phase, token, (buf, first), n);
        match &op.kind {
            ScanKind::StateSpace { x, bc, n_groups, dt, dt_bias, a, d } => {
                let group = head / (n_heads / n_groups);
                let [b, c] = bc.1.map(|first| columns(bc.0, first + group * state_dim, state_dim));
                let mut dt = [columns(dt.0, dt.1 + head, 1)[0] + dt_bias[head]];
                (self.ops.act)(Activation::Softplus, &mut dt);
                let n_a = a.len() / n_heads;
                let step =
                    steps::StateSpace { dt: dt[0], a: &a[head * n_a..][..n_a], b, c, d: d[head] };
                steps.add_state_space(
                    &step,
                    columns(x.0, x.1 + head * head_dim, head_dim),
                    self.ops,
                );
            }
            ScanKind::Linear { qkv, head_stride, decay } => {
                let at = |i: usize, n| columns(qkv.0, qkv.1[i] + head * head_stride, n);
                let (q, k, v) = (at(0, state_dim), at(1, state_dim), at(2, head_dim));
                steps.add_linear(q, k, v, decay[head], self.ops);
            }
            ScanKind::Delta { qkv, key_head, alpha, alpha_bias, a, bound, beta, eps } => {
                let n_alpha = alpha_bias.len() / n_heads;
                let at = |i: usize, head: usize, n| columns(qkv.0, qkv.1[i] + head * n, n);
                let mut gain = [columns(beta.0, beta.1[head], 1)[0]];
                (self.ops.act)(Activation::Sigmoid, &mut gain);
                let step = steps::Delta {
                    q: at(0, key_head[head], state_dim),
                    k: at(1, key_head[head], state_dim),
                    alpha: columns(alpha.0, alpha.1[head], n_alpha),
                    alpha_bias: &alpha_bias[head * n_alpha..][..n_alpha],
                    a: a[head],
                    bound: *bound,
                    beta: gain[0],
                    eps: *eps,
                };
                steps.add_delta(&step, at(2, head, head_dim), self.ops);
            }
        }
    }

    /// Norm, gate and destination of the outputs of a ticket, `[tokens][columns of the ticket]`.
    fn store_scan(
        &self,
        op: &Scan,
        phase: &Phase<'_>,
        ticket: &mut Ticket<'_>,
        (tokens, y): (Range<usize>, &mut [f32]),
        shared: &mut Vec<f32>,
    ) {
        let columns = ticket.items();
        let out = &self.backend.buffers[op.out.0];
        for (token, y) in tokens.zip(y.chunks_exact_mut(columns.len())) {
            if let Some(norm) = &op.norm {
                let x = at_least(shared, op.head_dim);
                for y in y.chunks_exact_mut(op.head_dim) {
                    x.copy_from_slice(y);
                    self.normalize(norm, x, y);
                }
            }
            let out = out.write_columns(ticket, token, columns.clone());
            match op.gate {
                None => out.copy_from_slice(y),
                Some((buf, first)) => {
                    let z = self.columns(phase, token, (buf, first + columns.start), columns.len());
                    (self.ops.glu)(op.gate_act, z, y, out);
                }
            }
        }
    }
}
