//! The CPU backend against the naive one.
//!
//! Drawn programs, of shapes around the edges of tiles, pages and chunks, compute what [`RefRunner`]
//! computes, however their tokens come; `decoder.rs` compares the two on every golden architecture.

use crate::fixture_model;
use gguf_rs_lite::{GgmlType, GgufFile};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use teff::backend::pages::KvType;
use teff::backend::program::{
    Attention, BoundWeight, Buf, CopyPieces, Epilogue, ExpertGroups, ExpertLowRank, ExpertPart,
    Gating, GluClamp, HeadLinear, HeadNorm, KvShape, Linear, MixStreams, Moe, Norm, NormKind, Op,
    Output, Part, Piece, Program, Rope, RopeKv, Router, STREAMS_MAX, Temperature, Tokens, Xielu,
};
use teff::backend::program::{Conv, Scan, ScanKind};
use teff::backend::reference::RefRunner;
use teff::backend::{Start, start};
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk, lower};
use teff::engine::Model;
use teff::tensor::Weight;
use teff_kernels::{Activation, KernelTable, Level, RopePairing};

/// Draws numbers: the same ones in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() as usize % of.len()]
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }

    /// `n` numbers between `-bound` and `bound`.
    fn values(&mut self, n: usize, bound: f32) -> Vec<f32> {
        let unit = |bits: u64| (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..n).map(|_| unit(self.next()) * bound).collect()
    }

    fn vector(&mut self, n: usize) -> Option<Vec<f32>> {
        self.is(2).then(|| self.values(n, 1.0))
    }

    /// `n` numbers between 0 and 1.
    fn positive(&mut self, n: usize) -> Vec<f32> {
        self.values(n, 1.0).into_iter().map(f32::abs).collect()
    }
}

/// Token ids of the drawn programs.
const N_VOCAB: usize = 61;

/// A program on its way.
pub struct Draw {
    rng: Rng,
    program: Program,
}

impl Draw {
    fn new(seed: u64) -> Draw {
        Draw { rng: Rng(seed), program: Program { n_vocab: N_VOCAB, ..Program::default() } }
    }

    /// A stack of matrices of a type, with products of about the size of their inputs.
    fn weight(&mut self, ty: GgmlType, [n, rows, cols]: [usize; 3]) -> BoundWeight {
        let values = self.rng.values(n * rows * cols, (3.0 / cols as f32).sqrt());
        let kernels = KernelTable::at_most(Level::Scalar).types(ty).unwrap();
        let row_bytes = ty.bytes_of(cols as u64).unwrap() as usize;
        let mut bytes = vec![0; n * rows * row_bytes];
        for (values, bytes) in values.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
            kernels.quantize(values, None, bytes).unwrap();
        }
        let name = format!("w{}", self.program.weights.len());
        self.program.bind(Weight::owned(&name, ty, [n, rows, cols], bytes))
    }

    fn part(&mut self, ty: GgmlType, rows: usize, cols: usize) -> Part {
        let weight = self.weight(ty, [1, rows, cols]);
        Part { weight, scale: self.rng.pick(&[1.0, 0.7]), bias: self.rng.vector(rows) }
    }

    fn norm(&mut self, len: usize) -> Norm {
        let kind = self.rng.pick(&[NormKind::Rms, NormKind::Layer]);
        Norm {
            kind,
            eps: 1e-5,
            weight: self.rng.vector(len),
            bias: self.rng.vector(len),
            name: None,
        }
    }

    fn optional_norm(&mut self, len: usize) -> Option<Norm> {
        self.rng.is(2).then(|| self.norm(len))
    }

    /// A buffer with an embedding of each token.
    fn embed(&mut self, width: usize) -> Buf {
        let table = self.weight(GgmlType::F32, [1, N_VOCAB, width]);
        let out = self.program.buffer(width);
        let (addend, positions) = (self.rng.vector(width), None);
        self.program.ops.push(Op::Embed { table, scale: 1.5, addend, positions, out });
        out
    }

    /// A buffer with products of `input`.
    fn linear(&mut self, ty: GgmlType, input: Buf, rows: usize, cols: usize) -> Buf {
        let out = self.program.buffer(rows);
        let (norm, parts) = (self.optional_norm(cols), vec![self.part(ty, rows, cols)]);
        self.push_linear(input, norm, parts, Epilogue::None, Output::Store(out), Tokens::All);
        out
    }

    fn push_linear(
        &mut self,
        input: Buf,
        norm: Option<Norm>,
        parts: Vec<Part>,
        epilogue: Epilogue,
        out: Output,
        rows: Tokens,
    ) {
        let addend = None;
        self.program.ops.push(Op::Linear(Linear {
            input,
            norm,
            parts,
            addend,
            epilogue,
            out,
            rows,
        }));
    }

    /// Ends the program with a buffer as the result.
    fn result(mut self, input: Buf) -> Program {
        self.program.n_out = self.program.widths[input.0];
        self.program.ops.push(Op::Result { input, norm: None });
        self.program
    }
}

