//! What the engine's thread tells of an answer: it never waits, and what nobody reads is bounded.

use crate::engine::{EngineError, Listener, Stats, TokenEvent};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc::UnboundedSender;

/// News from the engine's thread.
pub(super) enum News {
    Start(usize),
    Token(TokenEvent),
    End(Result<Stats, EngineError>),
}

impl News {
    /// Bytes that it takes while it waits, about.
    pub fn n_bytes(&self) -> usize {
        const HEAD: usize = 64;
        match self {
            News::Token(TokenEvent::Token { text, logprobs, .. }) => {
                HEAD + text.len() + logprobs.as_ref().map_or(0, |logprobs| 8 * logprobs.top.len())
            }
            News::Token(TokenEvent::Rest(text)) => HEAD + text.len(),
            _ => HEAD,
        }
    }
}

/// Listener of one answer, on the engine's thread.
pub(super) struct Teller {
    pub index: usize,
    pub news: UnboundedSender<(usize, News)>,
    pub unread: Arc<AtomicUsize>,
    pub is_overrun: Arc<AtomicBool>,
    /// Bytes that may wait.
    pub unread_max: usize,
}

impl Teller {
    fn send(&self, news: News) -> ControlFlow<()> {
        let unread = self.unread.fetch_add(news.n_bytes(), Ordering::AcqRel);
        if self.news.send((self.index, news)).is_err() {
            return ControlFlow::Break(());
        }
        if unread > self.unread_max {
            self.is_overrun.store(true, Ordering::Release);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl Listener for Teller {
    fn start(&mut self, n_cached: usize) {
        let _ = self.send(News::Start(n_cached));
    }

    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()> {
        self.send(News::Token(event))
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        let _ = self.send(News::End(result));
    }
}
