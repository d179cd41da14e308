//! `/api/tags`, `/api/ps`, `/api/show`: what models there are, as Ollama tells it.

use super::{named_entry, time};
use crate::serve::body::typed;
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::generate::infill;
use crate::serve::loaded::Loaded;
use crate::serve::registry::Entry;
use crate::serve::routes::{Answer, Call};
use crate::serve::{blocking, reply};
use crate::text::thinking_variables;
use axum::http::StatusCode;
use gguf_rs_lite::Value;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// When a model that stays is unloaded.
const NEVER: &str = "9999-12-31T23:59:59Z";

/// `GET /api/tags`
///
/// # Errors
/// None.
pub async fn tags(call: Call) -> Answer {
    let entries = call.app.registry.entries();
    let models: Vec<Json> = entries.iter().map(|entry| listed(entry)).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "models": models })))
}

/// `GET /api/ps`
///
/// # Errors
/// None.
pub async fn ps(call: Call) -> Answer {
    let idle = call.app.registry.idle;
    let running = |entry: &Arc<Entry>| {
        let model = entry.loaded()?;
        let mut told = one(&model);
        told["expires_at"] = match entry.time_left(idle) {
            Some(left) => time(now_seconds() + left.as_secs()).into(),
            None => NEVER.into(),
        };
        told["size_vram"] = 0.into();
        told["context_length"] = model.n_ctx.into();
        Some(told)
    };
    let models: Vec<Json> = call.app.registry.entries().iter().filter_map(running).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "models": models })))
}

/// A model, of which less is known when it is not loaded.
fn listed(entry: &Entry) -> Json {
    match (entry.loaded(), &entry.offer) {
        (Some(model), _) => one(&model),
        (None, offer) => {
            let (bytes, created) =
                offer.as_ref().map_or((0, 0), |offer| (offer.file_bytes, offer.created));
            json!({
                "name": entry.id,
                "model": entry.id,
                "modified_at": time(created),
                "size": bytes,
                "digest": "",
                "details": { "parent_model": "", "format": "gguf", "family": "", "families": [],
                    "parameter_size": "", "quantization_level": "" },
            })
        }
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn one(model: &Loaded) -> Json {
    json!({
        "name": model.id,
        "model": model.id,
        "modified_at": time(model.created),
        "size": model.model.file().total_bytes(),
        "digest": "",
        "details": details(model),
    })
}

/// Elements of all tensors.
fn n_weights(model: &Loaded) -> u64 {
    model.model.file().tensors().iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum()
}

fn details(model: &Loaded) -> Json {
    let n = n_weights(model) as f64;
    let size = if n < 1e9 { format!("{:.2}M", n / 1e6) } else { format!("{:.1}B", n / 1e9) };
    let family = architecture(model);
    let mut types: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in model.model.file().tensors() {
        *types.entry(tensor.ty.to_string()).or_default() += tensor.bytes;
    }
    let most = types.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name);
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": most.unwrap_or_default(),
    })
}

fn architecture(model: &Loaded) -> &str {
    let value = model.model.file().get("general.architecture");
    value.and_then(|value| value.as_str()).unwrap_or_default()
}

const FIELDS: &[Field] =
    &[field("model", Kind::Text, "The model's name"), field("name", Kind::Text, "Its older name")];

/// The body of a request for a description.
pub const SHOW: Body = Body { tables: &[FIELDS], samples: false };

#[derive(Deserialize)]
struct Show {
    model: Option<String>,
    name: Option<String>,
}

/// `POST /api/show`
///
/// # Errors
/// There is no such model.
pub async fn show(call: Call) -> Answer {
    let asked: Show = typed(&call.fields)?;
    let entry = named_entry(&call.app, &asked.model.or(asked.name).unwrap_or_default())?;
    let told = blocking(move || Ok(shown(&*entry.described()?))).await?;
    Ok(reply::json(StatusCode::OK, &told))
}

fn shown(loaded: &Loaded) -> Json {
    let template = loaded.options.template.as_deref().or(loaded.tokenizer.chat_template());
    let license = loaded.model.file().get("general.license");
    json!({
        "modelfile": format!("FROM {}", loaded.id),
        "parameters": format!("num_ctx {}", loaded.n_ctx),
        "template": template.unwrap_or_default(),
        "license": license.and_then(|value| value.as_str()).unwrap_or_default(),
        "details": details(loaded),
        "model_info": info(loaded),
        "capabilities": capabilities(loaded),
        "modified_at": time(loaded.created),
    })
}

/// The file's description, but for its lists; the context is the one that the server has, which clients
/// fill.
fn info(loaded: &Loaded) -> Json {
    let mut info = Map::new();
    for (key, value) in loaded.model.file().entries() {
        let value = match value {
            Value::Str(text) if !key.starts_with("tokenizer.chat_template") => json!(text),
            Value::Bool(yes) => json!(yes),
            Value::F32(x) => json!(x),
            Value::F64(x) => json!(x),
            value => match (value.as_u64(), value.as_i64()) {
                (Some(n), _) => json!(n),
                (None, Some(n)) => json!(n),
                (None, None) => continue,
            },
        };
        info.insert(key.to_owned(), value);
    }
    info.insert("general.parameter_count".into(), n_weights(loaded).into());
    info.insert(format!("{}.context_length", architecture(loaded)), loaded.n_ctx.into());
    Json::Object(info)
}

fn capabilities(loaded: &Loaded) -> Vec<&'static str> {
    let mut able = Vec::new();
    if loaded.model.spec().generates() {
        able.push("completion");
        let prompter = loaded.prompter().ok().filter(|prompter| prompter.has_template());
        if let Some(prompter) = prompter {
            // What a template does not tell of tools, the server does.
            able.push("tools");
            let input = json!({
                "messages": [{ "role": "user", "content": "x" }], "add_generation_prompt": true,
            });
            let template = loaded.options.template.as_deref().or(loaded.tokenizer.chat_template());
            let has_marks = loaded
                .format
                .reasoning_marks()
                .any(|(open, _)| template.is_some_and(|template| template.contains(open)));
            if has_marks || matches!(thinking_variables(&prompter, &input, true), Ok(Some(_))) {
                able.push("thinking");
            }
        }
        if infill(loaded, "", "", &[]).is_ok() {
            able.push("insert");
        }
    }
    if loaded.options.encoder.is_some() {
        able.push("embedding");
    }
    able
}