/// How the tokens of some sequences come in steps.
pub struct Schedule {
    /// Tokens of each sequence.
    sequences: Vec<Vec<u32>>,
    /// Tokens that each sequence has in each step, as far as it has any.
    steps: Vec<Vec<usize>>,
    threads: usize,
    kv_type: KvType,
    /// Which tokens of a sequence's part of a step want results.
    outputs: Outputs,
}

impl Schedule {
    /// Sequences of at most `len` tokens in steps of at most `step` each.
    fn draw(rng: &mut Rng, len: usize, step: usize, whole: bool) -> Schedule {
        let n = if rng.is(2) { 1 } else { 3 };
        let lens: Vec<usize> = (0..n).map(|_| 1 + rng.next() as usize % len).collect();
        let token = |rng: &mut Rng| (rng.next() % N_VOCAB as u64) as u32;
        let sequences = lens.iter().map(|&len| (0..len).map(|_| token(rng)).collect()).collect();
        let mut steps = Vec::new();
        let mut left = lens;
        while left.iter().any(|&n| n > 0) {
            let take = |&n: &usize| match whole {
                true => n,
                false => n.min(rng.pick(&[1, 1, 2, 7, 8, 9, 31, 33, 128]).min(step)),
            };
            let taken: Vec<usize> = left.iter().map(take).collect();
            left.iter_mut().zip(&taken).for_each(|(left, n)| *left -= n);
            steps.push(taken);
        }
        let (threads, outputs) = (rng.pick(&[1, 2, 3]), rng.pick(&[Outputs::All, Outputs::Last]));
        Schedule { sequences, steps, threads, kv_type: KvType::F32, outputs }
    }
}

/// The largest error of any row of results of the CPU backend, against the reference backend.
fn cpu_error(program: Program, schedule: &Schedule) -> f64 {
    error_on(program, schedule, &start)
}

