//! Operations with a state: the channels or heads are dealt out, each takes the tokens of a
//! sequence in order. So every result is a fixed chain of f32 operations, whatever the batch and
//! the threads. Exponentials, products of rows and activations are those of the kernels, whose
//! levels agree bit by bit; the rest are single additions and multiplications.

use super::pool::Phase;
use super::{Context, WorkerScratch, at_least};
use crate::backend::program::Buf;
use crate::backend::recurrent::{Conv, Scan, ScanKind};
use std::ops::Range;
use teff_kernels::{Activation, FloatOps};

/// Channels of a ticket: enough of a row to fill cache lines.
const CHANNELS: usize = 64;

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Outputs of a ticket for the tokens of a sequence.
    y: Vec<f32>,
    /// What a token and a head share.
    shared: Vec<f32>,
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
        let Scratch { y, shared: window } = &mut scratch.recurrent;
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

    pub(super) fn scan(&self, op: &Scan, scratch: &mut WorkerScratch) {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        let out = &self.backend.buffers[op.out.0];
        // Heads of a single element come in runs.
        let chunk = head_dim.max(CHANNELS / head_dim * head_dim);
        let Scratch { y, shared } = &mut scratch.recurrent;
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n_heads * head_dim, chunk) {
                let columns = ticket.items();
                let width = columns.len();
                let heads = columns.start / head_dim..columns.end / head_dim;
                for (sequence, tokens) in self.runs() {
                    let y = at_least(y, tokens.len() * width);
                    let state = self.backend.states.get(self.input.states[sequence], op.state);
                    let state = state.write_cells(&mut ticket, state_dim);
                    for (token, y) in tokens.clone().zip(y.chunks_exact_mut(width)) {
                        let states = state.chunks_exact_mut(head_dim * state_dim);
                        for ((head, state), y) in
                            heads.clone().zip(states).zip(y.chunks_exact_mut(head_dim))
                        {
                            match &op.kind {
                                ScanKind::StateSpace { x, bc, n_groups, dt, dt_bias, a, d } => {
                                    let group = head / (n_heads / n_groups);
                                    let [b, c] = bc.1.map(|first| {
                                        let first = first + group * state_dim;
                                        self.columns(phase, token, (bc.0, first), state_dim)
                                    });
                                    let dt = self.columns(phase, token, (dt.0, dt.1 + head), 1)[0];
                                    let mut dt = [dt + dt_bias[head]];
                                    (self.ops.act)(Activation::Softplus, &mut dt);
                                    let x = self.columns(
                                        phase,
                                        token,
                                        (x.0, x.1 + head * head_dim),
                                        head_dim,
                                    );
                                    let n_a = a.len() / n_heads;
                                    let head = StateSpace {
                                        dt: dt[0],
                                        a: &a[head * n_a..][..n_a],
                                        b,
                                        c,
                                        d: d[head],
                                    };
                                    head.step(x, state, y, shared, self.ops);
                                }
                                ScanKind::Linear { qkv, head_stride, decay } => {
                                    let at = |first: usize, len: usize| {
                                        let first = first + head * head_stride;
                                        self.columns(phase, token, (qkv.0, first), len)
                                    };
                                    let [q, k, v] = qkv.1;
                                    let (q, k) = (at(q, state_dim), at(k, state_dim));
                                    for ((v, state), y) in at(v, head_dim)
                                        .iter()
                                        .zip(state.chunks_exact_mut(state_dim))
                                        .zip(y)
                                    {
                                        (self.ops.scale)(state, decay[head]);
                                        (self.ops.add_scaled)(state, k, *v);
                                        *y = (self.ops.dot)(state, q);
                                    }
                                }
                                ScanKind::Delta {
                                    qkv,
                                    key_head,
                                    alpha,
                                    alpha_bias,
                                    a,
                                    bound,
                                    beta,
                                    eps,
                                } => {
                                    let n_alpha = alpha_bias.len() / n_heads;
                                    let at = |i: usize, head: usize, dim: usize| {
                                        self.columns(
                                            phase,
                                            token,
                                            (qkv.0, qkv.1[i] + head * dim),
                                            dim,
                                        )
                                    };
                                    let alpha = self.columns(
                                        phase,
                                        token,
                                        (alpha.0, alpha.1[head]),
                                        n_alpha,
                                    );
                                    let mut beta =
                                        [self.columns(phase, token, (beta.0, beta.1[head]), 1)[0]];
                                    (self.ops.act)(Activation::Sigmoid, &mut beta);
                                    let delta = Delta {
                                        q: at(0, key_head[head], state_dim),
                                        k: at(1, key_head[head], state_dim),
                                        v: at(2, head, head_dim),
                                        alpha,
                                        alpha_bias: &alpha_bias[head * n_alpha..][..n_alpha],
                                        a: a[head],
                                        bound: *bound,
                                        beta: beta[0],
                                        eps: *eps,
                                    };
                                    delta.step(state, y, shared, self.ops);
                                }
                            }
                        }
                    }
                    for (token, y) in tokens.zip(y.chunks_exact_mut(width)) {
                        if let Some(norm) = &op.norm {
                            let x = at_least(shared, head_dim);
                            for y in y.chunks_exact_mut(head_dim) {
                                x.copy_from_slice(y);
                                self.normalize(norm, x, y);
                            }
                        }
                        let out = out.write_columns(&mut ticket, token, columns.clone());
                        match op.gate {
                            None => out.copy_from_slice(y),
                            Some((buf, first)) => {
                                let z = (buf, first + columns.start);
                                let z = self.columns(phase, token, z, width);
                                (self.ops.glu)(op.gate_act, z, y, out);
                            }
                        }
                    }
                }
            }
        });
    }
}

