//! Prefixes, cancelled steps and drafts that are taken back: whatever a sequence has been through,
//! what comes next is what it would be without.

use crate::changed;
use crate::decoder::{logits, model, options};
use crate::fixture_model::{self, Fixture};
use crate::measure::bits;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk, StepError, Stepper};
use teff::engine::{Engine, EngineOptions};
use teff::kv::{DRAFT_TOKENS_MAX, SeqId};
use teff_kernels::KernelTable;

/// Attention, with and without windows; recurrent states, with and without attention.
const NAMES: [&str; 6] = [
    "qwen3-dense",
    "gemma3-dense",
    "mamba-dense",
    "lfm2-dense",
    "qwen3next-moe",
    "falcon-h1-dense",
];

/// Tokens of the tests' texts: deep enough for windows to pass.
const N: usize = 200;

/// A text of [`N`] tokens.
fn text(tokens: &[u32]) -> Vec<u32> {
    (0..N).map(|i| tokens[(i * i + i / 48) % tokens.len()]).collect()
}

fn with(threads: usize, batch: usize) -> EngineOptions {
    changed(options(threads, batch), |o| o.n_ctx = Some(N + 8))
}

/// Feeds tokens in parts; gives the bits of the last one's logits.
fn feed(decoder: &mut Stepper<'_>, sequence: SeqId, tokens: &[u32], batch: usize) -> Vec<u32> {
    let mut last = Vec::new();
    for tokens in tokens.chunks(batch) {
        let run = SequenceChunk { sequence, tokens, outputs: Outputs::Last };
        last = bits(decoder.step(&[run]).unwrap());
    }
    last
}

#[test]
fn a_program_in_ranges_gives_the_same_bits() {
    for name in ["gemma3n-dense", "qwen3next-moe", "llama-moe"] {
        let Some(name) = fixture_model::names().into_iter().find(|known| known == name) else {
            panic!("no fixture {name}");
        };
        let Fixture { gguf, tokens, .. } = fixture_model::load(&name);
        let model = model(gguf);
        let expected = bits(&logits(&model, &tokens, &options(2, 48)));
        let options = DecoderOptions {
            threads: Some(2),
            cpus: None,
            max_batch: 48,
            max_outputs: 48,
            n_ctx: 64,
            kv_type: teff::backend::pages::KvType::F32,
            kv_bytes_max: usize::MAX,
            repack: true,
        };
        let kernels = KernelTable::detect();
        let mut decoder = Decoder::new(model.file(), model.spec(), kernels, &options).unwrap();
        for stride in [1, 3, 10] {
            let cuts: Vec<usize> = (1..decoder.program().ops.len()).step_by(stride).collect();
            decoder.cut_program(&cuts);
            let rows = decoder.lead(|decoder| {
                let sequence = decoder.kv_mut().create();
                let parts = tokens.chunks(20).flat_map(|tokens| {
                    let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                    bits(decoder.step(&[run]).unwrap())
                });
                parts.collect::<Vec<_>>()
            });
            assert!(rows == expected, "{name}, cut at each {stride}");
        }
    }
}

#[test]
fn a_known_prefix_is_not_computed_and_changes_no_bit() {
    for name in NAMES {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let has_states = name != "qwen3-dense" && name != "gemma3-dense";
        let tokens = text(&tokens);
        let alone = logits(&model, &tokens, &with(2, 48));
        let row = |n: usize| bits(&alone[(n - 1) * n_vocab..n * n_vocab]);
        let mut engine = Engine::new(&model, &with(2, 48)).unwrap();
        engine.lead(|decoder| {
            // A question that the answer is cut off from, and the start of another one.
            let (a, n) = decoder.kv_mut().match_prefix(&tokens);
            assert_eq!(n, 0);
            feed(decoder, a, &tokens[..150], 48);
            decoder.kv_mut().retain(a, &tokens);
            feed(decoder, a, &tokens[150..153], 1);
            decoder.kv_mut().remove(a);
            assert_eq!(decoder.kv().kv_bytes(), decoder.kv().cached_bytes());
            let (b, n) = decoder.kv_mut().match_prefix(&tokens[..N - 1]);
            // Whole pages, or where the states are known.
            assert_eq!(n, if has_states { 150 } else { 128 }, "{name}");
            assert!(feed(decoder, b, &tokens[n..], 48) == row(N), "{name}");
            let (c, n) = decoder.kv_mut().match_prefix(&tokens[..N - 1]);
            assert!(n > 0 && feed(decoder, c, &tokens[n..], 7) == row(N), "{name}: again");
            // What only the first 100 tokens share.
            let mut other = tokens.clone();
            other[100] = (other[100] + 1) % n_vocab as u32;
            let (d, n) = decoder.kv_mut().match_prefix(&other);
            assert!(n <= 100, "{name}");
            let expected = logits(&model, &other, &with(1, 48));
            let expected = bits(&expected[(N - 1) * n_vocab..]);
            assert!(feed(decoder, d, &other[n..], 48) == expected, "{name}: another text");
            [b, c, d].into_iter().for_each(|id| decoder.kv_mut().remove(id));
            let cached = decoder.kv().cached_bytes();
            assert!(cached > 0 && decoder.kv().kv_bytes() == cached);
            decoder.kv_mut().evict(usize::MAX);
            assert_eq!(decoder.kv().kv_bytes(), 0);
        });
    }
}

