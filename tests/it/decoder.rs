//! The decoder against the reference's logits, and against itself: any batching, any number of
//! threads and any reuse of a prefix gives the same bits.

use crate::changed;
use crate::fixture_model::{self, Fixture};
use crate::measure::{assert_finite, bits, nmse_max};
use crate::reference::model_error;
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use teff::backend::pages::KvType;
use teff::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use teff::engine::{Engine, EngineOptions, Model};
use teff::kv::KvError;
use teff_kernels::{KernelTable, Level, MAX_BLOCK};

/// Two F32 computations in another order differ only by rounding.
const NMSE_MAX: f64 = 1e-6;
/// The naive backend takes its sums in f64.
pub const NAIVE_NMSE_MAX: f64 = 1e-9;
/// But the reference looks GELU up in a table of halves, which shows where it is divided by factors
/// as small as 1e-4 (MPT), or decides scores that are not scaled down (Gemma 4): with such a table
/// the difference vanishes.
const NMSE_MAX_OF: &[(&str, f64)] =
    &[("gemma4-dense", 1e-5), ("gemma4-moe", 1e-5), ("mpt-dense", 2e-6)];

pub fn model(gguf: Vec<u8>) -> Model {
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Model::from_file(file, Path::new("test.gguf")).unwrap()
}

pub fn options(threads: usize, batch: usize) -> EngineOptions {
    let mut options = EngineOptions::default();
    options.threads = Some(threads);
    options.max_batch = batch;
    options.max_outputs = batch;
    options.kv_type = KvType::F32;
    options
}

/// Outputs at every position, all finite, fed `options.max_batch` tokens at a time.
pub fn logits(model: &Model, tokens: &[u32], options: &EngineOptions) -> Vec<f32> {
    let mut engine = Engine::new(model, options).unwrap();
    let logits: Vec<f32> = engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let chunks = tokens.chunks(options.max_batch).flat_map(|tokens| {
            let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
            decoder.step(&[run]).unwrap().to_vec()
        });
        chunks.collect()
    });
    assert_finite(&logits);
    logits
}

/// The fixture gives the reference's logits, and the same bits for all threads, batches and levels.
pub fn check_fixture(name: &str) {
    let Fixture { gguf, tokens, n_vocab, logits: truth } = fixture_model::load(name);
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    let model = Model::from_file(file, Path::new(name)).unwrap();
    // The reference was run with a context beyond the trained one, for which LongRoPE differs.
    let n_ctx = model.spec().n_ctx_max.unwrap_or(2 * model.spec().n_ctx_train);
    let options = |threads, batch| changed(options(threads, batch), |o| o.n_ctx = Some(n_ctx));
    let first = logits(&model, &tokens, &options(1, 1));
    let error = nmse_max(&first, &truth, n_vocab);
    let naive = model_error(&model, n_ctx, &tokens, &first);
    assert!(naive <= NAIVE_NMSE_MAX, "{name}: NMSE {naive:.2e} to the naive backend");
    let max = NMSE_MAX_OF.iter().find(|(of, _)| *of == name).map_or(NMSE_MAX, |&(_, max)| max);
    assert!(error <= max, "{name}: NMSE {error:.2e}");
    for (threads, batch) in [(1, 7), (2, 1), (2, 48), (4, 7), (3, 48), (1, 5)] {
        let other = logits(&model, &tokens, &options(threads, batch));
        assert!(bits(&other) == bits(&first), "{name}: {threads} threads, batches of {batch}");
    }
    let kernels = KernelTable::at_most(Level::Scalar);
    let scalar = logits(&model, &tokens, &changed(options(2, 48), |o| o.kernels = kernels));
    assert!(bits(&scalar) == bits(&first), "{name}: the scalar level");
}

#[test]
fn every_architecture_has_a_fixture() {
    let names = [fixture_model::names(), fixture_model::embedding_names()].concat();
    let described: HashSet<String> =
        names.iter().map(|name| fixture_model::architecture(name)).collect();
    for arch in teff::model::arch::names() {
        assert!(
            described.contains(arch),
            "no file in tests/golden/archs or embeddings is of architecture {arch}"
        );
    }
}

