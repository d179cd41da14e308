//! What a model is loaded with, as JSON.

use super::LocalError;
use crate::backend::MAX_THREADS;
use crate::backend::pages::KvType;
use crate::engine::{DRAFT_MAX, EngineOptions, Speculation};
use crate::serve::body::{Fields, typed};
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::loaded::ModelOptions;
use crate::text::{builtin_names, builtin_template};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::path::PathBuf;

/// Requests that run at a time where nobody says.
const PARALLEL_DEFAULT: usize = 4;
/// The same, most.
const PARALLEL_MAX: i64 = 256;

const FIELDS: &[Field] = &[
    field("threads", Kind::Whole(1, MAX_THREADS as i64), "Worker threads"),
    field("ctx", Kind::Whole(1, u32::MAX as i64), "Tokens of a context"),
    field("kv_type", Kind::Word(&["f32", "f16", "q8_0", "q4_0"]), "Type of keys and values"),
    field("kv_bytes", Kind::Whole(1, i64::MAX), "Bytes that keys and values may take"),
    field("repack", Kind::Bool, "Whether decoding may make a copy of the weights (default true)"),
    field("parallel", Kind::Whole(1, PARALLEL_MAX), "Requests that run at a time (default 4)"),
    field("speculate", Kind::Word(&["auto", "off", "ngram"]), "Drafts for requests alone"),
    field("draft", Kind::Text, "File of a model that drafts, with the same vocabulary"),
    field("chat_template", Kind::Text, "Source of a template, or the name of a built-in one"),
    field("template_args", Kind::Map, "Variables of the template"),
];
const OPTIONS: Body = Body { tables: &[FIELDS], samples: false };

#[derive(Deserialize)]
struct Asked {
    threads: Option<usize>,
    ctx: Option<usize>,
    kv_type: Option<String>,
    kv_bytes: Option<u64>,
    repack: Option<bool>,
    parallel: Option<usize>,
    speculate: Option<String>,
    draft: Option<PathBuf>,
    chat_template: Option<String>,
    template_args: Option<Map<String, Json>>,
}

/// Options that a model is loaded with.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    pub(super) engine: EngineOptions,
    pub(super) model_options: ModelOptions,
    pub(super) parallel: usize,
    /// File of a draft model.
    pub(super) draft: Option<PathBuf>,
}

impl LocalOptions {
    /// The options of an object, all of which may be missing: `threads`, `ctx`, `kv_type`, `kv_bytes`,
    /// `repack`, `parallel`, `speculate`, `draft` (a file), `chat_template` (the source of one, or the name of a built-in one)
    /// and `template_args`.
    ///
    /// # Errors
    /// An option is unknown, or has a value that it cannot have.
    pub fn from_json(options: Fields) -> Result<LocalOptions, LocalError> {
        if let Some(name) =
            options.keys().find(|name| OPTIONS.fields().all(|known| known.name != name.as_str()))
        {
            let names: Vec<&str> = OPTIONS.fields().map(|known| known.name).collect();
            let problem = format!("is no option; there is {}", names.join(", "));
            return Err(Fault::field(name, problem).into());
        }
        let asked: Asked = typed(&OPTIONS.checked(options)?)?;
        let speculation = match asked.speculate.as_deref() {
            Some("off") => Speculation::Off,
            Some("ngram") => Speculation::Always,
            _ => Speculation::Auto,
        };
        let mut engine = EngineOptions {
            threads: asked.threads,
            n_ctx: asked.ctx,
            repack: asked.repack.unwrap_or(true),
            ..EngineOptions::default()
        };
        engine.kv_bytes_max =
            asked.kv_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let kv_type =
            KvType::ALL.into_iter().find(|ty| asked.kv_type.as_deref() == Some(ty.name()));
        engine.kv_type = kv_type.unwrap_or(engine.kv_type);
        if speculation != Speculation::Off {
            engine.max_outputs = 1 + DRAFT_MAX;
        }
        let model_options = ModelOptions {
            template: asked.chat_template.map(template).transpose()?,
            variables: asked.template_args.unwrap_or_default(),
            speculation,
            ..ModelOptions::default()
        };
        let parallel = asked.parallel.unwrap_or(PARALLEL_DEFAULT);
        Ok(LocalOptions { engine, model_options, parallel, draft: asked.draft })
    }
}

/// The source of a template: a text that looks like one, or the built-in one of a name.
fn template(text: String) -> Result<String, Fault> {
    if let Some(template) = builtin_template(&text) {
        return Ok(template.source.to_owned());
    }
    if text.contains(['{', '\n']) {
        return Ok(text);
    }
    let problem = format!("`{text}` is neither a template nor one of {}", builtin_names());
    Err(Fault::field("chat_template", problem))
}

/// Options of an engine for vectors beside one that answers.
pub(super) fn encoder(engine: &EngineOptions) -> EngineOptions {
    // Repacking only pays off in token-by-token decoding.
    EngineOptions { repack: false, kv_type: KvType::F32, max_outputs: 1, ..*engine }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(options: Json) -> Result<LocalOptions, LocalError> {
        LocalOptions::from_json(options.as_object().unwrap().clone())
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = of(json!({
            "threads": 2, "ctx": 64.0, "kv_type": "q8_0", "kv_bytes": 1 << 20, "repack": false,
            "speculate": "off", "parallel": 3, "chat_template": "chatml", "template_args": {"a": 1},
        }));
        let options = options.unwrap();
        assert_eq!((options.engine.threads, options.engine.n_ctx), (Some(2), Some(64)));
        assert_eq!(options.engine.kv_type, KvType::Q8_0);
        assert_eq!((options.engine.max_outputs, options.parallel), (1, 3));
        assert!(options.model_options.template.unwrap().contains("im_start"));
        assert_eq!(of(json!({})).unwrap().engine.max_outputs, 1 + DRAFT_MAX);
        for (wrong, name) in [
            (json!({ "thread": 1 }), "thread"),
            (json!({ "threads": 0 }), "threads"),
            (json!({ "ctx": "many" }), "ctx"),
            (json!({ "kv_type": "f64" }), "kv_type"),
            (json!({ "chat_template": "chatml2" }), "chat_template"),
        ] {
            let LocalError::Request { field, .. } = of(wrong).unwrap_err() else {
                panic!("{name}")
            };
            assert_eq!(field.as_deref(), Some(name));
        }
    }
}
