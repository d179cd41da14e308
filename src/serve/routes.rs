//! The table of routes.

use super::anthropic;
use super::app::{App, Phase};
use super::body;
use super::fault::{Fault, Style};
use super::fields::Body;
use super::gate::record_of;
use super::native;
use super::ollama;
use super::openai;
use super::page;
use super::record::Record;
use super::reply::{self, Wire};
use super::responses;
use super::stream::{Answering, patiently};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodFilter, delete, on, post};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Answer of a route.
pub type Answer = Result<Response, Fault>;

/// A request as routes get it.
pub struct Call {
    /// State that all requests share.
    pub app: Arc<App>,
    /// Record of what comes of it.
    pub record: Arc<Record>,
    /// Its headers.
    pub headers: HeaderMap,
    /// The fields of its body that the route knows, checked.
    pub fields: body::Fields,
    /// The id in its path, if there is one.
    pub id: String,
}

/// A route.
pub struct Route {
    method: Method,
    /// Its paths, the first of which names it.
    paths: &'static [&'static str],
    about: &'static str,
    /// What it reads.
    body: Option<Body>,
    handler: Handler,
}

type Handler = fn(Call) -> Answering;

/// A route that reads no body.
const fn read(paths: &'static [&'static str], about: &'static str, handler: Handler) -> Route {
    Route { method: Method::GET, paths, about, body: None, handler }
}

/// A route that reads a body.
const fn take(
    paths: &'static [&'static str],
    about: &'static str,
    body: Body,
    handler: Handler,
) -> Route {
    Route { method: Method::POST, paths, about, body: Some(body), handler }
}

/// All routes. Requests are counted under the first of their paths.
static TABLE: &[Route] = &[
    read(&["/"], "A chat page", |call| Box::pin(page::page(call))),
    read(&["/health"], "Whether the server answers: ok, loading, draining or stuck", |call| {
        Box::pin(health(call.app))
    }),
    read(&["/healthz"], "The same", |call| Box::pin(health(call.app))),
    read(&["/readyz"], "The same", |call| Box::pin(health(call.app))),
    read(&["/metrics"], "Figures in the text format of Prometheus", |call| {
        Box::pin(metrics(call.app))
    }),
    read(&["/openapi.json"], "This description", |_| Box::pin(openapi())),
    read(&["/v1/models", "/models"], "The models", |call| Box::pin(openai::models::list(call))),
    read(&["/v1/models/{id}"], "A model", |call| Box::pin(openai::models::get(call))),
    take(
        &["/v1/chat/completions", "/chat/completions"],
        "Answers a conversation (OpenAI)",
        openai::CHAT,
        |call| Box::pin(openai::chat::completions(call)),
    ),
    take(
        &["/v1/responses", "/responses"],
        "Answers the items of a conversation (OpenAI)",
        responses::RESPONSES,
        |call| Box::pin(responses::responses(call)),
    ),
    take(&["/v1/completions"], "Continues texts (OpenAI)", openai::completions::BODY, |call| {
        Box::pin(openai::completions::completions(call))
    }),
    take(
        &["/v1/embeddings"],
        "Turns texts into vectors (OpenAI)",
        openai::embeddings::EMBEDDINGS,
        |call| Box::pin(openai::embeddings::embeddings(call)),
    ),
    take(
        &["/v1/rerank", "/rerank"],
        "Scores documents by a query (Jina)",
        openai::embeddings::RERANK,
        |call| Box::pin(openai::embeddings::rerank(call)),
    ),
    take(&["/v1/messages"], "Answers a conversation (Anthropic)", anthropic::MESSAGES, |call| {
        Box::pin(anthropic::messages(call))
    }),
    take(
        &["/v1/messages/count_tokens"],
        "The tokens of its prompt (Anthropic)",
        anthropic::COUNT_TOKENS,
        |call| Box::pin(anthropic::count_tokens(call)),
    ),
    read(&["/api/version"], "The version of Ollama's API", |_| Box::pin(ollama::version())),
    read(&["/api/tags"], "The models (Ollama)", |call| Box::pin(ollama::tags(call))),
    read(&["/api/ps"], "The models that are loaded (Ollama)", |call| Box::pin(ollama::ps(call))),
    take(&["/api/show"], "A model's description (Ollama)", ollama::SHOW, |call| {
        Box::pin(ollama::show(call))
    }),
    take(&["/api/chat"], "Answers a conversation (Ollama)", ollama::CHAT, |call| {
        Box::pin(ollama::chat(call))
    }),
    take(&["/api/generate"], "Answers a prompt (Ollama)", ollama::GENERATE, |call| {
        Box::pin(ollama::generate(call))
    }),
    take(&["/api/embed"], "Turns texts into vectors (Ollama)", ollama::EMBED, |call| {
        Box::pin(ollama::embed(call))
    }),
    take(
        &["/api/embeddings"],
        "Turns a text into a vector (Ollama, as before)",
        ollama::EMBEDDINGS,
        |call| Box::pin(ollama::embeddings(call)),
    ),
    take(&["/tokenize"], "Turns a text into tokens (llama.cpp)", native::TOKENIZE, |call| {
        Box::pin(native::tokenize(call))
    }),
    take(&["/detokenize"], "Turns tokens into a text (llama.cpp)", native::DETOKENIZE, |call| {
        Box::pin(native::detokenize(call))
    }),
    take(
        &["/apply-template"],
        "The prompt of a conversation (llama.cpp)",
        openai::TEMPLATE,
        |call| Box::pin(native::apply_template(call)),
    ),
    take(&["/infill"], "The text between two others (llama.cpp)", native::INFILL, |call| {
        Box::pin(native::fill(call))
    }),
    read(&["/props"], "The model and its defaults (llama.cpp)", |call| {
        Box::pin(native::props(call))
    }),
    read(&["/slots"], "Running requests, where the server tells of them (llama.cpp)", |call| {
        Box::pin(native::slots(call))
    }),
];

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in TABLE {
        let filter = if route.body.is_some() { MethodFilter::POST } else { MethodFilter::GET };
        for path in route.paths {
            let answer = move |State(app): State<Arc<App>>, id: Option<Path<String>>, request| {
                answer(route, app, id, request)
            };
            // Ids may have slashes in them.
            router = router.route(&path.replace("{id}", "{*id}"), on(filter, answer));
        }
    }
    router
        .route("/api/pull", post(refuse))
        .route("/api/push", post(refuse))
        .route("/api/create", post(refuse))
        .route("/api/copy", post(refuse))
        .route("/api/delete", delete(refuse))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn answer(
    route: &'static Route,
    app: Arc<App>,
    id: Option<Path<String>>,
    request: Request,
) -> Answer {
    let record = record_of(&request);
    let style = Style::of_path(request.uri().path());
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let headers = request.headers().clone();
    let fields = match &route.body {
        Some(known) => {
            known.checked(body::fields(request, app.options.limits.body_time, &record).await?)?
        }
        None => body::Fields::new(),
    };
    let limits = app.options.limits;
    let request_id = record.id.clone();
    let wire = wire(route, style, &fields);
    let answering = (route.handler)(Call { app, record, headers, fields, id });
    match wire {
        Some(wire) => patiently(answering, wire, style, limits, request_id).await,
        None => answering.await,
    }
}

