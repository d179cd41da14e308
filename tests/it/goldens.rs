//! A test for each tiny model of `tests/golden`, so that a failure names its model and models share
//! the cores. A filter chooses some: `cargo test --test it goldens::archs::llama`.
//!
//! A new fixture is one more name here, spelled with `_` for `-` and `.`.

/// A test of each name, and the list of them.
macro_rules! tests_of {
    ($names:path, $check:path, $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $check(&super::fixture_of($names(), stringify!($name)));
            }
        )*

        #[test]
        fn every_fixture_has_a_test() {
            super::compare_lists($names(), &[$(stringify!($name)),*]);
        }
    };
}

mod archs {
    tests_of! {
        crate::fixture_model::names, crate::decoder::check_fixture,
        afmoe_moe apertus_dense arcee_dense arctic_moe baichuan_dense bailingmoe2_moe
        bailingmoe2_shared bailingmoe3_clamped bailingmoe3_moe bailingmoe_moe bitnet_b1_58_dense
        bitnet_dense
        bloom_dense chatglm_dense codeshell_dense cohere2_dense cohere2moe_moe command_r_dense
        dbrx_moe deci_dense deepseek2_heads deepseek2_lite deepseek2_moe deepseek32_moe
        deepseek_moe dots1_moe ernie4_5_moe ernie4_5_moe_all exaone4_dense exaone_dense
        exaone_moe_moe falcon_dense falcon_h1_dense gemma2_dense gemma2_uncapped gemma3_dense
        gemma3n_dense gemma4_dense gemma4_moe gemma_dense glm4_dense glm4moe_moe glm_dsa_moe
        gpt2_dense gpt_oss_moe gptneox_dense granite_dense granite_moe granite_swa_dense
        granitehybrid_dense granitehybrid_moe granitemoe_dense granitemoe_moe grok_moe grok_yarn
        hrm_text_dense hrm_text_stacks hunyuan_dense_dense hunyuan_moe_moe hunyuan_vl_dense
        hy_v3_moe internlm2_dense jais2_dense jais_dense jamba_dense jamba_moe kimi_linear_heads
        kimi_linear_moe laguna_moe lfm2_dense lfm2moe_moe llama4_moe llama_dense
        llama_dense_linear llama_dense_plain llama_dense_yarn llama_moe maincoder_dense
        mamba2_dense mamba2_groups mamba_dense maple_moe mellum_moe mimo2_moe minicpm3_dense
        minicpm_dense minicpm_moe minimax_01_moe minimax_01_odd minimax_m2_moe minimax_m2_wide
        minimax_m3_moe mistral3_dense mistral3_long mistral3_moe mistral4_moe mpt_dense
        muse_glimmer_dense nanbeige_dense nemotron_dense nemotron_h_dense nemotron_h_moe_dense
        nemotron_h_moe_latent nemotron_h_moe_moe olmo2_dense olmo_dense olmoe_moe openelm_dense
        orion_dense paddleocr_moe pangu_embedded_dense pangu_embedded_freqs phi2_dense phi3_dense
        phi3_yarn phimoe_moe plamo3_dense plamo3_linear plamo3_longrope plamo_dense plm_dense
        pockettts_dense qwen2_dense qwen2moe_moe qwen2vl_dense qwen35_dense qwen35_draft
        qwen35_heads qwen35moe_moe qwen3_dense qwen3moe_moe qwen3next_heads qwen3next_moe
        qwen3next_second qwen3tts_dense qwen3vl_dense qwen3vlmoe_moe qwen_dense refact_dense
        seed_oss_dense smallthinker_four smallthinker_moe smollm3_dense spark2_5_dense
        stablelm_dense starcoder2_dense starcoder_dense talkie_dense xverse_dense
    }
}

mod embeddings {
    tests_of! {
        crate::fixture_model::embedding_names, crate::embeddings::check_fixture,
        bert eurobert gemma_embedding gemma_embedding_dense jina_bert_v2 jina_bert_v2_code
        jina_bert_v3 llama_embed modern_bert modern_bert_silu neo_bert nomic_bert nomic_bert_moe
        qwen2_encoder qwen3_last
    }
}

fn identifier(fixture: &str) -> String {
    fixture.replace(['-', '.'], "_")
}

/// The fixture whose test has this name.
fn fixture_of(names: Vec<String>, test: &str) -> String {
    let found = names.into_iter().find(|name| identifier(name) == test);
    found.unwrap_or_else(|| panic!("there is no fixture for the test `{test}`"))
}

fn compare_lists(names: Vec<String>, tests: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
    let untested: Vec<_> = names.iter().filter(|name| !tests.contains(&name.as_str())).collect();
    assert!(untested.is_empty(), "tests/it/goldens.rs has no test for {untested:?}");
    assert_eq!(names.len(), tests.len(), "a test of the list has no fixture of its own");
}
