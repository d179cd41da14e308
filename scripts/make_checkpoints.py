#!/usr/bin/env python3
"""Make tiny Hugging Face folders with drawn weights, and what transformers computes of them.

    pip install torch transformers==5.24.0 numpy
    scripts/make_checkpoints.py OUT [NAME...]

A folder of OUT for each row of MODELS (or those named): config.json, model.safetensors in bfloat16, the
tokenizer of tests/golden/hf/mamba2, tokens.json, and logits.f32: transformers in float32, eager attention, of
the weights as they are stored. Folders of classifiers and rerankers have scores.f32 instead.
tests/it/convert*.rs reads what is kept of them in tests/golden/hf.
"""

import copy
import json
import pathlib
import shutil
import sys

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests" / "golden" / "hf" / "mamba2"
N_VOCAB, N_TOKENS = 384, 32

SMALL = dict(vocab_size=N_VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             bos_token_id=0, eos_token_id=0, pad_token_id=1, tie_word_embeddings=False)
EXPERTS = dict(moe_intermediate_size=32, num_experts_per_tok=2)


ENCODER = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
ENCODER |= dict(type_vocab_size=2)


def rope(theta, share=1.0):
    return dict(rope_type="default", rope_theta=theta, partial_rotary_factor=share)


SECTIONS = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3])
OF_HALF = SECTIONS | dict(mrope_section=[1, 1, 2], partial_rotary_factor=0.5)
SEES = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, depth=1, num_attention_heads=2,
            num_heads=2, image_size=28, patch_size=14, out_hidden_size=64)
HEARS = dict(d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, output_dim=64)


def with_text(entries=None, audio_config=None, **more):
    more |= entries or {}
    parts = dict(text_config=SMALL | more, vision_config=SEES, tie_word_embeddings=False)
    return parts | (dict(audio_config=audio_config) if audio_config else {})


