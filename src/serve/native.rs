//! llama.cpp's useful extras: `/tokenize`, `/detokenize`, `/apply-template`, `/infill`, `/props`, `/slots`.

use super::app::App;
use super::body::{self, Fields, typed};
use super::fault::Fault;
use super::fields::{Body, Field, Kind, field};
use super::generate::{End, Event, Finish, Input, Running, Whole, infill, prepare, render};
use super::loaded::Loaded;
use super::openai::{COMMON, Common, EXTRAS, MODEL, conversation_of, timings};
use super::reply::{self, Wire};
use super::routes::{Answer, Call};
use super::stream::{Part, Shape, respond};
use super::{blocking, fault::Style, reading};
use crate::text::{AnswerDelta, EncodeOptions};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;

const TEXT: &[Field] = &[
    field("content", Kind::Text, "A text").required(),
    field("add_special", Kind::Bool, "Add what begins and ends texts"),
    field("parse_special", Kind::Bool, "Whether names of control tokens are such (default true)"),
    field("with_pieces", Kind::Bool, "Tell the text of each token"),
];
const TOKENS: &[Field] = &[field("tokens", Kind::List(&Kind::Any), "Token ids").required()];
const FILL: &[Field] = &[
    field("input_prefix", Kind::Text, "The text before"),
    field("input_suffix", Kind::Text, "The text behind"),
    field("input_extra", Kind::List(&Kind::Object(EXTRA)), "Other files"),
    field("prompt", Kind::Text, "What the answer begins with"),
];
const EXTRA: &[Field] =
    &[field("filename", Kind::Text, ""), field("text", Kind::Text, "").required()];

/// The body of a request for tokens.
pub const TOKENIZE: Body = Body { tables: &[MODEL, TEXT], samples: false };
/// The body of a request for their text.
pub const DETOKENIZE: Body = Body { tables: &[MODEL, TOKENS], samples: false };
/// The body of a request for the text between two others.
pub const INFILL: Body = Body { tables: &[MODEL, FILL, COMMON, EXTRAS], samples: true };

#[derive(Deserialize)]
struct Tokenize {
    model: Option<String>,
    content: String,
    add_special: Option<bool>,
    parse_special: Option<bool>,
    with_pieces: Option<bool>,
}

/// `POST /tokenize`
///
/// # Errors
/// The request is wrong.
pub async fn tokenize(call: Call) -> Answer {
    let asked: Tokenize = typed(&call.fields)?;
    let loaded = call.app.model(asked.model.as_deref()).await?;
    let tokens = reading(&call.record, move || {
        let options = EncodeOptions {
            add_special: asked.add_special.unwrap_or(false),
            parse_special: asked.parse_special.unwrap_or(true),
        };
        let ids = loaded.tokenizer.encode(&asked.content, options)?;
        if !asked.with_pieces.unwrap_or(false) {
            return Ok(json!(ids));
        }
        let piece = |id: u32| {
            let bytes = loaded.tokenizer.token_bytes(id);
            let piece = match String::from_utf8(bytes) {
                Ok(text) => json!(text),
                Err(error) => json!(error.into_bytes()),
            };
            json!({ "id": id, "piece": piece })
        };
        Ok(ids.into_iter().map(piece).collect::<Json>())
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &json!({ "tokens": tokens })))
}

/// `POST /detokenize`
///
/// # Errors
/// The request is wrong.
pub async fn detokenize(call: Call) -> Answer {
    let Call { app, fields, .. } = call;
    let loaded = model_of(&app, &fields).await?;
    let tokens = fields.get("tokens").unwrap_or(&Json::Null);
    let ids = body::ids("tokens", tokens, loaded.n_vocab())?;
    let text = blocking(move || Ok(loaded.tokenizer.decode(&ids, true))).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "content": text })))
}

/// `POST /apply-template`
///
/// # Errors
/// The request is wrong, or the template fails.
pub async fn apply_template(call: Call) -> Answer {
    let Call { app, record, fields, .. } = call;
    let loaded = model_of(&app, &fields).await?;
    let conversation = conversation_of(&fields)?;
    let prompt = reading(&record, move || render(&loaded, &conversation)).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "prompt": prompt.rendered.text })))
}

async fn model_of(app: &App, fields: &Fields) -> Result<Arc<Loaded>, Fault> {
    app.model(fields.get("model").and_then(Json::as_str)).await
}

#[derive(Deserialize)]
struct Infill {
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    input_extra: Option<Vec<Extra>>,
    prompt: Option<String>,
}

#[derive(Deserialize)]
struct Extra {
    filename: Option<String>,
    text: String,
}

