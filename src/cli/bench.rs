//! `teff bench`: tokens per second, measured as the peers' benchmarks do: random tokens, a prompt
//! in one go, then tokens one by one, the best of some repetitions after a warm-up. Several sequences
//! side by side each have a prompt of their own; the first one's is measured, then all go on together.

use super::engine_args::{EngineArgs, check_context};
use super::gpu_args::GpuArgs;
use super::options::{ModelArgs, TOKENS_MAX, whole_number};
use super::{CliError, interrupt, offload, threads};
use crate::backend::pages::KvType;
use crate::decoder::{Outputs, SequenceChunk, StepError, Stepper};
use crate::engine::{BATCH_DEFAULT, EngineError, EngineOptions};
use crate::kv::SeqId;
use crate::model::describe::{bytes, counted};
use crate::random::SplitMix64;
use crate::tensor::memory;
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

/// Tokens of each kind, at most: their sum is a context's length.
const BENCH_TOKENS_MAX: u32 = TOKENS_MAX / 4;

/// Sequences, at most: more than any machine gains by.
const PARALLEL_MAX: u32 = 256;

/// `teff bench`
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = whole_number(0..=BENCH_TOKENS_MAX))]
    prompt: u32,
    /// Tokens generated
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = whole_number(0..=BENCH_TOKENS_MAX))]
    r#gen: u32,
    /// Tokens that the context holds before
    #[arg(long, value_name = "TOKENS", default_value_t = 0, value_parser = whole_number(0..=BENCH_TOKENS_MAX))]
    depth: u32,
    /// Sequences that generate together, each behind a prompt of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole_number(1..=PARALLEL_MAX))]
    parallel: u32,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole_number(1..=u32::MAX))]
    reps: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the figures.
pub fn bench(args: &BenchArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let start = Instant::now();
    let model = args.engine.open_generator(&args.model)?;
    let [n_prompt, n_gen, depth] = [args.prompt, args.r#gen, args.depth].map(|n| n as usize);
    let parallel = args.parallel as usize;
    let options = EngineOptions {
        n_ctx: Some(depth + n_prompt + n_gen),
        max_batch: BATCH_DEFAULT,
        max_outputs: parallel,
        ..args.engine.options(KvType::F16)?
    };
    check_context(&model, depth + n_prompt + n_gen, options.kv_type, args.engine.kv_bytes())?;
    let at = CliError::of_model(model.path());
    let mut engine = args.gpu.engine(&model, &options)?;
    args.engine.lock(&model, &engine)?;
    let load = start.elapsed();
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let reps = args.reps;
    let times = engine.lead(|decoder| {
        let mut random = SplitMix64::new(1);
        let mut best = (Duration::MAX, Duration::MAX);
        interrupt::done(|| "nothing was measured".into());
        for rep in 0..=args.reps {
            model.file().check_uncut().map_err(EngineError::File)?;
            let times = measure(decoder, &mut random, [depth, n_prompt, n_gen], parallel)?;
            if rep > 0 {
                best = (best.0.min(times.0), best.1.min(times.1));
                let prompt = rate(n_prompt, best.0);
                let generate = rate(n_gen * parallel, best.1);
                interrupt::done(move || {
                    format!(
                        "{rep} of {reps} repetitions measured: prompt {prompt:.1} tokens/s, \
                         generate {generate:.1} tokens/s"
                    )
                });
            }
        }
        Ok::<_, EngineError>(best)
    });
    let (prompt, generate) = times.map_err(&at)?;
    let offload = engine.decoder().offload();
    let round = |x: f64| (x * 100.0).round() / 100.0;
    let prompt_tps = round(rate(n_prompt, prompt));
    let gen_tps = round(rate(n_gen * parallel, generate));
    let gen_tps_each = round(rate(n_gen, generate));
    let load_ms = round(load.as_secs_f64() * 1e3);
    let threads = engine.n_threads();
    let isa = options.kernels.level().to_string();
    let rss = rss_mib_max();
    // After the peak was read: the buffers are not the model's.
    let stream_gbps = stream_gbps(threads).map(round);
    let copies = engine.decoder().copy_bandwidth();
    // Each step reads the weights once, however many sequences share it.
    let steps = rate(n_gen, generate);
    if args.json {
        let mut line = json!({
            "prompt_tokens": n_prompt, "prompt_tps": prompt_tps,
            "gen_tokens": n_gen, "gen_tps": gen_tps, "depth": depth,
            "parallel": parallel, "gen_tps_each": gen_tps_each,
            "threads": threads, "isa": isa, "load_ms": load_ms, "rss_mib_max": rss.map(round),
            "stream_gbps": stream_gbps, "model_bytes": model.file().total_bytes(),
        });
        if let Some(offload) = &offload {
            line["gpu"] = offload::object(offload);
            if let Some(copies) = copies {
                line["gpu"]["copy_gbps"] = json!(round(copies / 1e9));
                let share = offload::copy_share(offload, steps, copies);
                line["gpu"]["copy_share"] = json!((share * 1e4).round() / 1e4);
            }
        }
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "prompt   {n_prompt:5} tokens  {prompt_tps:9.1} tokens/s")?;
        let each = match parallel {
            1 => String::new(),
            n => format!(" in {n} sequences, {gen_tps_each:.1} tokens/s each"),
        };
        writeln!(out, "generate {n_gen:5} tokens  {gen_tps:9.1} tokens/s{each}")?;
        let rss = rss.map_or("unknown".into(), |mib| format!("{mib:.0} MiB"));
        let stream = stream_gbps.map_or("unknown".into(), |gbps| gbps.to_string());
        writeln!(
            out,
            "depth {depth}, {}, {isa}, loaded in {load_ms:.0} ms, \
             peak memory {rss}, memory streams {stream} GB/s",
            counted(threads, "thread")
        )?;
        let lines = offload.iter().flat_map(offload::lines);
        for line in lines {
            writeln!(out, "{line}")?;
        }
        if let (Some(offload), Some(copies)) = (&offload, copies) {
            writeln!(
                out,
                "a token reads {} of weights on the GPU: {:.1} % of the {:.1} GB/s that it reads and \
                 writes in copies",
                bytes(offload.bytes_read),
                100.0 * offload::copy_share(offload, steps, copies),
                copies / 1e9
            )?;
        }
    }
    Ok(())
}