/// The fixture with its matrices in another type.
pub fn quantized(gguf: &[u8], ty: GgmlType) -> Vec<u8> {
    quantized_with(gguf, ty, |_, _| ())
}

/// [`quantized`] of rows that `change` has changed, given the part of the tensor that is before them.
fn quantized_with(gguf: &[u8], ty: GgmlType, change: impl Fn(f32, &mut [f32])) -> Vec<u8> {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    let kernels = KernelTable::at_most(Level::Scalar).types(ty).unwrap();
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        writer.add(key, value).unwrap();
    }
    let fits = |dims: &[u64]| dims.len() > 1 && dims[0].is_multiple_of(ty.block_len() as u64);
    for tensor in file.tensors() {
        let ty = if fits(&tensor.dims) { ty } else { tensor.ty };
        writer.declare(&tensor.name, ty, &tensor.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for tensor in file.tensors() {
        let bytes = file.data(tensor);
        if !fits(&tensor.dims) {
            data.write_tensor(bytes).unwrap();
            continue;
        }
        let mut values: Vec<f32> =
            bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let n = ty.bytes_of(values.len() as u64).unwrap() as usize;
        let mut blocks = vec![0; n];
        let cols = tensor.dims[0] as usize;
        let row_bytes = n / (values.len() / cols);
        let n_rows = values.len() / cols;
        for (r, row) in values.chunks_mut(cols).enumerate() {
            change(r as f32 / n_rows as f32, row);
        }
        for (row, blocks) in values.chunks(cols).zip(blocks.chunks_mut(row_bytes)) {
            kernels.quantize(row, None, blocks).unwrap();
        }
        data.write_tensor(&blocks).unwrap();
    }
    data.finish().unwrap()
}

#[test]
fn every_type_gives_the_same_bits_however_it_is_batched() {
    use GgmlType::*;
    let Fixture { gguf, tokens, n_vocab, logits: truth } = fixture_model::load("qwen3-dense");
    // How far a model of random weights strays with weights of this type.
    let types = [
        (F16, 1e-5),
        (BF16, 1e-3),
        (Q8_0, 2e-3),
        (Q6_K, 4e-3),
        (Q5_0, 0.02),
        (Q5_1, 0.02),
        (Q5_K, 0.02),
        (Q4_0, 0.06),
        (Q4_1, 0.06),
        (Q4_K, 0.06),
        (IQ4_NL, 0.06),
        (IQ4_XS, 0.06),
        (MXFP4, 0.1),
        (NVFP4, 0.1),
        (Q3_K, 0.25),
        (Q2_K, 0.8),
        (TQ1_0, 0.9),
        (TQ2_0, 0.9),
        (Q2_0, 0.9),
        (Q1_0, 0.9),
    ];
    for (ty, error_max) in types {
        let model = model(quantized(&gguf, ty));
        let first = logits(&model, &tokens, &options(1, 1));
        let error = nmse_max(&first, &truth, n_vocab);
        assert!(error <= error_max, "{ty}: NMSE {error:.2e}");
        for (threads, batch) in [(2, 3), (2, 7), (4, 48), (1, 17)] {
            let other = logits(&model, &tokens, &options(threads, batch));
            assert!(bits(&other) == bits(&first), "{ty}: {threads} threads, batches of {batch}");
        }
        let scalar = changed(options(2, 48), |o| o.kernels = KernelTable::at_most(Level::Scalar));
        let scalar = logits(&model, &tokens, &scalar);
        assert!(bits(&scalar) == bits(&first), "{ty}: the scalar level");
    }
}

/// The F32 fixture with whole numbers of `-bound..=bound` for weights, as elements of a type.
fn whole_numbers(gguf: &[u8], ty: GgmlType, bound: f32, element: fn(f32) -> Vec<u8>) -> Vec<u8> {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        writer.add(key, value).unwrap();
    }
    for tensor in file.tensors() {
        writer.declare(&tensor.name, ty, &tensor.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for tensor in file.tensors() {
        let numbers = file.data(tensor).as_chunks().0.iter();
        let numbers = numbers.map(|&x| (f32::from_le_bytes(x) * bound).clamp(-bound, bound));
        let bytes: Vec<u8> = numbers.flat_map(|x| element(x.round())).collect();
        data.write_tensor(&bytes).unwrap();
    }
    data.finish().unwrap()
}

#[test]
fn plain_numbers_without_kernels_are_what_they_are_in_f32() {
    let Fixture { gguf, tokens, .. } = fixture_model::load("llama-moe");
    let of = |ty, element| {
        let gguf = whole_numbers(&gguf, ty, 100.0, element);
        bits(&logits(&model(gguf), &tokens, &options(2, 48)))
    };
    let f32s = of(GgmlType::F32, |x| x.to_le_bytes().to_vec());
    assert!(f32s.iter().any(|&x| x != f32s[0]));
    assert!(f32s == of(GgmlType::F64, |x| f64::from(x).to_le_bytes().to_vec()), "F64");
    assert!(f32s == of(GgmlType::I8, |x| (x as i8).to_le_bytes().to_vec()), "I8");
    assert!(f32s == of(GgmlType::I16, |x| (x as i16).to_le_bytes().to_vec()), "I16");
    assert!(f32s == of(GgmlType::I32, |x| (x as i32).to_le_bytes().to_vec()), "I32");
    assert!(f32s == of(GgmlType::I64, |x| (x as i64).to_le_bytes().to_vec()), "I64");
}

#[test]
fn interleaving_the_weights_changes_no_bit() {
    use GgmlType::*;
    let detected = KernelTable::detect();
    for name in ["qwen3-dense", "llama-moe"] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        let k_quants = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K];
        let small = [TQ1_0, TQ2_0, Q1_0, Q2_0, NVFP4];
        for ty in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0].into_iter().chain(k_quants).chain(small) {
            let model = model(quantized(&gguf, ty));
            let plain = changed(options(2, 48), |o| o.repack = false);
            let native = bits(&logits(&model, &tokens, &plain));
            let mut engine = Engine::new(&model, &options(2, 48)).unwrap();
            engine.lead(|decoder| {
                assert_eq!(decoder.repacked_bytes()[0], 0);
                for batch in [1, 2, 7, 8, 9, 12, 13, 48] {
                    let sequence = decoder.kv_mut().create();
                    let chunks = tokens.chunks(batch).flat_map(|tokens| {
                        let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                        bits(decoder.step(&[run]).unwrap())
                    });
                    let interleaved: Vec<u32> = chunks.collect();
                    assert!(interleaved == native, "{name} {ty} in batches of {batch}");
                    decoder.kv_mut().remove(sequence);
                }
                let [done, all] = decoder.repacked_bytes();
                let lanes = detected.types(ty).and_then(|kernels| kernels.lanes());
                assert!(
                    done == all && (all > 0) == lanes.is_some(),
                    "{name} {ty}: {done} of {all}"
                );
            });
        }
    }
}

