//! The gate before all routes: ids, keys, names of the host, origins; and behind them the record of each
//! request.

use super::app::{App, Phase};
use super::connection::Watch;
use super::fault::{Fault, Style};
use super::limits::HEAD_BYTES;
use super::record::Record;
use super::reply;
use super::routes;
#[cfg(feature = "otlp")]
use super::traces::TraceContext;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::cell::LazyCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use subtle::ConstantTimeEq;

/// Characters of a request's id that a client may choose.
const ID_CHARS: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The record of a request.
pub fn record_of(request: &Request) -> Arc<Record> {
    let record = request.extensions().get::<Arc<Record>>().cloned();
    record.unwrap_or_else(|| Arc::new(Record::new(String::new())))
}

/// Answers a request, whatever comes.
pub async fn handle(
    app: Arc<App>,
    router: TowerToHyperService<axum::Router>,
    watch: Arc<Watch>,
    local: IpAddr,
    request: Request,
) -> Result<Response, Infallible> {
    watch.begin_request();
    let id = request_id(request.headers());
    let record = Arc::new(Record::new(id.clone()));
    let style = Style::of_path(request.uri().path());
    let endpoint = routes::label(request.uri().path());
    let is_work = !routes::is_probe(request.uri().path());
    let scope = Scope {
        app: app.clone(),
        record: record.clone(),
        endpoint,
        status: None,
        is_work,
        watch,
        #[cfg(feature = "otlp")]
        trace: app.options.traces.as_ref().map(|_| TraceContext::of(request.headers())),
    };
    if is_work {
        app.n_active.fetch_add(1, Ordering::AcqRel);
    }
    let origin = allowed_origin(&app, request.headers());
    let mut response = match admit(&app, local, &request) {
        Err(fault) => reply::fault(style, &fault, &id),
        Ok(()) if request.method() == Method::OPTIONS && origin.is_some() => preflight(),
        Ok(()) => routed(router, request, record.clone()).await,
    };
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        record.fault(&fault.message);
        response = reply::fault(style, &fault, &id);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if app.phase() != Phase::Serving {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status();
    Ok(response.map(|body| Body::new(Tracked { body, scope: scope.with_status(status) })))
}

/// Calls the route; a panic there fails this request alone.
async fn routed(
    router: TowerToHyperService<axum::Router>,
    mut request: Request,
    record: Arc<Record>,
) -> Response {
    request.extensions_mut().insert(record);
    let mut answer = pin!(router.call(request));
    let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(response))) => Poll::Ready(Ok(response)),
        Ok(Poll::Ready(Err(never))) => match never {},
        Err(_) => Poll::Ready(Err(Fault::internal("the request panicked"))),
    });
    use axum::response::IntoResponse;
    guarded.await.unwrap_or_else(IntoResponse::into_response)
}

/// The client's id of a request, or one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=ID_CHARS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(is_plain).map_or_else(|| format!("req-{:016x}", super::fresh()), str::to_owned)
}

/// Whether a request may pass.
fn admit(app: &App, local: IpAddr, request: &Request) -> Result<(), Fault> {
    check_size(request)?;
    check_host(app, local, request)?;
    let is_free = routes::is_open(request.uri().path()) || request.method() == Method::OPTIONS;
    if !is_free && !has_key(&app.options.keys, request.headers()) {
        let fault = Fault::new(StatusCode::UNAUTHORIZED, "a valid API key is needed");
        return Err(fault.with_code("invalid_api_key"));
    }
    Ok(())
}

/// Whether a request has one of the keys. All are compared, each in constant time for its length.
fn has_key(keys: &[Vec<u8>], headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = bearer.and_then(|value| match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(key.trim_ascii()),
        _ => None,
    });
    let own = headers.get("x-api-key").map(HeaderValue::as_bytes);
    let mut found = subtle::Choice::from(0);
    for given in bearer.into_iter().chain(own) {
        for key in keys {
            found |= key.as_slice().ct_eq(given);
        }
    }
    found.into()
}

