//! Models with none, one, half and all of their layers on a GPU: against their references and the CPU, and
//! what goes to and fro.

use crate::decoder::{model, options};
use crate::fixture_model::{self, Fixture};
use crate::folder::Folder;
use crate::gpu::{adapter, noting, placement, silent};
use crate::measure::nmse_max;
use crate::real_models::cached;
use std::ops::Range;
use teff::backend::gpu::unsupported;
use teff::backend::pages::KvType;
use teff::backend::{
    self, BackendOptions, GpuLayers, OffloadSizes, Placement, Plan, ShaderChoice, Side, Transfers,
    WeightSource, start_placed,
};
use teff::decoder::{Outputs, SequenceChunk};
use teff::engine::{Engine, EngineOptions, Model};

/// Logits of a model with layers on the GPU.
fn logits(
    model: &Model,
    tokens: &[u32],
    options: &EngineOptions,
    layers: GpuLayers,
    plain: bool,
) -> Vec<f32> {
    let shaders = if plain { ShaderChoice::Plain } else { ShaderChoice::Best };
    let placement = Placement { layers, adapter: adapter(), shaders, ..Placement::default() };
    logits_of(&mut engine(model, options, &placement), tokens, options)
}

fn engine(model: &Model, options: &EngineOptions, placement: &Placement) -> Engine {
    let start =
        |program, options: &BackendOptions| start_placed(program, options, placement, &silent());
    Engine::on(model, options, &start).unwrap()
}

/// Logits of all tokens.
fn logits_of(engine: &mut Engine, tokens: &[u32], options: &EngineOptions) -> Vec<f32> {
    engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let chunks = tokens.chunks(options.max_batch).flat_map(|tokens| {
            let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
            decoder.step(&[run]).unwrap().to_vec()
        });
        chunks.collect()
    })
}

/// Fixtures of the families that run whole on a GPU.
const FAMILIES: [&str; 18] = [
    "llama-dense",
    "llama-moe",
    "llama-dense-yarn",
    "qwen2-dense",
    "qwen3-dense",
    "qwen3moe-moe",
    "gemma2-dense",
    "gemma3-dense",
    "phi3-dense",
    "smollm3-dense",
    "granite-dense",
    "glm4-dense",
    "olmo2-dense",
    "starcoder2-dense",
    "gpt-oss-moe",
    "stablelm-dense",
    "internlm2-dense",
    "gemma3n-dense",
];

#[test]
fn families_are_the_references_wherever_their_layers_are() {
    if adapter().is_none() {
        return;
    }
    for name in FAMILIES {
        let Fixture { gguf, tokens, n_vocab, logits: truth } = fixture_model::load(name);
        let model = model(gguf);
        let n_ctx = model.spec().n_ctx_max.unwrap_or(2 * model.spec().n_ctx_train);
        let n_layers = model.spec().layers.len();
        for (layers, batch, plain) in [
            (GpuLayers::Count(1), 7, false),
            (GpuLayers::Count(n_layers.div_ceil(2)), 48, false),
            (GpuLayers::Count(n_layers.div_ceil(2)), 7, true),
            (GpuLayers::All, 1, false),
            (GpuLayers::All, 48, true),
        ] {
            let options = crate::changed(options(2, batch), |o| o.n_ctx = Some(n_ctx));
            let ours = logits(&model, &tokens, &options, layers, plain);
            let error = nmse_max(&ours, &truth, n_vocab);
            assert!(error <= 1e-6, "{name}, {layers:?}, batches of {batch}: NMSE {error:.2e}");
        }
    }
}