/// Two of every four neighbours, or half of the columns, some of them side by side.
fn prune(fours: bool, row: &mut [f32]) {
    for (i, four) in row.chunks_mut(4).enumerate() {
        match (fours, i % 4) {
            (true, i) => (four[i], four[(i + 1 + i % 2) % 4]) = (0.0, 0.0),
            (false, 0) => four.fill(0.0),
            (false, 1) => {}
            (false, i) => (four[i % 2], four[3]) = (0.0, 0.0),
        }
    }
}

#[test]
fn weights_without_their_zeros_change_no_bit() {
    let detected = KernelTable::detect();
    let mut shrunk = 0;
    for name in ["qwen3-dense", "llama-moe"] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        for ty in [GgmlType::Q8_0, GgmlType::Q4_0] {
            for (fours, unfit) in [(true, false), (true, true), (false, false), (false, true)] {
                // A row that is not among those that are tried stays as it is.
                let pruned = quantized_with(&gguf, ty, |part, row| {
                    if !unfit || !(0.74..0.76).contains(&part) {
                        prune(fours, row);
                    }
                });
                let model = model(pruned);
                let plain = changed(options(2, 48), |o| o.repack = false);
                let native = bits(&logits(&model, &tokens, &plain));
                let mut engine = Engine::new(&model, &options(2, 48)).unwrap();
                let repacked = engine.lead(|decoder| {
                    let planned = decoder.repacked_bytes()[1];
                    for batch in [1, 2, 9, 13, 48] {
                        let sequence = decoder.kv_mut().create();
                        let chunks = tokens.chunks(batch).flat_map(|tokens| {
                            let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                            bits(decoder.step(&[run]).unwrap())
                        });
                        let repacked: Vec<u32> = chunks.collect();
                        let what = format!("{name} {ty} {fours} {unfit} in batches of {batch}");
                        assert!(repacked == native, "{what}");
                        decoder.kv_mut().remove(sequence);
                    }
                    let [done, all] = decoder.repacked_bytes();
                    assert!(done == all && all <= planned, "{name} {ty}: {done} of {all}");
                    shrunk += usize::from(all < planned);
                    planned
                });
                let mut dense =
                    Engine::new(&self::model(quantized(&gguf, ty)), &options(2, 48)).unwrap();
                let dense = dense.lead(|decoder| decoder.repacked_bytes()[1]);
                let has_form = detected.sparse(ty).count() > usize::from(!fours);
                assert_eq!(
                    repacked < dense,
                    has_form,
                    "{name} {ty} {fours}: {repacked} of {dense}"
                );
            }
        }
    }
    let has_forms = detected.sparse(GgmlType::Q8_0).count() > 0;
    assert_eq!(shrunk > 0, has_forms, "rows that do not fit are found while weights are repacked");
}

