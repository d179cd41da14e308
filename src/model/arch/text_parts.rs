//! Classes around a text model of a class of its own: what sees or hears is left out, the rest is
//! converted as that class says.

/// Values of `architectures` in `config.json`. The text part's configuration names its class, or its
/// type.
pub const CLASSES: &[&str] = &[
    "AudioFlamingo3ForConditionalGeneration",
    "AyaVisionForConditionalGeneration",
    "Cohere2VisionForConditionalGeneration",
    "DeepseekVLForConditionalGeneration",
    "FastVlmForConditionalGeneration",
    "GotOcr2ForConditionalGeneration",
    "Granite4VisionForConditionalGeneration",
    "GraniteSpeechForConditionalGeneration",
    "GraniteSpeechPlusForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "InternVLChatModel",
    "InternVLForConditionalGeneration",
    "JanusForConditionalGeneration",
    "KimiK25ForConditionalGeneration",
    "KimiVLForConditionalGeneration",
    "Kimi_K25ForConditionalGeneration",
    "Lfm2VlForConditionalGeneration",
    "LightOnOCRForConditionalGeneration",
    "LightOnOcrForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "MusicFlamingoForConditionalGeneration",
    "Ovis2ForConditionalGeneration",
    "PerceptionLMForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration",
    "Sarashina2VisionForCausalLM",
    "SmolVLMForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "VoxtralForConditionalGeneration",
];

/// Classes of text parts that only have a `model_type`.
pub const TYPES: &[(&str, &str)] = &[
    ("cohere", "CohereForCausalLM"),
    ("cohere2", "Cohere2ForCausalLM"),
    ("deepseek_v2", "DeepseekV2ForCausalLM"),
    ("deepseek_v3", "DeepseekV3ForCausalLM"),
    ("gpt_oss", "GptOssForCausalLM"),
    ("granite", "GraniteForCausalLM"),
    ("lfm2", "Lfm2ForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
];

/// Beginnings of the names of a text part's tensors.
pub const ROOTS: &[&str] = &[
    "language_model.",
    "llm.",
    "lm_head.",
    "model.language_model.",
    "model.llm.",
    "model.text_model.",
    "text_model.",
];
