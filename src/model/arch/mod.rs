//! One file per architecture: what its metadata says, as a [`ModelSpec`].

mod afmoe;
mod apertus;
mod arcee;
mod arctic;
mod baichuan;
mod bailingmoe;
mod bailingmoe2;
mod bailingmoe3;
mod bert;
mod bitnet;
mod bloom;
mod chatglm;
mod codeshell;
mod cohere2;
mod cohere2moe;
mod command_r;
mod dbrx;
mod deci;
mod deepseek;
mod deepseek2;
mod deepseek32;
mod dots1;
mod ernie4_5;
mod eurobert;
mod exaone;
mod exaone4;
mod exaone_moe;
mod falcon;
mod falcon_h1;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod gemma_embedding;
mod glm4;
mod glm4moe;
mod glm_dsa;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod granite_swa;
mod granitehybrid;
mod grok;
mod hrm_text;
mod hunyuan;
mod hy_v3;
mod internlm2;
mod jais;
mod jais2;
mod jamba;
mod jina_bert;
mod kimi_linear;
mod laguna;
mod lfm2;
mod llama;
mod llama4;
mod llama_embed;
mod maincoder;
mod mamba;
mod maple;
mod mellum;
mod mimo2;
mod minicpm;
mod minicpm3;
mod minimax_01;
mod minimax_m2;
mod minimax_m3;
mod mistral3;
mod mistral4;
mod modern_bert;
mod mpt;
mod muse_glimmer;
mod nanbeige;
mod nemotron;
mod nemotron_h;
mod neo_bert;
mod nomic_bert;
mod olmo;
mod olmo2;
mod olmoe;
mod openelm;
mod orion;
mod paddleocr;
mod pangu;
mod phi2;
mod phi3;
mod phimoe;
mod plamo;
mod plamo3;
mod plm;
mod pockettts;
mod qwen;
mod qwen2;
mod qwen2moe;
mod qwen2vl;
mod qwen3;
mod qwen3moe;
mod qwen3next;
mod qwen3vl;
mod refact;
mod seed_oss;
mod smallthinker;
mod smollm3;
mod spark2_5;
mod stablelm;
mod starcoder2;
mod talkie;
pub mod text_parts;

mod xverse;

use super::checkpoint::Checkpoint;
use super::{Hparams, LayerSpec, Mixer, ModelError, ModelSpec};

