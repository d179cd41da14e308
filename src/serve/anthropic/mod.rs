//! Anthropic's API: `POST /v1/messages` and `/v1/messages/count_tokens`.

mod request;
mod shape;

use super::body::typed;
use super::fault::Fault;
use super::generate::{Running, prepare, render};
use super::record::Record;
use super::reply::{self, Wire};
use super::routes::Call;
use super::stream::respond;
use super::translate::{gather, tell_ignored};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use request::{Asked, conversation, wish};
use serde_json::json;
use shape::Blocks;

pub use request::{COUNT_TOKENS, MESSAGES};

/// Header where Anthropic's clients look for the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Answers a conversation.
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn messages(call: Call) -> Result<Response, Fault> {
    let Call { app, record, fields, .. } = call;
    let asked: Asked = typed(&fields)?;
    let loaded = app.model(asked.model.as_deref()).await?;
    let (wish, ignored) = wish(&asked, fields, &loaded)?;
    let prepared = prepare(loaded.clone(), wish, &record).await?;
    let n_prompt = prepared.request.prompt.len();
    let running = Running::start(&app, &loaded, vec![prepared], &record)?;
    let mut blocks = Blocks::new(&loaded, &record.id, n_prompt);
    let mut response = match asked.stream.unwrap_or(false) {
        true => respond(running, Wire::Events, blocks).await?,
        false => {
            gather(running, &mut blocks).await?;
            reply::json(StatusCode::OK, &blocks.message())
        }
    };
    tell_ignored(&mut response, &record, &ignored);
    tell_id(&mut response, &record);
    Ok(response)
}

/// The tokens that a conversation's prompt has.
///
/// # Errors
/// The request is wrong, or the template fails.
pub async fn count_tokens(call: Call) -> Result<Response, Fault> {
    let Call { app, record, fields, .. } = call;
    let asked: Asked = typed(&fields)?;
    let loaded = app.model(asked.model.as_deref()).await?;
    let (conversation, _) = conversation(&asked)?;
    let prompt = super::reading(&record, move || render(&loaded, &conversation)).await?;
    let mut response = reply::json(StatusCode::OK, &json!({ "input_tokens": prompt.ids.len() }));
    tell_id(&mut response, &record);
    Ok(response)
}

fn tell_id(response: &mut Response, record: &Record) {
    if let Ok(id) = HeaderValue::from_str(&record.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
