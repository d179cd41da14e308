//! `GET /v1/models` and `/v1/models/{id}`

use crate::serve::registry::Entry;
use crate::serve::reply;
use crate::serve::routes::{Answer, Call};
use axum::http::StatusCode;
use serde_json::{Value as Json, json};

/// All models.
///
/// # Errors
/// None.
pub async fn list(call: Call) -> Answer {
    let models: Vec<Json> = call.app.registry.entries().iter().map(|entry| one(entry)).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "object": "list", "data": models })))
}

/// The model of a name.
///
/// # Errors
/// There is none.
pub async fn get(call: Call) -> Answer {
    let entry = call.app.entry(Some(&call.id))?;
    Ok(reply::json(StatusCode::OK, &one(&entry)))
}

/// A model; how long its context is, is known when it is loaded.
fn one(entry: &Entry) -> Json {
    let loaded = entry.loaded();
    let offered = entry.offer.as_ref().map_or(0, |offer| offer.created);
    let mut told = json!({
        "id": entry.id,
        "object": "model",
        "created": loaded.as_ref().map_or(offered, |loaded| loaded.created),
        "owned_by": "teff",
        "root": entry.id,
        "parent": null,
        "aliases": entry.aliases,
        "status": { "value": if loaded.is_some() { "loaded" } else { "unloaded" } },
    });
    if let Some(loaded) = loaded {
        told["max_model_len"] = loaded.n_ctx.into();
    }
    told
}
