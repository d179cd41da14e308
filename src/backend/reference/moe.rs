//! Mixtures of experts, one token and one expert after the other.

use super::float::{activate_all, dot, softmax};
use super::{Step, add, glu};
use crate::backend::program::{ExpertGroups, ExpertPart, Gating, Moe, Router};
use teff_kernels::Activation;

/// Smallest sum that weights are divided by, as in ggml: the least normal half.
const WEIGHT_SUM_MIN: f32 = 6.103_515_6e-5;

impl Step<'_> {
    pub(super) fn moe(&mut self, op: &Moe) {
        for t in self.selected(op.rows) {
            let cols = op.up.weight.cols;
            let x = self.inputs(op.input, cols, op.norm.as_ref(), &[t]).remove(0);
            let scores = match &op.router {
                Router::Input(part) => self.part(part, std::slice::from_ref(&x)).remove(0),
                Router::Scores(buf) => self.row(*buf, t)[..op.n_experts].to_vec(),
            };
            let mut out = match op.adds {
                true => self.row(op.out, t).to_vec(),
                false => vec![0.0; self.program.widths[op.out.0]],
            };
            for (expert, weight) in route(op, &scores) {
                let mut input = x.clone();
                if op.weigh_input {
                    input.iter_mut().for_each(|x| *x *= weight);
                }
                let y = self.expert(op, expert, input);
                let factor = op.scale * if op.weigh_input { 1.0 } else { weight };
                out.iter_mut().zip(y).for_each(|(out, y)| *out += factor * y);
            }
            self.set(op.out, t, &out);
        }
    }

    fn expert(&self, op: &Moe, expert: usize, x: Vec<f32>) -> Vec<f32> {
        let mut up = self.expert_part(&op.up, expert, &x);
        let n_ff = op.down.weight.cols;
        let gate = match &op.gate {
            Some(gate) => Some(self.expert_part(gate, expert, &x)),
            // The rows of both: those of the gate come first.
            None if up.len() == 2 * n_ff => {
                let rest = up.split_off(n_ff);
                Some(std::mem::replace(&mut up, rest))
            }
            None => None,
        };
        let hidden = match gate {
            Some(mut gate) => {
                if let Some(clamp) = op.clamp {
                    clamp.apply(&mut gate, &mut up);
                }
                glu(op.act, &mut gate, &up);
                gate
            }
            None => {
                if let Some(clamp) = op.clamp {
                    clamp.apply(&mut [], &mut up);
                }
                activate_all(op.act, &mut up);
                up
            }
        };
        self.expert_part(&op.down, expert, &hidden)
    }

    fn expert_part(&self, part: &ExpertPart, expert: usize, x: &[f32]) -> Vec<f32> {
        let mut y = self.products(&part.weight, expert, &[x.to_vec()]).remove(0);
        let (rows, cols) = (part.weight.rows, part.weight.cols);
        if let Some(scales) = &part.scales {
            y.iter_mut().for_each(|y| *y *= scales[expert]);
        }
        for low in &part.low_rank {
            let a = low.a[expert * low.rank * cols..].chunks(cols).take(low.rank);
            let ranks: Vec<f32> = a.map(|a| dot(a, x) as f32).collect();
            let b = low.b[expert * rows * low.rank..].chunks(low.rank);
            y.iter_mut().zip(b).for_each(|(y, b)| *y += dot(b, &ranks) as f32);
        }
        if let Some(biases) = &part.biases {
            add(&mut y, &biases[expert * rows..][..rows]);
        }
        y
    }
}

/// The chosen experts and their weights, the best first.
fn route(op: &Moe, scores: &[f32]) -> Vec<(usize, f32)> {
    let mut probabilities = scores.to_vec();
    match op.gating {
        Gating::Softmax => softmax(&mut probabilities),
        Gating::Sigmoid => activate_all(Activation::Sigmoid, &mut probabilities),
        Gating::SoftmaxOfChosen => {}
    }
    let bias = |i: usize| op.choice_bias.as_ref().map_or(0.0, |bias| bias[i]);
    let choice: Vec<f32> = probabilities.iter().enumerate().map(|(i, p)| p + bias(i)).collect();
    let mut chosen = best(&choice, choice.len());
    if let Some(ExpertGroups { n_groups, n_used }) = op.groups {
        let size = choice.len() / n_groups;
        let sums: Vec<f32> = choice
            .chunks(size)
            .map(|group| best(group, 2).into_iter().map(|i| group[i]).sum())
            .collect();
        let groups = best(&sums, n_used);
        chosen.retain(|i| groups.contains(&(i / size)));
    }
    chosen.truncate(op.n_used);
    let mut weights: Vec<f32> = chosen.iter().map(|&i| probabilities[i]).collect();
    if op.gating == Gating::SoftmaxOfChosen {
        softmax(&mut weights);
    }
    let sum = match op.normalize_weights {
        true => weights.iter().sum::<f32>().max(WEIGHT_SUM_MIN),
        false => 1.0,
    };
    let weights = weights.into_iter().map(|weight| weight * op.weight_scale / sum);
    chosen.into_iter().zip(weights).collect()
}

/// The indices of the `n` largest values, the largest first; equal ones by index.
fn best(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(n);
    order
}