#[test]
fn a_cancelled_step_leaves_no_trace() {
    for name in NAMES {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let tokens = text(&tokens);
        let alone = logits(&model, &tokens, &with(2, 48));
        let row = |n: usize| bits(&alone[(n - 1) * n_vocab..n * n_vocab]);
        let mut engine = Engine::new(&model, &with(3, 64)).unwrap();
        engine.lead(|decoder| {
            let (now, never) = (AtomicBool::new(true), AtomicBool::new(false));
            let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
            for start in [0, 20, 41] {
                // Behind a part of a prompt, and behind a token of an answer.
                let runs = [
                    SequenceChunk {
                        sequence: a,
                        tokens: &tokens[start..start + 20],
                        outputs: Outputs::Last,
                    },
                    SequenceChunk {
                        sequence: b,
                        tokens: &tokens[start..start + 1],
                        outputs: Outputs::Last,
                    },
                ];
                if start > 0 {
                    decoder.kv_mut().remove(b);
                }
                let runs = if start > 0 { &runs[..1] } else { &runs[..] };
                let (bytes, len) = (decoder.kv().kv_bytes(), decoder.kv().len(a));
                let result = decoder.step_with_maxima(runs, Some(&now)).map(|_| ());
                assert_eq!(result, Err(StepError::Cancelled), "{name}");
                assert_eq!((decoder.kv().kv_bytes(), decoder.kv().len(a)), (bytes, len));
                let mut rows = decoder.step_with_maxima(runs, Some(&never)).unwrap();
                assert!(bits(rows.next().unwrap().values()) == row(start + 20), "{name}");
                if start == 20 {
                    assert!(feed(decoder, a, &tokens[40..41], 1) == row(41), "{name}");
                }
            }
            decoder.kv_mut().remove(a);
            assert_eq!(decoder.kv().kv_bytes(), 0);
        });
    }
}

/// At any moment, with any number of workers: all of them leave, or none.
#[test]
fn workers_agree_on_when_to_leave() {
    let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load("qwen3-dense");
    let model = model(gguf);
    let tokens = text(&tokens);
    let expected = bits(&logits(&model, &tokens, &with(1, N))[(N - 1) * n_vocab..]);
    let mut n_cancelled = 0;
    for threads in [1, 2, 4] {
        let mut engine = Engine::new(&model, &with(threads, N)).unwrap();
        for i in 0..60 {
            let cancel = AtomicBool::new(false);
            let result = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_micros(i * 50));
                    cancel.store(true, Ordering::Relaxed);
                });
                engine.lead(|decoder| {
                    let sequence = decoder.kv_mut().create();
                    let run = SequenceChunk { sequence, tokens: &tokens, outputs: Outputs::Last };
                    let rows = decoder.step_with_maxima(&[run], Some(&cancel));
                    let row = rows.map(|mut rows| bits(rows.next().unwrap().values()));
                    decoder.kv_mut().remove(sequence);
                    row
                })
            });
            match result {
                Ok(row) => assert!(row == expected, "{threads} threads"),
                Err(error) => {
                    assert_eq!(error, StepError::Cancelled);
                    n_cancelled += 1;
                }
            }
        }
    }
    assert!(n_cancelled > 0, "no step was cancelled");
}

#[test]
fn rejected_drafts_are_taken_back_at_every_position() {
    let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load("gemma3-dense");
    let model = model(gguf);
    let tokens = text(&tokens);
    let alone = logits(&model, &tokens, &with(2, 48));
    let mut engine = Engine::new(&model, &with(2, 48)).unwrap();
    engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        for len in 0..N - DRAFT_TOKENS_MAX {
            // One token that is right, and up to 15 that are not.
            let mut draft = vec![tokens[len]];
            draft.extend((0..len % DRAFT_TOKENS_MAX).map(|i| (i * 7 + len) as u32 % 50));
            let run = SequenceChunk { sequence, tokens: &draft, outputs: Outputs::First };
            let row = bits(decoder.step(&[run]).unwrap());
            assert!(row == bits(&alone[len * n_vocab..][..n_vocab]), "position {len}");
            assert!(decoder.kv_mut().truncate(sequence, len + 1), "position {len}");
        }
    });
}
