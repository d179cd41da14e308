//! `/api/embed` and the older `/api/embeddings`.

use super::named;
use crate::serve::app::App;
use crate::serve::body::{self, texts, typed};
use crate::serve::encoder::LeftFlag;
use crate::serve::fault::Fault;
use crate::serve::limits::TEXTS;
use crate::serve::{blocking, reply};
use crate::text::EncodeOptions;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::Instant;

#[derive(Deserialize)]
struct Embed {
    model: Option<String>,
    input: Option<Json>,
    prompt: Option<Json>,
    /// Whether texts that are too long are cut; they are refused unless a client says so.
    truncate: Option<bool>,
    dimensions: Option<u64>,
}

/// Turns texts into vectors.
///
/// # Errors
/// The request is wrong, or a text is too long.
pub async fn embed(app: Arc<App>, request: Request) -> Result<Response, Fault> {
    let start = Instant::now();
    let (id, vectors, n_tokens) = vectors(app, request, "input").await?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let answer = json!({
        "model": id,
        "embeddings": vectors,
        "total_duration": nanos,
        "load_duration": 0,
        "prompt_eval_count": n_tokens,
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// Turns one text into a vector, as clients did before.
///
/// # Errors
/// As [`embed`].
pub async fn embeddings(app: Arc<App>, request: Request) -> Result<Response, Fault> {
    let (_, vectors, _) = vectors(app, request, "prompt").await?;
    let vector = vectors.into_iter().next().unwrap_or_default();
    Ok(reply::json(StatusCode::OK, &json!({ "embedding": vector })))
}

/// Name of the model, vectors and tokens of the texts in a field.
async fn vectors(
    app: Arc<App>,
    request: Request,
    field: &'static str,
) -> Result<(String, Vec<Vec<f32>>, usize), Fault> {
    let asked: Embed = typed(&body::fields(request).await?)?;
    let name = asked.model.filter(|name| !name.is_empty());
    let loaded = named(&app, &name.ok_or_else(|| Fault::field("model", "is missing"))?)?;
    let input = if field == "input" { asked.input } else { asked.prompt };
    let texts = texts(field, &input.unwrap_or_default())?;
    if texts.len() > TEXTS {
        return Err(Fault::field(field, format!("has more than {TEXTS} texts")));
    }
    let left = LeftFlag::new();
    let (has_left, model) = (left.flag(), loaded.clone());
    let (cuts, dimensions) = (asked.truncate.unwrap_or(false), asked.dimensions);
    let (vectors, n_tokens) = blocking(move || {
        let encoder = model.encoder()?;
        if dimensions.is_some_and(|n| n != encoder.n_out as u64) {
            let problem = format!("the model has vectors of {} elements", encoder.n_out);
            return Err(Fault::field("dimensions", problem));
        }
        let options = EncodeOptions { add_special: true, parse_special: false };
        let mut tokens = Vec::with_capacity(texts.len());
        for text in &texts {
            let mut ids = model.tokenizer.encode(text, options)?;
            let n_max = encoder.n_tokens_max;
            if cuts && ids.len() > n_max && n_max > 0 {
                // The last token may be one that ends texts.
                ids.drain(n_max - 1..ids.len() - 1);
            }
            tokens.push(ids);
        }
        let n_tokens: usize = tokens.iter().map(Vec::len).sum();
        let vectors = encoder.vectors(&tokens, &has_left);
        Ok((vectors.map_err(|fault| fault.with_param(field))?, n_tokens))
    })
    .await?;
    Ok((loaded.id.clone(), vectors, n_tokens))
}
