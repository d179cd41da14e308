//! Answers told while they come: what is the same for every API that streams.
//!
//! An API says by a [`Shape`] what it makes of an event. Until the first token nothing is sent, so that an
//! error is a status; who has waited for some time, for a model, a place or a long prompt, is told by
//! comments that there will be an answer ([`patiently`]), and of an error by an event.

use super::fault::{Fault, Style};
use super::generate::{Event, Running};
use super::limits::Limits;
use super::reply::{Left, Sink, Wire, stream};
use super::routes::Answer;
use axum::body::HttpBody;
use axum::response::Response;
use serde_json::{Value as Json, json};
use std::future::poll_fn;
use std::pin::Pin;
use tokio::time::{sleep, timeout};

/// Part of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// An object.
    Data(Json),
    /// An event with a name.
    Named(&'static str, Json),
    /// OpenAI's mark of the end.
    Done,
}

/// Shape that an API gives to events.
pub trait Shape: Send + 'static {
    /// Whether the stream also tells of the prompt, so that it begins with it.
    fn tells_progress(&self) -> bool {
        false
    }

    /// What the stream begins with.
    fn begin(&mut self) -> Vec<Part> {
        Vec::new()
    }

    /// An event of the answer of that number, but for its failure.
    fn event(&mut self, index: usize, event: Event) -> Vec<Part>;

    /// What the stream ends with when all answers have ended.
    fn end(&mut self) -> Vec<Part>;

    /// What it ends with when one has failed.
    fn fault(&mut self, fault: &Fault) -> Vec<Part>;

    /// What is sent in silence; `None`: a comment.
    fn keep_alive(&mut self) -> Option<Part> {
        None
    }
}

/// Streams answers.
///
/// # Errors
/// One of them fails before there is anything to tell.
pub async fn respond(
    mut running: Running,
    wire: Wire,
    shape: impl Shape,
) -> Result<Response, Fault> {
    let mut early = Vec::new();
    while let Some((index, event)) = running.next().await {
        if let Event::End(Err(fault)) = event {
            return Err(fault);
        }
        let begins = matches!(event, Event::Piece { .. } | Event::End(_));
        early.push((index, event));
        if begins || shape.tells_progress() {
            break;
        }
    }
    let (sink, response) = stream(wire);
    tokio::spawn(async move {
        // Who has left is told nothing; the answers are cancelled as they are dropped.
        let _ = pump(running, early, sink, shape).await;
    });
    Ok(response)
}

async fn pump(
    mut running: Running,
    early: Vec<(usize, Event)>,
    sink: Sink,
    mut shape: impl Shape,
) -> Result<(), Left> {
    let keep_alive = running.limits().keep_alive;
    send(&sink, shape.begin()).await?;
    for (index, event) in early {
        send(&sink, shape.event(index, event)).await?;
    }
    loop {
        let next = tokio::select! {
            biased;
            () = sink.left() => return Err(Left),
            next = timeout(keep_alive, running.next()) => next,
        };
        match next {
            Ok(Some((_, Event::End(Err(fault))))) => {
                return send(&sink, shape.fault(&fault)).await;
            }
            Ok(Some((index, event))) => send(&sink, shape.event(index, event)).await?,
            Ok(None) => return send(&sink, shape.end()).await,
            Err(_) => match shape.keep_alive() {
                Some(part) => send(&sink, vec![part]).await?,
                None => sink.keep_alive().await?,
            },
        }
    }
}

async fn send(sink: &Sink, parts: Vec<Part>) -> Result<(), Left> {
    for part in parts {
        match part {
            Part::Data(value) => sink.send(&value).await?,
            Part::Named(name, value) => sink.named(name, &value).await?,
            Part::Done => sink.done().await?,
        }
    }
    Ok(())
}

/// The future of a route's answer.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Waits for an answer that is to be a stream: if it takes long, the stream begins with comments.
///
/// # Errors
/// Those of the answer, as long as nothing has been sent.
pub async fn patiently(
    mut answering: Answering,
    wire: Wire,
    style: Style,
    limits: Limits,
    request_id: String,
) -> Answer {
    if let Ok(answer) = timeout(limits.head_wait, &mut answering).await {
        return answer;
    }
    let (sink, response) = stream(wire);
    tokio::spawn(async move {
        // Who has left is told nothing; the answer is dropped.
        let _ = follow(answering, sink, style, limits, &request_id).await;
    });
    Ok(response)
}

async fn follow(
    mut answering: Answering,
    sink: Sink,
    style: Style,
    limits: Limits,
    request_id: &str,
) -> Result<(), Left> {
    let answer = loop {
        sink.keep_alive().await?;
        tokio::select! {
            biased;
            () = sink.left() => return Err(Left),
            answer = &mut answering => break answer,
            () = sleep(limits.keep_alive) => {}
        }
    };
    match answer {
        Ok(response) => {
            let mut body = response.into_body();
            loop {
                let frame = tokio::select! {
                    biased;
                    () = sink.left() => return Err(Left),
                    frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
                };
                let Some(Ok(frame)) = frame else { return Ok(()) };
                if let Ok(data) = frame.into_data() {
                    sink.raw(data).await?;
                }
            }
        }
        Err(fault) => send(&sink, vec![fault_part(style, &fault, request_id)]).await,
    }
}

/// The event of an error before which nothing of an answer was told.
fn fault_part(style: Style, fault: &Fault, request_id: &str) -> Part {
    let body = style.body(fault, request_id);
    match style {
        Style::Anthropic => Part::Named("error", body),
        Style::Responses => {
            let error = &body["error"];
            let told = json!({
                "type": "error", "sequence_number": 0, "code": error["code"],
                "message": error["message"], "param": error["param"],
            });
            Part::Named("error", told)
        }
        Style::OpenAi | Style::Ollama => Part::Data(body),
    }
}
