//! `POST /v1/chat/completions`

use super::chat_request::{Common, chat};
use super::chat_shape::{Chunks, Tells, whole};
use crate::serve::fault::Fault;
use crate::serve::generate::{Running, prepare};
use crate::serve::reply::{self, Wire};
use crate::serve::routes::Call;
use crate::serve::stream::respond;
use axum::http::StatusCode;
use axum::response::Response;

/// Answers a conversation.
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn completions(call: Call) -> Result<Response, Fault> {
    let Call { app, record, fields, .. } = call;
    let common = Common::of(&fields)?;
    let loaded = app.model(common.model.as_deref()).await?;
    let wish = chat(&common, &fields, &loaded)?;
    let has_logprobs = wish.logprobs.is_some();
    let prepared = prepare(loaded.clone(), wish, &record).await?;
    let running = Running::start(&app, &loaded, vec![prepared], &record)?;
    if common.streams() {
        let tells = Tells {
            usage: common.tells_usage(),
            progress: common.return_progress.unwrap_or(false),
            logprobs: has_logprobs,
        };
        let chunks = Chunks::new(loaded, running.n(), tells);
        return respond(running, Wire::Events, chunks).await;
    }
    let answers = running.whole().await?;
    Ok(reply::json(StatusCode::OK, &whole(&loaded, &answers, has_logprobs)))
}