type Describe = fn(&Hparams<'_>) -> Result<ModelSpec, ModelError>;

/// Every architecture that can be run: `general.architecture` and its description.
const ARCHS: &[(&str, Describe)] = &[
    ("afmoe", afmoe::spec),
    ("apertus", apertus::spec),
    ("arcee", arcee::spec),
    ("arctic", arctic::spec),
    ("baichuan", baichuan::spec),
    ("bailingmoe", bailingmoe::spec),
    ("bailingmoe2", bailingmoe2::spec),
    ("bailingmoe3", bailingmoe3::spec),
    ("bert", bert::spec),
    ("bitnet", bitnet::spec),
    ("bitnet-b1.58", bitnet::relu2),
    ("bloom", bloom::spec),
    ("chatglm", chatglm::spec),
    ("codeshell", codeshell::spec),
    ("cohere2", cohere2::spec),
    ("cohere2moe", cohere2moe::spec),
    ("command-r", command_r::spec),
    ("dbrx", dbrx::spec),
    ("deci", deci::spec),
    ("deepseek", deepseek::spec),
    ("deepseek2", deepseek2::spec),
    ("deepseek32", deepseek32::spec),
    ("dots1", dots1::spec),
    ("ernie4_5", ernie4_5::spec),
    ("ernie4_5-moe", ernie4_5::moe),
    ("eurobert", eurobert::spec),
    ("exaone", exaone::spec),
    ("exaone-moe", exaone_moe::spec),
    ("exaone4", exaone4::spec),
    ("falcon", falcon::spec),
    ("falcon-h1", falcon_h1::spec),
    ("gemma", gemma::spec),
    ("gemma-embedding", gemma_embedding::spec),
    ("gemma2", gemma2::spec),
    ("gemma3", gemma3::spec),
    ("gemma3n", gemma3n::spec),
    ("gemma4", gemma4::spec),
    ("glm-dsa", glm_dsa::spec),
    ("glm4", glm4::spec),
    ("glm4moe", glm4moe::spec),
    ("gpt-oss", gpt_oss::spec),
    ("gpt2", gpt2::spec),
    ("gptneox", gptneox::spec),
    ("granite", granite::spec),
    ("granite_swa", granite_swa::spec),
    ("granitehybrid", granitehybrid::spec),
    ("granitemoe", granite::spec),
    ("grok", grok::spec),
    ("hrm_text", hrm_text::spec),
    ("hunyuan-dense", hunyuan::spec),
    ("hunyuan-moe", hunyuan::spec),
    ("hunyuan_vl", hunyuan::spec),
    ("hy_v3", hy_v3::spec),
    ("internlm2", internlm2::spec),
    ("jais", jais::spec),
    ("jais2", jais2::spec),
    ("jamba", jamba::spec),
    ("jina-bert-v2", jina_bert::v2),
    ("jina-bert-v3", jina_bert::v3),
    ("kimi-linear", kimi_linear::spec),
    ("laguna", laguna::spec),
    ("lfm2", lfm2::spec),
    ("lfm2moe", lfm2::moe),
    ("llama", llama::spec),
    ("llama-embed", llama_embed::spec),
    ("llama4", llama4::spec),
    ("maincoder", maincoder::spec),
    ("mamba", mamba::spec),
    ("mamba2", mamba::spec2),
    ("maple", maple::spec),
    ("mellum", mellum::spec),
    ("mimo2", mimo2::spec),
    ("minicpm", minicpm::spec),
    ("minicpm3", minicpm3::spec),
    ("minimax-01", minimax_01::spec),
    ("minimax-m2", minimax_m2::spec),
    ("minimax-m3", minimax_m3::spec),
    ("mistral3", mistral3::spec),
    ("mistral4", mistral4::spec),
    ("modern-bert", modern_bert::spec),
    ("mpt", mpt::spec),
    ("muse-glimmer", muse_glimmer::spec),
    ("nanbeige", nanbeige::spec),
    ("nemotron", nemotron::spec),
    ("nemotron_h", nemotron_h::spec),
    ("nemotron_h_moe", nemotron_h::spec),
    ("neo-bert", neo_bert::spec),
    ("nomic-bert", nomic_bert::spec),
    ("nomic-bert-moe", nomic_bert::moe),
    ("olmo", olmo::spec),
    ("olmo2", olmo2::spec),
    ("olmoe", olmoe::spec),
    ("openelm", openelm::spec),
    ("orion", orion::spec),
    ("paddleocr", paddleocr::spec),
    ("pangu-embedded", pangu::spec),
    ("phi2", phi2::spec),
    ("phi3", phi3::spec),
    ("phimoe", phimoe::spec),
    ("plamo", plamo::spec),
    ("plamo3", plamo3::spec),
    ("plm", plm::spec),
    ("pockettts", pockettts::spec),
    ("qwen", qwen::spec),
    ("qwen2", qwen2::spec),
    ("qwen2moe", qwen2moe::spec),
    ("qwen2vl", qwen2vl::spec),
    ("qwen3", qwen3::spec),
    ("qwen35", qwen3next::spec35),
    ("qwen35moe", qwen3next::spec35),
    ("qwen3moe", qwen3moe::spec),
    ("qwen3next", qwen3next::spec),
    ("qwen3tts", qwen3vl::spec),
    ("qwen3vl", qwen3vl::spec),
    ("qwen3vlmoe", qwen3vl::spec),
    ("refact", refact::spec),
    ("seed_oss", seed_oss::spec),
    ("smallthinker", smallthinker::spec),
    ("smollm3", smollm3::spec),
    ("spark2_5", spark2_5::spec),
    ("stablelm", stablelm::spec),
    ("starcoder", gpt2::spec),
    ("starcoder2", starcoder2::spec),
    ("talkie", talkie::spec),
    ("xverse", xverse::spec),
];

/// Checkpoints of Hugging Face, beside the descriptions of their architectures.
const CHECKPOINTS: &[&[Checkpoint]] = &[
    afmoe::HF,
    apertus::HF,
    arcee::HF,
    arctic::HF,
    baichuan::HF,
    bailingmoe2::HF,
    bailingmoe3::HF,
    bailingmoe::HF,
    bert::HF,
    bitnet::HF,
    bloom::HF,
    chatglm::HF,
    codeshell::HF,
    cohere2::HF,
    cohere2moe::HF,
    command_r::HF,
    dbrx::HF,
    deci::HF,
    deepseek2::HF,
    deepseek32::HF,
    deepseek::HF,
    dots1::HF,
    ernie4_5::HF,
    eurobert::HF,
    exaone4::HF,
    exaone::HF,
    exaone_moe::HF,
    falcon::HF,
    falcon_h1::HF,
    gemma2::HF,
    gemma3::HF,
    gemma3n::HF,
    gemma4::HF,
    gemma::HF,
    gemma_embedding::HF,
    glm4::HF,
    glm4moe::HF,
    glm_dsa::HF,
    gpt2::HF,
    gpt_oss::HF,
    gptneox::HF,
    granite::HF,
    granite_swa::HF,
    granitehybrid::HF,
    grok::HF,
    hrm_text::HF,
    hunyuan::HF,
    hy_v3::HF,
    internlm2::HF,
    jais::HF,
    jais2::HF,
    jamba::HF,
    jina_bert::HF,
    kimi_linear::HF,
    laguna::HF,
    lfm2::HF,
    llama4::HF,
    llama::HF,
    llama_embed::HF,
    maincoder::HF,
    mamba::HF,
    maple::HF,
    mellum::HF,
    mimo2::HF,
    minicpm3::HF,
    minicpm::HF,
    minimax_01::HF,
    minimax_m2::HF,
    minimax_m3::HF,
    mistral4::HF,
    mistral3::HF,
    modern_bert::HF,
    mpt::HF,
    nanbeige::HF,
    nemotron::HF,
    nemotron_h::HF,
    neo_bert::HF,
    nomic_bert::HF,
    olmo2::HF,
    olmo::HF,
    olmoe::HF,
    openelm::HF,
    orion::HF,
    paddleocr::HF,
    pangu::HF,
    phi2::HF,
    phi3::HF,
    plamo::HF,
    plamo3::HF,
    plm::HF,
    qwen::HF,
    qwen2::HF,
    qwen2moe::HF,
    qwen2vl::HF,
    qwen3::HF,
    qwen3moe::HF,
    qwen3next::HF,
    qwen3vl::HF,
    refact::HF,
    seed_oss::HF,
    smallthinker::HF,
    smollm3::HF,
    spark2_5::HF,
    stablelm::HF,
    starcoder2::HF,
    talkie::HF,
    xverse::HF,
];

/// All checkpoints that can be converted.
pub fn checkpoints() -> impl Iterator<Item = &'static Checkpoint> {
    CHECKPOINTS.iter().flat_map(|of_file| of_file.iter())
}