/// How the answer is streamed, if it is.
fn wire(route: &Route, style: Style, fields: &body::Fields) -> Option<Wire> {
    let streams = route.body?.fields().any(|field| field.name == "stream");
    let wished = fields.get("stream").and_then(Json::as_bool);
    match style {
        _ if !streams => None,
        Style::Ollama => wished.unwrap_or(true).then_some(Wire::Lines),
        _ => wished.unwrap_or(false).then_some(Wire::Events),
    }
}

/// The name under which requests of a path are counted.
pub fn label(path: &str) -> &'static str {
    match TABLE.iter().find(|route| route.paths.contains(&path)) {
        Some(route) => route.paths[0],
        None if path.starts_with("/v1/models/") => "/v1/models/{id}",
        None => "other",
    }
}

/// Whether a path is for those that look after the server, which is no work.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/health" | "/healthz" | "/readyz")
}

/// Whether a path needs no key: probes, and the page, which holds nothing and asks for a key itself.
pub fn is_open(path: &str) -> bool {
    is_probe(path) || path == "/"
}

async fn health(app: Arc<App>) -> Answer {
    let status = if app.is_stuck.load(Ordering::Acquire) {
        "stuck"
    } else if app.phase() != Phase::Serving {
        "draining"
    } else if !app.is_ready() {
        "loading"
    } else {
        "ok"
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(reply::json(code, &json!({ "status": status })))
}

async fn metrics(app: Arc<App>) -> Answer {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(reply::text(StatusCode::OK, kind, app.metrics.text(&app)))
}

async fn openapi() -> Answer {
    let mut paths = serde_json::Map::new();
    for route in TABLE {
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(route.paths[0]).or_insert_with(|| json!({}))[method] = operation(route);
    }
    let description = json!({
        "openapi": "3.1.0",
        "info": { "title": "teff", "version": env!("CARGO_PKG_VERSION") },
        "components": { "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } } },
        "paths": paths,
    });
    Ok(reply::json(StatusCode::OK, &description))
}

fn operation(route: &Route) -> Json {
    let of = |schema: Json| json!({ "application/json": { "schema": schema } });
    let mut operation = json!({
        "summary": route.about,
        "responses": {
            "200": { "description": "The answer" },
            "default": { "description": "An error", "content": of(json!({ "type": "object" })) },
        },
    });
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({ "required": true, "content": of(body.schema()) });
    }
    if route.paths[0].ends_with("{id}") {
        let schema = json!({ "type": "string" });
        operation["parameters"] =
            json!([{ "name": "id", "in": "path", "required": true, "schema": schema }]);
    }
    operation
}

async fn refuse(request: Request) -> Fault {
    ollama::refuse(request.uri().path())
}

async fn unknown(request: Request) -> Fault {
    let path = request.uri().path();
    Fault::new(StatusCode::NOT_FOUND, format!("there is no path `{path}`")).with_code("not_found")
}

async fn wrong_method(request: Request) -> Fault {
    let (method, path) = (request.method(), request.uri().path());
    let problem = format!("`{path}` does not take {method}");
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, problem).with_code("method_not_allowed")
}