/// The largest error of any row of results of the backend that `start` makes.
fn error_on(mut program: Program, schedule: &Schedule, start: &Start<'_>) -> f64 {
    let Schedule { sequences, steps, threads, kv_type, outputs } = schedule;
    program.check().unwrap();
    // Only whether the context has a bound is asked of the description.
    let file = Arc::new(GgufFile::from_bytes(tiny_model()).unwrap());
    let model = Model::from_file(file, Path::new("test.gguf")).unwrap();
    let most = steps.iter().map(|step| step.iter().sum()).max().unwrap();
    let options = DecoderOptions {
        threads: Some(*threads),
        cpus: None,
        max_batch: most,
        max_outputs: most,
        n_ctx: sequences.iter().map(Vec::len).max().unwrap(),
        kv_type: *kv_type,
        kv_bytes_max: usize::MAX,
        repack: true,
    };
    let oracle = RefRunner::new(&program);
    let truth = sequences.iter().map(|tokens| {
        let all: Vec<usize> = (0..tokens.len()).collect();
        oracle.step(&mut oracle.sequence(), tokens, &all)
    });
    let truth: Vec<Vec<f32>> = truth.collect();
    program.share_buffers();
    let mut decoder =
        Decoder::on(program, model.spec(), KernelTable::detect(), &options, start).unwrap();
    let n_out = decoder.n_out();
    let mut error_max: f64 = 0.0;
    decoder.lead(|decoder| {
        let ids: Vec<_> = sequences.iter().map(|_| decoder.kv_mut().create()).collect();
        let mut done = vec![0; ids.len()];
        for step in steps {
            let of_step: Vec<usize> = (0..ids.len()).filter(|&i| step[i] > 0).collect();
            let run = |&i: &usize| {
                let tokens = &sequences[i][done[i]..][..step[i]];
                SequenceChunk { sequence: ids[i], tokens, outputs: *outputs }
            };
            let runs: Vec<SequenceChunk<'_>> = of_step.iter().map(run).collect();
            let rows = decoder.step(&runs).unwrap();
            let mut rows = rows.chunks(n_out);
            for i in of_step {
                let first = step[i] - outputs.count(step[i]);
                for position in done[i] + first..done[i] + step[i] {
                    let truth = &truth[i][position * n_out..][..n_out];
                    error_max = error_max.max(error_of(rows.next().unwrap(), truth));
                }
                done[i] += step[i];
            }
        }
    });
    error_max
}

/// The largest error of any row of results of a model, against the reference backend.
pub fn model_error(model: &Model, n_ctx: usize, tokens: &[u32], ours: &[f32]) -> f64 {
    let program = lower(model.file(), model.spec(), KernelTable::detect(), n_ctx).unwrap();
    let oracle = RefRunner::new(&program);
    let all: Vec<usize> = (0..tokens.len()).collect();
    let truth = oracle.step(&mut oracle.sequence(), tokens, &all);
    assert_eq!(ours.len(), truth.len());
    let rows = ours.chunks(program.n_out).zip(truth.chunks(program.n_out));
    rows.map(|(ours, truth)| error_of(ours, truth)).fold(0.0, f64::max)
}

/// The normalized mean square error: infinite if anything is not finite.
pub fn error_of(ours: &[f32], truth: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = ours.iter().zip(truth).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = truth.iter().map(|&x| square(x)).sum();
    match error / norm.max(1e-9) {
        error if error.is_finite() => error,
        _ => f64::INFINITY,
    }
}

fn tiny_model() -> Vec<u8> {
    static GGUF: OnceLock<Vec<u8>> = OnceLock::new();
    GGUF.get_or_init(|| fixture_model::load("llama-dense-plain").gguf).clone()
}

/// What f32 sums in another order may differ by.
const ROUNDING: f64 = 1e-10;

/// Seeds of each kind of program.
const N_SEEDS: u64 = 40;

/// Draws programs of one kind and compares the CPU backend.
fn compare(kind: &str, error_max: f64, draw: impl Fn(Draw) -> (Program, Schedule) + Sync) {
    compare_on(&start, N_SEEDS, kind, error_max, draw);
}

/// Draws programs of one kind and compares the backend that `start` makes.
pub fn compare_on(
    start: &Start<'_>,
    n_seeds: u64,
    kind: &str,
    error_max: f64,
    draw: impl Fn(Draw) -> (Program, Schedule) + Sync,
) {
    let draw = &draw;
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for seed in (0..n_seeds).filter(|seed| seed % 2 == half) {
                    let (program, schedule) = draw(Draw::new(seed));
                    let error = error_on(program, &schedule, start);
                    if error > error_max {
                        let (program, Schedule { steps, threads, .. }) = draw(Draw::new(seed));
                        let ops: Vec<&str> = program.ops.iter().map(Op::name).collect();
                        panic!(
                            "{kind}, seed {seed}: NMSE {error:.2e} of {ops:?} with weights {:?}, \
                             widths {:?}, steps {steps:?} of {threads} threads",
                            program.weights, program.widths
                        );
                    }
                }
            });
        }
    });
}

