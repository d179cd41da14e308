//! The table of routes.

use super::anthropic;
use super::app::{App, Phase};
use super::fault::Fault;
use super::native;
use super::ollama;
use super::openai;
use super::reply;
use super::responses;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get, post};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All routes: method, path and what it is. Requests are counted under the paths' names.
pub const TABLE: &[(&str, &str, &str)] = &[
    ("get", "/health", "Whether the server answers: ok, loading, draining or stuck"),
    ("get", "/healthz", "The same"),
    ("get", "/readyz", "The same"),
    ("get", "/metrics", "Figures in the text format of Prometheus"),
    ("get", "/openapi.json", "This description"),
    ("get", "/v1/models", "The models"),
    ("get", "/v1/models/{id}", "A model"),
    ("post", "/v1/chat/completions", "Answers a conversation (OpenAI)"),
    ("post", "/v1/responses", "Answers the items of a conversation (OpenAI)"),
    ("post", "/v1/completions", "Continues texts (OpenAI)"),
    ("post", "/v1/embeddings", "Turns texts into vectors (OpenAI)"),
    ("post", "/v1/rerank", "Scores documents by a query (Jina)"),
    ("post", "/v1/messages", "Answers a conversation (Anthropic)"),
    ("post", "/v1/messages/count_tokens", "The tokens of its prompt (Anthropic)"),
    ("get", "/api/version", "The version of Ollama's API"),
    ("get", "/api/tags", "The models (Ollama)"),
    ("get", "/api/ps", "The models that are loaded (Ollama)"),
    ("post", "/api/show", "A model's description (Ollama)"),
    ("post", "/api/chat", "Answers a conversation (Ollama)"),
    ("post", "/api/generate", "Answers a prompt (Ollama)"),
    ("post", "/api/embed", "Turns texts into vectors (Ollama)"),
    ("post", "/api/embeddings", "Turns a text into a vector (Ollama, as before)"),
    ("post", "/tokenize", "Turns a text into tokens (llama.cpp)"),
    ("post", "/detokenize", "Turns tokens into a text (llama.cpp)"),
    ("post", "/apply-template", "The prompt of a conversation (llama.cpp)"),
    ("post", "/infill", "The text between two others (llama.cpp)"),
    ("get", "/props", "The model and its defaults (llama.cpp)"),
    ("get", "/slots", "Running requests, where the server tells of them (llama.cpp)"),
];

/// Answer of a route.
type Answer = Result<Response, Fault>;

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/healthz", get(health))
        .route("/readyz", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/v1/models", get(models))
        .route("/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/chat/completions", post(chat_completions))
        .route("/v1/responses", post(respond))
        .route("/responses", post(respond))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/rerank", post(rerank))
        .route("/rerank", post(rerank))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/api/version", get(ollama_version))
        .route("/api/tags", get(ollama_tags))
        .route("/api/ps", get(ollama_ps))
        .route("/api/show", post(ollama_show))
        .route("/api/chat", post(ollama_chat))
        .route("/api/generate", post(ollama_generate))
        .route("/api/embed", post(ollama_embed))
        .route("/api/embeddings", post(ollama_embeddings))
        .route("/api/pull", post(ollama_refuse))
        .route("/api/push", post(ollama_refuse))
        .route("/api/create", post(ollama_refuse))
        .route("/api/copy", post(ollama_refuse))
        .route("/api/delete", delete(ollama_refuse))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/apply-template", post(apply_template))
        .route("/infill", post(infill))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// The name under which requests of a path are counted.
pub fn label(path: &str) -> &'static str {
    match TABLE.iter().find(|route| route.1 == path) {
        Some(route) => route.1,
        None if path.starts_with("/v1/models/") => "/v1/models/{id}",
        None => "other",
    }
}

/// Whether a path is for those that look after the server, which need no key and are no work.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/health" | "/healthz" | "/readyz")
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let status = if app.is_stuck.load(Ordering::Acquire) {
        "stuck"
    } else if app.phase() != Phase::Serving {
        "draining"
    } else if app.models().is_empty() {
        "loading"
    } else {
        "ok"
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(code, &json!({ "status": status }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    reply::text(StatusCode::OK, kind, app.metrics.text(&app))
}

async fn openapi() -> Response {
    let mut paths = serde_json::Map::new();
    for (method, path, about) in TABLE {
        let content = json!({ "application/json": { "schema": { "type": "object" } } });
        let mut operation = json!({
            "summary": about,
            "responses": {
                "200": { "description": "The answer" },
                "default": { "description": "An error", "content": content },
            },
        });
        if *method == "post" {
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        if path.ends_with("{id}") {
            let schema = json!({ "type": "string" });
            operation["parameters"] =
                json!([{ "name": "id", "in": "path", "required": true, "schema": schema }]);
        }
        paths.entry(*path).or_insert_with(|| json!({}))[*method] = operation;
    }
    let description = json!({
        "openapi": "3.1.0",
        "info": { "title": "teff", "version": env!("CARGO_PKG_VERSION") },
        "components": { "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } } },
        "paths": paths,
    });
    reply::json(StatusCode::OK, &description)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    openai::models::list(&app)
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    openai::models::get(&app, &id)
}

async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Answer {
    openai::chat::completions(app, request).await
}

async fn respond(State(app): State<Arc<App>>, request: Request) -> Answer {
    responses::responses(app, request).await
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Answer {
    openai::completions::completions(app, request).await
}

async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Answer {
    openai::embeddings::embeddings(app, request).await
}

async fn rerank(State(app): State<Arc<App>>, request: Request) -> Answer {
    openai::embeddings::rerank(app, request).await
}

async fn messages(State(app): State<Arc<App>>, request: Request) -> Answer {
    anthropic::messages(app, request).await
}

async fn count_tokens(State(app): State<Arc<App>>, request: Request) -> Answer {
    anthropic::count_tokens(app, request).await
}

async fn ollama_version() -> Response {
    ollama::version()
}

async fn ollama_tags(State(app): State<Arc<App>>) -> Response {
    ollama::tags(&app)
}

async fn ollama_ps(State(app): State<Arc<App>>) -> Response {
    ollama::ps(&app)
}

async fn ollama_show(State(app): State<Arc<App>>, request: Request) -> Answer {
    ollama::show(app, request).await
}

async fn ollama_chat(State(app): State<Arc<App>>, request: Request) -> Answer {
    ollama::chat(app, request).await
}

async fn ollama_generate(State(app): State<Arc<App>>, request: Request) -> Answer {
    ollama::generate(app, request).await
}

async fn ollama_embed(State(app): State<Arc<App>>, request: Request) -> Answer {
    ollama::embed(app, request).await
}

async fn ollama_embeddings(State(app): State<Arc<App>>, request: Request) -> Answer {
    ollama::embeddings(app, request).await
}

async fn ollama_refuse(request: Request) -> Fault {
    ollama::refuse(request.uri().path())
}

async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Answer {
    native::tokenize(app, request).await
}

async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Answer {
    native::detokenize(app, request).await
}

async fn apply_template(State(app): State<Arc<App>>, request: Request) -> Answer {
    native::apply_template(app, request).await
}

async fn infill(State(app): State<Arc<App>>, request: Request) -> Answer {
    native::fill(app, request).await
}

async fn props(State(app): State<Arc<App>>) -> Answer {
    native::props(&app)
}

async fn slots(State(app): State<Arc<App>>) -> Answer {
    native::slots(&app)
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