#[test]
fn sequences_in_one_batch_and_forks_do_not_touch_each_other() {
    for name in ["gemma3-dense", "llama-moe"] {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let alone = logits(&model, &tokens, &options(2, 48));
        let mut other: Vec<u32> = tokens.clone();
        other.reverse();
        let other_alone = logits(&model, &other, &options(2, 48));
        let mut engine = Engine::new(&model, &options(2, 48)).unwrap();
        engine.lead(|decoder| {
            let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
            for (ta, tb) in tokens.chunks(12).zip(other.chunks(12)) {
                let runs = [
                    SequenceChunk { sequence: a, tokens: ta, outputs: Outputs::All },
                    SequenceChunk { sequence: b, tokens: tb, outputs: Outputs::Last },
                ];
                let end = decoder.kv().len(a) + 12;
                let rows = decoder.step(&runs).unwrap();
                assert_eq!(rows.len(), 13 * n_vocab);
                let expected = &alone[(end - 12) * n_vocab..end * n_vocab];
                assert!(bits(&rows[..12 * n_vocab]) == bits(expected), "{name}");
                let expected = &other_alone[(end - 1) * n_vocab..end * n_vocab];
                assert!(bits(&rows[12 * n_vocab..]) == bits(expected), "{name}");
            }
            // A fork at 40 goes its own way; its parent's pages stay as they were.
            let fork = decoder.kv_mut().fork(a, 40).unwrap();
            let step = |decoder: &mut Stepper<'_>, sequence, tokens: &[u32]| {
                let run = SequenceChunk { sequence, tokens, outputs: Outputs::Last };
                bits(decoder.step(&[run]).unwrap())
            };
            let forked = step(decoder, fork, &tokens[40..]);
            assert!(forked == bits(&alone[47 * n_vocab..]), "{name}");
            assert!(decoder.kv_mut().truncate(a, 44));
            let again = step(decoder, a, &tokens[44..]);
            assert!(again == bits(&alone[47 * n_vocab..]), "{name}");
            decoder.kv_mut().remove(a);
            decoder.kv_mut().remove(fork);
            decoder.kv_mut().remove(b);
            assert_eq!(decoder.kv().kv_bytes(), 0);
        });
    }
}

