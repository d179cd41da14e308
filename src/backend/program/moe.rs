//! Mixtures of experts: a router, and a stack of matrices for each projection.

use super::{BoundWeight, Buf, GluClamp, Norm, Part, Tokens};
use teff_kernels::Activation;

/// `out += scale * sum over the chosen experts e of w_e * down_e(f(gate_e(x)) * up_e(x))` with
/// `x = norm(input)`.
#[derive(Debug)]
pub struct Moe {
    /// Source.
    pub input: Buf,
    /// Applied to the input.
    pub norm: Option<Norm>,
    /// Source of the experts' scores.
    pub router: Router,
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub n_used: usize,
    /// Formula from scores to probabilities.
    pub gating: Gating,
    /// Added to the probabilities when experts are chosen, not to their weights.
    pub choice_bias: Option<Vec<f32>>,
    /// Experts come in groups, of which the best few take part.
    pub groups: Option<ExpertGroups>,
    /// True if the weights of the chosen experts are divided by their sum.
    pub normalize_weights: bool,
    /// True if an expert's input is multiplied by its weight, instead of its output.
    pub weigh_input: bool,
    /// Factor of the weights.
    pub weight_scale: f32,
    /// Stack of gate projections. `None`: they are the lower half of `up`'s rows, if it has twice
    /// as many as `down` has columns; otherwise there is no gate: `down_e(f(up_e(x)))`.
    pub gate: Option<ExpertPart>,
    /// Stack of up projections.
    pub up: ExpertPart,
    /// Stack of down projections.
    pub down: ExpertPart,
    /// Activation of the gate.
    pub act: Activation,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Destination.
    pub out: Buf,
    /// True if the sum is added to the destination, false if it overwrites it.
    pub adds: bool,
    /// Factor of the sum's second term.
    pub scale: f32,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// Source of the scores of experts.
#[derive(Debug)]
pub enum Router {
    /// Products of `[n_experts][width of the input]` with the normalized input.
    Input(Part),
    /// A buffer.
    Scores(Buf),
}

/// Formula from a router's scores to the weights of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// Groups of experts: those with the largest sums of their two best probabilities take part
/// (DeepSeek-V3, arXiv:2412.19437).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups of equal size.
    pub n_groups: usize,
    /// Number of groups that take part.
    pub n_used: usize,
}

/// A stack of matrices, one per expert, each with a factor and biases.
#[derive(Clone, Debug)]
pub struct ExpertPart {
    /// `[n_experts][rows][cols]`.
    pub weight: BoundWeight,
    /// `[n_experts][rows]`, added after the factor.
    pub biases: Option<Vec<f32>>,
    /// Factors of experts, if any.
    pub scales: Option<Vec<f32>>,
    /// Products of low rank that are added, after the factor.
    pub low_rank: Vec<ExpertLowRank>,
}

/// `B A` of each expert.
#[derive(Clone, Debug)]
pub struct ExpertLowRank {
    /// Rows of `A`.
    pub rank: usize,
    /// `[n_experts][rank][cols]`.
    pub a: Vec<f32>,
    /// `[n_experts][rows][rank]`.
    pub b: Vec<f32>,
}