/// The CPU's results with the same cache: codes of eight bits on both sides.
#[test]
fn families_with_a_cache_of_eight_bits_are_the_cpus() {
    if adapter().is_none() {
        return;
    }
    for name in FAMILIES {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let model = model(gguf);
        let n_layers = model.spec().layers.len();
        let options = |batch| {
            let n_ctx = model.spec().n_ctx_max.unwrap_or(2 * model.spec().n_ctx_train);
            crate::changed(options(2, batch), |o| {
                o.n_ctx = Some(n_ctx);
                o.kv_type = KvType::Q8_0;
            })
        };
        let truth = logits(&model, &tokens, &options(48), GpuLayers::None, false);
        for (layers, batch, plain) in [
            (GpuLayers::Count(n_layers.div_ceil(2)), 7, false),
            (GpuLayers::All, 1, true),
            (GpuLayers::All, 48, false),
        ] {
            let ours = logits(&model, &tokens, &options(batch), layers, plain);
            let error = nmse_max(&ours, &truth, n_vocab);
            assert!(error <= 1e-4, "{name}, {layers:?}, batches of {batch}: NMSE {error:.2e}");
        }
    }
}

/// Pages of one place as the other stores them, byte for byte, and what follows from them.
#[test]
fn pages_move_between_the_places() {
    let Some(on_gpu) = placement(GpuLayers::All) else { return };
    let on_cpu = Placement::default();
    for (name, kv_type, bar) in [
        ("llama-dense", KvType::F32, 1e-6),
        ("gemma3-dense", KvType::F16, 1e-6),
        ("gemma3-dense", KvType::Q8_0, 1e-4),
        ("gpt-oss-moe", KvType::Q8_0, 1e-4),
    ] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        let model = model(gguf);
        let options = crate::changed(options(1, 40), |o| {
            o.n_ctx = Some(128);
            o.kv_type = kv_type;
        });
        let text: Vec<u32> = tokens.iter().cycle().take(70).copied().collect();
        for (from, to) in [(&on_cpu, &on_gpu), (&on_gpu, &on_cpu)] {
            let engine = |placement| engine(&model, &options, placement);
            let last =
                |sequence, tokens| SequenceChunk { sequence, tokens, outputs: Outputs::Last };
            let (kept, truth) = engine(from).lead(|decoder| {
                let sequence = decoder.kv_mut().create();
                decoder.step(&[last(sequence, &text[..40])]).unwrap();
                decoder.step(&[last(sequence, &text[40..65])]).unwrap();
                decoder.kv_mut().retain(sequence, &text);
                let kept = decoder.read_kept(&text, None, usize::MAX).unwrap();
                (kept, decoder.step(&[last(sequence, &text[65..])]).unwrap().to_vec())
            });
            assert!(kept.len() >= 2, "{name}");
            engine(to).lead(|decoder| {
                let since = decoder.kv_mut().begin_put();
                assert_eq!(decoder.put_kept(&text, since, &kept).unwrap(), kept.len());
                assert_eq!(decoder.read_kept(&text, None, usize::MAX).unwrap(), kept, "{name}");
                let (sequence, n) = decoder.kv_mut().match_prefix(&text[..65]);
                assert_eq!(n, 64, "{name}");
                let ours = decoder.step(&[last(sequence, &text[64..])]).unwrap();
                let error = nmse_max(ours, &truth, truth.len());
                assert!(error <= bar, "{name}, {kv_type}, to {to:?}: NMSE {error:.2e}");
            });
        }
    }
}