/// Times of a prompt and of the tokens after it, in so many sequences side by side.
fn measure(
    decoder: &mut Stepper<'_>,
    random: &mut SplitMix64,
    [depth, n_prompt, n_gen]: [usize; 3],
    parallel: usize,
) -> Result<(Duration, Duration), StepError> {
    let sequences: Vec<SeqId> = (0..parallel).map(|_| decoder.kv_mut().create()).collect();
    let n_vocab = decoder.n_vocab();
    let mut draw = |n: usize| -> Vec<u32> {
        (0..n).map(|_| (random.next_u64() % n_vocab as u64) as u32).collect()
    };
    let mut prompt_time = Duration::ZERO;
    for (i, &sequence) in sequences.iter().enumerate() {
        let mut feed = |n: usize| {
            let tokens = draw(n);
            let start = Instant::now();
            for tokens in tokens.chunks(BATCH_DEFAULT) {
                decoder.step(&[SequenceChunk { sequence, tokens, outputs: Outputs::Last }])?;
            }
            Ok::<_, StepError>(start.elapsed())
        };
        feed(depth)?;
        let time = feed(n_prompt)?;
        if i == 0 {
            prompt_time = time;
        }
    }
    let tokens = draw(n_gen * parallel);
    let start = Instant::now();
    for tokens in tokens.chunks_exact(parallel) {
        let runs = sequences.iter().zip(tokens.chunks_exact(1));
        let runs = runs.map(|(&sequence, tokens)| SequenceChunk {
            sequence,
            tokens,
            outputs: Outputs::Last,
        });
        decoder.step(&runs.collect::<Vec<_>>())?;
    }
    let times = (prompt_time, start.elapsed());
    sequences.into_iter().for_each(|sequence| decoder.kv_mut().remove(sequence));
    Ok(times)
}

/// Larger than any cache that decoding could profit from.
const STREAM_BYTES: usize = 256 << 20;
/// Readings of it, the best of which counts.
const STREAM_REPS: usize = 6;

/// The bandwidth at which so many threads read memory with plain loads, in 1e9 bytes per second:
/// what bounds decoding; `None` without memory for that.
fn stream_gbps(threads: usize) -> Option<f64> {
    let n = STREAM_BYTES / size_of::<u64>();
    let mut buffer = Vec::new();
    memory::reserve(&mut buffer, n, "a stream of words").ok()?;
    buffer.resize(n, 1u64);
    let part = buffer.len().div_ceil(threads);
    let sum = |words: &[u64]| words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    let mut best = Duration::MAX;
    for _ in 0..STREAM_REPS {
        let start = Instant::now();
        std::thread::scope(|scope| {
            buffer.chunks(part).try_for_each(|words| {
                let read = move || std::hint::black_box(sum(std::hint::black_box(words)));
                threads::spawn(scope, read).map(drop)
            })
        })
        .ok()?;
        best = best.min(start.elapsed());
    }
    Some(STREAM_BYTES as f64 / best.as_secs_f64() / 1e9)
}

/// Peak resident memory of this process as Linux accounts it; `None` on other systems.
fn rss_mib_max() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
