//! Ollama's API, translated: lines of JSON, streamed unless a request says otherwise.

mod embed;
mod models;
mod request;
mod shape;

pub use embed::{EMBED, EMBEDDINGS, embed, embeddings};
pub use models::{SHOW, ps, show, tags};
pub use request::{CHAT, GENERATE};

use super::app::App;
use super::body::{Fields, typed};
use super::duration;
use super::fault::Fault;
use super::generate::{Running, Wish, prepare};
use super::loaded::Loaded;
use super::record::Record;
use super::registry::Entry;
use super::reply::{self, Wire};
use super::routes::{Answer, Call};
use super::stream::respond;
use super::translate::gather;
use axum::http::StatusCode;
use axum::response::Response;
use request::{Asked, chat_wish, generate_wish};
use serde_json::{Value as Json, json};
use shape::{Form, Lines};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of Ollama whose API this is: clients want to see bare numbers that are new enough.
const VERSION: &str = "0.12.6";

/// `GET /api/version`
///
/// # Errors
/// None.
pub async fn version() -> Answer {
    Ok(reply::json(StatusCode::OK, &json!({ "version": VERSION })))
}

/// Refuses what changes models.
pub fn refuse(path: &str) -> Fault {
    let problem =
        format!("`{path}` is not supported: models are those that the server was started with");
    Fault::new(StatusCode::NOT_IMPLEMENTED, problem).with_code("not_supported")
}

/// `POST /api/chat`
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn chat(call: Call) -> Answer {
    let Call { app, record, fields, .. } = call;
    let asked: Asked = typed(&fields)?;
    let loaded = model(&app, &asked).await?;
    if asked.messages.as_ref().is_none_or(Vec::is_empty) {
        return Ok(load(&loaded, Form::Chat, &asked));
    }
    let wish = chat_wish(&asked, &loaded)?;
    answer(app, loaded, wish, &asked, Form::Chat, &record).await
}

/// `POST /api/generate`
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn generate(call: Call) -> Answer {
    let Call { app, record, fields, .. } = call;
    let asked: Asked = typed(&fields)?;
    let loaded = model(&app, &asked).await?;
    if asked.prompt.as_deref().unwrap_or_default().is_empty() {
        return Ok(load(&loaded, Form::Generate, &asked));
    }
    let wish = generate_wish(&asked, &fields, app.options.parse_special, &loaded)?;
    answer(app, loaded, wish, &asked, Form::Generate, &record).await
}

async fn answer(
    app: Arc<App>,
    loaded: Arc<Loaded>,
    wish: Wish,
    asked: &Asked,
    form: Form,
    record: &Arc<Record>,
) -> Result<Response, Fault> {
    let has_logprobs = wish.logprobs.is_some();
    let prepared = prepare(loaded.clone(), wish, record).await?;
    let running = Running::start(&app, &loaded, vec![prepared], record)?;
    let mut lines = Lines::new(loaded, form, has_logprobs);
    if asked.stream.unwrap_or(true) {
        return respond(running, Wire::Lines, lines).await;
    }
    gather(running, &mut lines).await?;
    Ok(reply::json(StatusCode::OK, &lines.whole()))
}

/// The answer to a request without a prompt, which only wants the model to be there.
fn load(loaded: &Loaded, form: Form, asked: &Asked) -> Response {
    let unloads = asked.keep_alive.as_ref().is_some_and(|time| time == 0 || time == "0");
    let mut line = form.line(loaded, "");
    line["done"] = true.into();
    line["done_reason"] = if unloads { "unload" } else { "load" }.into();
    reply::json(StatusCode::OK, &line)
}

/// The model of a request, which stays as long as the request says.
async fn model(app: &App, asked: &Asked) -> Result<Arc<Loaded>, Fault> {
    let name = asked.model.as_deref().or(asked.name.as_deref()).unwrap_or_default();
    named(app, name, asked.keep_alive.as_ref()).await
}

async fn named(app: &App, name: &str, keep_alive: Option<&Json>) -> Result<Arc<Loaded>, Fault> {
    let entry = named_entry(app, name)?;
    let keep = keep_alive.map(stay).transpose()?;
    let loaded = app.loaded(&entry).await?;
    if let Some(time) = keep {
        entry.keep(time);
    }
    Ok(loaded)
}

fn named_entry(app: &App, name: &str) -> Result<Arc<Entry>, Fault> {
    match name.is_empty() {
        true => Err(Fault::field("model", "is missing")),
        false => app.entry(Some(name)),
    }
}

/// How long a model stays: seconds, or a time as in `5m`; below 0 as long as it likes.
fn stay(time: &Json) -> Result<Option<Duration>, Fault> {
    let wrong = || Fault::field("keep_alive", "must be seconds, or a time as in 5m");
    match time {
        Json::String(text) if text.starts_with('-') => Ok(None),
        Json::String(text) => duration(text).map(Some).ok_or_else(wrong),
        seconds => match seconds.as_f64() {
            Some(seconds) if seconds < 0.0 => Ok(None),
            Some(seconds) => Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| wrong()),
            None => Err(wrong()),
        },
    }
}

/// A time of seconds since 1970, as RFC 3339 writes it.
fn time(seconds: u64) -> String {
    crate::text::strftime("%Y-%m-%dT%H:%M:%SZ", seconds)
}

/// The time now, with its fraction.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = time(now.as_secs());
    format!("{}.{:06}Z", text.trim_end_matches('Z'), now.subsec_micros())
}

/// A field that is there and not null.
fn given<'a>(fields: &'a Fields, name: &str) -> Option<&'a Json> {
    fields.get(name).filter(|value| !value.is_null())
}
