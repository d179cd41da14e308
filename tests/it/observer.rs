//! The inputs of products that an observer sees: the same rows for any number of workers and any cut
//! into steps, those that the naive backend multiplies, of every weight; and no bit of the results
//! changes.

use crate::fixture_model::{self, Fixture};
use crate::measure::{bits, nmse_max};
use gguf_rs_lite::GgufFile;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use teff::backend::pages::KvType;
use teff::backend::program::{Op, WeightId};
use teff::backend::reference::RefBackend;
use teff::backend::{Observer, Product};
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk, lower};
use teff::engine::Model;
use teff_kernels::KernelTable;

/// What f32 sums in another order and exact activations may differ by.
const NMSE_MAX: f64 = 1e-9;

/// All that was shown.
#[derive(Default)]
struct Seen {
    /// Rows of each product, in the order of their coming.
    rows: HashMap<Product, Vec<f32>>,
    /// Products in the order of their coming.
    calls: Vec<Product>,
}

impl Observer for Seen {
    fn matmul_input(&mut self, product: Product, cols: usize, rows: &[f32]) {
        assert!(!rows.is_empty() && rows.len().is_multiple_of(cols), "{product:?}");
        self.rows.entry(product).or_default().extend(rows);
        self.calls.push(product);
    }
}

impl Seen {
    /// The bits of each product's rows, sorted: a weight that several operations read has those of
    /// each step side by side.
    fn sorted(&self, cols: &impl Fn(WeightId) -> usize) -> HashMap<Product, Vec<Vec<u32>>> {
        let sorted = |(product, rows): (&Product, &Vec<f32>)| {
            let mut rows: Vec<_> = rows.chunks(cols(product.weight)).map(bits).collect();
            rows.sort();
            (*product, rows)
        };
        self.rows.iter().map(sorted).collect()
    }
}

fn model(gguf: Vec<u8>) -> Model {
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Model::from_file(file, Path::new("test.gguf")).unwrap()
}

/// The results for tokens in steps of these lengths, on the naive backend without a number of threads,
/// with what was seen of them, if anything was to be.
fn run(
    model: &Model,
    tokens: &[u32],
    cuts: &[usize],
    threads: Option<usize>,
    seen: Option<&mut Seen>,
) -> Vec<f32> {
    let options = DecoderOptions {
        threads,
        cpus: None,
        max_batch: tokens.len(),
        max_outputs: tokens.len(),
        n_ctx: tokens.len(),
        kv_type: KvType::F32,
        kv_bytes_max: usize::MAX,
        repack: true,
    };
    let kernels = KernelTable::detect();
    let mut decoder = match threads {
        Some(_) => Decoder::new(model.file(), model.spec(), kernels, &options).unwrap(),
        None => {
            let program = lower(model.file(), model.spec(), kernels, tokens.len()).unwrap();
            let backend = RefBackend::new(program, tokens.len(), tokens.len());
            Decoder::with_backend(Box::new(backend), &options)
        }
    };
    decoder.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let (mut seen, mut first, mut results) = (seen, 0, Vec::new());
        for &n in cuts {
            let run = [SequenceChunk {
                sequence,
                tokens: &tokens[first..first + n],
                outputs: Outputs::All,
            }];
            first += n;
            results.extend_from_slice(match &mut seen {
                Some(seen) => decoder.step_observed(&run, *seen).unwrap(),
                None => decoder.step(&run).unwrap(),
            });
        }
        assert_eq!(first, tokens.len());
        results
    })
}

/// Lengths of steps that `n` tokens are cut into: all at once, then parts on both sides of the number
/// up to which workers pack inputs for themselves, then one by one.
fn cuts(n: usize, bidirectional: bool) -> Vec<Vec<usize>> {
    match bidirectional {
        true => vec![vec![n]],
        false => vec![vec![n], vec![9, 3, n - 12], vec![1; n]],
    }
}

fn check(model: &Model, name: &str, tokens: &[u32]) {
    let tokens = &tokens[..tokens.len().min(21)];
    let n = tokens.len();
    let program = lower(model.file(), model.spec(), KernelTable::detect(), n).unwrap();
    let cols = |id: WeightId| program.weights[id.0].cols;

    let [mut exact, mut whole] = [Seen::default(), Seen::default()];
    run(model, tokens, &[n], None, Some(&mut exact));
    let results = run(model, tokens, &[n], Some(1), Some(&mut whole));
    for (product, rows) in &exact.rows {
        let ours = &whole.rows[product];
        let error = nmse_max(ours, rows, cols(product.weight));
        assert!(error <= NMSE_MAX, "{name}: {product:?}: NMSE {error:.2e}");
    }
    assert_eq!(whole.rows.len(), exact.rows.len(), "{name}");
    let once: HashSet<Product> = whole.calls.iter().copied().collect();
    let multiplied: HashSet<WeightId> = program.products().map(|weight| weight.id()).collect();
    assert_eq!(once.iter().map(|p| p.weight).collect::<HashSet<_>>(), multiplied, "{name}");
    let plain = program.ops.iter().filter(|op| !matches!(op, Op::Moe(_) | Op::HeadLinear(_)));
    for weight in plain.flat_map(Op::products) {
        let calls = whole.calls.iter().filter(|call| call.weight == weight.id()).count();
        let uses = program.products().filter(|other| other.id() == weight.id()).count();
        assert_eq!(calls, uses, "{name}: {weight:?}: once for each operation");
    }

    for cuts in cuts(n, program.bidirectional) {
        let mut calls = None;
        for threads in [Some(1), Some(2), Some(3)] {
            let what = format!("{name}: {cuts:?}, threads {threads:?}");
            let mut seen = Seen::default();
            let observed = run(model, tokens, &cuts, threads, Some(&mut seen));
            assert_eq!(bits(&observed), bits(&results), "{what}");
            assert_eq!(seen.sorted(&cols), whole.sorted(&cols), "{what}");
            assert_eq!(*calls.get_or_insert(seen.calls.clone()), seen.calls, "{what}");
            let unseen = run(model, tokens, &cuts, threads, None);
            assert_eq!(bits(&unseen), bits(&results), "{what}, without an observer");
        }
    }
}

#[test]
fn decoders_show_the_inputs_of_all_products() {
    let names = [
        "llama-dense-plain",
        "gemma2-dense",
        "gpt2-dense",
        "deepseek2-moe",
        "mamba2-dense",
        "qwen3next-moe",
        "lfm2-dense",
        "hrm_text-dense",
    ];
    for name in names {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        check(&model(gguf), name, &tokens);
    }
}

/// Gates and up projections apart and in one, weights on inputs and on outputs.
#[test]
fn experts_show_the_rows_of_those_that_chose_them() {
    for name in ["llama-moe", "llama4-moe", "gpt-oss-moe", "grok-moe", "dbrx-moe"] {
        let Fixture { gguf, tokens, .. } = fixture_model::load(name);
        check(&model(gguf), name, &tokens);
    }
}

#[test]
fn encoders_show_the_inputs_of_all_products() {
    for name in ["bert", "nomic-bert-moe", "modern-bert"] {
        let (Fixture { gguf, tokens, .. }, _) = fixture_model::load_embedding(name);
        let mut model = model(gguf);
        model.output_embeddings();
        check(&model, name, &tokens);
    }
}
