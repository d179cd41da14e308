//! Apertus (arXiv:2509.14233): norms of query and key heads, xIELU.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Layout, Names, ROTARY_ALL, VOCAB, When, laid, same,
};
use crate::model::{
    Activation, DenseGate, Ffn, Hparams, ModelError, ModelSpec, RopePairing, Xielu,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    let mut spec = spec.dense(Activation::Relu, DenseGate::None);
    // Files have the parameters as they are trained.
    let softplus = |x: f32| x.exp().ln_1p();
    let of = |name: &str| h.global_f32s(&format!("xielu.{name}"));
    let (alpha_n, alpha_p, beta, eps) = (of("alpha_n")?, of("alpha_p")?, of("beta")?, of("eps")?);
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let Ffn::Dense(dense) = &mut layer.ffn {
            let (beta, eps) = (beta[i], eps[i]);
            let (alpha_n, alpha_p) = (beta + softplus(alpha_n[i]), softplus(alpha_p[i]));
            dense.xielu = Some(Xielu { alpha_n, alpha_p, beta, eps });
        }
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["ApertusForCausalLM"],
    arch: "apertus",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];

const NAMES: &[Names] = &[
    same("layers.#.attention_layernorm", "blk.#.attn_norm"),
    same("layers.#.feedforward_layernorm", "blk.#.ffn_norm"),
    laid("layers.#.mlp.act_fn.alpha_n", "xielu.alpha_n", Layout::Metadata),
    laid("layers.#.mlp.act_fn.alpha_p", "xielu.alpha_p", Layout::Metadata),
    laid("layers.#.mlp.act_fn.beta", "xielu.beta", Layout::Metadata),
    laid("layers.#.mlp.act_fn.eps", "xielu.eps", Layout::Metadata),
];
