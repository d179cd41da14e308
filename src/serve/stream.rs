//! Answers told while they come: what is the same for every API that streams.
//!
//! An API says by a [`Shape`] what it makes of an event. Until the first token, or for
//! [`HEAD_WAIT`](super::limits::HEAD_WAIT), nothing is sent, so that an error is a status.

use super::fault::Fault;
use super::generate::{Event, Running};
use super::limits::{HEAD_WAIT, KEEP_ALIVE};
use super::reply::{Left, Sink, Wire, stream};
use axum::response::Response;
use serde_json::Value as Json;
use tokio::time::{Instant, timeout, timeout_at};

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

/// What an API makes of events.
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
    let deadline = Instant::now() + HEAD_WAIT;
    let mut early = Vec::new();
    while let Ok(next) = timeout_at(deadline, running.next()).await {
        match next {
            Some((_, Event::End(Err(fault)))) => return Err(fault),
            Some((index, event)) => {
                let begins = matches!(event, Event::Piece { .. } | Event::End(_));
                early.push((index, event));
                if begins || shape.tells_progress() {
                    break;
                }
            }
            None => break,
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
    send(&sink, shape.begin()).await?;
    for (index, event) in early {
        send(&sink, shape.event(index, event)).await?;
    }
    loop {
        let next = tokio::select! {
            biased;
            () = sink.left() => return Err(Left),
            next = timeout(KEEP_ALIVE, running.next()) => next,
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
