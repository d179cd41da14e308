//! Fuzzes grammars and schemas: any text is refused, or it is followed for some tokens, and what ends is
//! what it says.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use teff::engine::grammar::{Grammar, Grammars};
use teff::sample::{SampleParams, SamplerChain};
use teff::text::Tokenizer;
use teff_kernels::BlockMax;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

static GRAMMARS: LazyLock<(Arc<Tokenizer>, Grammars)> = LazyLock::new(|| {
    let (model, _) = common::tiny_model(64);
    let tokenizer = Arc::new(model.tokenizer().expect("a vocabulary"));
    let grammars = Grammars::new(&tokenizer).expect("a vocabulary that ends answers");
    (tokenizer, grammars)
});

/// Tokens of an answer.
const N_TOKENS: usize = 24;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, text)) = data.split_first() else { return };
    let Ok(text) = String::from_utf8(text.to_vec()) else { return };
    let (is_json, grammar) = match kind % 4 {
        0 => (true, Grammar::JsonSchema(text)),
        1 => (false, Grammar::Gbnf(text)),
        2 => (false, Grammar::Regex(text)),
        _ => (false, Grammar::Lark(text)),
    };
    let (tokenizer, grammars) = &*GRAMMARS;
    let Ok(filter) = grammars.filter(&grammar) else { return };
    let mut params = SampleParams::default();
    (params.seed, params.top_k) = (u64::from(kind), 0);
    let mut chain = SamplerChain::with_first(params, vec![filter]).expect("defaults");
    let mut bytes = Vec::new();
    for _ in 0..N_TOKENS {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        // Nothing may be left, and the engine's limits may be reached.
        let Ok(token) = chain.sample(BlockMax::of(&mut logits, &mut Vec::new())) else { return };
        if tokenizer.is_end_of_generation(token) {
            if is_json {
                serde_json::from_slice::<serde_json::Value>(&bytes).expect("a document");
            }
            return;
        }
        chain.accept(token);
        bytes.extend(tokenizer.token_bytes(token));
    }
});
