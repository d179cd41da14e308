//! Figures in the text format of Prometheus, under the names that dashboards and routers of vLLM know.
//!
//! All of it is counters that are added to without a lock, and no label is a text of a client.

use super::app::App;
use super::loaded::Loaded;
use crate::engine::{FinishReason, STEP_BOUNDS, StepTimes};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds of times, in seconds.
const BOUNDS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
    25.0, 60.0, 240.0, 960.0,
];

/// Times, counted by their length.
#[derive(Debug, Default)]
pub struct Times {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Times {
    /// Counts a time.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str, labels: &str) {
        head(out, name, "histogram", help);
        let mut n = 0;
        for (count, bound) in self.counts.iter().zip(BOUNDS.iter().copied().chain([f64::INFINITY]))
        {
            n += count.load(Ordering::Relaxed);
            let le = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {n}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {n}");
    }
}

/// Figures of one model.
#[derive(Debug, Default)]
pub struct ModelMetrics {
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Tokens of answers.
    pub generated_tokens: AtomicU64,
    /// Tokens of prompts that were looked for in the cache.
    pub cache_queries: AtomicU64,
    /// Tokens of prompts that the cache had.
    pub cache_hits: AtomicU64,
    /// Answers by the reason of their end: stop, length, abort.
    pub ends: [AtomicU64; 3],
    /// Times from a request's head to its first token.
    pub first_token: Times,
    /// Times from token to token.
    pub between_tokens: Times,
    /// Times from a request's head to its end.
    pub whole: Times,
    /// Times from the engine's taking a request to its first step.
    pub queue: Times,
}

const ENDS: [&str; 3] = ["stop", "length", "abort"];

impl ModelMetrics {
    /// Counts the end of an answer.
    pub fn end(&self, finish: FinishReason) {
        let at = match finish {
            FinishReason::EndOfGeneration | FinishReason::Stop { .. } => 0,
            FinishReason::MaxTokens | FinishReason::ContextFull | FinishReason::OutOfMemory => 1,
            FinishReason::Cancelled => 2,
        };
        self.ends[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// Figures of the server.
#[derive(Debug)]
pub struct Metrics {
    start: Instant,
    /// By endpoint and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    n_rejected: AtomicU64,
    /// Requests whose client left while they waited, read their prompt, or answered.
    cancelled: [AtomicU64; 3],
}

/// Phases of a cancelled request.
const PHASES: [&str; 3] = ["queue", "prefill", "decode"];

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            start: Instant::now(),
            requests: Mutex::default(),
            n_rejected: AtomicU64::new(0),
            cancelled: Default::default(),
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, endpoint: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((endpoint, status)).or_default() += 1;
    }

    /// Counts a request for which there was no place.
    pub fn rejected(&self) {
        self.n_rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request whose client left.
    pub fn cancelled(&self, is_started: bool, has_token: bool) {
        let phase = usize::from(is_started) + usize::from(is_started && has_token);
        self.cancelled[phase].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self, app: &App) -> String {
        let mut out = String::new();
        for model in app.models() {
            model_text(&mut out, &model);
        }
        let n_models = app.models().len();
        simple(&mut out, "teff_models_loaded", "gauge", "Models at hand", "", n_models as f64);
        let n_loads = app.registry.n_loads.load(Ordering::Relaxed) as f64;
        simple(&mut out, "teff_model_loads_total", "counter", "Models loaded so far", "", n_loads);
        head(&mut out, "teff_requests_total", "counter", "Requests by endpoint and status");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((endpoint, status), n) in requests {
            let labels = format!("endpoint=\"{endpoint}\",status=\"{status}\"");
            let _ = writeln!(out, "teff_requests_total{{{labels}}} {n}");
        }
        let help = "Requests whose client left, by what they were at";
        head(&mut out, "teff_requests_cancelled_total", "counter", help);
        for (phase, n) in PHASES.iter().zip(&self.cancelled) {
            let n = n.load(Ordering::Relaxed);
            let _ = writeln!(out, "teff_requests_cancelled_total{{phase=\"{phase}\"}} {n}");
        }
        let rejected = self.n_rejected.load(Ordering::Relaxed) as f64;
        let help = "Requests for which the queue had no place";
        simple(&mut out, "teff_requests_rejected_total", "counter", help, "", rejected);
        #[cfg(feature = "otlp")]
        if let Some(traces) = &app.options.traces {
            let help = "Spans that did not reach the collector of traces";
            simple(&mut out, "teff_spans_lost_total", "counter", help, "", traces.lost() as f64);
        }
        let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        simple(&mut out, "teff_build_info", "gauge", "Version of the program", &version, 1.0);
        let seconds = self.start.elapsed().as_secs_f64();
        simple(&mut out, "teff_uptime_seconds", "gauge", "Time since the start", "", seconds);
        process(&mut out);
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn simple(out: &mut String, name: &str, kind: &str, help: &str, labels: &str, value: f64) {
    head(out, name, kind, help);
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}{labels} {value}");
}

/// Figures of a model.
fn model_text(out: &mut String, model: &Loaded) {
    let name = model.id.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = format!("model_name=\"{name}\"");
    let (status, figures) = (model.status(), &model.metrics);
    let counters = status.counters;
    let page = crate::backend::pages::PAGE_TOKENS;
    let in_use = status.kv_bytes.saturating_sub(status.cached_bytes);
    let share = in_use as f64 / model.kv_bytes_max.max(1) as f64;
    let gauges: [(&str, &str, f64); 5] = [
        ("vllm:num_requests_running", "Requests that share steps", status.n_running as f64),
        ("vllm:num_requests_waiting", "Requests that wait", status.n_waiting as f64),
        ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", share),
        ("teff_kv_bytes", "Bytes of the KV cache, kept prefixes included", status.kv_bytes as f64),
        ("teff_kv_cached_bytes", "Bytes of kept prefixes", status.cached_bytes as f64),
    ];
    for (name, help, value) in gauges {
        simple(out, name, "gauge", help, &labels, value);
    }
    let n_pages = model.n_ctx.div_ceil(page);
    let config = format!("{labels},block_size=\"{page}\",num_gpu_blocks=\"{n_pages}\"");
    simple(out, "vllm:cache_config_info", "gauge", "Shape of the KV cache", &config, 1.0);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let totals: [(&str, &str, f64); 9] = [
        ("vllm:prompt_tokens_total", "Tokens of prompts", load(&figures.prompt_tokens)),
        ("vllm:generation_tokens_total", "Tokens of answers", load(&figures.generated_tokens)),
        ("vllm:prefix_cache_queries_total", "Tokens looked for", load(&figures.cache_queries)),
        ("vllm:prefix_cache_hits_total", "Tokens found", load(&figures.cache_hits)),
        ("vllm:num_preemptions_total", "Requests that lost pages", counters.n_preempted as f64),
        ("teff_steps_total", "Steps of the decoder", counters.n_steps as f64),
        ("teff_steps_interrupted_total", "Steps that a cancel cut", counters.n_interrupted as f64),
        ("teff_steps_failed_total", "Steps that failed", counters.n_failed as f64),
        ("teff_draft_tokens_accepted_total", "Drafts come true", counters.n_accepted as f64),
    ];
    for (name, help, value) in totals {
        simple(out, name, "counter", help, &labels, value);
    }
    steps_text(out, &status.times, &labels);
    let beside = status.prompt_tokens_beside as f64;
    let help = "Tokens of prompts that a step has beside answers, most";
    simple(out, "teff_prompt_tokens_beside", "gauge", help, &labels, beside);
    head(out, "teff_kv_pages", "gauge", "Pages of the KV cache by who holds them");
    let pages = status.pages;
    for (state, n) in [
        ("used", pages.used),
        ("shared", pages.shared),
        ("cached", pages.cached),
        ("free", pages.free),
    ] {
        let _ = writeln!(out, "teff_kv_pages{{{labels},state=\"{state}\"}} {n}");
    }
    head(out, "vllm:request_success_total", "counter", "Answers by the reason of their end");
    for (reason, n) in ENDS.iter().zip(&figures.ends) {
        let n = n.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {n}"
        );
    }
    for (name, help, times) in [
        ("vllm:time_to_first_token_seconds", "Time to the first token", &figures.first_token),
        ("vllm:inter_token_latency_seconds", "Time between tokens", &figures.between_tokens),
        ("vllm:e2e_request_latency_seconds", "Time of a request", &figures.whole),
        ("vllm:request_queue_time_seconds", "Time in the queue", &figures.queue),
    ] {
        times.write(out, name, help, &labels);
    }
}

/// Times and speeds of steps.
fn steps_text(out: &mut String, times: &StepTimes, labels: &str) {
    let name = "teff_step_seconds";
    head(out, name, "histogram", "Time of a step");
    let mut n = 0;
    for (count, bound) in
        times.counts.iter().zip(STEP_BOUNDS.iter().copied().chain([f64::INFINITY]))
    {
        n += count;
        let le = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {n}");
    }
    let seconds = times.total.as_secs_f64();
    let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {n}");
    let each = times.prompt_token_seconds;
    let speed = if each > 0.0 { 1.0 / each } else { 0.0 };
    let help = "Speed of prompts in the last steps";
    simple(out, "teff_prefill_tokens_per_second", "gauge", help, labels, speed);
    let help = "Speed of all answers together in the last steps without prompts";
    simple(out, "teff_decode_tokens_per_second", "gauge", help, labels, times.decode_rate);
}

/// Figures of the process, where the system tells them in files.
fn process(out: &mut String) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        let (name, help) = ("process_resident_memory_bytes", "Resident memory");
        simple(out, name, "gauge", help, "", kib * 1024.0);
    }
    if let Some(n) = field("Threads:") {
        simple(out, "process_threads", "gauge", "Threads", "", n);
    }
    if let Some(kib) = field("VmSize:") {
        let (name, help) = ("process_virtual_memory_bytes", "Virtual memory");
        simple(out, name, "gauge", help, "", kib * 1024.0);
    }
    if let Some((cpu, start)) = cpu_times() {
        let help = "CPU time of the process";
        simple(out, "process_cpu_seconds_total", "counter", help, "", cpu);
        let help = "When the process was started, in seconds since 1970";
        simple(out, "process_start_time_seconds", "gauge", help, "", start);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        simple(out, "process_open_fds", "gauge", "Open files", "", files.count() as f64);
    }
}

/// Seconds of CPU time of the process, and when it was started in seconds since 1970.
fn cpu_times() -> Option<(f64, f64)> {
    /// Ticks per second in these files, on every Linux.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let (user, system, start) = (ticks(11)?, ticks(12)?, ticks(19)?);
    let whole = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = whole.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.trim().parse().ok()?;
    Some(((user + system) / TICKS, boot + start / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_their_bounds() {
        let times = Times::default();
        for millis in [1, 2, 2_000_000] {
            times.add(Duration::from_millis(millis));
        }
        let mut out = String::new();
        times.write(&mut out, "t", "Times", "a=\"b\"");
        for line in [
            "t_bucket{a=\"b\",le=\"0.001\"} 1",
            "t_bucket{a=\"b\",le=\"0.0025\"} 2",
            "t_bucket{a=\"b\",le=\"960\"} 2",
            "t_bucket{a=\"b\",le=\"+Inf\"} 3",
            "t_count{a=\"b\"} 3",
            "t_sum{a=\"b\"} 2000.003",
        ] {
            assert!(out.lines().any(|other| other == line), "{line} in {out}");
        }
    }
}