/// Rows around the edges of the tiled kernels' blocks and the chunks of few tokens.
const ROW_EDGES: &[usize] = &[1, 2, 7, 15, 16, 17, 31, 47, 48, 49, 95, 96, 97, 145];

/// Products of types, with every epilogue and destination.
pub fn products(draw: Draw, types: &[GgmlType], block: usize) -> (Program, Schedule) {
    let mut draw = draw;
    let cols = block * draw.rng.pick(&[1, 2, 3]);
    let x = draw.embed(cols);
    let ty = draw.rng.pick(types);
    let act = draw.rng.pick(&Activation::ALL);
    let rows = draw.rng.pick(ROW_EDGES);
    let (norm, hidden) = (draw.optional_norm(cols), draw.program.buffer(rows));
    let clamp = GluClamp { gate_max: 0.8, up_max: 0.9, up_plus: 0.1 };
    let clamp = draw.rng.is(2).then_some(clamp);
    let (parts, epilogue) = match draw.rng.next() % 4 {
        0 => (vec![draw.part(ty, rows, cols)], Epilogue::None),
        1 => (vec![draw.part(ty, rows, cols)], Epilogue::Act(act)),
        2 => {
            let parts = [0; 2].map(|_| draw.part(ty, rows, cols));
            (parts.to_vec(), Epilogue::Glu(act, clamp))
        }
        _ => (vec![draw.part(ty, 2 * rows, cols)], Epilogue::Glu(act, clamp)),
    };
    draw.push_linear(x, norm, parts, epilogue, Output::Store(hidden), Tokens::All);
    // Several matrices of several types, one behind the other, added to a stream.
    let sizes = [draw.rng.pick(ROW_EDGES), draw.rng.pick(ROW_EDGES)];
    let sum = draw.embed(sizes.iter().sum());
    let parts = sizes.map(|rows| {
        let ty = draw.rng.pick(types);
        draw.part(ty, rows, cols)
    });
    let addend = draw.embed(sizes.iter().sum());
    let rows = draw.rng.pick(&[Tokens::All, Tokens::Outputs]);
    draw.program.ops.push(Op::Linear(Linear {
        input: x,
        norm: None,
        parts: parts.to_vec(),
        addend: Some(addend),
        epilogue: Epilogue::None,
        out: Output::Add(sum, 0.5),
        rows,
    }));
    let width = draw.program.widths[sum.0];
    let joined = draw.program.buffer(width + draw.program.widths[hidden.0]);
    let len = draw.program.widths[hidden.0];
    let pieces = vec![
        Piece::heads(sum, 0, 0, width, 1),
        Piece { to: width, ..Piece::heads(hidden, 0, 0, len, 1) },
    ];
    draw.program.ops.push(Op::CopyPieces(CopyPieces {
        pieces,
        out: joined,
        rows: Tokens::Outputs,
    }));
    let n_tokens = draw.rng.pick(&[1, 8, 9, 15, 16, 17, 25, 48, 49]);
    let schedule = Schedule::draw(&mut draw.rng, n_tokens, n_tokens, false);
    (draw.result(joined), schedule)
}

#[test]
fn products_of_plain_numbers_are_the_references() {
    compare("products", ROUNDING, |draw| products(draw, &[GgmlType::F32], 37));
    let halves = [GgmlType::F16, GgmlType::BF16, GgmlType::F32];
    compare("products of halves", ROUNDING, |draw| products(draw, &halves, 16));
}

