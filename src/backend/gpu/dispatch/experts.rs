//! Mixtures of experts.

use super::linear::{Glu, Input, Mode, Target};
use super::{
    Bound, Builder, CHUNK, GRID_MAX, Grid, Kernel, Scratch, Segments, THREADS, outputs, windows,
};
use crate::backend::gpu::shader::Shader;
use crate::backend::gpu::submission::Work;
use crate::backend::program::{ExpertPart, Gating, Moe, Router};

/// Products of experts on their way.
struct ExpertTarget {
    out: Bound,
    stride: usize,
    from: usize,
}

impl Builder<'_> {
    pub(super) fn moe(&mut self, op: &Moe) {
        let cols = op.up.weight.cols;
        let input = self.input(op.input, cols, op.norm.as_ref(), op.rows);
        self.route(op, input);
        let n_ff = op.down.weight.cols;
        let has_gate = op.gate.is_some() || op.up.weight.rows == 2 * n_ff;
        let stride = n_ff * if has_gate { 2 } else { 1 };
        let out = self.scratch(Scratch::Products, op.n_used * stride);
        let mut target = ExpertTarget { out, stride, from: 0 };
        for part in op.gate.iter().chain([&op.up]) {
            self.experts(op, part, input, false, &target);
            target.from += part.weight.rows;
        }
        let padded = n_ff.next_multiple_of(CHUNK);
        let hidden = self.scratch(Scratch::Hidden, op.n_used * padded);
        self.glu(&Glu {
            per_token: op.n_used,
            len: n_ff,
            has_gate,
            act: op.act,
            clamp: op.clamp,
            out: hidden,
            stride: padded,
            adds: None,
            padding: padded - n_ff,
            rows: op.rows,
        });
        let width = op.down.weight.rows;
        let out = self.scratch(Scratch::Experts, op.n_used * width);
        let hidden = Input { buffer: hidden, stride: padded / 4 };
        let target = ExpertTarget { out, stride: width, from: 0 };
        self.experts(op, &op.down, hidden, true, &target);
        let params = vec![
            outputs(op.rows),
            width as u32,
            width as u32,
            self.width(op.out) as u32,
            op.n_used as u32,
            u32::from(!op.weigh_input),
            u32::from(op.adds),
            op.scale.to_bits(),
        ];
        let buffers = vec![out, Bound::Scratch(Scratch::Chosen), Bound::Buf(op.out)];
        let x = width.div_ceil(THREADS) as u32;
        let grid = Grid::Rows { x, per_token: 1 };
        self.push(Kernel::One(Shader::Combine), params, buffers, grid, op.rows);
    }

    /// Scores and the choice by them.
    fn route(&mut self, op: &Moe, input: Input) {
        let scores = self.scratch(Scratch::Scores, op.n_experts);
        match &op.router {
            Router::Input(part) => {
                let (stride, mode) = (op.n_experts, Mode::Store);
                let (from, addend, act) = (0, None, None);
                let target = Target { out: scores, stride, from, addend, act, mode };
                self.product(input, part, target, op.rows);
            }
            Router::Scores(buf) => {
                let (width, segments) = (self.width(*buf), Segments::row(op.n_experts));
                self.segments(Bound::Buf(*buf), width, scores, op.n_experts, segments, op.rows);
            }
        }
        let chosen = self.scratch(Scratch::Chosen, 2 * op.n_used);
        let gating = match op.gating {
            Gating::Softmax => 0,
            Gating::SoftmaxOfChosen => 1,
            Gating::Sigmoid => 2,
        };
        let params = vec![
            outputs(op.rows),
            op.n_experts as u32,
            op.n_used as u32,
            op.n_experts as u32,
            gating,
            self.constant(op.choice_bias.as_deref()),
            u32::from(op.normalize_weights),
            op.weight_scale.to_bits(),
        ];
        let kernel = Kernel::One(Shader::Route);
        self.push(kernel, params, vec![scores, chosen], Grid::Tokens, op.rows);
    }

    /// Products with the chosen experts' matrices.
    fn experts(
        &mut self,
        op: &Moe,
        part: &ExpertPart,
        input: Input,
        is_second: bool,
        target: &ExpertTarget,
    ) {
        let weight = &part.weight;
        let biases = self.constant(part.biases.as_deref());
        let scales = self.constant(part.scales.as_deref());
        for (i, window) in windows(weight, self.shape.window_bytes_max).into_iter().enumerate() {
            let params = vec![
                outputs(op.rows),
                weight.rows as u32,
                window.start as u32,
                window.len() as u32,
                weight.row_bytes() as u32,
                weight.cols as u32,
                weight.cols.div_ceil(CHUNK) as u32,
                GRID_MAX,
                input.stride as u32,
                target.stride as u32,
                target.from as u32,
                biases,
                scales,
                op.n_used as u32,
                u32::from(is_second),
                u32::from(op.weigh_input && !is_second),
            ];
            let chosen = Bound::Scratch(Scratch::Chosen);
            let buffers = vec![Bound::Weight(weight.id(), i), input.buffer, chosen, target.out];
            let grid = Grid::Experts { rows: weight.rows as u32, n_used: op.n_used as u32 };
            let kernel = Kernel::One(Shader::Experts(weight.ty));
            self.push(kernel, params, buffers, grid, op.rows);
            self.set_work(Work::PerToken((weight.rows * weight.cols * op.n_used) as u64));
        }
    }
}