/// Refuses heads that are too long, of which the connection takes some more.
fn check_size(request: &Request) -> Result<(), Fault> {
    let fields = request.headers().iter();
    let n_bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if n_bytes + request.uri().path().len() <= HEAD_BYTES {
        return Ok(());
    }
    let problem = format!("the head has more than the {HEAD_BYTES} bytes that it may have");
    let fault = Fault::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, problem);
    Err(fault.with_code("headers_too_large"))
}

/// Refuses names that are not the server's: a page of a name that leads here by a trick of its
/// nameserver would be of the same origin.
fn check_host(app: &App, local: IpAddr, request: &Request) -> Result<(), Fault> {
    let refused = |problem: String| {
        Err(Fault::new(StatusCode::FORBIDDEN, problem).with_code("host_not_allowed"))
    };
    if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Fault::bad("there are two headers Host").with_code("host_not_allowed"));
    }
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = match (host, request.uri().host()) {
        (Some(host), _) => host,
        (None, Some(host)) => host,
        (None, None) => return refused("the header Host is missing".into()),
    };
    let name = host_name(host);
    let is_own = match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == local,
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost"),
    };
    let is_allowed = |allowed: &String| {
        allowed == "*" || allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host)
    };
    match is_own || app.options.hosts.iter().any(is_allowed) {
        true => Ok(()),
        false => refused(format!("the host `{name}` is not one of this server's")),
    }
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(at)
            if host[at + 1..].bytes().all(|byte| byte.is_ascii_digit())
                && (!host[..at].contains(':') || host[..at].ends_with(']')) =>
        {
            &host[..at]
        }
        _ => host,
    }
}

/// The origin of a page that may ask.
fn allowed_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    app.options.origins.iter().any(is_allowed).then(|| origin.clone())
}

fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A request from its head to the last byte of its answer. Dropping it ends the record.
struct Scope {
    app: Arc<App>,
    record: Arc<Record>,
    endpoint: &'static str,
    /// `None` until there is an answer.
    status: Option<u16>,
    is_work: bool,
    watch: Arc<Watch>,
    #[cfg(feature = "otlp")]
    trace: Option<TraceContext>,
}

impl Scope {
    fn with_status(mut self, status: StatusCode) -> Scope {
        self.status = Some(status.as_u16());
        self
    }

    /// Tells the log, and whoever follows traces.
    fn tell(&self, status: u16) {
        let line = LazyCell::new(|| self.record.line(self.endpoint, status));
        #[cfg(feature = "otlp")]
        if let (Some(traces), Some(trace)) = (&self.app.options.traces, &self.trace) {
            traces.send(trace, &line);
        }
        if let Some(log) = self.app.log.as_ref() {
            log(&line);
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        /// Status of a request whose client left before there was an answer, as proxies log it.
        const LEFT: u16 = 499;
        let status = self.status.unwrap_or(LEFT);
        self.app.metrics.request(self.endpoint, status);
        if self.is_work {
            // Before the server may take the request for ended.
            self.tell(status);
            self.app.n_active.fetch_sub(1, Ordering::AcqRel);
        }
        self.watch.end_request();
    }
}

/// Body that holds its request's scope.
struct Tracked {
    body: Body,
    #[allow(dead_code, reason = "held until the body is dropped")]
    scope: Scope,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports_or_none() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:8080", "localhost"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a.example:x", "a.example:x"),
        ] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn keys_are_those_of_either_header() {
        let keys = [b"one".to_vec(), b"two".to_vec()];
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            has_key(&keys, &headers)
        };
        assert!(with("authorization", "Bearer two") && with("x-api-key", "one"));
        assert!(with("authorization", "bearer  one"));
        assert!(!with("authorization", "one") && !with("authorization", "Bearer"));
        assert!(!with("x-api-key", "on") && !with("x-api-key", "") && !with("x-key", "one"));
        assert!(has_key(&[], &HeaderMap::new()));
    }
}