#[test]
fn products_of_quantized_weights_are_the_references_but_for_their_inputs() {
    use GgmlType::{IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    // Inputs are quantized to 8 bits.
    let blocks_of_32 = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL];
    compare("blocks of 32", 1e-3, |draw| products(draw, &blocks_of_32, 32));
    let blocks_of_256 = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS];
    compare("blocks of 256", 1e-3, |draw| products(draw, &blocks_of_256, 256));
}

/// Attention around the edges of pages, chunks, tiles and windows.
pub fn attention(mut draw: Draw, bidirectional: bool, kv_type: KvType) -> (Program, Schedule) {
    let n_embd = 24;
    let rng = &mut draw.rng;
    let n_kv_heads = rng.pick(&[1, 2, 3]);
    let n_heads = n_kv_heads * rng.pick(&[1, 2, 3, 5]);
    let dims = [8, 9, 16, 33, 64];
    let (k_dim, v_dim) = (rng.pick(&dims), rng.pick(&dims));
    let window = rng.pick(&[None, None, Some(1), Some(15), Some(31), Some(33), Some(100)]);
    let softcap = rng.is(3).then_some(2.0);
    let slopes = rng.is(3).then(|| rng.positive(n_heads));
    let sinks = rng.is(3).then(|| rng.values(n_heads, 2.0));
    let rows = rng.pick(&[Tokens::All, Tokens::Outputs]);
    draw.program.bidirectional = bidirectional;
    draw.program.kv.push(KvShape { n_kv_heads, k_dim, v_dim, window });
    let x = draw.embed(n_embd);
    let width = (n_heads + n_kv_heads) * k_dim + n_kv_heads * v_dim;
    let qkv = draw.linear(GgmlType::F32, x, width, n_embd);
    let n_pairs = 1 + draw.rng.next() as usize % (k_dim / 2);
    let rope_from = draw.rng.next() as usize % (k_dim - 2 * n_pairs + 1);
    let inv_freq = (0..n_pairs).map(|i| 0.7_f64.powi(i as i32)).collect();
    let rope = draw.program.rope(Rope { inv_freq, magnitude: 1.1 });
    let pairing = draw.rng.pick(&[RopePairing::Norm, RopePairing::Neox]);
    let head_norm = |draw: &mut Draw, dim: usize| {
        draw.rng.is(2).then(|| {
            let norm =
                Norm { kind: NormKind::Rms, eps: 1e-5, weight: None, bias: None, name: None };
            HeadNorm { norm: Norm { weight: draw.rng.vector(dim), ..norm }, dim }
        })
    };
    let (q_norm, k_norm) = (head_norm(&mut draw, k_dim), head_norm(&mut draw, k_dim));
    let v_norm = head_norm(&mut draw, v_dim);
    draw.program.ops.push(Op::RopeKv(RopeKv {
        qkv,
        n_heads,
        layer: 0,
        clamp: draw.rng.is(3).then_some(1.5),
        q_norm,
        k_norm,
        norm_after_rope: draw.rng.is(2),
        v_norm,
        stores: true,
        rope: draw.rng.is(2).then_some((rope, pairing)),
        rope_from,
        temperature: draw.rng.is(4).then_some(Temperature { scale: 0.3, period: 20 }),
    }));
    let out = draw.program.buffer(n_heads * v_dim);
    let scale = 1.0 / (k_dim as f32).sqrt();
    let layer = 0;
    let op = Attention { qkv, n_heads, layer, scale, softcap, slopes, sinks, out, rows };
    draw.program.ops.push(Op::Attention(op));
    let n = draw.rng.pick(&[3, 17, 32, 33, 127, 128, 129, 260]);
    let schedule = Schedule::draw(&mut draw.rng, n, 128, bidirectional);
    (draw.result(out), Schedule { kv_type, ..schedule })
}

#[test]
fn attention_is_the_references() {
    compare("attention", 1e-9, |draw| attention(draw, false, KvType::F32));
    compare("attention to both sides", 1e-9, |draw| attention(draw, true, KvType::F32));
    compare("attention in halves", 1e-5, |draw| attention(draw, false, KvType::F16));
}

