//! Feed-forward parts, dense or of experts, and the builders that change them.

use super::*;

/// Computation on each token alone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ffn {
    /// Nothing.
    None,
    /// `down(act(gate(x)) * up(x))`, see [`DenseGate`].
    Dense(DenseSpec),
    /// A few of many such parts, chosen per token.
    Moe(MoeSpec),
    /// Both, each with norms of its own: `norm_1(dense(x)) + norm_2(moe(pre_norm_2(x)))`.
    DenseAndMoe(DenseSpec, MoeSpec),
    /// Both: experts that read the layer's input, by a norm `ffn_norm_exps`, and a dense part
    /// behind the mixer.
    DenseBesideMoe(DenseSpec, MoeSpec),
}

/// A dense feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpec {
    /// Hidden width.
    pub n_ff: usize,
    /// Activation of the gate.
    pub act: Activation,
    /// Place of the gate.
    pub gate: DenseGate,
    /// Sparsity of the gate, as `n`: values below mean + `n` standard deviations are set to 0.
    pub sparsity: Option<f32>,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Activation instead of `act`, without a gate.
    pub xielu: Option<Xielu>,
    /// Use of the optional tensors `ffn_*.scale`.
    pub scales: TensorUse,
    /// Use of the optional tensors `ffn_*.bias`.
    pub biases: TensorUse,
}

/// xIELU (arXiv:2411.13010): `alpha_p x^2 + beta x` for positive `x`, otherwise
/// `alpha_n (exp(min(x, eps)) - 1 - x) + beta x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// Factor for negative numbers.
    pub alpha_n: f32,
    /// Factor for positive numbers.
    pub alpha_p: f32,
    /// Slope of the linear part.
    pub beta: f32,
    /// Largest exponent.
    pub eps: f32,
}

/// Place of the gate of a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseGate {
    /// In `ffn_gate`.
    Own,
    /// In the upper rows of `ffn_up`.
    InUp,
    /// Nowhere: `down(act(up(x)))`.
    None,
}

/// A mixture of experts (arXiv:1701.06538).
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// Hidden width of an expert.
    pub n_ff: usize,
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub n_used: usize,
    /// Activation of the gate.
    pub act: Activation,
    /// Whether experts have gates, the shared one too: otherwise `down(act(up(x)))`.
    pub gated: bool,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Width of the experts' input and output, if it is not that of the stream: projections lead
    /// there and back.
    pub latent: Option<usize>,
    /// Input of the router.
    pub router: RouterInput,
    /// Formula from the router's scores to weights.
    pub gating: ExpertGating,
    /// Groups of equal size, and how many of them take part: the best by the sum of their two best
    /// experts.
    pub groups: Option<(usize, usize)>,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalize_weights: bool,
    /// Factor of the weights.
    pub weight_scale: f32,
    /// Side of an expert that its weight multiplies.
    pub weigh: Weigh,
    /// Use of the optional tensors `ffn_*_exps.scale`.
    pub scales: TensorUse,
    /// Expert that every token has.
    pub shared: Option<SharedExpert>,
    /// Factor of the experts' summed output.
    pub out_scale: f32,
}

/// Input of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterInput {
    /// The experts' input.
    Experts,
    /// The stream as the layer got it.
    Layer,
    /// The stream in an RMS norm with weights `ffn_gate_inp.scale / sqrt(n_embd)`.
    OwnNorm,
}

/// Formula from a router's scores to weights. Tensors `exp_probs_b` bias the choice alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertGating {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// Side of an expert that its weight multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weigh {
    /// Output.
    Outputs,
    /// Input.
    Inputs,
}

/// `f(min(gate, gate_max)) * (clamp(up, -up_max, up_max) + up_plus)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GluClamp {
    /// Upper bound of the gate, before its activation.
    pub gate_max: f32,
    /// Bound of the up projection, to both sides.
    pub up_max: f32,
    /// Summand of the up projection.
    pub up_plus: f32,
}

/// An expert that every token has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedExpert {
    /// Hidden width.
    pub n_ff: usize,
    /// End of the names of its tensors, such as `_shexp`.
    pub suffix: &'static str,
    /// Whether its output is multiplied by the sigmoid of `ffn_gate_inp_shexp`.
    pub gated: bool,
    /// Bounds in place of those of the other experts.
    pub clamp: Option<GluClamp>,
}

