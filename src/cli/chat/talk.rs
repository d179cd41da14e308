//! The conversation under way: one model, its messages, and how they are answered.

use super::super::answer_view::{AnswerReader, ReasoningShow};
use super::super::prefix_cache::PrefixCache;
use super::super::{CliError, interrupt, note, progress};
use super::screen::Screen;
use super::{ChatArgs, OnFull};
use crate::engine::{AnswerEvent, Chat, EngineError, FinishReason, Model, Request, Runner};
use crate::engine::{Speculation, Stats, TokenEvent};
use crate::model::describe::counted;
use crate::sample::{Filter, SampleParams};
use crate::text::{
    Answer, AnswerDelta, AnswerFormat, Message, Prompt, TextError, Tokenizer, builtin_names,
};
use serde_json::{Map, Value as Json, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Share of the context from which on the user is told that it fills.
const NEARLY_FULL: f64 = 0.8;

/// A conversation with a model.
pub struct Talk {
    pub model: Model,
    pub chat: Chat,
    runner: Runner,
    tokenizer: Arc<Tokenizer>,
    /// Form in which the model marks reasoning.
    format: &'static AnswerFormat,
    /// Filters before the sampler, for each answer anew.
    filters: Vec<Box<dyn Filter>>,
    pub params: SampleParams,
    prefixes: PrefixCache,
    speculation: Speculation,
    pub reasoning: ReasoningShow,
    pub n_predict: Option<usize>,
    pub on_full: OnFull,
    /// Whether files of it have what was computed, beside what was said.
    pub saves_kv: bool,
    /// Whether Ctrl-C ends the answer rather than the program.
    pub catches: bool,
    /// Messages that could not be answered.
    pub n_refused: usize,
    /// Answers so far, of which each has a seed of its own.
    pub n_answers: u64,
    /// Figures of the last answer.
    pub last: Option<Stats>,
    is_told: bool,
}

/// Why there is no answer, though the chat goes on.
pub enum Refusal {
    /// In words.
    Problem(String),
    /// The program cannot go on.
    Fatal(CliError),
}

impl<E: Into<CliError>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal::Fatal(error.into())
    }
}

impl Talk {
    /// A conversation without a message with a model that is made ready.
    pub fn new(args: &ChatArgs, model: Model, catches: bool) -> Result<Talk, CliError> {
        let (tokenizer, engine) = args.answer.ready(&model)?;
        let tokenizer = Arc::new(tokenizer);
        let at = CliError::of_model(model.path());
        let source = args.answer.template.source()?;
        let format = args.answer.template.format(&model, source.as_deref(), &tokenizer);
        let variables = variables(args, &tokenizer, source.as_deref(), format).map_err(at)?;
        let mut filters: Vec<_> =
            args.answer.template.budget(format, &tokenizer)?.into_iter().collect();
        let grammar = args.answer.grammar.read()?.map(|grammar| grammar.filter(&tokenizer));
        filters.extend(grammar.transpose()?);
        let n_ctx = engine.n_ctx();
        let runner = Runner::start(engine, Some(tokenizer.clone()), 1);
        let runner = runner.map_err(CliError::of_model(model.path()))?;
        let params = args.answer.sampling.params_of(model.file())?;
        let mut chat = Chat::new(runner.session(), tokenizer.clone(), n_ctx);
        chat.set_system(args.system.clone());
        chat.set_template(source, variables);
        Ok(Talk {
            model,
            chat,
            runner,
            tokenizer,
            format,
            filters,
            params,
            prefixes: args.answer.prefixes.open(),
            speculation: args.answer.speculate.speculation(),
            reasoning: args.answer.reasoning,
            n_predict: args.n_predict,
            on_full: args.context_full.unwrap_or(OnFull::Stop),
            saves_kv: !args.without_kv,
            catches,
            n_refused: 0,
            n_answers: 0,
            last: None,
            is_told: false,
        })
    }

    /// The same conversation with another model.
    pub fn move_to(&mut self, other: Talk) {
        let (system, messages) = (self.chat.system().map(str::to_owned), self.chat.messages());
        let messages = messages.to_vec();
        let Talk { model, chat, runner, tokenizer, format, filters, .. } = other;
        (self.model, self.chat, self.runner, self.tokenizer) = (model, chat, runner, tokenizer);
        (self.format, self.filters) = (format, filters);
        self.chat.set_system(system);
        self.chat.set_messages(messages);
        (self.last, self.is_told) = (None, false);
    }

    /// Path of the model's file.
    pub fn path(&self) -> PathBuf {
        self.model.path().to_owned()
    }

    /// Bytes of the KV cache that are in use or kept.
    pub fn kv_bytes(&self) -> usize {
        self.runner.status().kv_bytes
    }

    /// The thread that answers.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// The model's vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Adds a message and answers it. A message that cannot be answered is taken back.
    ///
    /// # Errors
    /// Only those after which the program cannot go on.
    pub fn say(&mut self, text: String, screen: &mut Screen<'_>) -> Result<(), CliError> {
        self.chat.push(Message::new("user", text));
        self.answer(screen)
    }

