//! `POST /v1/completions`: texts continued.

use super::chat_request::{COMMON, Common, EXTRAS, MODEL, TOP_LOGPROBS};
use super::{FINGERPRINT, completion, finish_reason, finite, id, last_parts, now, timings};
use crate::engine::CancelToken;
use crate::sample::Logprobs;
use crate::serve::blocking;
use crate::serve::body::{self, Fields, typed};
use crate::serve::fault::{Fault, Style};
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::generate::{End, Event, Input, Prepared, Running, Whole, Wish, infill, prepare};
use crate::serve::limits::PROMPTS;
use crate::serve::loaded::Loaded;
use crate::serve::reply::{self, Wire};
use crate::serve::routes::Call;
use crate::serve::stream::{Part, Shape, respond};
use crate::text::AnswerDelta;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// Tokens of an answer where a request says nothing, as OpenAI's.
const TOKENS_DEFAULT: usize = 16;

const FIELDS: &[Field] = &[
    field(
        "prompt",
        Kind::Either(&[Kind::Text, Kind::List(&Kind::Any)]),
        "Texts or tokens to continue",
    )
    .required(),
    field("suffix", Kind::Text, "A text behind the answer, for models that know such"),
    field("echo", Kind::Bool, "Begin the answer with the prompt"),
    field("logprobs", TOP_LOGPROBS, "Likeliest tokens to tell with each"),
    field("parse_special", Kind::Bool, "Whether names of control tokens in the prompt are such"),
];

/// The body of a request for completions.
pub const BODY: Body = Body { tables: &[MODEL, FIELDS, COMMON, EXTRAS], samples: true };

#[derive(Debug, Deserialize)]
struct Asked {
    suffix: Option<String>,
    echo: Option<bool>,
    logprobs: Option<usize>,
    parse_special: Option<bool>,
}

/// Continues texts.
///
/// # Errors
/// The request is wrong, or there is no answer to it.
pub async fn completions(call: Call) -> Result<Response, Fault> {
    let Call { app, record, fields, .. } = call;
    let common = Common::of(&fields)?;
    let asked: Asked = typed(&fields)?;
    let loaded = app.model(common.model.as_deref()).await?;
    let (n_top, echoes) = (asked.logprobs, asked.echo.unwrap_or(false));
    let mut prepared = Vec::new();
    for wish in wishes(&common, &fields, &loaded, app.options.parse_special)? {
        prepared.push(prepare(loaded.clone(), wish, &record).await?);
    }
    let has_logprobs = n_top.is_some();
    if echoes && has_logprobs && common.streams() {
        let problem = "probabilities of the prompt's own tokens are not streamed";
        return Err(Fault::field("stream", problem));
    }
    let mut echoed: Vec<Echo> = Vec::new();
    for one in &prepared {
        let echo = if echoes { Echo::of(&loaded, one, n_top).await? } else { Echo::default() };
        echoed.extend(std::iter::repeat_n(echo, one.n));
    }
    let running = Running::start(&app, &loaded, prepared, &record)?;
    if common.streams() {
        let shape = Chunks {
            loaded,
            id: id("cmpl-"),
            created: now(),
            tells_usage: common.tells_usage(),
            has_logprobs,
            offsets: echoed.iter().map(|echo| echo.text.chars().count()).collect(),
            echoed: echoed.into_iter().map(|echo| Some(echo.text)).collect(),
            ends: Vec::new(),
        };
        return respond(running, Wire::Events, shape).await;
    }
    let answers = running.whole().await?;
    Ok(reply::json(StatusCode::OK, &whole(&loaded, &answers, &echoed, has_logprobs)))
}

