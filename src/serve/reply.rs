//! Answers as HTTP sends them: JSON whole, and streams of server-sent events or lines of JSON.

use super::fault::{Fault, Style};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::Value as Json;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Parts of a stream that wait for the client, beside what the engine has told.
const PARTS_MAX: usize = 8;

/// A whole answer.
pub fn json(status: StatusCode, value: &Json) -> Response {
    text(status, "application/json", value.to_string())
}

/// A text.
pub fn text(status: StatusCode, kind: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An error.
pub fn fault(style: Style, fault: &Fault, request_id: &str) -> Response {
    let mut response = json(style.status(fault), &style.body(fault, request_id));
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Way in which parts of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `data:` lines, parted by empty ones.
    Events,
    /// A line of JSON each.
    Lines,
}

/// Writing end of a stream.
#[derive(Debug)]
pub struct Sink {
    wire: Wire,
    parts: Sender<Bytes>,
}

/// The client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left;

impl Sink {
    /// A part without a name.
    ///
    /// # Errors
    /// The client has left.
    pub async fn send(&self, value: &Json) -> Result<(), Left> {
        match self.wire {
            Wire::Events => self.raw(format!("data: {value}\n\n")).await,
            Wire::Lines => self.raw(format!("{value}\n")).await,
        }
    }

    /// An event with a name.
    ///
    /// # Errors
    /// The client has left.
    pub async fn named(&self, name: &str, value: &Json) -> Result<(), Left> {
        self.raw(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// The mark at the end of OpenAI's streams.
    ///
    /// # Errors
    /// The client has left.
    pub async fn done(&self) -> Result<(), Left> {
        self.raw("data: [DONE]\n\n".to_owned()).await
    }

    /// A comment that says that the stream is alive; lines have none.
    ///
    /// # Errors
    /// The client has left.
    pub async fn keep_alive(&self) -> Result<(), Left> {
        match self.wire {
            Wire::Events => self.raw(": keep-alive\n\n".to_owned()).await,
            Wire::Lines => Ok(()),
        }
    }

    /// Waits until the client leaves.
    pub async fn left(&self) {
        self.parts.closed().await;
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// The client has left.
    pub async fn raw(&self, part: impl Into<Bytes>) -> Result<(), Left> {
        self.parts.send(part.into()).await.map_err(|_| Left)
    }
}

/// A stream: what is written to, and the response that tells it.
pub fn stream(wire: Wire) -> (Sink, Response) {
    let (parts, receiver) = channel(PARTS_MAX);
    let mut response = Response::new(Body::new(Parts(receiver)));
    let kind = match wire {
        Wire::Events => "text/event-stream",
        Wire::Lines => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather answers make streams stutter.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (Sink { wire, parts }, response)
}

/// Body that is told part by part.
struct Parts(Receiver<Bytes>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(hyper::body::Frame::data(part))))
    }
}