# name: (class, class of the configuration, entries)
MODELS = {
    "cohere2-moe": ("Cohere2MoeForCausalLM", "Cohere2MoeConfig", SMALL | dict(
        num_hidden_layers=3, head_dim=16, intermediate_size=32, num_experts=4, num_experts_per_tok=2,
        num_shared_experts=1, first_k_dense_replace=1, prefix_dense_intermediate_size=96,
        sliding_window=8, sliding_window_pattern=2, expert_selection_fn="sigmoid", logit_scale=0.5,
        tie_word_embeddings=True)),
    "laguna": ("LagunaForCausalLM", "LagunaConfig", SMALL | EXPERTS | dict(
        num_hidden_layers=3, head_dim=16, num_experts=4, shared_expert_intermediate_size=48,
        sliding_window=8, layer_types=["full_attention", "sliding_attention", "full_attention"],
        num_attention_heads_per_layer=[4, 6, 4], moe_routed_scaling_factor=2.5,
        rope_parameters={"full_attention": rope(500000.0, 0.5),
                         "sliding_attention": rope(10000.0)})),
    "mimo2": ("MiMoV2FlashForCausalLM", "MiMoV2FlashConfig", SMALL | EXPERTS | dict(
        num_hidden_layers=3, head_dim=24, v_head_dim=16, n_routed_experts=4, sliding_window=8,
        attention_value_scale=0.707,
        layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "hrm-text": ("HrmTextForCausalLM", "HrmTextConfig", SMALL | dict(
        num_key_value_heads=4, head_dim=16, H_cycles=2, L_cycles=2, prefix_lm=False)),
    "minimax-m3": ("MiniMaxM3VLForCausalLM", "MiniMaxM3VLTextConfig", SMALL | dict(
        head_dim=16, rotary_dim=8, intermediate_size=32, dense_intermediate_size=96,
        shared_intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, index_n_heads=2,
        rope_parameters=rope(5e6, 0.5),
        index_head_dim=16, mlp_layer_types=["dense", "sparse"],
        layer_types=["full_attention", "minimax_m3_sparse"])),
    "granitemoe-swa": ("GraniteMoeSWAForCausalLM", "GraniteMoeSWAConfig", SMALL | dict(
        intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=48,
        sliding_window=8, num_hidden_layers=3, embedding_multiplier=3.0, logits_scaling=2.0,
        residual_multiplier=0.5, attention_multiplier=0.2)),
    "solar-open": ("SolarOpenForCausalLM", "SolarOpenConfig", SMALL | EXPERTS | dict(
        head_dim=16, n_routed_experts=4, n_shared_experts=1, routed_scaling_factor=2.0)),
    "bitnet-b1.58": ("BitNetForCausalLM", "BitNetConfig", SMALL | dict(tie_word_embeddings=True)),
    "bamba": ("BambaForCausalLM", "BambaConfig", SMALL | dict(
        num_hidden_layers=3, attn_layer_indices=[1], mamba_n_heads=8, mamba_n_groups=2,
        mamba_d_state=16, mamba_d_conv=4)),
    "paddleocr": ("PaddleOCRVLForConditionalGeneration", "PaddleOCRVLConfig", dict(
        text_config=SMALL | dict(head_dim=16, rope_parameters=dict(
            rope_type="default", rope_theta=5e5, mrope_section=[2, 3, 3])),
        vision_config=dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                           num_attention_heads=2, image_size=28),
        tie_word_embeddings=False)),
    "bert-classes": ("BertForSequenceClassification", "BertConfig", ENCODER | dict(
        id2label={0: "no", 1: "perhaps", 2: "yes"})),
    "xlm-roberta-classes": ("XLMRobertaForSequenceClassification", "XLMRobertaConfig", ENCODER | dict(
        max_position_embeddings=258, id2label={0: "a", 1: "b", 2: "c"}, type_vocab_size=1)),
    "modern-bert-classes": ("ModernBertForSequenceClassification", "ModernBertConfig", ENCODER | dict(
        num_hidden_layers=3, id2label={0: "a", 1: "b", 2: "c"}, classifier_pooling="mean", local_attention=16,
        global_attn_every_n_layers=2)),
    "qwen3-reranker": ("Qwen3ForCausalLM", "Qwen3Config", SMALL | dict(
        head_dim=16, tie_word_embeddings=True)),
    # Text parts of models that also see or hear.
    "glm4v": ("Glm4vForConditionalGeneration", "Glm4vConfig", with_text(
        head_dim=16, rope_parameters=OF_HALF)),
    "glm4v-moe": ("Glm4vMoeForConditionalGeneration", "Glm4vMoeConfig", with_text(
        EXPERTS | dict(head_dim=16, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1,
                       rope_parameters=OF_HALF))),
    "glm-ocr": ("GlmOcrForConditionalGeneration", "GlmOcrConfig", with_text(
        head_dim=16, rope_parameters=OF_HALF)),
    "exaone4.5": ("Exaone4_5_ForConditionalGeneration", "Exaone4_5_Config", with_text(
        model_type="exaone4", num_hidden_layers=4, head_dim=16, sliding_window=8, sliding_window_pattern=4)),
    "hunyuan-vl": ("HunYuanVLForConditionalGeneration", "HunYuanVLConfig", with_text(
        head_dim=16, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=1000.0,
                                          factor=1.0, mrope_section=[2, 2, 2, 2]))),
    "qwen3-omni": ("Qwen3OmniMoeThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerConfig", with_text(
        EXPERTS | dict(head_dim=16, num_experts=4, rope_parameters=SECTIONS), audio_config=HEARS)),
    "qwen2.5-omni": ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniThinkerConfig", with_text(
        rope_parameters=SECTIONS, audio_config=HEARS)),
    "smolvlm": ("SmolVLMForConditionalGeneration", "SmolVLMConfig", with_text(model_type="llama")),
    "llava": ("LlavaForConditionalGeneration", "LlavaConfig", with_text(model_type="qwen2")),
    "qwen2-audio": ("Qwen2AudioForConditionalGeneration", "Qwen2AudioConfig", with_text(
        model_type="qwen2", audio_config=HEARS)),
    "gemma3-text": ("Gemma3TextModel", "Gemma3TextConfig", SMALL | dict(
        head_dim=16, num_hidden_layers=3, sliding_window=8, use_bidirectional_attention=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        query_pre_attn_scalar=16)),
    "gemma3n": ("Gemma3nForCausalLM", "Gemma3nTextConfig", SMALL | dict(
        num_hidden_layers=5, head_dim=16, sliding_window=8, hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=N_VOCAB, num_kv_shared_layers=0, laurel_rank=8,
        intermediate_size=[96] * 5, activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0, 0.0],
        layer_types=["sliding_attention"] * 4 + ["full_attention"])),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", SMALL | dict(
        num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True)),
}


