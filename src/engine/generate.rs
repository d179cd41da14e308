//! One request from its prompt to its last token, on the caller's thread.

use super::request::{CancelToken, Request, Stats, TokenEvent};
use super::scheduler::{Listener, Scheduler};
use super::{Engine, EngineError};
use crate::text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Listener that hands events on and keeps the end.
struct Caller<'a> {
    tell: &'a mut (dyn FnMut(TokenEvent) -> ControlFlow<()> + Send),
    result: &'a mut Option<Result<Stats, EngineError>>,
}

impl Listener for Caller<'_> {
    fn tell(&mut self, event: TokenEvent) -> ControlFlow<()> {
        (self.tell)(event)
    }

    fn end(self: Box<Self>, result: Result<Stats, EngineError>) {
        *self.result = Some(result);
    }
}

impl Engine {
    /// Answers one request: the [`Scheduler`] with nothing else to do. `tokenizer` gives the text of
    /// tokens and says which ones end an answer; without one no token has a text or ends an answer.
    /// `tell` may also cancel the request.
    ///
    /// # Errors
    /// A model without logits, a request that cannot be answered, or a failed step.
    pub fn generate(
        &mut self,
        request: Request,
        tokenizer: Option<Arc<Tokenizer>>,
        cancel: &CancelToken,
        tell: &mut (dyn FnMut(TokenEvent) -> ControlFlow<()> + Send),
    ) -> Result<Stats, EngineError> {
        self.check_generates()?;
        let mut result = None;
        let listener = Box::new(Caller { tell, result: &mut result });
        let draft = self.draft.take();
        self.draft = self.lead(|stepper| {
            let mut scheduler = Scheduler::new(tokenizer, 1);
            scheduler.set_draft_model(draft);
            scheduler.submit(request, cancel, listener);
            while scheduler.n_requests() > 0 {
                scheduler.step(stepper);
            }
            scheduler.take_draft_model()
        });
        result.expect("the scheduler tells the end of each request")
    }

    /// Checks that the engine gives the next tokens of texts.
    ///
    /// # Errors
    /// [`EngineError::NoLogits`]
    pub(super) fn check_generates(&self) -> Result<(), EngineError> {
        let program = self.decoder.program();
        match program.gives_logits() && !program.bidirectional {
            true => Ok(()),
            false => Err(EngineError::NoLogits),
        }
    }
}
