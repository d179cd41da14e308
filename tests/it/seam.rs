//! The seam between the decoder and its backends: the same decoder on the CPU backend and on the
//! naive one makes the same steps, of several sequences, forks, cuts, cancelled ones.

use crate::decoder::{NAIVE_NMSE_MAX, model};
use crate::fixture_model::{self, Fixture};
use crate::hooked::{Hook, Hooked};
use crate::measure::bits;
use crate::reference::error_of;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use teff::backend::pages::KvType;
use teff::backend::reference::RefBackend;
use teff::backend::{Executor, StepInput, Unfinished};
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk, StepError, Stepper, lower};
use teff::tensor::memory::OutOfMemory;
use teff_kernels::{BlockMax, KernelTable, MAX_BLOCK};

/// Attention over all and over windows, experts, latent attention, three kinds of states.
const NAMES: [&str; 8] = [
    "llama-dense-plain",
    "gemma3-dense",
    "llama-moe",
    "deepseek2-moe",
    "lfm2-dense",
    "mamba-dense",
    "jamba-moe",
    "gemma3n-dense",
];

const OPTIONS: DecoderOptions = DecoderOptions {
    threads: Some(2),
    cpus: None,
    max_batch: 40,
    max_outputs: 40,
    n_ctx: 160,
    kv_type: KvType::F32,
    kv_bytes_max: usize::MAX,
    repack: true,
};

/// A decoder of the fixture on each of the backends, the CPU's first.
fn decoders(name: &str) -> [Decoder; 2] {
    let Fixture { gguf, .. } = fixture_model::load(name);
    let model = model(gguf);
    let kernels = KernelTable::detect();
    let lowered = || lower(model.file(), model.spec(), kernels, OPTIONS.n_ctx).unwrap();
    let on_cpu = Decoder::of_program(lowered(), model.spec(), kernels, &OPTIONS).unwrap();
    let backend = RefBackend::new(lowered(), OPTIONS.max_batch, OPTIONS.max_outputs);
    [on_cpu, Decoder::with_backend(Box::new(backend), &OPTIONS)]
}

/// Tokens that differ from one sequence to the next.
fn text(n_vocab: usize, seed: u32, n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 7 + seed * 13 + i * i * 3) % n_vocab as u32).collect()
}

/// The index of the largest logit, the first of equals.
fn best(row: &[f32]) -> u32 {
    let best = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).reduce(best).unwrap() as u32
}

/// Rows of results of steps as a server makes them, and the answer that the last of them begin.
fn script(decoder: &mut Stepper<'_>) -> (Vec<Vec<f32>>, Vec<u32>) {
    let n_out = decoder.n_out();
    let (first, second) = (text(decoder.n_vocab(), 1, 70), text(decoder.n_vocab(), 2, 30));
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let mut step = |decoder: &mut Stepper<'_>, runs: &[SequenceChunk<'_>]| {
        let results = decoder.step(runs).unwrap();
        rows.extend(results.chunks(n_out).map(<[f32]>::to_vec));
    };
    let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
    let run = |sequence, tokens, outputs| SequenceChunk { sequence, tokens, outputs };
    step(decoder, &[run(a, &first[..37], Outputs::All)]);
    // A part of one prompt and the beginning of another.
    let runs = [run(a, &first[37..50], Outputs::None), run(b, &second[..20], Outputs::All)];
    step(decoder, &runs);
    // A fork writes to a copy of the page that it shares.
    let c = decoder.kv_mut().fork(a, 50).unwrap();
    step(decoder, &[run(c, &second[20..], Outputs::Last), run(a, &first[50..53], Outputs::All)]);
    // Back to what is known, and on with something else.
    assert!(decoder.kv_mut().truncate(a, 50));
    step(decoder, &[run(a, &first[53..], Outputs::First), run(b, &[3], Outputs::Last)]);
    decoder.kv_mut().remove(b);
    let mut answer = Vec::new();
    for _ in 0..24 {
        let next = best(rows.last().unwrap());
        answer.push(next);
        let run = SequenceChunk { sequence: c, tokens: &[next], outputs: Outputs::Last };
        rows.push(decoder.step(&[run]).unwrap().to_vec());
    }
    (rows, answer)
}

