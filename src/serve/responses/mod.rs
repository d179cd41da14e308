//! `POST /v1/responses`, OpenAI's API for agents, without state between requests.

mod input;
mod request;
mod shape;

use super::body::typed;
use super::fault::Fault;
use super::generate::{Running, prepare};
use super::reply::{self, Wire};
use super::routes::Call;
use super::stream::respond;
use super::translate::{gather, tell_ignored};
use axum::http::StatusCode;
use axum::response::Response;
use request::{Asked, wish};
use shape::Items;

pub use request::RESPONSES;

/// Answers the items of a conversation.
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn responses(call: Call) -> Result<Response, Fault> {
    let Call { app, record, fields, .. } = call;
    let asked: Asked = typed(&fields)?;
    let loaded = app.model(asked.model.as_deref()).await?;
    let wished = wish(&asked, fields, &loaded)?;
    let ignored = wished.ignored;
    let has_logprobs = wished.wish.logprobs.is_some();
    let prepared = prepare(loaded.clone(), wished.wish, &record).await?;
    let running = Running::start(&app, &loaded, vec![prepared], &record)?;
    let mut items = Items::new(loaded, wished.echo, has_logprobs);
    let mut response = match asked.stream.unwrap_or(false) {
        true => respond(running, Wire::Events, items).await?,
        false => {
            gather(running, &mut items).await?;
            reply::json(StatusCode::OK, &items.response())
        }
    };
    tell_ignored(&mut response, &record, &ignored);
    Ok(response)
}
