//! Feed-forward parts, dense and of experts.

use super::lower::{Lowering, Place};
use crate::backend::program::{
    Buf, CopyPieces, Epilogue, ExpertGroups, ExpertPart, Gating, GluClamp, Moe, Norm, NormKind, Op,
    Part, Piece, Router, Xielu,
};
use crate::model::{
    DenseGate, DenseSpec, ExpertGating, Ffn, ModelError, MoeSpec, RouterInput, TensorUse, Weigh,
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
            Ffn::Dense(dense) | Ffn::DenseBesideMoe(dense, _) => {
                let (hidden, down) = self.dense(at, dense, "", norm)?;
                self.scale_stream(at);
                self.add_product(at, hidden, down, 1.0, post_norm);
                Ok(())
            }
            Ffn::Moe(moe) => self.experts(at, moe, scores, norm, post_norm),
            Ffn::DenseAndMoe(dense, moe) => {
                let sum = self.dense_and_experts(at, dense, moe, norm)?;
                self.scale_stream(at);
                match post_norm {
                    Some(norm) => {
                        let (input, out, scale) = (sum, self.x, at.layer.residual_scale);
                        let rows = at.rows;
                        self.program.ops.push(Op::AddNorm { input, norm, scale, out, rows });
                    }
                    None => {
                        let (input, out, rows) = (sum, self.x, at.rows);
                        self.program.ops.push(Op::Add { input, out, from: 0, rows });
                    }
                }
                Ok(())
            }
        }
    }

    /// A buffer with what experts beside the mixer give, if there are any; they read the stream
    /// now.
    pub(super) fn side_experts(&mut self, at: Place<'_>) -> Result<Option<Buf>, ModelError> {
        let Ffn::DenseBesideMoe(_, moe) = &at.layer.ffn else { return Ok(None) };
        let norm = self.layer_norm(at, Some("ffn_norm_exps"))?;
        let op = self.routed(at, moe, None, norm)?;
        let out = self.buffer(self.spec.n_embd);
        self.program.ops.push(Op::Moe(Box::new(Moe { out, adds: false, ..op })));
        Ok(Some(out))
    }

    /// A buffer with the sum of what the dense part and the experts give, each normed.
    fn dense_and_experts(
        &mut self,
        at: Place<'_>,
        dense: &DenseSpec,
        moe: &MoeSpec,
        norm: Option<Norm>,
    ) -> Result<Buf, ModelError> {
        let (n_embd, rows) = (self.spec.n_embd, at.rows);
        let (hidden, down) = self.dense(at, dense, "", norm)?;
        let part = self.buffer(n_embd);
        self.store_product(hidden, None, down, part, rows);
        let sum = self.buffer(n_embd);
        let norm = self.layer_norm(at, Some("post_ffw_norm_1"))?;
        let pieces = vec![Piece { norm, ..Piece::heads(part, 0, 0, n_embd, 1) }];
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: sum, rows }));

        let scores = match moe.router {
            RouterInput::Experts | RouterInput::Layer => None,
            RouterInput::OwnNorm => {
                let mut weight = self.binder.vector(&at.name("ffn_gate_inp.scale"), n_embd)?;
                weight.iter_mut().for_each(|weight| *weight /= (n_embd as f32).sqrt());
                let (kind, eps, weight) = (NormKind::Rms, self.spec.norm_eps, Some(weight));
                let norm = Norm { kind, eps, weight, bias: None, name: None };
                let name = at.name("ffn_gate_inp.weight");
                let weight = self.matrix(&name, moe.n_experts, n_embd)?;
                let router = Part { weight, scale: 1.0, bias: None };
                let scores = self.buffer(moe.n_experts);
                self.read_stream(Some(norm), vec![router], Epilogue::None, scores, rows);
                Some(scores)
            }
        };
        let norm = self.layer_norm(at, Some("pre_ffw_norm_2"))?;
        let op = self.routed(at, moe, scores, norm)?;
        self.program.ops.push(Op::Moe(Box::new(Moe { out: part, adds: false, ..op })));
        if let Some(norm) = self.layer_norm(at, Some("post_ffw_norm_2"))? {
            self.program.ops.push(Op::AddNorm { input: part, norm, scale: 1.0, out: sum, rows });
        }
        Ok(sum)
    }

    /// Returns the hidden activations and the down projection that is still to be applied. Tensor
    /// names end in `suffix`.
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
        if let (Some(deviations), DenseGate::Own) = (spec.sparsity, gate) {
            let gate = self.ffn_part(&name("ffn_gate"), n_ff, n_embd, spec)?;
            let hidden = self.sparse_gate(at, (gate, deviations, act), parts, norm);
            return Ok((hidden, self.ffn_part(&name("ffn_down"), n_embd, n_ff, spec)?));
        }
        if gate == DenseGate::Own {
            parts.insert(0, self.ffn_part(&name("ffn_gate"), n_ff, n_embd, spec)?);
        }
        let epilogue = match gate {
            DenseGate::None if spec.xielu.is_some() => Epilogue::None,
            DenseGate::None => Epilogue::Act(act),
            DenseGate::Own | DenseGate::InUp => Epilogue::Glu(act, glu_clamp(spec.clamp)),
        };
        let hidden = self.buffer(n_ff);
        self.read_stream(norm, parts, epilogue, hidden, at.rows);
        if let Some(crate::model::Xielu { alpha_n, alpha_p, beta, eps }) = spec.xielu {
            let f = Xielu { alpha_n, alpha_p, beta, eps };
            self.program.ops.push(Op::Xielu { buf: hidden, f, rows: at.rows });
        }
        if let Some(inside) = at.layer.norms.inside_ffn {
            let norm = self.norm(&at.name(inside), n_ff)?;
            self.program.ops.push(Op::Normalize { buf: hidden, norm, rows: at.rows });
        }
        // MPT after AWQ: the activations are divided by these.
        if let Some(divisors) = self.binder.optional_vector(&at.name("ffn.act.scales"), n_ff)? {
            let factors = divisors.iter().map(|x| 1.0 / x).collect();
            self.program.ops.push(Op::Scale { buf: hidden, factors, rows: at.rows });
        }
        Ok((hidden, self.ffn_part(&name("ffn_down"), n_embd, n_ff, spec)?))
    }

    /// `act(sparsify(gate(x))) * up(x)`.
    fn sparse_gate(
        &mut self,
        at: Place<'_>,
        (gate, deviations, act): (Part, f32, Activation),
        up: Vec<Part>,
        norm: Option<Norm>,
    ) -> Buf {
        let (n_ff, rows) = (gate.weight.rows, at.rows);
        let raw = self.buffer(n_ff);
        self.read_stream(norm.clone(), vec![gate], Epilogue::None, raw, rows);
        self.program.ops.push(Op::Sparsify { buf: raw, deviations, rows });
        let gate = self.buffer(n_ff);
        let pieces = vec![Piece { act: Some(act), ..Piece::heads(raw, 0, 0, n_ff, 1) }];
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: gate, rows }));
        let hidden = self.buffer(n_ff);
        self.read_stream(norm, up, Epilogue::None, hidden, rows);
        self.program.ops.push(Op::MulBroadcast { gate, buf: hidden, rows });
        hidden
    }

    /// The experts that tokens are routed to, added to the stream; the shared one is not among
    /// them.
    fn routed(
        &mut self,
        at: Place<'_>,
        spec: &MoeSpec,
        scores: Option<Buf>,
        norm: Option<Norm>,
    ) -> Result<Moe, ModelError> {
        let &MoeSpec { n_ff, n_experts, n_used, act, scales, .. } = spec;
        let width = spec.latent.unwrap_or(self.spec.n_embd);
        let router = match scores {
            Some(scores) => Router::Scores(scores),
            None => {
                let name = at.name("ffn_gate_inp");
                Router::Input(self.part(&name, n_experts, self.spec.n_embd)?)
            }
        };
        let (input, norm, router) = match (spec.latent, router) {
            (None, router) => (self.x, norm, router),
            (Some(width), router) => self.latent_input(at, width, norm, router)?,
        };
        let is_fused = self.binder.has(&at.name("ffn_gate_up_exps.weight"));
        let mut part =
            |name, rows, cols| self.expert_part(&at.name(name), [n_experts, rows, cols], scales);
        let gate = match spec.gated && !is_fused {
            true => Some(part("ffn_gate_exps", n_ff, width)?),
            false => None,
        };
        let up = match is_fused {
            true => part("ffn_gate_up_exps", 2 * n_ff, width)?,
            false => part("ffn_up_exps", n_ff, width)?,
        };
        let down = part("ffn_down_exps", width, n_ff)?;
        let mut choice_bias = None;
        for name in ["exp_probs_b.bias", "exp_probs_b"] {
            choice_bias = choice_bias.or(self.binder.optional_vector(&at.name(name), n_experts)?);
        }
        Ok(Moe {
            input,
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
        })
    }

    /// Input of latent experts, already normed, and their scores by a router that reads the stream.
    fn latent_input(
        &mut self,
        at: Place<'_>,
        width: usize,
        norm: Option<Norm>,
        router: Router,
    ) -> Result<(Buf, Option<Norm>, Router), ModelError> {
        let scores = match router {
            Router::Scores(scores) => scores,
            Router::Input(part) => {
                let scores = self.buffer(part.weight.rows);
                self.read_stream(norm.clone(), vec![part], Epilogue::None, scores, at.rows);
                scores
            }
        };
        let part = self.part(&at.name("ffn_latent_down"), width, self.spec.n_embd)?;
        let input = self.buffer(width);
        self.read_stream(norm, vec![part], Epilogue::None, input, at.rows);
        Ok((input, None, Router::Scores(scores)))
    }

    fn experts(
        &mut self,
        at: Place<'_>,
        spec: &MoeSpec,
        scores: Option<Buf>,
        norm: Option<Norm>,
        post_norm: Option<Norm>,
    ) -> Result<(), ModelError> {
        let &MoeSpec { act, scales, .. } = spec;
        let n_embd = self.spec.n_embd;
        let shared = match spec.shared {
            None => None,
            Some(shared) => {
                let gate = if spec.gated { DenseGate::Own } else { DenseGate::None };
                let clamp = shared.clamp.or(spec.clamp);
                let dense = DenseSpec::gated(shared.n_ff, act);
                let dense = DenseSpec { gate, clamp, scales, ..dense };
                let (hidden, down) = self.dense(at, &dense, shared.suffix, norm.clone())?;
                if shared.gated {
                    let part = self.part(&at.name("ffn_gate_inp_shexp"), 1, n_embd)?;
                    let gate = self.buffer(1);
                    let sigmoid = Epilogue::Act(Activation::Sigmoid);
                    self.read_stream(norm.clone(), vec![part], sigmoid, gate, at.rows);
                    self.program.ops.push(Op::MulBroadcast { gate, buf: hidden, rows: at.rows });
                }
                Some((hidden, down))
            }
        };
        let mut moe = self.routed(at, spec, scores, norm)?;
        if at.layer.stream_scale != 1.0 {
            assert!(spec.latent.is_none() && post_norm.is_none(), "no description has both");
            // What the experts have read is scaled before their sum is added.
            let input = self.beside();
            (moe.out, moe.adds) = (input, false);
            self.program.ops.push(Op::Moe(Box::new(moe)));
            self.scale_stream(at);
            self.program.ops.push(Op::Add { input, out: self.x, from: 0, rows: at.rows });
            if let Some((hidden, down)) = shared {
                self.add_product(at, hidden, down, spec.out_scale, None);
            }
            return Ok(());
        }
        if let Some(width) = spec.latent {
            assert!(post_norm.is_none(), "no description norms what latent experts give");
            let up = self.part(&at.name("ffn_latent_up"), n_embd, width)?;
            let out = self.buffer(width);
            let moe = Moe { out, adds: false, scale: 1.0, ..moe };
            self.program.ops.push(Op::Moe(Box::new(moe)));
            self.add_product(at, out, up, spec.out_scale, None);
            if let Some((hidden, down)) = shared {
                self.add_product(at, hidden, down, spec.out_scale, None);
            }
            return Ok(());
        }
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
                self.add_norm(at, out, post_norm);
            }
            (None, Some(post_norm)) => {
                let out = self.beside();
                let moe = Moe { out, adds: false, scale: spec.out_scale, ..moe };
                self.program.ops.push(Op::Moe(Box::new(moe)));
                self.add_norm(at, out, post_norm);
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
        let weight = self.stack(&format!("{name}.weight"), shape)?;
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
        Ok(ExpertPart { weight, biases, scales, low_rank: Vec::new() })
    }
}

fn glu_clamp(clamp: Option<crate::model::GluClamp>) -> Option<GluClamp> {
    clamp.map(|crate::model::GluClamp { gate_max, up_max, up_plus }| GluClamp {
        gate_max,
        up_max,
        up_plus,
    })
}
