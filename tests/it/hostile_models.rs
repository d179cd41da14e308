//! Files that are GGUF but hardly models: loading ends in an error or in a model that computes,
//! never in a panic. (What is not even GGUF is the reader's own business, see its tests.)

use crate::fixture_model;
use gguf_rs_lite::GgufFile;
use std::path::Path;
use std::sync::Arc;
use teff::backend::pages::KvType;
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk};
use teff::engine::Model;
use teff_kernels::KernelTable;

/// Loads the bytes as far as they go and feeds two tokens. Says whether it came that far.
fn try_model(bytes: Vec<u8>) -> bool {
    let Ok(file) = GgufFile::from_bytes(bytes) else { return false };
    let Ok(model) = Model::from_file(Arc::new(file), Path::new("hostile.gguf")) else {
        return false;
    };
    let options = DecoderOptions {
        threads: Some(1),
        cpus: None,
        max_batch: 2,
        max_outputs: 1,
        n_ctx: 8,
        kv_type: KvType::F16,
        kv_bytes_max: 1 << 20,
        repack: true,
    };
    let kernels = KernelTable::detect();
    let Ok(mut decoder) = Decoder::new(model.file(), model.spec(), kernels, &options) else {
        return false;
    };
    let (n_vocab, n_out) = (decoder.n_vocab(), decoder.n_out());
    decoder.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let tokens = [0, (n_vocab - 1) as u32];
        let run = SequenceChunk { sequence, tokens: &tokens, outputs: Outputs::Last };
        decoder.step(&[run]).is_ok_and(|row| row.len() == n_out)
    })
}

/// Where the tensors' data begins: the names, types and shapes lie before it.
fn header_len(gguf: &[u8]) -> usize {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    file.tensors().iter().map(|tensor| tensor.offset).min().unwrap() as usize
}

#[test]
fn a_flipped_byte_of_a_header_is_an_error_or_a_model() {
    let of = |name: &str| (name.to_string(), fixture_model::load(name).gguf);
    let bert = fixture_model::load_embedding("bert").0.gguf;
    for (name, gguf) in [of("gemma3-dense"), of("llama-moe"), ("bert".into(), bert)] {
        assert!(try_model(gguf.clone()), "{name} itself");
        let header = header_len(&gguf);
        let mut loaded = 0;
        let mut tried = 0;
        // Every byte once, its flip chosen by its place: another bit, all bits, or a small step.
        for at in 0..header {
            let flip = [0x01, 0xff, 0x80, 0x04, 0x20, 0x7f][at % 6];
            let mut bytes = gguf.clone();
            bytes[at] ^= flip;
            loaded += usize::from(try_model(bytes));
            tried += 1;
        }
        // Both ends happen, or the test tests nothing.
        assert!(loaded > tried / 100 && loaded < tried / 2, "{name}: {loaded} of {tried} loaded");
    }
}

#[test]
fn weights_of_any_bits_compute() {
    let gguf = fixture_model::load("qwen3-dense").gguf;
    let header = header_len(&gguf);
    for fill in [0x00, 0xff, 0x7f, 0x80] {
        let mut bytes = gguf.clone();
        bytes[header..].fill(fill);
        assert!(try_model(bytes), "weights of {fill:#x}");
    }
}

#[test]
fn the_longest_rows_that_metadata_may_name_compute() {
    // With 16 rows interleaved the first has cells of 2^22 bytes and some; the second, the longest
    // that is allowed, also with eight tokens in a panel.
    for (n_ff, n_tokens) in [(246_752, 1), (1 << 19, 16)] {
        let file = GgufFile::from_bytes(fixture_model::wide_llama(n_ff)).unwrap();
        let model = Model::from_file(Arc::new(file), Path::new("wide.gguf")).unwrap();
        let logits = [1, 2].map(|n_threads| {
            let options = DecoderOptions {
                threads: Some(n_threads),
                cpus: None,
                max_batch: 16,
                max_outputs: 1,
                n_ctx: 64,
                kv_type: KvType::F16,
                kv_bytes_max: 1 << 24,
                repack: true,
            };
            let kernels = KernelTable::detect();
            let mut decoder = Decoder::new(model.file(), model.spec(), kernels, &options).unwrap();
            decoder.lead(|decoder| {
                let sequence = decoder.kv_mut().create();
                let prompt: Vec<u32> = (0..n_tokens).map(|i| i % 8).collect();
                // One token after the prompt: the prompt may have interleaved the weights.
                for tokens in [&prompt[..], &[3]] {
                    let run = SequenceChunk { sequence, tokens, outputs: Outputs::Last };
                    decoder.step(&[run]).unwrap();
                }
                let run = SequenceChunk { sequence, tokens: &[5], outputs: Outputs::Last };
                decoder.step(&[run]).unwrap().to_vec()
            })
        });
        assert!(logits[0].iter().all(|x| x.is_finite()), "{logits:?}");
        assert_eq!(logits[0], logits[1]);
    }
    let file = GgufFile::from_bytes(fixture_model::wide_llama((1 << 19) + 32)).unwrap();
    let error = Model::from_file(Arc::new(file), Path::new("wide.gguf")).err().unwrap();
    assert!(error.to_string().contains("llama.feed_forward_length"), "{error}");
}