/// The CPU's answer, where the CPU is sure of it: it quantizes the inputs of products, a GPU does not.
#[test]
fn real_models_answer_as_on_the_cpu() {
    if adapter().is_none() {
        return;
    }
    // Gemma's table is larger than a binding may be on some devices.
    for (alias, layers) in [("smollm2:135m", GpuLayers::All), ("gemma3:270m", GpuLayers::Count(3))]
    {
        let Some(path) = cached(alias) else { return };
        let model = Model::open(&path).unwrap();
        let options = crate::changed(options(2, 16), |o| {
            o.n_ctx = Some(64);
            o.kv_type = KvType::F16;
        });
        let tokens: Vec<u32> = (0..16).map(|i| 500 + 37 * i).collect();
        let on_cpu = logits(&model, &tokens, &options, GpuLayers::None, false);
        let ours = logits(&model, &tokens, &options, layers, false);
        let n_vocab = on_cpu.len() / tokens.len();
        let error = nmse_max(&ours, &on_cpu, n_vocab);
        assert!(error <= 1e-2, "{alias}: NMSE {error:.2e}");
        for (i, (row, truth)) in ours.chunks(n_vocab).zip(on_cpu.chunks(n_vocab)).enumerate() {
            let largest =
                |row: &[f32]| (0..n_vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            let best = largest(truth);
            let second =
                (0..n_vocab).filter(|&j| j != best).map(|j| truth[j]).fold(f32::MIN, f32::max);
            if truth[best] - second > 0.5 {
                assert_eq!(largest(row), best, "{alias}, token {i}");
            }
        }
    }
}

/// Weights as pages of the file's map, which a GPU with the CPU's memory reads in place, are those that are
/// copied, bit by bit. Where no GPU has that memory, the pages are copied.
#[test]
fn weights_in_pages_of_the_file_are_those_that_are_copied() {
    if adapter().is_none() {
        return;
    }
    let folder = Folder::new("gpu-pages");
    let fixtures = ["llama-dense", "llama-moe", "gemma3-dense"];
    let fixtures = fixtures.map(|name| (folder.model(name), GpuLayers::All));
    let real = cached("smollm2:135m").map(|path| (path, GpuLayers::Count(2)));
    for (path, layers) in fixtures.into_iter().chain(real) {
        let model = Model::open(&path).unwrap();
        let options = crate::changed(options(2, 12), |o| o.n_ctx = Some(64));
        let tokens: Vec<u32> = (3..16).collect();
        let placement = |weights| {
            let placed = Placement { layers, adapter: adapter(), ..Placement::default() };
            Placement { weights, ..placed }
        };
        let run = |weights| {
            let (said, listener) = noting();
            let placement = placement(weights);
            let start = |program, options: &BackendOptions| {
                start_placed(program, options, &placement, &listener)
            };
            let mut engine = Engine::on(&model, &options, &start).unwrap();
            let logits = logits_of(&mut engine, &tokens, &options);
            let said = said.lock().unwrap().clone();
            (logits, engine.decoder().offload().unwrap(), said)
        };
        let (copies, offload, _) = run(WeightSource::Copies);
        assert_eq!(offload.in_place, 0, "{path:?}");
        let (ours, offload, said) = run(WeightSource::PageCopies);
        assert_eq!(offload.in_place, offload.on_gpu.weights, "{path:?}");
        assert!(ours == copies && said.is_empty(), "{path:?}, {said:?}");
        // A device that does not read what is there gets copies, and is named.
        let (ours, offload, said) = run(WeightSource::PagesMisread);
        assert_eq!(offload.in_place, 0, "{path:?}");
        let [line] = &said[..] else { panic!("{path:?}: {said:?}") };
        assert!(line.contains(&offload.adapter.unwrap()) && line.contains("copied"), "{line}");
        assert!(ours == copies, "{path:?}");
        // What is best is what was planned.
        let (ours, offload, said) = run(WeightSource::Best);
        assert!(ours == copies && said.is_empty(), "{path:?}, {said:?}");
        let engine = engine(&model, &options, &Placement::default());
        let kv_type = KvType::F32;
        let sizes = OffloadSizes { n_ctx: 64, max_tokens: 12, max_outputs: 12, kv_type };
        let best = placement(WeightSource::Best);
        let planned = backend::offload(engine.decoder().program(), &sizes, &best).unwrap();
        assert_eq!(planned.in_place, offload.in_place, "{path:?}");
    }
}

#[test]
fn forks_pages_and_batches_go_on_where_layers_are_on_a_gpu() {
    let Some(placement) = placement(GpuLayers::Count(1)) else { return };
    for (name, kv_type, bar) in [
        ("llama-dense", KvType::F32, 1e-9),
        ("gemma3-dense", KvType::F32, 1e-9),
        // Products of other shapes are rounded otherwise, and then some codes are.
        ("llama-dense", KvType::Q8_0, 1e-4),
        ("gemma3-dense", KvType::Q8_0, 1e-4),
    ] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        let model = model(gguf);
        let options = crate::changed(options(1, 40), |o| {
            o.n_ctx = Some(128);
            o.kv_type = kv_type;
        });
        let mut engine = engine(&model, &options, &placement);
        engine.lead(|decoder| {
            let n_out = decoder.n_out();
            let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
            let run = |sequence, tokens, outputs| SequenceChunk { sequence, tokens, outputs };
            let whole: Vec<u32> = tokens.iter().cycle().take(70).copied().collect();
            decoder.step(&[run(a, &whole[..36], Outputs::None)]).unwrap();
            decoder.step(&[run(a, &whole[36..40], Outputs::None)]).unwrap();
            // Two sequences in a step; a fork writes to copies of pages.
            let c = decoder.kv_mut().fork(a, 40).unwrap();
            let runs = [
                run(c, &whole[40..60], Outputs::Last),
                run(b, &whole[..10], Outputs::Last),
                run(a, &whole[40..50], Outputs::Last),
            ];
            let forked = decoder.step(&runs).unwrap().to_vec();
            let d = decoder.kv_mut().create();
            decoder.step(&[run(d, &whole[..30], Outputs::None)]).unwrap();
            let alone = decoder.step(&[run(d, &whole[30..60], Outputs::Last)]).unwrap();
            let error = nmse_max(&forked[..n_out], alone, n_out);
            assert!(error <= bar, "{name}, {kv_type}: NMSE {error:.2e} of a fork");
        });
    }
}