/// `POST /infill`
///
/// # Errors
/// The request is wrong, or the model has no tokens for it.
pub async fn fill(call: Call) -> Answer {
    let Call { app, record, fields, .. } = call;
    let common = Common::of(&fields)?;
    let asked: Infill = typed(&fields)?;
    let loaded = app.model(common.model.as_deref()).await?;
    let extra: Vec<(String, String)> = asked
        .input_extra
        .unwrap_or_default()
        .into_iter()
        .map(|extra| (extra.filename.unwrap_or_else(|| "tmp".into()), extra.text))
        .collect();
    let prefix = asked.input_prefix.unwrap_or_default();
    let suffix = asked.input_suffix.unwrap_or_default();
    let mut wish = common.wish(Input::Tokens(Vec::new()), &fields, &loaded)?;
    let model = loaded.clone();
    let ids = reading(&record, move || {
        let mut ids = infill(&model, &prefix, &suffix, &extra)?;
        if let Some(begun) = asked.prompt.filter(|begun| !begun.is_empty()) {
            let options = EncodeOptions { add_special: false, parse_special: false };
            ids.extend(model.tokenizer.encode(&begun, options)?);
        }
        Ok(ids)
    });
    wish.input = Input::Tokens(ids.await?);
    let prepared = prepare(loaded.clone(), wish, &record).await?;
    let running = Running::start(&app, &loaded, vec![prepared], &record)?;
    if common.streams() {
        return respond(running, Wire::Events, Contents(loaded)).await;
    }
    let answers: Vec<Whole> = running.whole().await?;
    let first = answers.into_iter().next().unwrap_or_default();
    let end = first.end.ok_or_else(|| Fault::internal("there is no answer"))?;
    Ok(reply::json(StatusCode::OK, &content(&loaded, &first.answer.content, Some(&end))))
}

/// An answer in llama.cpp's own shape.
fn content(loaded: &Loaded, text: &str, end: Option<&End>) -> Json {
    let mut made = json!({ "content": text, "stop": end.is_some(), "model": loaded.id });
    if let Some(end) = end {
        let (kind, word) = match &end.finish {
            Finish::End => ("eos", ""),
            Finish::Stop(text) => ("word", text.as_str()),
            Finish::Length | Finish::Context => ("limit", ""),
        };
        made["stop_type"] = kind.into();
        made["stopping_word"] = word.into();
        made["truncated"] = false.into();
        made["tokens_predicted"] = end.stats.n_generated.into();
        made["tokens_evaluated"] = end.stats.n_prompt.into();
        made["tokens_cached"] = end.stats.n_cached.into();
        made["timings"] = timings(end);
    }
    made
}

/// Parts of an answer in llama.cpp's own shape.
struct Contents(Arc<Loaded>);

impl Shape for Contents {
    fn event(&mut self, _: usize, event: Event) -> Vec<Part> {
        match event {
            Event::Piece { deltas, .. } => deltas
                .into_iter()
                .filter_map(|delta| match delta {
                    AnswerDelta::Text(text) => Some(Part::Data(content(&self.0, &text, None))),
                    _ => None,
                })
                .collect(),
            Event::End(Ok(end)) => vec![Part::Data(content(&self.0, "", Some(&end)))],
            _ => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<Part> {
        Vec::new()
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        vec![Part::Data(Style::OpenAi.body(fault, ""))]
    }
}

/// `GET /props`
///
/// # Errors
/// No model is loaded.
pub async fn props(call: Call) -> Answer {
    let app = call.app;
    let loaded = app.model(None).await?;
    let tokenizer = &loaded.tokenizer;
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token_str(id)).unwrap_or_default();
    let template = loaded.options.template.as_deref().or(tokenizer.chat_template());
    let sampling = &loaded.options.sampling;
    let params = crate::sample::params().map(|param| {
        let value = match param.get(sampling) {
            crate::sample::Value::Number(x) => json!(x as f32),
            crate::sample::Value::Integer(n) => json!(n),
            crate::sample::Value::Bool(yes) => json!(yes),
            crate::sample::Value::Text(text) => json!(text),
            crate::sample::Value::List(texts) => json!(texts),
        };
        (param.name.to_owned(), value)
    });
    let props = json!({
        "default_generation_settings": {
            "n_ctx": loaded.n_ctx, "params": params.collect::<Fields>(),
        },
        "total_slots": app.options.n_running_max,
        "model_alias": loaded.id,
        "chat_template": template.unwrap_or_default(),
        "bos_token": name(tokenizer.bos()),
        "eos_token": name(tokenizer.eos()),
        "modalities": { "vision": false, "audio": false },
        "build_info": concat!("teff ", env!("CARGO_PKG_VERSION")),
    });
    Ok(reply::json(StatusCode::OK, &props))
}

/// `GET /slots`
///
/// # Errors
/// The server does not tell.
pub async fn slots(call: Call) -> Answer {
    let app = call.app;
    if !app.options.slots {
        let problem = "this server does not tell of its running requests";
        return Err(Fault::new(StatusCode::NOT_IMPLEMENTED, problem).with_code("not_supported"));
    }
    let loaded = app.model(None).await?;
    let n_running = loaded.status().n_running;
    let slot =
        |id: usize| json!({ "id": id, "n_ctx": loaded.n_ctx, "is_processing": id < n_running });
    let slots: Vec<Json> = (0..app.options.n_running_max).map(slot).collect();
    Ok(reply::json(StatusCode::OK, &json!(slots)))
}