/// A page is written by one worker from [`PAGED_TOKENS_MIN`](teff::backend) tokens of a step on.
#[test]
fn attention_of_a_long_prompt_is_the_references() {
    for threads in [1, 2] {
        let (program, schedule) = attention(Draw::new(3), false, KvType::F32);
        let tokens: Vec<u32> = (0..300).map(|i| (i * i % N_VOCAB) as u32).collect();
        let steps = vec![vec![290], vec![10]];
        let schedule = Schedule { sequences: vec![tokens], steps, threads, ..schedule };
        let error = cpu_error(program, &schedule);
        assert!(error < 1e-9, "{threads} threads: NMSE {error:.2e}");
    }
}

pub fn experts(mut draw: Draw, ty: GgmlType, block: usize) -> (Program, Schedule) {
    let (cols, n_ff) = (block * draw.rng.pick(&[1, 2]), block * draw.rng.pick(&[1, 2]));
    let n_experts = draw.rng.pick(&[4, 6, 16]);
    let n_used = draw.rng.pick(&[1, 2, 4]);
    let groups = draw.rng.is(3).then_some(ExpertGroups { n_groups: 2, n_used: 1 });
    let n_used = if groups.is_some() { n_used.min(n_experts / 2) } else { n_used };
    let x = draw.embed(cols);
    let out = draw.embed(cols);
    let part = |draw: &mut Draw, rows: usize, cols: usize| {
        let weight = draw.weight(ty, [n_experts, rows, cols]);
        let rank = 3;
        let low = ExpertLowRank {
            rank,
            a: draw.rng.values(n_experts * rank * cols, 0.1),
            b: draw.rng.values(n_experts * rows * rank, 0.1),
        };
        ExpertPart {
            weight,
            biases: draw.rng.vector(n_experts * rows),
            scales: draw.rng.is(2).then(|| draw.rng.positive(n_experts)),
            low_rank: if draw.rng.is(3) { vec![low] } else { Vec::new() },
        }
    };
    let (gate, up) = match draw.rng.next() % 3 {
        0 => (Some(part(&mut draw, n_ff, cols)), part(&mut draw, n_ff, cols)),
        1 => (None, part(&mut draw, 2 * n_ff, cols)),
        _ => (None, part(&mut draw, n_ff, cols)),
    };
    let down = part(&mut draw, cols, n_ff);
    // Scores in F32, so that no rounding decides between experts.
    let router = match draw.rng.is(2) {
        true => Router::Input(draw.part(GgmlType::F32, n_experts, cols)),
        false => Router::Scores(draw.linear(GgmlType::F32, x, n_experts, cols)),
    };
    let clamp = GluClamp { gate_max: 0.8, up_max: 0.9, up_plus: 0.1 };
    let op = Moe {
        input: x,
        norm: draw.optional_norm(cols),
        router,
        n_experts,
        n_used,
        gating: draw.rng.pick(&[Gating::Softmax, Gating::SoftmaxOfChosen, Gating::Sigmoid]),
        choice_bias: draw.rng.vector(n_experts),
        groups,
        normalize_weights: draw.rng.is(2),
        weigh_input: draw.rng.is(3),
        weight_scale: 1.3,
        gate,
        up,
        down,
        act: draw.rng.pick(&Activation::ALL),
        clamp: draw.rng.is(3).then_some(clamp),
        out,
        adds: draw.rng.is(2),
        scale: 0.9,
        rows: draw.rng.pick(&[Tokens::All, Tokens::Outputs]),
    };
    draw.program.ops.push(Op::Moe(Box::new(op)));
    let n = draw.rng.pick(&[1, 4, 8, 9, 17, 40]);
    let schedule = Schedule::draw(&mut draw.rng, n, n, false);
    (draw.result(out), schedule)
}