/// What a state-space recurrence reads for one head and token.
struct StateSpace<'a> {
    dt: f32,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    d: f32,
}

impl StateSpace<'_> {
    fn step(
        &self,
        x: &[f32],
        state: &mut [f32],
        y: &mut [f32],
        decay: &mut Vec<f32>,
        ops: &FloatOps,
    ) {
        let n = self.b.len();
        let decay = at_least(decay, self.a.len());
        for (decay, a) in decay.iter_mut().zip(self.a) {
            *decay = self.dt * a;
        }
        (ops.exp_sum)(decay, 0.0);
        for ((x, state), y) in x.iter().zip(state.chunks_exact_mut(n)).zip(y) {
            match &*decay {
                [decay] => (ops.scale)(state, *decay),
                decay => state.iter_mut().zip(decay).for_each(|(s, decay)| *s *= decay),
            }
            (ops.add_scaled)(state, self.b, x * self.dt);
            *y = (ops.dot)(state, self.c) + x * self.d;
        }
    }
}

/// What a delta rule reads for one head and token.
struct Delta<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    alpha: &'a [f32],
    alpha_bias: &'a [f32],
    a: f32,
    bound: Option<f32>,
    beta: f32,
    eps: f32,
}

impl Delta<'_> {
    fn step(&self, state: &mut [f32], y: &mut [f32], shared: &mut Vec<f32>, ops: &FloatOps) {
        let n = self.k.len();
        let (q, rest) = at_least(shared, 2 * n + self.alpha.len()).split_at_mut(n);
        let (k, decay) = rest.split_at_mut(n);
        let length = (n as f32).sqrt();
        for (x, out) in [(self.q, &mut *q), (self.k, &mut *k)] {
            (ops.rms_norm)(x, None, self.eps / n as f32, out);
            (ops.scale)(out, 1.0 / length);
        }
        (ops.scale)(q, 1.0 / length);
        for ((decay, alpha), bias) in decay.iter_mut().zip(self.alpha).zip(self.alpha_bias) {
            *decay = alpha + bias;
        }
        match self.bound {
            None => {
                (ops.act)(Activation::Softplus, decay);
                (ops.scale)(decay, self.a);
            }
            Some(bound) => {
                (ops.scale)(decay, self.a);
                (ops.act)(Activation::Sigmoid, decay);
                (ops.scale)(decay, bound);
            }
        }
        (ops.exp_sum)(decay, 0.0);
        for ((v, state), y) in self.v.iter().zip(state.chunks_exact_mut(n)).zip(y) {
            match &*decay {
                [decay] => (ops.scale)(state, *decay),
                decay => state.iter_mut().zip(decay).for_each(|(s, decay)| *s *= decay),
            }
            let delta = (v - (ops.dot)(state, k)) * self.beta;
            (ops.add_scaled)(state, k, delta);
            *y = (ops.dot)(state, q);
        }
    }
}