    /// Answers the last message, see [`say`](Self::say).
    pub fn answer(&mut self, screen: &mut Screen<'_>) -> Result<(), CliError> {
        screen.begin()?;
        let result = self.try_answer(screen);
        progress::clear_line();
        screen.end()?;
        match result {
            Ok(Coming { answer: Answer { content, reasoning, .. }, .. })
                if content.is_empty() && reasoning.is_empty() && self.was_cancelled() =>
            {
                self.chat.pop();
                // The terminal has written ^C.
                note(format_args!("\nstopped before the answer began: your message is taken back"));
            }
            Ok(Coming { answer, reader, .. }) => {
                self.chat.push(Message::answer(answer.reasoning, answer.content));
                reader.tell_hidden();
                self.tell_how_it_ended();
            }
            Err(Refusal::Problem(problem)) => {
                self.chat.pop();
                self.n_refused += 1;
                note(format_args!("{problem}; your message is taken back"));
            }
            Err(Refusal::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    fn was_cancelled(&self) -> bool {
        self.last.is_some_and(|stats| stats.finish == FinishReason::Cancelled)
    }

    /// The answer, in as many parts as a context that shifts makes of it.
    fn try_answer(&mut self, screen: &mut Screen<'_>) -> Result<Coming, Refusal> {
        self.n_answers += 1;
        let mut coming = Coming::new(self);
        // Figures of the parts so far.
        let mut whole: Option<Stats> = None;
        loop {
            let stats = match self.part(&mut coming, screen) {
                Err(Refusal::Problem(problem)) => {
                    // A prompt that is too long, or whose answer has no room.
                    if self.on_full == OnFull::Shift && self.drop_turns(coming.tokens.len())? {
                        continue;
                    }
                    return Err(Refusal::Problem(problem));
                }
                part => part?,
            };
            let stats = whole.map_or(stats, |before| joined(before, stats));
            (whole, self.last) = (Some(stats), Some(stats));
            let is_full =
                matches!(stats.finish, FinishReason::ContextFull | FinishReason::OutOfMemory);
            let goes_on = is_full && self.on_full == OnFull::Shift;
            if !(goes_on && self.drop_turns(coming.tokens.len())?) {
                break;
            }
        }
        let rest = coming.reader.finish();
        coming.take(rest, screen)?;
        Ok(coming)
    }

    /// Drops the oldest turns and says so; `false` if there is only one.
    fn drop_turns(&mut self, n_more: usize) -> Result<bool, Refusal> {
        let n = self.chat.make_room(n_more).map_err(|error| self.problem(&error))?;
        if n > 0 {
            let oldest = counted(n, "message");
            note(format_args!("\nthe context is full: the oldest {oldest} left out from now on"));
        }
        Ok(n > 0)
    }

    /// The answer, or what comes of it until the context is full.
    fn part(&mut self, coming: &mut Coming, screen: &mut Screen<'_>) -> Result<Stats, Refusal> {
        let prompt = self.chat.prompt().map_err(|error| self.problem(&error))?;
        coming.begin(&prompt.rendered.text);
        let seed = self.params.seed.wrapping_add(self.n_answers - 1);
        let head = self.new_head(&prompt)?;
        let mut request = Request {
            sampling: SampleParams { seed, ..self.params.clone() },
            max_tokens: self.n_predict.map(|n| n.saturating_sub(coming.tokens.len())),
            filters: self.filters.clone(),
            speculation: self.speculation,
            ..Request::default()
        };
        self.prefixes.fetch(&self.runner, &mut request, &head);
        let file = self.model.file();
        let turn = self.chat.answer(&prompt, request, &coming.tokens);
        let cancel = turn.cancel_token().clone();
        let _caught = self.catches.then(|| interrupt::instead(move || cancel.cancel()));
        for event in turn {
            file.check_uncut()?;
            match event {
                AnswerEvent::Token(TokenEvent::Token { id, text, .. }) => {
                    coming.token(id, text, screen)?;
                }
                AnswerEvent::Token(TokenEvent::Rest(text)) => {
                    let deltas = coming.reader.rest(text);
                    coming.take(deltas, screen)?;
                }
                AnswerEvent::Token(TokenEvent::Prompt { done, total }) => {
                    progress::show_line(&format!("reading: {done} of {total} tokens"));
                }
                AnswerEvent::End(Ok(stats)) => {
                    self.prefixes.keep(&self.runner, &head);
                    return Ok(stats);
                }
                AnswerEvent::End(Err(EngineError::PromptTooLong { n_prompt, n_ctx })) => {
                    let ways_on = self.on_full.ways_on();
                    return Err(Refusal::Problem(format!(
                        "the conversation would have {n_prompt} tokens and the context holds \
                         {n_ctx}: {ways_on}"
                    )));
                }
                AnswerEvent::End(Err(error)) => {
                    return Err(CliError::of_model(self.model.path())(error).into());
                }
            }
        }
        Err(EngineError::Stopped.into())
    }

    /// Tokens that a prompt has in common with other conversations and this one has not read yet, if they are
    /// worth keeping.
    fn new_head(&self, prompt: &Prompt) -> Result<Vec<u32>, Refusal> {
        if !self.prefixes.wants(prompt.ids.len()) {
            return Ok(Vec::new());
        }
        let head = self.chat.head(prompt).map_err(|error| self.problem(&error))?;
        let head = &prompt.ids[..head];
        let is_read = self.chat.session().tokens().starts_with(head);
        Ok(if is_read { Vec::new() } else { head.to_vec() })
    }

    fn problem(&self, error: &TextError) -> Refusal {
        Refusal::Problem(template_problem(error))
    }

    /// Notes about the last answer: a limit that ended it, a context that fills.
    fn tell_how_it_ended(&mut self) {
        let Some(stats) = self.last else { return };
        match stats.finish {
            FinishReason::ContextFull => {
                let (n_ctx, ways_on) = (self.chat.n_ctx(), self.on_full.ways_on());
                note(format_args!("the context of {n_ctx} tokens is full: {ways_on}"));
            }
            FinishReason::MaxTokens if self.catches => note(format_args!("cut at n-predict")),
            FinishReason::OutOfMemory => note(format_args!(
                "the memory of the KV cache is used up: allow more by --kv-bytes"
            )),
            _ => {}
        }
        let (used, n_ctx) = (self.n_used(), self.chat.n_ctx());
        let is_nearly_full = used as f64 >= NEARLY_FULL * n_ctx as f64;
        if is_nearly_full && !self.is_told && stats.finish != FinishReason::ContextFull {
            note(format_args!("the context is nearly full: {used} of {n_ctx} tokens"));
        }
        self.is_told = is_nearly_full;
    }

    /// Tokens of the context that the conversation has: the last one of an answer that filled it came
    /// behind its end.
    pub fn n_used(&self) -> usize {
        self.chat.session().tokens().len().min(self.chat.n_ctx())
    }
}

/// An answer that is under way.
struct Coming {
    tokens: Vec<u32>,
    answer: Answer,
    reader: AnswerReader,
    has_begun: bool,
}

impl Coming {
    fn new(talk: &Talk) -> Coming {
        let reader = AnswerReader::new(Some(talk.format), talk.tokenizer.clone(), talk.reasoning);
        Coming { tokens: Vec::new(), answer: Answer::default(), reader, has_begun: false }
    }

    /// Looks at the prompt once.
    fn begin(&mut self, prompt: &str) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.reader.begin(prompt);
        }
    }

    /// A token with the text that may be shown since it.
    fn token(&mut self, id: u32, text: String, screen: &mut Screen<'_>) -> Result<(), CliError> {
        self.tokens.push(id);
        let deltas = self.reader.token(id, text);
        let n_hidden = self.reader.n_hidden();
        if n_hidden > 0 && self.answer.content.is_empty() {
            progress::show_line(&format!("thinking: {}", counted(n_hidden, "token")));
        }
        self.take(deltas, screen)
    }

    /// Shows what is new, and keeps it.
    fn take(&mut self, deltas: Vec<AnswerDelta>, screen: &mut Screen<'_>) -> Result<(), CliError> {
        for delta in deltas {
            match &delta {
                delta if !self.reader.shows(delta) => {}
                AnswerDelta::Text(text) => screen.text(text)?,
                AnswerDelta::Reasoning(text) => screen.reasoning(text)?,
                _ => {}
            }
            self.answer.add(delta);
        }
        Ok(())
    }
}

/// Variables of the template that the user wants.
fn variables(
    args: &ChatArgs,
    tokenizer: &Tokenizer,
    source: Option<&str>,
    format: &AnswerFormat,
) -> Result<Map<String, Json>, CliError> {
    let template = &args.answer.template;
    let prompter = template.prompter(tokenizer, source).map_err(|error| template.told(&error))?;
    if !prompter.has_template() {
        return Err(CliError::failed(format!(
            "it has no chat template, as models that only continue texts (`teff run --raw`); \
             --chat-template takes a file or one of {}",
            builtin_names()
        )));
    }
    // Switches are tried on a conversation.
    let mut input = json!({
        "messages": [{ "role": "user", "content": "Hello" }],
        "add_generation_prompt": true,
    });
    args.answer.template.complete(&prompter, format, &mut input)?;
    let Json::Object(mut fields) = input else { return Ok(Map::new()) };
    fields.retain(|name, _| name != "messages" && name != "add_generation_prompt");
    Ok(fields)
}

/// Figures of two parts of one answer.
fn joined(first: Stats, second: Stats) -> Stats {
    let mut stats = second;
    stats.n_prompt = first.n_prompt;
    stats.n_cached = first.n_cached;
    stats.prompt_time += first.prompt_time;
    stats.n_generated += first.n_generated;
    stats.n_drafted += first.n_drafted;
    stats.n_accepted += first.n_accepted;
    stats.generate_time += first.generate_time;
    stats
}

/// An error of the template, with what helps.
fn template_problem(error: &TextError) -> String {
    let hint = match error {
        TextError::NoTemplate => ": `teff run --raw` continues texts without one",
        TextError::MessageLost { role, .. } if role == "system" => {
            ": `/system -` takes the instructions away"
        }
        _ => "",
    };
    format!("{error}{hint}")
}
