//! Faults: why a request is not answered, in no API's shape, and the shape that each API gives it.

use crate::engine::EngineError;
use crate::text::TextError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};
use std::fmt;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// HTTP status.
    pub status: StatusCode,
    /// For people.
    pub message: String,
    /// Field at fault, as `messages[0].role`.
    pub param: Option<String>,
    /// Name of the fault for programs.
    pub code: Option<&'static str>,
    /// Seconds after which to come again.
    pub retry_after: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Fault {
    /// A fault with a status and words.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Fault {
        Fault { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The client's fault.
    pub fn bad(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that is wrong.
    pub fn field(param: impl Into<String>, message: impl fmt::Display) -> Fault {
        let param = param.into();
        let message = format!("{param}: {message}");
        Fault { param: Some(param), ..Fault::bad(message) }
    }

    /// Our own fault.
    pub fn internal(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message).with_code("internal_error")
    }

    /// The server cannot answer now.
    pub fn unavailable(message: impl Into<String>, code: &'static str, after: u32) -> Fault {
        let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code(code);
        Fault { retry_after: Some(after), ..fault }
    }

    /// More requests wait than may.
    pub fn busy(n_max: usize) -> Fault {
        let message = format!("{n_max} requests run or wait already");
        let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, message);
        Fault { retry_after: Some(1), ..fault.with_code("rate_limit_exceeded") }
    }

    /// A request whose client has left.
    pub fn left() -> Fault {
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Fault::new(status, "the request was cancelled").with_code("cancelled")
    }

    /// The same in other words, for a client that reads too slowly.
    pub fn slow(self, message: &str) -> Fault {
        Fault { message: message.into(), ..self }
    }

    /// The same with the code.
    pub fn with_code(self, code: &'static str) -> Fault {
        Fault { code: Some(code), ..self }
    }

    /// The same with the field.
    pub fn with_param(self, param: impl Into<String>) -> Fault {
        Fault { param: Some(param.into()), ..self }
    }

    /// A prompt that leaves no room for an answer.
    pub fn too_long(n_prompt: impl fmt::Display, n_ctx: usize) -> Fault {
        let message = format!(
            "the prompt has {n_prompt} tokens, which leaves no room for an answer in the context of \
             {n_ctx} tokens"
        );
        Fault::bad(message).with_code("context_length_exceeded")
    }
}

impl IntoResponse for Fault {
    /// A response that holds the fault, which the gate writes down in the shape of the API.
    fn into_response(self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Fault {
        let text = error.to_string();
        match error {
            EngineError::PromptTooLong { n_prompt, n_ctx } => Fault::too_long(n_prompt, n_ctx),
            EngineError::Busy => Fault { message: text, ..Fault::busy(0) },
            EngineError::Stopped => Fault::unavailable(text, "stopped", 1),
            EngineError::Sample(_)
            | EngineError::Stop(_)
            | EngineError::EmptyPrompt
            | EngineError::TooManyAnswers { .. }
            | EngineError::TooManyLogprobs { .. }
            | EngineError::NoLogits
            | EngineError::NoEmbeddings
            | EngineError::NoClassifier
            | EngineError::EmptyText { .. }
            | EngineError::Step(_) => Fault::bad(text),
            EngineError::TextTooLong { .. } => {
                Fault::bad(text).with_code("context_length_exceeded")
            }
            EngineError::Memory(_) => Fault::unavailable(text, "out_of_memory", 5),
            _ => Fault::internal(text),
        }
    }
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Fault {
        match &error {
            TextError::NoTemplate => Fault::field(
                "messages",
                "the model has no chat template; /v1/completions continues texts",
            ),
            TextError::MessageLost { message, .. } => {
                Fault::bad(error.to_string()).with_param(format!("messages[{message}]"))
            }
            TextError::TooManyTokens { at_least, max } => {
                Fault::too_long(format_args!("at least {at_least}"), *max)
            }
            _ => Fault::bad(error.to_string()),
        }
    }
}

/// API by whose shape errors are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// OpenAI's, and all that is nobody's.
    OpenAi,
    /// The same, whose streams have errors of another shape.
    Responses,
    /// Anthropic's.
    Anthropic,
    /// Ollama's.
    Ollama,
}

impl Style {
    /// The style of a path.
    pub fn of_path(path: &str) -> Style {
        match path {
            path if path.starts_with("/v1/messages") => Style::Anthropic,
            "/v1/responses" | "/responses" => Style::Responses,
            path if path.starts_with("/api/") => Style::Ollama,
            _ => Style::OpenAi,
        }
    }

    /// The body of an error.
    pub fn body(self, fault: &Fault, request_id: &str) -> Json {
        match self {
            Style::OpenAi | Style::Responses => openai(fault),
            Style::Anthropic => json!({
                "type": "error",
                "error": { "type": anthropic_type(fault), "message": fault.message },
                "request_id": request_id,
            }),
            Style::Ollama => json!({ "error": fault.message }),
        }
    }

    /// The status of an error, of which each API has its own.
    pub fn status(self, fault: &Fault) -> StatusCode {
        match (self, fault.status) {
            (Style::Anthropic, StatusCode::SERVICE_UNAVAILABLE) => {
                StatusCode::from_u16(529).unwrap_or(fault.status)
            }
            (_, status) => status,
        }
    }
}

fn openai(fault: &Fault) -> Json {
    let kind = match fault.status.as_u16() {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let Fault { message, param, code, .. } = fault;
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

fn anthropic_type(fault: &Fault) -> &'static str {
    match fault.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 | 405 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_shape() {
        let fault = Fault::field("n", "must be a whole number from 1 to 16");
        let body = Style::of_path("/v1/chat/completions").body(&fault, "r");
        let expected = json!({ "error": {
            "message": "n: must be a whole number from 1 to 16", "type": "invalid_request_error",
            "param": "n", "code": null
        } });
        assert_eq!(body, expected);
        let busy = Fault::unavailable("draining", "draining", 1);
        let style = Style::of_path("/v1/messages");
        assert_eq!(style.status(&busy).as_u16(), 529);
        assert_eq!(style.body(&busy, "r")["error"]["type"], "overloaded_error");
        assert_eq!(Style::of_path("/api/chat").body(&busy, "r"), json!({ "error": "draining" }));
    }
}