def draw(model, seed):
    """Weights that have every part say something, rounded to what is stored."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            normal = torch.randn(tensor.shape, generator=generator)
            if name.endswith("A_log"):
                drawn = torch.log(1 + 7 * torch.rand(tensor.shape, generator=generator))
            elif tensor.dim() < 2:
                drawn = normal * 0.2 + (1.0 if "norm" in name.lower() and "bias" not in name else 0.0)
            elif "embed" in name or "wte" in name:
                drawn = normal
            else:
                drawn = normal * 1.5 / tensor.shape[-1] ** 0.5
            tensor.copy_(drawn.to(torch.bfloat16).to(tensor.dtype))


def add_answers(folder):
    """Has the vocabulary say yes and no in place of what its last merges make; their ids."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    model = tokenizer["model"]
    ids = []
    for word in ["yes", "no"]:
        pair = model["merges"].pop()
        token = "".join(pair) if isinstance(pair, list) else pair.replace(" ", "")
        ids.append(model["vocab"].pop(token))
        model["vocab"][word] = ids[-1]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    library = tokenizers.Tokenizer.from_file(str(path))
    cases = json.loads((folder / "tokenizer_cases.json").read_text())
    for case in cases:
        case["ids"] = library.encode(case["text"], add_special_tokens=False).ids
        case["ids_special"] = library.encode(case["text"]).ids
    (folder / "tokenizer_cases.json").write_text(json.dumps(cases, ensure_ascii=False))
    return ids


def add_products(folder, result):
    """Puts two matrices behind the model as sentence-transformers does; what they make of a result."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling",
                    "type": "sentence_transformers.models.Pooling"})
    files = {"1_Pooling": {"pooling_mode_mean_tokens": True}}
    generator = np.random.default_rng(5)
    for number, rows in [(2, 96), (3, 64)]:
        path, columns = f"{number}_Dense", result.shape[1]
        weight = generator.standard_normal((rows, columns)).astype("f4") / columns ** 0.5
        modules.append({"idx": number, "name": str(number), "path": path,
                        "type": "sentence_transformers.models.Dense"})
        files[path] = {"in_features": columns, "out_features": rows, "bias": False,
                       "activation_function": "torch.nn.modules.linear.Identity"}
        (folder / path).mkdir()
        save_file({"linear.weight": weight}, folder / path / "model.safetensors")
        result = result @ weight.T
    for path, config in files.items():
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(modules))
    return result


def make(out, name):
    class_name, config_name, entries = MODELS[name]
    config = getattr(transformers, config_name)(**copy.deepcopy(entries))
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name)(config).eval()
    draw(model, sum(name.encode()))
    tokens = np.random.default_rng(7).integers(2, N_VOCAB - 2, N_TOKENS)
    with torch.no_grad():
        output = model(input_ids=torch.tensor(tokens)[None])
    is_encoder = not hasattr(output, "logits")
    result = (output.last_hidden_state if is_encoder else output.logits)[0].float().numpy()
    is_classifier = "Classification" in class_name
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in ["tokenizer.json", "tokenizer_config.json", "tokenizer_cases.json"]:
        shutil.copy(TOKENIZER / file, folder / file)
    if name == "gemma3-text":
        result = add_products(folder, result)
    if name == "qwen3-reranker":
        answers = add_answers(folder)
        last = np.exp(result[-1, answers] - result[-1, answers].max())
        result, is_classifier = last / last.sum(), True
    result.astype("<f4").tofile(folder / (
        "scores.f32" if is_classifier else "hidden.f32" if is_encoder else "logits.f32"))
    (folder / "tokens.json").write_text(json.dumps(
        {"tokens": tokens.tolist(), "n_vocab": int(result.shape[-1])}))
    print(name, "standard deviation of logits", float(result.std()), "bytes",
          sum(path.stat().st_size for path in folder.rglob("*")))


def main():
    out = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        make(out, name)


main()
