//! `GET /v1/models` and `/v1/models/{id}`

use crate::serve::app::App;
use crate::serve::fault::Fault;
use crate::serve::loaded::Loaded;
use crate::serve::reply;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value as Json, json};

/// All models.
pub fn list(app: &App) -> Response {
    let models: Vec<Json> = app.models().iter().map(|model| one(model)).collect();
    reply::json(StatusCode::OK, &json!({ "object": "list", "data": models }))
}

/// The model of a name.
///
/// # Errors
/// There is none.
pub fn get(app: &App, name: &str) -> Result<Response, Fault> {
    let models = app.models();
    let model = models.iter().find(|model| model.is_named(name)).ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, format!("there is no model `{name}`"))
            .with_param("model")
            .with_code("model_not_found")
    })?;
    Ok(reply::json(StatusCode::OK, &one(model)))
}

fn one(model: &Loaded) -> Json {
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "teff",
        "root": model.id,
        "parent": null,
        "max_model_len": model.n_ctx,
        "aliases": model.options.aliases,
    })
}