#[test]
fn experts_are_the_references() {
    compare("experts", ROUNDING, |draw| experts(draw, GgmlType::F32, 23));
    compare("quantized experts", 1e-3, |draw| experts(draw, GgmlType::Q4_0, 32));
}

/// A convolution whose channels a scan reads, of any kind.
fn recurrence(mut draw: Draw) -> (Program, Schedule) {
    let rng = &mut draw.rng;
    let (n_heads, head_dim) = rng.pick(&[(1, 5), (3, 16), (4, 33), (130, 1), (2, 64)]);
    let state_dim = rng.pick(&[1, 4, 16, 17]);
    let taps = rng.pick(&[1, 2, 4]);
    let width = n_heads * head_dim;
    // Room for what any kind reads: x or v, b and c or q and k of every head, and controls.
    let n_keys = n_heads * state_dim;
    let n_channels = width + 2 * n_keys;
    let total = 3 * n_channels + n_heads * (2 + state_dim);
    let controls = 3 * n_channels;
    let x = draw.embed(19);
    let input = draw.linear(GgmlType::F32, x, total, 19);
    let convolved = draw.program.buffer(n_channels);
    let conv = Conv {
        input,
        from: 0,
        factors: draw.rng.is(2).then_some((n_channels, 2 * n_channels)),
        weight: draw.rng.values(taps * n_channels, 0.8),
        taps,
        bias: draw.rng.vector(n_channels),
        act: draw.rng.is(2).then_some(Activation::Silu),
        state: draw.program.state(n_channels * (taps - 1)),
        out: convolved,
    };
    draw.program.ops.push(Op::Conv(conv));
    let negative = |values: Vec<f32>| values.into_iter().map(|x| -x).collect::<Vec<f32>>();
    let each = |draw: &mut Draw| if draw.rng.is(2) { n_heads } else { n_keys };
    let kind = match draw.rng.next() % 3 {
        0 => ScanKind::StateSpace {
            x: (convolved, 0),
            bc: (convolved, [width, width + n_keys]),
            n_groups: if n_heads.is_multiple_of(2) { 2 } else { 1 },
            dt: (input, controls),
            dt_bias: draw.rng.values(n_heads, 0.5),
            a: {
                let n = each(&mut draw);
                negative(draw.rng.positive(n))
            },
            d: draw.rng.values(n_heads, 1.0),
        },
        1 => ScanKind::Linear {
            qkv: (input, [0, state_dim, 2 * state_dim]),
            head_stride: 2 * state_dim + head_dim,
            decay: draw.rng.positive(n_heads),
        },
        _ => {
            let n = each(&mut draw);
            let step = n / n_heads;
            let alpha = controls + n_heads;
            ScanKind::Delta {
                qkv: (convolved, [width, width + n_keys, 0]),
                key_head: (0..n_heads).map(|head| head / 2).collect(),
                alpha: (input, (0..n_heads).map(|head| alpha + head * step).collect()),
                alpha_bias: draw.rng.values(n, 0.5),
                a: negative(draw.rng.positive(n_heads)),
                bound: draw.rng.is(2).then_some(-5.0),
                beta: (input, (0..n_heads).map(|head| controls + head).collect()),
                eps: 1e-6,
            }
        }
    };
    let out = draw.program.buffer(width);
    let scan = Scan {
        kind,
        n_heads,
        head_dim,
        state_dim,
        state: draw.program.state(width * state_dim),
        gate: draw.rng.is(2).then_some((input, n_channels)),
        gate_act: draw.rng.pick(&[Activation::Silu, Activation::Sigmoid]),
        norm: draw.optional_norm(head_dim).filter(|_| head_dim > 1),
        out,
    };
    draw.program.ops.push(Op::Scan(Box::new(scan)));
    let n = draw.rng.pick(&[1, 3, 17, 70]);
    let schedule = Schedule::draw(&mut draw.rng, n, 40, false);
    (draw.result(out), schedule)
}

