//! `/api/embed` and the older `/api/embeddings`.

use super::named;
use crate::serve::body::{texts, typed};
use crate::serve::encoder;
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::limits::TEXTS;
use crate::serve::routes::{Answer, Call};
use crate::serve::{reading, reply};
use crate::text::EncodeOptions;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::time::Instant;

const COMMON: &[Field] = &[
    field("model", Kind::Text, "The model's name").required(),
    field("keep_alive", Kind::Either(&[Kind::Text, Kind::Number]), "How long the model stays"),
    field("truncate", Kind::Bool, "Cut texts that are too long; they are refused by default"),
    field("dimensions", Kind::Whole(1, i64::MAX), "Elements of a vector, which are the model's"),
];
const INPUT: &[Field] = &[field("input", Kind::Texts, "Texts")];
const PROMPT: &[Field] = &[field("prompt", Kind::Text, "A text")];

/// The body of a request for vectors.
pub const EMBED: Body = Body { tables: &[COMMON, INPUT], samples: false };
/// The same as it was before.
pub const EMBEDDINGS: Body = Body { tables: &[COMMON, PROMPT], samples: false };

#[derive(Deserialize)]
struct Embed {
    model: String,
    keep_alive: Option<Json>,
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
pub async fn embed(call: Call) -> Answer {
    let start = Instant::now();
    let (id, vectors, n_tokens) = vectors(call, "input").await?;
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
pub async fn embeddings(call: Call) -> Answer {
    let (_, vectors, _) = vectors(call, "prompt").await?;
    let vector = vectors.into_iter().next().unwrap_or_default();
    Ok(reply::json(StatusCode::OK, &json!({ "embedding": vector })))
}

/// Name of the model, vectors and tokens of the texts in a field.
async fn vectors(call: Call, field: &'static str) -> Result<(String, Vec<Vec<f32>>, usize), Fault> {
    let asked: Embed = typed(&call.fields)?;
    let loaded = named(&call.app, &asked.model, asked.keep_alive.as_ref()).await?;
    let input = if field == "input" { asked.input } else { asked.prompt };
    let texts = texts(field, &input.unwrap_or_default())?;
    if texts.len() > TEXTS {
        return Err(Fault::field(field, format!("has more than {TEXTS} texts")));
    }
    let cuts = asked.truncate.unwrap_or(false);
    let reader = loaded.clone();
    let tokens = reading(&call.record, move || {
        let n_max = reader.encoder()?.n_tokens_max;
        let options = EncodeOptions { add_special: true, parse_special: false };
        let mut tokens = Vec::with_capacity(texts.len());
        for text in &texts {
            let mut ids = reader.tokenizer.encode(text, options)?;
            if cuts && ids.len() > n_max && n_max > 0 {
                // The last token may be one that ends texts.
                ids.drain(n_max - 1..ids.len() - 1);
            }
            tokens.push(ids);
        }
        Ok(tokens)
    })
    .await?;
    let n_tokens: usize = tokens.iter().map(Vec::len).sum();
    let vectors = encoder::vectors(&loaded, tokens, asked.dimensions, field).await?;
    Ok((loaded.id.clone(), vectors, n_tokens))
}