/// The common shape's feed-forward part of each layer: experts if the metadata counts some.
pub(super) fn from_metadata(h: &Hparams<'_>) -> Result<Vec<Ffn>, ModelError> {
    let n_ff = h.counts("feed_forward_length")?;
    let n_ff = n_ff.ok_or_else(|| h.missing("feed_forward_length"))?;
    let n_experts = h.u64("expert_count")?.unwrap_or(0) as usize;
    let n_used = h.u64("expert_used_count")?.unwrap_or(0) as usize;
    let weight_scale = h.f32("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
    if n_experts > 0 && !(1..=n_experts).contains(&n_used) {
        let problem = format!("is {n_used}, not within 1..={n_experts}");
        return Err(h.bad("expert_used_count", problem));
    }
    let groups = expert_groups(h, n_experts, n_used)?;
    let expert_n_ff = h.optional_length("expert_feed_forward_length")?;
    let act = Activation::Silu;
    let ffn = |n_ff: usize| {
        let expert_n_ff = expert_n_ff.unwrap_or(n_ff);
        match (n_experts, n_ff.max(expert_n_ff)) {
            (_, 0) => Ffn::None,
            (0, _) => Ffn::Dense(DenseSpec::gated(n_ff, act)),
            _ => Ffn::Moe(MoeSpec {
                n_ff: expert_n_ff,
                n_experts,
                n_used,
                act,
                gated: true,
                clamp: None,
                latent: None,
                router: RouterInput::Experts,
                gating: ExpertGating::Softmax,
                groups,
                normalize_weights: true,
                weight_scale,
                weigh: Weigh::Outputs,
                scales: TensorUse::Apply,
                shared: None,
                out_scale: 1.0,
            }),
        }
    };
    Ok(n_ff.into_iter().take(h.n_layers).map(ffn).collect())
}

/// The metadata's groups of experts, see [`MoeSpec::groups`].
fn expert_groups(
    h: &Hparams<'_>,
    n_experts: usize,
    n_used: usize,
) -> Result<Option<(usize, usize)>, ModelError> {
    let n_groups = h.u64("expert_group_count")?.unwrap_or(1).max(1) as usize;
    let n_groups_used = h.u64("expert_group_used_count")?.unwrap_or(1).max(1) as usize;
    if n_groups == 1 || n_experts == 0 {
        return Ok(None);
    }
    let fits = n_experts.is_multiple_of(n_groups)
        && n_groups_used <= n_groups
        && n_experts / n_groups * n_groups_used >= n_used;
    match fits {
        true => Ok(Some((n_groups, n_groups_used))),
        false => Err(h.bad("expert_group_count", "does not go with the counts of experts")),
    }
}

impl GluClamp {
    /// Equal bounds for gate and up projection.
    pub fn both(limit: f32, up_plus: f32) -> GluClamp {
        GluClamp { gate_max: limit, up_max: limit, up_plus }
    }

    /// Equal bounds for the up projection and for the activated gate; a limit of 0 is none.
    pub fn after_silu(limit: f32) -> GluClamp {
        if limit <= 0.0 {
            return GluClamp::both(f32::INFINITY, 0.0);
        }
        // SiLU rises where it is positive. Newton's method for `x / (1 + exp(-x)) = limit` from the
        // right, where it is convex, doubles its digits in each round.
        let (limit64, mut x) = (f64::from(limit), f64::from(limit) + 1.0);
        for _ in 0..8 {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            x -= (x * sigmoid - limit64) / (sigmoid * (1.0 + x * (1.0 - sigmoid)));
        }
        GluClamp { gate_max: x as f32, up_max: limit, up_plus: 0.0 }
    }
}

impl DenseSpec {
    /// A part with a gate.
    pub fn gated(n_ff: usize, act: Activation) -> DenseSpec {
        DenseSpec {
            n_ff,
            act,
            gate: DenseGate::Own,
            sparsity: None,
            clamp: None,
            xielu: None,
            scales: TensorUse::Apply,
            biases: TensorUse::Apply,
        }
    }
}

impl ModelSpec {
    /// Changes every dense feed-forward part.
    pub fn each_dense(mut self, f: impl Fn(&mut DenseSpec)) -> ModelSpec {
        for layer in &mut self.layers {
            if let Ffn::Dense(dense) | Ffn::DenseAndMoe(dense, _) | Ffn::DenseBesideMoe(dense, _) =
                &mut layer.ffn
            {
                f(dense);
            }
        }
        self
    }

    /// Changes every mixture of experts.
    pub fn each_moe(mut self, mut f: impl FnMut(usize, &mut MoeSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Ffn::Moe(moe) | Ffn::DenseAndMoe(_, moe) | Ffn::DenseBesideMoe(_, moe) =
                &mut layer.ffn
            {
                f(i, moe);
            }
        }
        self
    }

    /// Activation of all feed-forward parts, dense and in experts.
    pub fn act(self, act: Activation) -> ModelSpec {
        self.each_dense(|dense| dense.act = act).each_moe(|_, moe| moe.act = act)
    }

    /// Activation and gate of dense feed-forward parts.
    pub fn dense(self, act: Activation, gate: DenseGate) -> ModelSpec {
        self.each_dense(|dense| (dense.act, dense.gate) = (act, gate))
    }

    /// Feed-forward parts without their optional `*.scale`, see [`TensorUse`].
    pub fn ignore_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorUse::Ignore)
            .each_moe(|_, moe| moe.scales = TensorUse::Ignore)
    }

    /// Feed-forward parts with their optional `*.scale`, see [`TensorUse`].
    pub fn apply_ffn_scales(self) -> ModelSpec {
        self.each_dense(|dense| dense.scales = TensorUse::Apply)
            .each_moe(|_, moe| moe.scales = TensorUse::Apply)
    }

    /// Dense feed-forward parts in the layers that `f` marks.
    ///
    /// # Errors
    /// The hidden widths are not integers within bounds.
    pub fn dense_where(
        mut self,
        h: &Hparams<'_>,
        f: impl Fn(usize) -> bool,
    ) -> Result<ModelSpec, ModelError> {
        let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
        for (i, (layer, n_ff)) in self.layers.iter_mut().zip(n_ff).enumerate() {
            if let (Ffn::Moe(moe), true) = (&layer.ffn, f(i)) {
                let gate = if moe.gated { DenseGate::Own } else { DenseGate::None };
                let (act, clamp, scales) = (moe.act, moe.clamp, moe.scales);
                let dense = DenseSpec::gated(n_ff, act);
                layer.ffn = Ffn::Dense(DenseSpec { gate, clamp, scales, ..dense });
            }
        }
        Ok(self)
    }

    /// Dense feed-forward parts in the leading layers that the metadata counts.
    ///
    /// # Errors
    /// The count is not an integer.
    pub fn dense_lead(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let n = h.u64("leading_dense_block_count")?.unwrap_or(0);
        self.dense_where(h, |i| (i as u64) < n)
    }

    /// A shared expert, if there is one.
    ///
    /// # Errors
    /// Count or width is not an integer within bounds.
    pub fn shared_expert(self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let count = h.u64("expert_shared_count")?.map(|n| n as usize);
        let width = h.optional_length("expert_shared_feed_forward_length")?;
        Ok(self.each_moe(|i, moe| {
            let n_ff = width.or(count.map(|n| n.saturating_mul(moe.n_ff))).filter(|&n| n > 0);
            let n_ff = h.shared_width(i).or(n_ff);
            moe.shared =
                n_ff.map(|n_ff| SharedExpert { n_ff, suffix: "_shexp", gated: false, clamp: None });
        }))
    }

    /// Gating and normalization of the experts' weights as the metadata says; `gating` if it says
    /// nothing.
    ///
    /// # Errors
    /// The metadata names an unknown gating function.
    pub fn expert_gating(
        self,
        h: &Hparams<'_>,
        gating: ExpertGating,
    ) -> Result<ModelSpec, ModelError> {
        let gating = match h.u64("expert_gating_func")?.unwrap_or(0) {
            0 => gating,
            1 => ExpertGating::Softmax,
            2 => ExpertGating::Sigmoid,
            3 => ExpertGating::SoftmaxOfChosen,
            n => return Err(h.bad("expert_gating_func", format!("is {n}, not supported"))),
        };
        let normalize = h.bool("expert_weights_norm")?.unwrap_or(false);
        Ok(self.each_moe(|_, moe| (moe.gating, moe.normalize_weights) = (gating, normalize)))
    }
}