#[test]
fn recurrences_are_the_references() {
    compare("recurrences", 1e-8, recurrence);
}

/// Parallel streams and the operations on single rows.
pub fn rows(mut draw: Draw) -> (Program, Schedule) {
    let rng = &mut draw.rng;
    let (width, n) = (rng.pick(&[3, 16, 37]), rng.pick(&[1, 2, 4, STREAMS_MAX]));
    let rows = rng.pick(&[Tokens::All, Tokens::Outputs]);
    let streams = draw.embed(n * width);
    let one = draw.embed(width);
    for made in [None, Some(one)] {
        let norm = draw.norm(width);
        let n_mixed = if made.is_some() { n } else { n * n };
        draw.program.ops.push(Op::MixStreams(Box::new(MixStreams {
            streams,
            made,
            norm,
            router: draw.rng.values(n * width, 0.5),
            coefficients: draw.rng.values(n_mixed * n, 0.5),
            n,
            rows,
        })));
    }
    draw.program.ops.push(Op::MatchLength { to: one, buf: streams, rows });
    let heads = draw.weight(GgmlType::F32, [n, 21, width]);
    let projected = draw.program.buffer(n * 25);
    let fill = Op::CopyPieces(CopyPieces {
        pieces: vec![Piece { to_stride: 1, ..Piece::heads(one, 0, 0, 1, n * 25) }],
        out: projected,
        rows,
    });
    draw.program.ops.push(fill);
    draw.program.ops.push(Op::HeadLinear(HeadLinear {
        input: streams,
        input_stride: width,
        weight: heads,
        scale: 0.8,
        out: projected,
        out_stride: 25,
        rows,
    }));
    let gate = draw.embed(n);
    draw.program.ops.push(Op::MulBroadcast { gate, buf: projected, rows });
    let factors = draw.rng.values(n * 25, 1.0);
    draw.program.ops.push(Op::Scale { buf: projected, factors, rows });
    let f = Xielu { alpha_n: 0.3, alpha_p: 0.8, beta: 0.5, eps: -1e-6 };
    draw.program.ops.push(Op::Xielu { buf: projected, f, rows });
    draw.program.ops.push(Op::Add { input: one, out: streams, from: (n - 1) * width, rows });
    let norm = draw.norm(width);
    let sum = draw.embed(width);
    draw.program.ops.push(Op::AddNorm { input: one, norm, scale: 0.4, out: sum, rows });
    let sparse = draw.embed(width);
    draw.program.ops.push(Op::Sparsify { buf: sparse, deviations: 0.3, rows });
    let norm = draw.norm(n * width);
    draw.program.ops.push(Op::Normalize { buf: streams, norm, rows });
    let sources = [(streams, n * width), (projected, n * 25), (sum, width), (sparse, width)];
    let out = draw.program.buffer(sources.iter().map(|(_, len)| len).sum());
    let mut to = 0;
    let pieces = sources.map(|(buf, len)| {
        let act = draw.rng.is(2).then(|| draw.rng.pick(&Activation::ALL));
        let norm = draw.optional_norm(len);
        let piece = Piece { to, norm, act, ..Piece::heads(buf, 0, 0, len, 1) };
        to += len;
        piece
    });
    let pieces = pieces.into_iter().collect();
    draw.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out, rows: Tokens::Outputs }));
    let schedule = Schedule::draw(&mut draw.rng, 19, 19, false);
    (draw.result(out), schedule)
}

#[test]
fn operations_on_rows_are_the_references() {
    compare("rows", 1e-9, rows);
}

/// The oracle itself: with NaN in every buffer, what is wrong shows.
#[test]
fn the_measure_of_errors_is_infinite_for_what_is_not_finite() {
    assert_eq!(error_of(&[f32::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
    assert_eq!(error_of(&[1.0], &[f32::NAN]), f64::INFINITY);
    assert_eq!(error_of(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
}