/// Steps of a model whose layers are in both places: what goes to and fro.
#[test]
fn a_range_is_one_submission_and_only_what_is_wanted_comes_back() {
    if adapter().is_none() {
        return;
    }
    // Of the last, whose streams have no shaders, ranges alternate.
    for name in ["llama-dense", "qwen3moe-moe", "gemma3n-dense"] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        let model = model(gguf);
        let n_layers = model.spec().layers.len();
        for layers in [GpuLayers::Count(1), GpuLayers::Count(n_layers), GpuLayers::All] {
            let placement = Placement { layers, adapter: adapter(), ..Placement::default() };
            let mut engine = engine(&model, &options(1, 16), &placement);
            let program = engine.decoder().program();
            let plan = Plan::new(program, layers, &|op| unsupported(program, op, KvType::F32));
            let parts = plan.parts(0..program.ops.len());
            let is_there = |part: &&Range<usize>| plan.side(part.start) == Side::Gpu;
            let n_ranges = parts.iter().filter(is_there).count() as u64;
            let streams = parts.iter().skip(1).filter(|part| !is_there(part));
            let handed_over = streams.flat_map(|part| plan.crossing(part.start));
            let stream = handed_over.map(|buf| program.widths[buf.0]).sum::<usize>();
            let n_out = program.n_out;
            match (name, layers) {
                ("gemma3n-dense", _) => assert!(n_ranges > 1, "{name}"),
                _ => assert_eq!((n_ranges, stream), (1, 0), "{name}, {layers:?}"),
            }
            let mut before = engine.decoder().transfers();
            assert_eq!(before, Transfers::default());
            for (n, outputs) in [(9, Outputs::None), (5, Outputs::All), (1, Outputs::Last)] {
                engine.lead(|decoder| {
                    let sequence = decoder.kv_mut().create();
                    let tokens = &tokens[..n];
                    decoder.step(&[SequenceChunk { sequence, tokens, outputs }]).unwrap();
                });
                let n_results = outputs.count(n);
                let now = engine.decoder().transfers();
                let what = format!("{name}, {layers:?}, {n} tokens");
                let submissions = now.submissions - before.submissions;
                // Without results there is nothing to do in a range of the head.
                match n_results {
                    0 if n_ranges > 1 => assert!(submissions <= n_ranges, "{what}"),
                    _ => assert_eq!(submissions, n_ranges, "{what}"),
                }
                let back = 4 * (n * stream + n_results * n_out) as u64;
                assert_eq!(now.bytes_back - before.bytes_back, back, "{what}");
                assert!(now.bytes_there > before.bytes_there, "{what}");
                before = now;
            }
        }
    }
}
