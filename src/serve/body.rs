//! Bodies of requests: read within their limits, and made into typed structures whose errors name the
//! field.

use super::fault::Fault;
use super::limits::BODY_BYTES;
use super::record::Record;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// A JSON object of a request.
pub type Fields = Map<String, Json>;

/// Reads a body whole.
///
/// # Errors
/// 413 beyond [`BODY_BYTES`], 408 where nothing comes for that time, 400 where the connection breaks.
pub async fn bytes(mut body: Body, time: Duration) -> Result<Vec<u8>, Fault> {
    let too_large = || {
        let message = format!("the body is longer than the {BODY_BYTES} bytes that it may have");
        Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("request_too_large")
    };
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(too_large());
    }
    let mut read = Vec::new();
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = timeout(time, frame).await.map_err(|_| {
            let message = format!("nothing of the body came for {} s", time.as_secs());
            Fault::new(StatusCode::REQUEST_TIMEOUT, message).with_code("timeout")
        })?;
        let Some(frame) = frame else { return Ok(read) };
        let frame = frame.map_err(|error| Fault::bad(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_BYTES {
            return Err(too_large());
        }
        read.extend_from_slice(&data);
    }
}

/// Reads a JSON object.
///
/// # Errors
/// Those of [`bytes`], 415 for another type, and 400 for what is no JSON object.
pub async fn fields(request: Request, time: Duration, record: &Record) -> Result<Fields, Fault> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str());
    // Some tools send none, or what forms are sent as by default.
    let is_json = |kind: &str| {
        let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        name.ends_with("json")
            || name == "application/x-www-form-urlencoded"
            || name == "text/plain"
    };
    if let Some(kind) = kind
        && !kind.is_ok_and(is_json)
    {
        let fault = Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON");
        return Err(fault.with_code("unsupported_media_type"));
    }
    let bytes = bytes(request.into_body(), time).await?;
    record.n_body.store(bytes.len(), Ordering::Relaxed);
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(_) => Err(Fault::bad("the body must be a JSON object")),
        Err(error) => Err(Fault::bad(format!("the body is no JSON: {error}"))),
    }
}

/// The typed structure of an object; fields that it does not have are passed over.
///
/// # Errors
/// A field has another type.
pub fn typed<T: DeserializeOwned>(fields: &Fields) -> Result<T, Fault> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner().to_string();
        match path.as_str() {
            // A field that is missing is named by serde.
            "." => match problem.split('`').nth(1) {
                Some(name) => Fault::field(name, problem.clone()),
                None => Fault::bad(problem),
            },
            _ => Fault::field(path, problem),
        }
    })
}

/// Texts that may be given as one.
///
/// # Errors
/// It is neither a text nor a list of texts.
pub fn texts(param: &str, value: &Json) -> Result<Vec<String>, Fault> {
    let wrong = || Fault::field(param, "must be a text or a list of texts");
    match value {
        Json::Null => Ok(Vec::new()),
        Json::String(text) => Ok(vec![text.clone()]),
        Json::Array(list) => {
            list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// Token ids.
///
/// # Errors
/// It is no list of whole numbers below `n_vocab`.
pub fn ids(param: &str, value: &Json, n_vocab: usize) -> Result<Vec<u32>, Fault> {
    let wrong = || {
        Fault::field(param, format!("token ids must be whole numbers from 0 to {}", n_vocab - 1))
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let id = |id: &Json| {
        let id = id.as_u64().filter(|&id| id < n_vocab as u64);
        id.map(|id| id as u32).ok_or_else(wrong)
    };
    list.iter().map(id).collect()
}