/// Classes of Hugging Face whose architecture runs, but whose checkpoints are not converted, and why.
pub const UNCONVERTED: &[(&str, &str)] = &[
    ("PhiMoEForCausalLM", "it weighs experts by SparseMixer, which has no form in GGUF"),
    ("PhimoeForCausalLM", "it weighs experts by SparseMixer, which has no form in GGUF"),
];

/// Architectures that are known and not described, and why.
const REFUSED: &[(&str, &str)] = &[
    ("arwkv7", RWKV),
    ("chameleon", "its queries and keys have norms of their own for pictures"),
    ("clip", "it sees pictures and writes no text"),
    ("cogvlm", "its layers have weights of their own for pictures"),
    ("deepseek2-ocr", "it reads pictures"),
    ("deepseek4", NOT_YET),
    ("dflash", DRAFT),
    ("dots3note", NOT_YET),
    ("dream", DIFFUSION),
    ("eagle3", DRAFT),
    ("gemma4-assistant", DRAFT),
    ("glm5-next", NOT_YET),
    ("gptj", NOT_YET),
    ("graniteswitch", NOT_YET),
    ("grovemoe", NOT_YET),
    ("hy_v4", "its layers are joined by hyper-connections"),
    ("kimi-k3", NOT_YET),
    ("llada", DIFFUSION),
    ("llada-moe", DIFFUSION),
    ("plamo2", "its state space is not described yet"),
    ("qwen4exp", NOT_YET),
    ("rnd1", DIFFUSION),
    ("rwkv6", RWKV),
    ("rwkv6qwen2", RWKV),
    ("rwkv7", RWKV),
    ("step35", NOT_YET),
    ("t5", ENCODER),
    ("t5encoder", ENCODER),
    ("wavtokenizer-dec", "it makes sounds, no text"),
];
const DIFFUSION: &str = "a diffusion model, which does not write from left to right";
const DRAFT: &str = "it drafts tokens for another model and is none by itself";
const ENCODER: &str = "its encoder is not described yet";
const NOT_YET: &str = "it is known and not described yet";
const RWKV: &str = "the time mixing of RWKV is not described yet";

/// The names of all architectures.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARCHS.iter().map(|row| row.0)
}

/// The description of the model that the metadata is of.
///
/// # Errors
/// No description has the architecture's name, or the metadata lack or contradict what it needs.
pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let row = ARCHS.iter().find(|row| row.0 == h.arch());
    let (_, describe) = row.ok_or_else(|| unknown(h.arch()))?;
    let spec = describe(h)?;
    h.finish(&spec)?;
    // Windows of other models end at the token, and recurrent layers cannot look ahead.
    let sees_ahead = |layer: &LayerSpec| match &layer.mixer {
        Mixer::None | Mixer::Mla(_) => true,
        Mixer::Attention(attention) => attention.window.is_none() || !spec.head.logits,
        _ => false,
    };
    if spec.bidirectional && !spec.layers.iter().all(sees_ahead) {
        return Err(h.bad("attention.causal", "is false, which this architecture cannot be"));
    }
    Ok(spec)
}

fn unknown(arch: &str) -> ModelError {
    match REFUSED.iter().find(|row| row.0 == arch) {
        Some((name, reason)) => {
            ModelError::bad_key("general.architecture", format!("is `{name}`: {reason}"))
        }
        None => ModelError::UnknownArchitecture(arch.into()),
    }
}
