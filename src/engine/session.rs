//! A conversation: tokens that grow turn by turn, and answers to them.
//!
//! A session holds token ids, nothing else. Keys and values of earlier turns are found again as a
//! prefix in the KV cache, so a turn computes its new tokens only, as long as the cache has room for
//! the rest; otherwise it computes more and says the same. Sessions of one [`Runner`] share its
//! steps, each from its own thread.

use super::request::{CancelToken, Request, TokenEvent};
use super::runner::{Answer, AnswerEvent, Runner};

/// A conversation. A clone goes its own way from here.
#[derive(Clone)]
pub struct Session {
    runner: Runner,
    tokens: Vec<u32>,
    /// Number of tokens before each answer, ascending.
    answers: Vec<usize>,
}

impl Session {
    /// A conversation without a token.
    pub fn new(runner: Runner) -> Session {
        Session { runner, tokens: Vec::new(), answers: Vec::new() }
    }

    /// A conversation of tokens and places of answers that were another's.
    pub(super) fn of_tokens(runner: Runner, tokens: Vec<u32>, answers: Vec<usize>) -> Session {
        Session { runner, tokens, answers }
    }

    /// The runner that answers.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Tokens of all prompts and answers so far. The token that ends an answer is not among them, as
    /// the next prompt brings its own end of a turn.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens before each answer so far.
    pub fn answers(&self) -> &[usize] {
        &self.answers
    }

    /// Adds tokens without asking for an answer.
    pub fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Drops the tokens from position `len` on, and answers that began there or later.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.answers.retain(|&start| start < len);
    }

    /// Makes the conversation these tokens, as a template has rendered it anew with one more
    /// message. Returns the number of tokens that were there already.
    pub fn set_tokens(&mut self, tokens: &[u32]) -> usize {
        let n_common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(n_common);
        self.extend(&tokens[n_common..]);
        n_common
    }

    /// Adds the request's prompt and answers it, as the request says. The answer's tokens are added
    /// as they come; if the answer fails, the session is as it was before.
    pub fn generate(&mut self, mut request: Request) -> Turn<'_> {
        let n_before = self.tokens.len();
        self.tokens.append(&mut request.prompt);
        request.prompt.clone_from(&self.tokens);
        let answer = self.runner.submit(request);
        let n_prompt = self.tokens.len();
        self.answers.push(n_prompt);
        Turn { session: self, n_before, answer }
    }

    /// Drops the last answer and what came behind it, and answers the same tokens again; without an
    /// answer, the first time. The request's prompt is added, too.
    pub fn regenerate(&mut self, request: Request) -> Turn<'_> {
        if let Some(start) = self.answers.pop() {
            self.tokens.truncate(start);
        }
        self.generate(request)
    }
}

/// Events of an answer in a [`Session`]. Dropping it cancels the answer; the session keeps the
/// tokens that were told.
pub struct Turn<'s> {
    session: &'s mut Session,
    /// Tokens before the prompt.
    n_before: usize,
    answer: Answer,
}

impl Turn<'_> {
    /// Switch that ends the answer.
    pub fn cancel_token(&self) -> &CancelToken {
        self.answer.cancel_token()
    }
}

impl Iterator for Turn<'_> {
    type Item = AnswerEvent;

    /// Waits for the next event; `None` after the end.
    fn next(&mut self) -> Option<AnswerEvent> {
        let event = self.answer.next()?;
        match &event {
            AnswerEvent::Token(TokenEvent::Token { id, .. }) => self.session.tokens.push(*id),
            AnswerEvent::End(Err(_)) => {
                self.session.tokens.truncate(self.n_before);
                self.session.answers.pop();
            }
            _ => {}
        }
        Some(event)
    }
}
