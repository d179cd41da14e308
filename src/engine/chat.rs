//! A chat: messages that the model's chat template turns into prompts, and answers to them.
//!
//! Messages are the truth, tokens follow from them: before each answer the template renders the
//! whole conversation anew, and what the KV cache has of those tokens is not computed again. So
//! messages can be changed at will, and templates may drop from earlier turns what they like, as
//! reasoning.

use super::request::Request;
use super::session::{Session, Turn};
use crate::text::{ChatTemplate, Message, Prompt, Prompter, TextError, Tokenizer};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Share of the context that is left to a conversation once its oldest turns are dropped: the rest
/// is for what comes, as every drop computes what stays anew.
const KEPT_SHARE: f64 = 0.75;

/// A conversation in messages.
pub struct Chat {
    session: Session,
    tokenizer: Arc<Tokenizer>,
    n_ctx: usize,
    /// Source of a template in the place of the file's.
    template: Option<String>,
    /// Variables of the template, beside the messages.
    variables: Map<String, Json>,
    system: Option<String>,
    messages: Vec<Message>,
    /// Number of the oldest messages that prompts leave out.
    n_dropped: usize,
}

impl Chat {
    /// A conversation without a message. `n_ctx` is the context's length in tokens.
    pub fn new(session: Session, tokenizer: Arc<Tokenizer>, n_ctx: usize) -> Chat {
        Chat {
            session,
            tokenizer,
            n_ctx,
            template: None,
            variables: Map::new(),
            system: None,
            messages: Vec::new(),
            n_dropped: 0,
        }
    }

    /// Has prompts rendered by this template, or the file's, and gives it these variables beside the
    /// messages.
    pub fn set_template(&mut self, source: Option<String>, variables: Map<String, Json>) {
        (self.template, self.variables) = (source, variables);
    }

    /// Instructions that come before all messages.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Sets the instructions; `None`: no system message.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// Messages, without the system's.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces all messages.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        (self.messages, self.n_dropped) = (messages, 0);
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes the last message away.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop();
        self.n_dropped = self.n_dropped.min(self.messages.len());
        message
    }

    /// Number of the oldest messages that prompts leave out since [`make_room`](Self::make_room).
    pub fn n_dropped(&self) -> usize {
        self.n_dropped
    }

    /// Length of the context in tokens.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens of the conversation so far, as the last answer left them.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Puts another session in the place of this one's, as one that was saved with these messages:
    /// what its cache has is not computed again.
    pub fn set_session(&mut self, session: Session) {
        self.session = session;
    }

    /// The prompt up to where the model is to answer.
    ///
    /// # Errors
    /// What the template refuses, and those of the tokenizer.
    pub fn prompt(&self) -> Result<Prompt, TextError> {
        self.prompter()?.conversation(&self.input())
    }

    /// Number of a prompt's first tokens with which another conversation with these instructions begins,
    /// see [`Prompter::head`].
    ///
    /// # Errors
    /// The template does not parse.
    pub fn head(&self, prompt: &Prompt) -> Result<usize, TextError> {
        Ok(self.prompter()?.head(&self.input(), prompt))
    }

    /// What the template is to render.
    fn input(&self) -> Json {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let kept = self.messages[self.n_dropped..].iter().cloned();
        let messages: Vec<Json> = system.chain(kept).map(|message| message.to_json()).collect();
        let mut input = self.variables.clone();
        input.insert("messages".into(), messages.into());
        input.insert("add_generation_prompt".into(), true.into());
        Json::Object(input)
    }

    fn prompter(&self) -> Result<Prompter<'_>, TextError> {
        match &self.template {
            Some(source) => {
                Ok(Prompter::with_template(&self.tokenizer, Some(ChatTemplate::new(source)?)))
            }
            None => Prompter::new(&self.tokenizer),
        }
    }

    /// Drops the oldest turns until the prompt and `n_more` tokens behind it leave a quarter of the
    /// context free, or one turn is left. The system's instructions stay. Returns the number of
    /// messages that were dropped now.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn make_room(&mut self, n_more: usize) -> Result<usize, TextError> {
        let before = self.n_dropped;
        let bound = (self.n_ctx as f64 * KEPT_SHARE) as usize;
        while let Some(next) = self.next_turn() {
            self.n_dropped = next;
            if self.prompt()?.ids.len() + n_more <= bound {
                break;
            }
        }
        Ok(self.n_dropped - before)
    }

    /// Index of the second user message that prompts still have.
    fn next_turn(&self) -> Option<usize> {
        let first = self.n_dropped + 1;
        let rest = self.messages.get(first..)?;
        rest.iter().position(|message| message.role == "user").map(|at| first + at)
    }

    /// Answers the messages, whose [`prompt`](Self::prompt) it is given, as the request says; `begun`
    /// are tokens that the answer has already. The request's own prompt is not used. The answer does
    /// not become a message by itself.
    pub fn answer(&mut self, prompt: &Prompt, request: Request, begun: &[u32]) -> Turn<'_> {
        self.session.set_tokens(&[&prompt.ids[..], begun].concat());
        self.session.generate(Request { prompt: Vec::new(), ..request })
    }
}
