//! State spaces with a decay for each element of the state and heads of one element (Mamba,
//! arXiv:2312.00752): channels. The state of a channel is a row of `state_dim` elements.

use crate::backend::cpu::pool::Phase;
use crate::backend::cpu::{Context, at_least};
use crate::backend::program::{Scan, ScanKind};
use std::ops::Range;
use teff_kernels::Activation;

impl Context<'_> {
    /// The outputs of the channels `columns` for a token.
    pub(super) fn channels(
        &self,
        op: &Scan,
        columns: Range<usize>,
        (phase, token): (&Phase<'_>, usize),
        state: &mut [f32],
        y: &mut [f32],
        decay: &mut Vec<f32>,
    ) {
        let ScanKind::StateSpace { x, bc, n_groups, dt, dt_bias, a, d } = &op.kind else {
            unreachable!("only state spaces have channels");
        };
        let (n, n_a) = (op.state_dim, a.len() / op.n_heads);
        let decay = at_least(decay, n_a);
        for ((head, state), y) in columns.zip(state.chunks_exact_mut(n)).zip(y) {
            let group = head / (op.n_heads / n_groups);
            let [b, c] = bc.1.map(|first| self.columns(phase, token, (bc.0, first + group * n), n));
            let mut dt = [self.columns(phase, token, (dt.0, dt.1 + head), 1)[0] + dt_bias[head]];
            (self.ops.act)(Activation::Softplus, &mut dt);
            let ([dt], [x]) = (dt, [self.columns(phase, token, (x.0, x.1 + head), 1)[0]]);
            for (decay, a) in decay.iter_mut().zip(&a[head * n_a..]) {
                *decay = dt * a;
            }
            (self.ops.exp_sum)(decay, 0.0);
            match &*decay {
                [decay] => (self.ops.scale)(state, *decay),
                decay => state.iter_mut().zip(decay).for_each(|(s, decay)| *s *= decay),
            }
            (self.ops.add_scaled)(state, b, x * dt);
            *y = (self.ops.dot)(state, c) + x * d[head];
        }
    }
}