#[test]
fn a_decoder_runs_on_either_backend() {
    for name in NAMES {
        let [mut on_cpu, mut naive] = decoders(name);
        let (rows, answer) = on_cpu.lead(script);
        let (truth, naive_answer) = naive.lead(script);
        assert_eq!(rows.len(), truth.len());
        for (i, (row, truth)) in rows.iter().zip(&truth).enumerate() {
            let error = error_of(row, truth);
            assert!(error <= NAIVE_NMSE_MAX, "{name}: NMSE {error:.2e} of row {i}");
        }
        assert_eq!(answer, naive_answer, "{name}");
        // In several ranges, what crosses from one to the next is all there.
        let [_, mut naive] = decoders(name);
        let n_ops = naive.program().ops.len();
        naive.cut_program(&(1..n_ops).collect::<Vec<_>>());
        let (again, _) = naive.lead(script);
        assert!(again.iter().zip(&truth).all(|(a, b)| bits(a) == bits(b)), "{name}: cut");
    }
}

#[test]
fn a_cancelled_step_of_the_naive_backend_leaves_no_trace() {
    for name in ["gemma3-dense", "jamba-moe"] {
        let [_, mut naive] = decoders(name);
        let (flag, tokens) = (AtomicBool::new(false), text(naive.n_vocab(), 5, 60));
        naive.lead(|decoder| {
            let (a, b) = (decoder.kv_mut().create(), decoder.kv_mut().create());
            let whole =
                SequenceChunk { sequence: a, tokens: &tokens[..30], outputs: Outputs::Last };
            let expected = decoder.step(&[whole]).unwrap().to_vec();
            let run = |tokens| SequenceChunk { sequence: b, tokens, outputs: Outputs::Last };
            decoder.step(&[run(&tokens[..10])]).unwrap();
            flag.store(true, Ordering::Relaxed);
            let cancelled = decoder.step_with_maxima(&[run(&tokens[20..50])], Some(&flag));
            assert_eq!(cancelled.map(|_| ()), Err(StepError::Cancelled), "{name}");
            flag.store(false, Ordering::Relaxed);
            let runs = [run(&tokens[10..30])];
            let mut rows = decoder.step_with_maxima(&runs, Some(&flag)).unwrap();
            let row: BlockMax<'_> = rows.next().unwrap();
            assert!(bits(row.values()) == bits(&expected), "{name}");
            let maxima = expected.chunks(MAX_BLOCK);
            let maxima = maxima.map(|block| block.iter().copied().fold(f32::MIN, f32::max));
            assert_eq!(row.bounds(), maxima.collect::<Vec<f32>>(), "{name}");
        });
    }
}

const REFUSED: OutOfMemory = OutOfMemory { what: "a test", bytes: 7 };

/// Memory that runs out when `left` calls have been made.
struct Short {
    left: AtomicUsize,
}

impl Short {
    fn call(&self) -> Result<(), OutOfMemory> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        if left == 0 { Err(REFUSED) } else { Ok(()) }
    }
}

impl Hook for Short {
    fn before_prepare(&self) -> Result<(), OutOfMemory> {
        self.call()
    }

    fn before_run(
        &self,
        _: &mut dyn Executor,
        _: Range<usize>,
        _: &StepInput<'_>,
    ) -> Result<(), Unfinished> {
        Ok(self.call()?)
    }
}

#[test]
fn a_step_without_memory_is_an_error_and_the_next_goes_on() {
    for name in ["gemma3-dense", "jamba-moe"] {
        let [_, mut naive] = decoders(name);
        let (rows, _) = naive.lead(script);
        let Fixture { gguf, .. } = fixture_model::load(name);
        let model = model(gguf);
        let program =
            lower(model.file(), model.spec(), KernelTable::detect(), OPTIONS.n_ctx).unwrap();
        let inner = Box::new(RefBackend::new(program, OPTIONS.max_batch, OPTIONS.max_outputs));
        let memory = Arc::new(Short { left: AtomicUsize::new(usize::MAX) });
        let hooked = Hooked { inner, hook: memory.clone() };
        let mut short = Decoder::with_backend(Box::new(hooked), &OPTIONS);
        let tokens = text(short.n_vocab(), 1, 70);
        short.lead(|decoder| {
            let a = decoder.kv_mut().create();
            // Its pages or its states cannot be had, or what is computed on the way.
            for n_calls in [0, 1] {
                memory.left.store(n_calls, Ordering::Relaxed);
                let (bytes, len) = (decoder.kv().kv_bytes(), decoder.kv().len(a));
                let run =
                    SequenceChunk { sequence: a, tokens: &tokens[..37], outputs: Outputs::Last };
                assert_eq!(decoder.step(&[run]).unwrap_err(), StepError::Memory(REFUSED));
                assert_eq!((decoder.kv().kv_bytes(), decoder.kv().len(a)), (bytes, len));
            }
            let run = SequenceChunk { sequence: a, tokens: &tokens[..37], outputs: Outputs::Last };
            let row = decoder.step(&[run]).unwrap();
            assert!(bits(row) == bits(&rows[36]), "{name}");
        });
    }
}
