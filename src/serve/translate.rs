//! What the APIs share that are not OpenAI's chat: wishes of conversations, answers gathered by the shape
//! that streams them, tools that are passed over.

use super::body::Fields;
use super::fault::Fault;
use super::generate::{Conversation, Event, Input, Running, ToolChoice, Wish};
use super::loaded::Loaded;
use super::openai::Common;
use super::record::Record;
use super::stream::Shape;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::Value as Json;

/// Header that names the types of tools that were passed over.
const IGNORED_TOOLS: HeaderName = HeaderName::from_static("x-teff-ignored-tools");

/// The wish for an answer to a conversation: `fields` are those of OpenAI's chat that say how, `schema` is
/// what the answer follows, and the field that it is from.
///
/// # Errors
/// A field is wrong, or both calls and a schema are forced.
pub fn wish(
    mut conversation: Conversation,
    mut fields: Fields,
    schema: Option<(Json, &str)>,
    loaded: &Loaded,
) -> Result<Wish, Fault> {
    if let Some((schema, place)) = &schema {
        if conversation.choice.is_forced() {
            return Err(Fault::field(*place, "excludes forced calls of tools"));
        }
        // The answer is what the schema says, which has no calls.
        conversation.choice = ToolChoice::None;
        fields.insert("json_schema".into(), schema.clone());
    }
    let common = Common::of(&fields)?;
    let mut wish = common.wish(Input::Chat(Box::new(conversation)), &fields, loaded)?;
    if let (Some((_, name)), Some((_, place))) = (&mut wish.grammar, schema) {
        place.clone_into(name);
    }
    Ok(wish)
}

/// Has a shape take in an answer whole.
///
/// # Errors
/// The answer fails.
pub async fn gather(mut running: Running, shape: &mut impl Shape) -> Result<(), Fault> {
    while let Some((index, event)) = running.next().await {
        match event {
            Event::End(Err(fault)) => return Err(fault),
            event => drop(shape.event(index, event)),
        }
    }
    shape.end();
    Ok(())
}

/// The object that the arguments of a call are; `None` for any other text.
pub fn object(arguments: &str) -> Option<Json> {
    match arguments.trim() {
        "" => Some(Json::Object(Fields::new())),
        text => serde_json::from_str(text).ok().filter(Json::is_object),
    }
}

/// Parts the tools of functions from those of other types, whose names are told in a header.
pub fn functions(tools: Vec<Json>, is_function: impl Fn(&str) -> bool) -> (Vec<Json>, Vec<String>) {
    let mut ignored: Vec<String> = Vec::new();
    let mut kept = tools;
    kept.retain(|tool| match tool["type"].as_str() {
        Some(kind) if !is_function(kind) => {
            if !ignored.iter().any(|other| other == kind) {
                ignored.push(kind.to_owned());
            }
            false
        }
        _ => true,
    });
    (kept, ignored)
}

/// Names the types of tools that were passed over, in a header and in the log.
pub fn tell_ignored(response: &mut Response, record: &Record, ignored: &[String]) {
    let names: Vec<&str> = ignored
        .iter()
        .map(String::as_str)
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
        .collect();
    if let Ok(value) = HeaderValue::from_str(&names.join(", "))
        && !ignored.is_empty()
    {
        response.headers_mut().insert(IGNORED_TOOLS, value);
        record.ignored_tools(&names);
    }
}