/// Recurrent states cannot be cut: a sequence goes back to where a copy of them was kept, which is
/// the end of each step of several tokens, or it says that it cannot.
#[test]
fn recurrent_states_are_forked_and_cut_where_they_are_known() {
    for name in ["mamba-dense", "falcon-h1-dense", "lfm2-dense", "qwen3next-moe", "kimi-linear-moe"]
    {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let alone = logits(&model, &tokens, &options(2, 48));
        let row = |n: usize| bits(&alone[(n - 1) * n_vocab..n * n_vocab]);
        let mut other = tokens.clone();
        other.reverse();
        let other_alone = logits(&model, &other, &options(2, 48));
        let mut engine = Engine::new(&model, &options(2, 48)).unwrap();
        engine.lead(|decoder| {
            let step = |decoder: &mut Stepper<'_>, sequence, tokens: &[u32]| {
                let run = SequenceChunk { sequence, tokens, outputs: Outputs::Last };
                bits(decoder.step(&[run]).unwrap())
            };
            let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
            let runs = [
                SequenceChunk { sequence: a, tokens: &tokens[..20], outputs: Outputs::Last },
                SequenceChunk { sequence: b, tokens: &other[..20], outputs: Outputs::Last },
            ];
            let rows = bits(decoder.step(&runs).unwrap());
            let other_row = bits(&other_alone[19 * n_vocab..20 * n_vocab]);
            assert!(rows == [row(20), other_row].concat(), "{name}: two sequences");
            for n in 21..=25 {
                assert!(step(decoder, a, &tokens[n - 1..n]) == row(n), "{name}: token {n}");
            }
            let known = decoder.kv().kv_bytes();
            assert!(decoder.kv_mut().fork(a, 23).is_none() && !decoder.kv_mut().truncate(a, 23));
            assert_eq!((decoder.kv().len(a), decoder.kv().kv_bytes()), (25, known));
            // At its end, at the end of the prompt, and from nothing.
            for n in [25, 20, 0] {
                let fork = decoder.kv_mut().fork(a, n).unwrap();
                assert!(step(decoder, fork, &tokens[n..]) == row(48), "{name}: a fork at {n}");
                decoder.kv_mut().remove(fork);
            }
            assert!(step(decoder, a, &tokens[25..30]) == row(30), "{name}: untouched by forks");
            for n in [20, 0] {
                assert!(decoder.kv_mut().truncate(a, n));
                assert!(step(decoder, a, &tokens[n..]) == row(48), "{name}: cut at {n}");
            }
            decoder.kv_mut().remove(a);
            decoder.kv_mut().remove(b);
            assert_eq!(decoder.kv().kv_bytes(), 0);
        });
    }
}

/// Heads with soft caps, factors and biases, vocabularies that are no whole number of blocks.
#[test]
fn maxima_of_a_step_are_those_of_its_logits() {
    for name in ["gemma2-dense", "command-r-dense", "grok-yarn", "qwen3tts-dense"] {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        for (threads, batch) in [(1, 1), (3, 2), (4, 8), (2, 48)] {
            let expected = logits(&model, &tokens, &options(threads, batch));
            let mut expected = expected.chunks(n_vocab);
            let mut engine = Engine::new(&model, &options(threads, batch)).unwrap();
            engine.lead(|decoder| {
                let sequence = decoder.kv_mut().create();
                for tokens in tokens.chunks(batch) {
                    let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                    let rows = decoder.step_with_maxima(&[run], None).unwrap();
                    let mut n_rows = 0;
                    for row in rows {
                        assert!(bits(row.values()) == bits(expected.next().unwrap()), "{name}");
                        let max = |x: &[f32]| x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        let maxima = row.values().chunks(MAX_BLOCK).map(max);
                        assert!(
                            row.bounds().iter().copied().eq(maxima),
                            "{name}: {threads} threads"
                        );
                        n_rows += 1;
                    }
                    assert_eq!(n_rows, tokens.len());
                }
            });
            assert!(expected.next().is_none());
        }
    }
}

