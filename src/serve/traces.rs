//! Traces of requests for OpenTelemetry: a span for each, sent as JSON by OTLP over HTTP to a collector.
//!
//! A thread of its own gathers spans and sends them; where the collector is slow or gone, spans are lost and
//! counted, and no request waits. Names of attributes are those of OpenTelemetry's conventions for HTTP
//! servers and generative AI. A span has no text of a prompt or an answer.

use axum::http::HeaderMap;
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fmt, io};
use ureq::Agent;

/// Spans that wait to be sent, most.
const WAITING_MAX: usize = 2048;
/// Spans that are sent at a time, most.
const BATCH: usize = 256;
/// Time that the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Longest time of one sending.
const SEND_TIME: Duration = Duration::from_secs(5);

/// Where spans go. Dropping it sends those that wait.
pub struct Traces {
    /// `None` behind the end.
    sender: Mutex<Option<SyncSender<Json>>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Fault that keeps traces from being sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum TracesError {
    /// The collector's address is not of HTTP.
    Address(String),
    /// A header is not `NAME=VALUE`.
    Header(String),
    /// The system has no thread.
    Thread(io::Error),
}

impl Traces {
    /// Traces that go to a collector, as in `http://localhost:4318`, with more headers, as
    /// `NAME=VALUE,NAME=VALUE`.
    ///
    /// # Errors
    /// The address or a header is none, or the system has no thread.
    pub fn to(collector: &str, headers: &str) -> Result<Traces, TracesError> {
        let is_url = ["http://", "https://"].iter().any(|scheme| collector.starts_with(scheme));
        if !is_url || collector.parse::<axum::http::Uri>().is_err() {
            return Err(TracesError::Address(collector.to_owned()));
        }
        let url = format!("{}/v1/traces", collector.trim_end_matches('/'));
        let mut pairs = Vec::new();
        for pair in headers.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or_default();
            let (name, value) = (name.trim(), value.trim());
            let is_name = axum::http::HeaderName::try_from(name).is_ok();
            if !is_name || axum::http::HeaderValue::try_from(value).is_err() {
                return Err(TracesError::Header(name.to_owned()));
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        let (sender, spans) = sync_channel(WAITING_MAX);
        let lost = Arc::<AtomicU64>::default();
        let counted = lost.clone();
        let agent = Agent::config_builder()
            .user_agent(concat!("teff/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(SEND_TIME))
            .max_redirects(0)
            .build()
            .new_agent();
        let thread = std::thread::Builder::new()
            .name("teff-traces".into())
            .spawn(move || send(&agent, &url, &pairs, &spans, &counted))
            .map_err(TracesError::Thread)?;
        Ok(Traces { sender: Mutex::new(Some(sender)), lost, thread: Mutex::new(Some(thread)) })
    }

    /// Spans that did not reach the collector.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes the span of a request that has ended, given its line of the log.
    pub(super) fn send(&self, context: &TraceContext, line: &Json) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref().filter(|_| context.is_sampled) else { return };
        match sender.try_send(context.span(line, SystemTime::now())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Traces {
    /// Sends the spans that wait, and takes no more.
    pub(super) fn finish(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// Sends spans in batches until nobody has more.
fn send(
    agent: &Agent,
    url: &str,
    headers: &[(String, String)],
    spans: &Receiver<Json>,
    lost: &AtomicU64,
) {
    while let Ok(first) = spans.recv() {
        let (mut batch, start) = (vec![first], Instant::now());
        while batch.len() < BATCH {
            match spans.recv_timeout(GATHER.saturating_sub(start.elapsed())) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let n = batch.len() as u64;
        let mut request = agent.post(url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Statuses beyond 399 are errors, too. A batch that failed is not kept: memory has its limit.
        if request.send(message(batch).to_string()).is_err() {
            lost.fetch_add(n, Ordering::Relaxed);
        }
    }
}

/// The message of OTLP.
fn message(spans: Vec<Json>) -> Json {
    let version = env!("CARGO_PKG_VERSION");
    json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", "teff"), text("service.version", version)] },
        "scopeSpans": [{ "scope": { "name": "teff.serve", "version": version }, "spans": spans }],
    }] })
}

/// Place of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    trace: u128,
    span: u64,
    parent: Option<u64>,
    is_sampled: bool,
}

impl TraceContext {
    /// The place that the header `traceparent` gives (W3C Trace Context), or one in a trace of its own.
    pub fn of(headers: &HeaderMap) -> TraceContext {
        let span = super::fresh().max(1);
        let given = headers.get("traceparent").and_then(|value| parsed(value.to_str().ok()?));
        match given {
            Some((trace, parent, flags)) => {
                TraceContext { trace, span, parent: Some(parent), is_sampled: flags & 1 == 1 }
            }
            None => {
                let trace = (u128::from(super::fresh()) << 64 | u128::from(super::fresh())).max(1);
                TraceContext { trace, span, parent: None, is_sampled: true }
            }
        }
    }

    /// The span of a request that ends now.
    fn span(&self, line: &Json, end: SystemTime) -> Json {
        let nanos = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
        };
        let millis = |name: &str| line[name].as_f64().unwrap_or(0.0).max(0.0) / 1e3;
        let start = end - Duration::from_secs_f64(millis("ms"));
        let endpoint = line["endpoint"].as_str().unwrap_or_default();
        let operation = operation(endpoint);
        let model = line["model"].as_str();
        let name = match (operation, model) {
            (Some(operation), Some(model)) => format!("{operation} {model}"),
            _ => format!("POST {endpoint}"),
        };
        let status = line["status"].as_u64().unwrap_or(0);
        let mut attributes = vec![
            text("http.route", endpoint),
            whole("http.response.status_code", status),
            text("teff.request_id", line["id"].as_str().unwrap_or_default()),
        ];
        attributes.extend(operation.map(|operation| text("gen_ai.operation.name", operation)));
        attributes.extend(model.map(|model| text("gen_ai.response.model", model)));
        for (name, field) in [
            ("gen_ai.usage.input_tokens", "prompt_tokens"),
            ("gen_ai.usage.cache_read.input_tokens", "cached_tokens"),
            ("gen_ai.usage.output_tokens", "completion_tokens"),
        ] {
            attributes.extend(line[field].as_u64().map(|n| whole(name, n)));
        }
        if let Some(finish) = line["finish"].as_str() {
            let values = json!({ "arrayValue": { "values": [{ "stringValue": finish }] } });
            attributes.push(json!({ "key": "gen_ai.response.finish_reasons", "value": values }));
        }
        if status >= 400 {
            attributes.push(text("error.type", &status.to_string()));
        }
        let mut events = Vec::new();
        if !line["first_token_ms"].is_null() {
            let at = start + Duration::from_secs_f64(millis("first_token_ms"));
            events.push(json!({ "name": "first token", "timeUnixNano": nanos(at) }));
        }
        let mut span = json!({
            "traceId": format!("{:032x}", self.trace),
            "spanId": format!("{:016x}", self.span),
            "name": name,
            "kind": SERVER,
            "startTimeUnixNano": nanos(start),
            "endTimeUnixNano": nanos(end),
            "attributes": attributes,
            "events": events,
            // A client's own error is none of the server's.
            "status": if status >= 500 { json!({ "code": ERROR }) } else { json!({}) },
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        span
    }
}

/// `SPAN_KIND_SERVER`
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`
const ERROR: u8 = 2;

/// Trace, parent and flags of the header `traceparent`: `00-`, 32, 16 and 2 digits. A later version may
/// have more behind them.
fn parsed(header: &str) -> Option<(u128, u64, u8)> {
    let mut fields = header.trim().split('-');
    let mut field = |n: usize| {
        let digits = fields.next().filter(|digits| digits.len() == n)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        digits.bytes().all(is_hex).then_some(digits)
    };
    let version = field(2).filter(|version| *version != "ff")?;
    let trace = u128::from_str_radix(field(32)?, 16).ok().filter(|&trace| trace != 0)?;
    let parent = u64::from_str_radix(field(16)?, 16).ok().filter(|&parent| parent != 0)?;
    let flags = u8::from_str_radix(field(2)?, 16).ok()?;
    (version != "00" || fields.next().is_none()).then_some((trace, parent, flags))
}

/// The operation of a route, as the conventions of generative AI name it.
fn operation(endpoint: &str) -> Option<&'static str> {
    match endpoint {
        "/v1/chat/completions" | "/v1/responses" | "/v1/messages" | "/api/chat" => Some("chat"),
        "/v1/completions" | "/api/generate" | "/infill" => Some("text_completion"),
        "/v1/embeddings" | "/api/embed" | "/api/embeddings" => Some("embeddings"),
        _ => None,
    }
}

fn text(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn whole(key: &str, value: u64) -> Json {
    // Protobuf's JSON has whole numbers of 64 bits as texts.
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

impl fmt::Display for TracesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TracesError::Address(address) => {
                write!(f, "{address}: no address of a collector, as in http://localhost:4318")
            }
            TracesError::Header(name) => write!(f, "header `{name}`: must be NAME=VALUE"),
            TracesError::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for TracesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TracesError::Thread(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn headers_give_the_place_in_a_trace() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let context = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_str(header).unwrap());
            TraceContext::of(&headers)
        };
        for (flags, is_sampled) in [("01", true), ("00", false), ("03", true)] {
            let context = context(&format!("00-{trace}-{parent}-{flags}"));
            assert_eq!(format!("{:032x}", context.trace), trace);
            assert_eq!(context.parent, Some(0x00f0_67aa_0ba9_02b7));
            assert_eq!(context.is_sampled, is_sampled, "{flags}");
        }
        assert!(context(&format!("01-{trace}-{parent}-01-more")).parent.is_some());
        let zeros = ["0".repeat(32), "0".repeat(16)];
        for header in [
            String::new(),
            "00".into(),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{}-{parent}-01", zeros[0]),
            format!("00-{trace}-{}-01", zeros[1]),
            format!("00-{trace}-{parent}-1"),
        ] {
            let own = context(&header);
            assert!(own.parent.is_none() && own.is_sampled && own.trace != 0, "{header}");
        }
    }

    #[test]
    fn addresses_and_headers_are_checked() {
        for address in ["", "localhost:4318", "ftp://x", "http://a b"] {
            assert!(matches!(Traces::to(address, ""), Err(TracesError::Address(_))), "{address}");
        }
        for headers in ["x", "a b=c", "=x", "a=b\u{1}c"] {
            let traces = Traces::to("http://localhost:1", headers);
            assert!(matches!(traces, Err(TracesError::Header(_))), "{headers}");
        }
        assert!(Traces::to("http://localhost:1/", "a=b, c = d==,").is_ok());
    }
}
