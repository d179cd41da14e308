//! Feed-forward parts, dense and of experts.

use super::lower::{Lowering, Place};
use crate::backend::program::{
    Buf, Epilogue, ExpertGroups, ExpertPart, Gating, GluClamp, Moe, Norm, Op, Part, Router,
};
use crate::model::{
    DenseGate, DenseSpec, ExpertGating, Ffn, ModelError, MoeSpec, TensorUse, Weigh,
};
use teff_kernels::Activation;

impl Lowering<'_> {
    /// The operations of a layer's feed-forward part; `scores` are those of its experts if they
    /// are known already.
    pub(super) fn ffn(&mut self, at: Place<'_>, scores: Option<Buf>) -> Result<(), ModelError> {
        if at.layer.ffn == Ffn::None {
            return Ok(());
        }
        let norm = self.layer_norm(at, at.layer.norms.before_ffn)?;
        let post_norm = self.post_norm(at, at.layer.norms.after_ffn)?;
        match &at.layer.ffn {
            Ffn::None => Ok(()),
            Ffn::Dense(dense) => {
                let (hidden, down) = self.dense(at, dense, "", norm)?;
                self.add_product(at, hidden, down, 1.0, post_norm);
                Ok(())
            }
            Ffn::Moe(moe) => self.experts(at, moe, scores, norm, post_norm),
        }
    }

    /// Up to what the down projection, which comes second, is applied to. The names of the tensors
    /// end in `suffix`.
    fn dense(
        &mut self,
        at: Place<'_>,
        spec: &DenseSpec,
        suffix: &str,
        norm: Option<Norm>,
    ) -> Result<(Buf, Part), ModelError> {
        let &DenseSpec { n_ff, act, gate, .. } = spec;
        let n_embd = self.spec.n_embd;
        let name = |part: &str| at.name(&format!("{part}{suffix}"));
        let up_rows = if gate == DenseGate::InUp { 2 * n_ff } else { n_ff };
        let mut parts = vec![self.ffn_part(&name("ffn_up"), up_rows, n_embd, spec)?];
        if gate == DenseGate::Own {
            parts.insert(0, self.ffn_part(&name("ffn_gate"), n_ff, n_embd, spec)?);
        }
        let epilogue = match gate {
            DenseGate::None => Epilogue::Act(act),
            DenseGate::Own | DenseGate::InUp => Epilogue::Glu(act, glu_clamp(spec.clamp)),
        };
        let hidden = self.buffer("hidden", n_ff);
        self.read_stream(norm, parts, epilogue, hidden, at.rows);
        // MPT after AWQ: the activations are divided by these.
        if let Some(divisors) = self.binder.optional_vector(&at.name("ffn.act.scales"), n_ff)? {
            let factors = divisors.iter().map(|x| 1.0 / x).collect();
            self.program.ops.push(Op::Scale { buf: hidden, factors, rows: at.rows });
        }
        Ok((hidden, self.ffn_part(&name("ffn_down"), n_embd, n_ff, spec)?))
    }

    fn experts(
        &mut self,
        at: Place<'_>,
        spec: &MoeSpec,
        scores: Option<Buf>,
        norm: Option<Norm>,
        post_norm: Option<Norm>,
    ) -> Result<(), ModelError> {
        let &MoeSpec { n_ff, n_experts, n_used, act, scales, .. } = spec;
        let n_embd = self.spec.n_embd;
        let router = match scores {
            Some(scores) => Router::Scores(scores),
            None => Router::Input(self.part(&at.name("ffn_gate_inp"), n_experts, n_embd)?),
        };
        let is_fused = self.binder.has(&at.name("ffn_gate_up_exps.weight"));
        let mut part =
            |name, rows, cols| self.expert_part(&at.name(name), [n_experts, rows, cols], scales);
        let gate = match spec.gated && !is_fused {
            true => Some(part("ffn_gate_exps", n_ff, n_embd)?),
            false => None,
        };
        let up = match is_fused {
            true => part("ffn_gate_up_exps", 2 * n_ff, n_embd)?,
            false => part("ffn_up_exps", n_ff, n_embd)?,
        };
        let down = part("ffn_down_exps", n_embd, n_ff)?;
        let mut choice_bias = None;
        for name in ["exp_probs_b.bias", "exp_probs_b"] {
            choice_bias = choice_bias.or(self.binder.optional_vector(&at.name(name), n_experts)?);
        }
        let shared = match spec.shared {
            None => None,
            Some(shared) => {
                let gate = if spec.gated { DenseGate::Own } else { DenseGate::None };
                let (n_ff, biases) = (shared.n_ff, TensorUse::Apply);
                let dense = DenseSpec { n_ff, act, gate, clamp: spec.clamp, scales, biases };
                let (hidden, down) = self.dense(at, &dense, shared.suffix, norm.clone())?;
                if shared.gated {
                    let part = self.part(&at.name("ffn_gate_inp_shexp"), 1, n_embd)?;
                    let gate = self.buffer("expert gate", 1);
                    let sigmoid = Epilogue::Act(Activation::Sigmoid);
                    self.read_stream(norm.clone(), vec![part], sigmoid, gate, at.rows);
                    self.program.ops.push(Op::Gate { gate, buf: hidden, rows: at.rows });
                }
                Some((hidden, down))
            }
        };
        let moe = Moe {
            input: self.x,
            norm,
            router,
            n_experts,
            n_used,
            gating: match spec.gating {
                ExpertGating::Softmax => Gating::Softmax,
                ExpertGating::SoftmaxOfChosen => Gating::SoftmaxOfChosen,
                ExpertGating::Sigmoid => Gating::Sigmoid,
            },
            choice_bias,
            groups: spec.groups.map(|(n_groups, n_used)| ExpertGroups { n_groups, n_used }),
            normalize_weights: spec.normalize_weights,
            weigh_input: spec.weigh == Weigh::Inputs,
            weight_scale: spec.weight_scale,
            gate,
            up,
            down,
            act,
            clamp: glu_clamp(spec.clamp),
            out: self.x,
            adds: true,
            scale: at.layer.residual_scale * spec.out_scale,
            rows: at.rows,
        };
        match (shared, post_norm) {
            (None, None) => self.program.ops.push(Op::Moe(Box::new(moe))),
            // The shared expert has read the stream already.
            (Some((hidden, down)), None) => {
                self.program.ops.push(Op::Moe(Box::new(moe)));
                self.add_product(at, hidden, down, spec.out_scale, None);
            }
            (Some((hidden, down)), Some(post_norm)) => {
                let out = self.beside();
                let bias = down.bias.map(|b| b.into_iter().map(|b| b * spec.out_scale).collect());
                let down = Part { scale: down.scale * spec.out_scale, bias, ..down };
                self.store_product(hidden, None, down, out, at.rows);
                let moe = Moe { out, scale: spec.out_scale, ..moe };
                self.program.ops.push(Op::Moe(Box::new(moe)));
                self.add_norm(at, Some(post_norm));
            }
            (None, Some(post_norm)) => {
                let out = self.beside();
                let moe = Moe { out, adds: false, scale: spec.out_scale, ..moe };
                self.program.ops.push(Op::Moe(Box::new(moe)));
                self.add_norm(at, Some(post_norm));
            }
        }
        Ok(())
    }

    fn expert_part(
        &mut self,
        name: &str,
        shape: [usize; 3],
        scales: TensorUse,
    ) -> Result<ExpertPart, ModelError> {
        let weight = self.binder.stack(&format!("{name}.weight"), shape)?;
        let own = self.binder.optional_vector(&format!("{name}.scale"), shape[0])?;
        self.binder.ignore(&format!("{name}.input_scale"));
        let bias = format!("{name}.bias");
        let biases = match self.binder.has(&bias) {
            true => {
                let biases = self.binder.matrix(&bias, shape[0], shape[1])?;
                Some(self.binder.values(&biases))
            }
            false => None,
        };
        let scales = own.filter(|_| scales == TensorUse::Apply);
        Ok(ExpertPart { weight, biases, scales })
    }
}

fn glu_clamp(clamp: Option<crate::model::GluClamp>) -> Option<GluClamp> {
    clamp.map(|clamp| GluClamp { limit: clamp.limit, up_plus: clamp.up_plus })
}