/// Deep enough for several of attention's chunks and, in gemma3, for windows that begin in the
/// middle of one.
#[test]
fn every_kv_type_gives_the_same_bits_at_depth_however_it_is_batched() {
    const N: usize = 330;
    // Into the second chunk: the scalar level takes its time.
    const N_SCALAR: usize = 140;
    for name in ["gemma3-dense", "qwen3-dense"] {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let tokens: Vec<u32> = (0..N).map(|i| tokens[(i * i + i / 48) % tokens.len()]).collect();
        for kv_type in KvType::ALL {
            let with = |threads, batch| {
                let mut options = options(threads, batch);
                options.kv_type = kv_type;
                options.n_ctx = Some(N);
                options
            };
            let first = logits(&model, &tokens, &with(1, N));
            for (threads, batch) in [(2, 1), (2, 5), (4, 21), (3, 150)] {
                let other = logits(&model, &tokens, &with(threads, batch));
                let what = format!("{name}, {kv_type}: {threads} threads, batches of {batch}");
                assert!(bits(&other) == bits(&first), "{what}");
            }
            let scalar = changed(with(2, 64), |o| o.kernels = KernelTable::at_most(Level::Scalar));
            let scalar = logits(&model, &tokens[..N_SCALAR], &scalar);
            let begin = bits(&first[..N_SCALAR * n_vocab]);
            assert!(bits(&scalar) == begin, "{name}, {kv_type}: the scalar level");
            // A fork goes on as if it had been there from the start; several sequences and the last
            // logits alone change nothing.
            let mut engine = Engine::new(&model, &with(4, N)).unwrap();
            engine.lead(|decoder| {
                let a = decoder.kv_mut().create();
                let run =
                    SequenceChunk { sequence: a, tokens: &tokens[..290], outputs: Outputs::Last };
                decoder.step(&[run]).unwrap();
                let b = decoder.kv_mut().fork(a, 290).unwrap();
                let runs = [
                    SequenceChunk { sequence: a, tokens: &tokens[290..], outputs: Outputs::Last },
                    SequenceChunk {
                        sequence: b,
                        tokens: &tokens[290..300],
                        outputs: Outputs::Last,
                    },
                ];
                let rows = bits(decoder.step(&runs).unwrap());
                let row = |n: usize| bits(&first[(n - 1) * n_vocab..n * n_vocab]);
                assert!(rows == [row(N), row(300)].concat(), "{name}, {kv_type}: a fork");
            });
        }
    }
}

#[test]
fn keys_and_values_stay_as_close_as_their_type_allows() {
    let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load("qwen3-dense");
    let model = model(gguf);
    let options = |kv_type| changed(options(2, 48), |o| o.kv_type = kv_type);
    let with = |kv_type| logits(&model, &tokens, &options(kv_type));
    let single = with(KvType::F32);
    for (kv_type, error_max) in [(KvType::F16, 1e-6), (KvType::Q8_0, 1e-3), (KvType::Q4_0, 0.1)] {
        let error = nmse_max(&with(kv_type), &single, n_vocab);
        assert!(error > 0.0 && error < error_max, "{kv_type}: NMSE {error:.2e}");
    }
}

#[test]
fn refused_steps_change_nothing() {
    let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load("llama-dense-plain");
    let options = changed(options(2, 48), |o| o.n_ctx = Some(40));
    let mut engine = Engine::new(&model(gguf), &options).unwrap();
    engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let run = |tokens| SequenceChunk { sequence, tokens, outputs: Outputs::Last };
        let large = StepError::BatchTooLarge { max_batch: 40, max_outputs: 40 };
        assert_eq!(decoder.step(&[run(&tokens)]).unwrap_err(), large);
        let bad = StepError::TokenId { id: n_vocab as u32, n_vocab };
        let beyond = [1, n_vocab as u32];
        assert_eq!(decoder.step(&[run(&beyond)]).unwrap_err(), bad);
        let twice = [run(&[1]), run(&[2])];
        assert_eq!(decoder.step(&twice).unwrap_err(), StepError::SequenceTwice);
        assert_eq!(decoder.kv().kv_bytes(), 0);
        let first = bits(decoder.step(&[run(&tokens[..40])]).unwrap());
        let full = StepError::Kv(KvError::ContextFull { n_ctx: 40 });
        assert_eq!(decoder.step(&[run(&[1])]).unwrap_err(), full);
        assert!(decoder.kv_mut().truncate(sequence, 39));
        assert_eq!(bits(decoder.step(&[run(&tokens[39..40])]).unwrap()), first);
    });
}