/// The wishes of a request, one for each prompt; `parses`: whether names of control tokens are such where
/// the request does not say.
///
/// # Errors
/// A field is wrong.
pub fn wishes(
    common: &Common,
    fields: &Fields,
    loaded: &Loaded,
    parses: bool,
) -> Result<Vec<Wish>, Fault> {
    let asked: Asked = typed(fields)?;
    let suffix = asked.suffix.as_deref().filter(|suffix| !suffix.is_empty());
    let inputs = inputs(fields, suffix, asked.parse_special.unwrap_or(parses), loaded)?;
    let wish = |input| {
        let mut wish = common.wish(input, fields, loaded)?;
        wish.logprobs = asked.logprobs;
        wish.max_tokens = wish.max_tokens.or(Some(TOKENS_DEFAULT));
        Ok(wish)
    };
    inputs.into_iter().map(wish).collect()
}

/// The texts to continue: one, several, or their tokens.
fn inputs(
    fields: &Fields,
    suffix: Option<&str>,
    parses: bool,
    loaded: &Loaded,
) -> Result<Vec<Input>, Fault> {
    let wrong =
        || Fault::field("prompt", "must be a text, a list of texts, token ids, or a list of such");
    let prompt = fields.get("prompt").unwrap_or(&Json::Null);
    if let Some(suffix) = suffix {
        let one = || Fault::field("prompt", "must be one text where there is a suffix");
        let prefix = prompt.as_str().ok_or_else(one)?;
        let tokens = infill(loaded, prefix, suffix, &[]);
        return Ok(vec![Input::Tokens(tokens.map_err(|fault| fault.with_param("suffix"))?)]);
    }
    let text = |text: &String| match parses {
        true => Input::Parsed(text.clone()),
        false => Input::Text(text.clone()),
    };
    let ids = |list: &Json| body::ids("prompt", list, loaded.n_vocab()).map(Input::Tokens);
    let inputs: Vec<Input> = match prompt {
        Json::String(one) => vec![text(one)],
        Json::Array(list) if list.is_empty() => return Err(wrong()),
        Json::Array(list) if list.iter().all(Json::is_number) => vec![ids(prompt)?],
        Json::Array(list) => list
            .iter()
            .map(|one| match one {
                Json::String(one) => Ok(text(one)),
                Json::Array(_) => ids(one),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    match inputs.len() > PROMPTS {
        true => Err(Fault::field("prompt", format!("has more than {PROMPTS} prompts"))),
        false => Ok(inputs),
    }
}

/// The prompt, where the answer begins with it.
#[derive(Clone, Default)]
struct Echo {
    text: String,
    /// Its tokens, where their probabilities are told.
    ids: Vec<u32>,
    /// Of all of them but the first.
    scores: Vec<Logprobs>,
}

impl Echo {
    async fn of(
        loaded: &Arc<Loaded>,
        prepared: &Prepared,
        n_top: Option<usize>,
    ) -> Result<Echo, Fault> {
        let ids = prepared.request.prompt.clone();
        let text = match prepared.text.is_empty() {
            true => loaded.tokenizer.decode(&ids, false),
            false => prepared.text.clone(),
        };
        let Some(n_top) = n_top else { return Ok(Echo { text, ..Echo::default() }) };
        let cancel = CancelOnDrop::default();
        let (model, token) = (loaded.clone(), cancel.0.clone());
        blocking(move || {
            let scores = model.runner()?.score(&ids, n_top, &token)?;
            let scores = scores.map_err(|_| Fault::left())?;
            Ok(Echo { text, ids, scores })
        })
        .await
    }
}

/// Cancels work whose client has left.
#[derive(Default)]
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The completion of one answer, without its prompt.
pub fn whole_one(loaded: &Loaded, answer: &Whole, has_logprobs: bool) -> Json {
    whole(loaded, std::slice::from_ref(answer), &[Echo::default()], has_logprobs)
}

fn whole(loaded: &Loaded, answers: &[Whole], echoed: &[Echo], has_logprobs: bool) -> Json {
    let choices = answers.iter().zip(echoed).enumerate().map(|(index, (answer, echo))| {
        let logprobs = match has_logprobs {
            true => logprobs(loaded, &all(echo, &answer.logprobs), 0),
            false => Json::Null,
        };
        json!({
            "index": index,
            "text": format!("{}{}", echo.text, answer.answer.content),
            "logprobs": logprobs,
            "finish_reason": answer.end.as_ref().map(finish_reason),
        })
    });
    completion(loaded, ("cmpl-", "text_completion"), choices.collect(), answers)
}

/// Tokens of a prompt that is told, of which the first comes behind nothing, and of its answer.
fn all<'a>(echo: &'a Echo, answer: &'a [(u32, Logprobs)]) -> Vec<(u32, Option<&'a Logprobs>)> {
    let scores = std::iter::once(None).chain(echo.scores.iter().map(Some));
    let prompt = echo.ids.iter().copied().zip(scores);
    prompt.chain(answer.iter().map(|(id, logprobs)| (*id, Some(logprobs)))).collect()
}

/// Probabilities in the shape of completions; the first token is at `offset` characters.
fn logprobs(loaded: &Loaded, tokens: &[(u32, Option<&Logprobs>)], mut offset: usize) -> Json {
    let text = |id: u32| String::from_utf8_lossy(&loaded.tokenizer.token_bytes(id)).into_owned();
    let (mut texts, mut probabilities) = (Vec::new(), Vec::new());
    let (mut tops, mut offsets) = (Vec::new(), Vec::new());
    for (id, logprobs) in tokens {
        let token = text(*id);
        offsets.push(offset);
        offset += token.chars().count();
        probabilities.push(logprobs.map(|logprobs| finite(logprobs.token)));
        tops.push(logprobs.map(|logprobs| {
            let mut top = serde_json::Map::new();
            for (id, p) in &logprobs.top {
                top.entry(text(*id)).or_insert_with(|| json!(finite(*p)));
            }
            // The token itself is always told.
            top.entry(token.clone()).or_insert_with(|| json!(finite(logprobs.token)));
            top
        }));
        texts.push(token);
    }
    json!({
        "tokens": texts,
        "token_logprobs": probabilities,
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}

/// The chunks of completions.
struct Chunks {
    loaded: Arc<Loaded>,
    id: String,
    created: u64,
    tells_usage: bool,
    has_logprobs: bool,
    /// Prompts that are to be told before their answers.
    echoed: Vec<Option<String>>,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
    ends: Vec<End>,
}

impl Chunks {
    fn chunk(&self, choices: Json) -> Json {
        let mut chunk = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.loaded.id,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if self.tells_usage {
            chunk["usage"] = Json::Null;
        }
        chunk
    }

    fn text(&self, index: usize, text: &str, logprobs: Json, finish: Json) -> Json {
        self.chunk(json!([{
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish,
        }]))
    }
}

impl Shape for Chunks {
    fn event(&mut self, index: usize, event: Event) -> Vec<Part> {
        let echo = |own: &mut Chunks| own.echoed[index].take().filter(|text| !text.is_empty());
        match event {
            Event::Piece { deltas, token } => {
                let mut own = String::new();
                for delta in deltas {
                    if let AnswerDelta::Text(more) = delta {
                        own += &more;
                    }
                }
                let text = echo(self).unwrap_or_default() + &own;
                let probabilities = match token {
                    Some((id, Some(p))) if self.has_logprobs => {
                        logprobs(&self.loaded, &[(id, Some(&p))], self.offsets[index])
                    }
                    _ => Json::Null,
                };
                if text.is_empty() && probabilities.is_null() {
                    return Vec::new();
                }
                self.offsets[index] += own.chars().count();
                vec![Part::Data(self.text(index, &text, probabilities, Json::Null))]
            }
            Event::End(Ok(end)) => {
                let text = echo(self).unwrap_or_default();
                let finish = finish_reason(&end).into();
                let mut chunk = self.text(index, &text, Json::Null, finish);
                chunk["timings"] = timings(&end);
                self.ends.push(end);
                vec![Part::Data(chunk)]
            }
            _ => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<Part> {
        last_parts(self.tells_usage.then(|| self.chunk(json!([]))), &self.ends)
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        vec![Part::Data(Style::OpenAi.body(fault, ""))]
    }
}
