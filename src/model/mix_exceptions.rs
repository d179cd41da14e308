//! Exceptions that the common mixes of quantized types make for some architectures.
//!
//! Whoever asks for `Q4_K_M` gets, tensor by tensor, the types that llama.cpp's `llama-quantize` gives
//! (`src/llama-quant.cpp`), and that has a few rules for single architectures. Here they are facts,
//! so that `quantize` names none.

/// Exceptions of one architecture.
#[derive(Clone, Copy, Debug, Default)]
pub struct MixExceptions {
    /// Mixes give its projections fewer bits than others', and its head always 8.
    pub frugal_projections: bool,
    /// Whether projections are stacked, too: of stacked tensors only those of the feed-forward layers are experts.
    pub stacks_projections: bool,
    /// Parts of the names of tensors that are left as they are.
    pub kept: &'static [&'static str],
    /// Parts of the names of tensors that get 8 bits at least.
    pub eight_bits: &'static [&'static str],
    /// Number of layers of its model of 70 billion parameters, whose values many heads share.
    large_layers: Option<u64>,
    /// The large model must share its values among heads to count as one.
    large_is_grouped: bool,
}

const NONE: MixExceptions = MixExceptions {
    frugal_projections: false,
    stacks_projections: false,
    kept: &[],
    eight_bits: &[],
    large_layers: None,
    large_is_grouped: false,
};

const FALCON: MixExceptions = MixExceptions { frugal_projections: true, ..NONE };

const BAILING_3: MixExceptions = MixExceptions { stacks_projections: true, ..NONE };

const GLM_5_NEXT: MixExceptions = MixExceptions {
    kept: &[
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ],
    eight_bits: &["attn_q_a", "attn_q_b", "nextn.eh_proj"],
    ..NONE
};

impl MixExceptions {
    /// The exceptions of an architecture, by the name that files have for it.
    pub fn of(architecture: &str) -> MixExceptions {
        let large = |layers| MixExceptions { large_layers: Some(layers), ..NONE };
        match architecture {
            "falcon" => FALCON,
            "bailingmoe3" => BAILING_3,
            "glm5-next" => GLM_5_NEXT,
            "llama" | "llama-embed" => MixExceptions { large_is_grouped: true, ..large(80) },
            "qwen2" | "deci" | "olmo" => large(80),
            "jais2" => large(68),
            _ => NONE,
        }
    }

    /// Whether a model of so many layers is the architecture's large one, whose `attn_v` is small
    /// beside the rest; `is_grouped` if it has fewer heads of values than of queries, and is not
    /// one of eight experts.
    pub fn is_large(&self, layers: u64, is_grouped: bool) -> bool {
        self.large_layers == Some(layers) && (is_grouped || !self.large_is_grouped)
    }
}
