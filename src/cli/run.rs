//! `teff run`: answers a prompt, streaming.

use super::answer_args::AnswerArgs;
use super::answer_view::{AnswerReader, AnswerView};
use super::lines::without_bom;
use super::options::{ModelArgs, TOKENS_MAX, input_file, whole_number};
use super::prefix_cache::PrefixCache;
use super::shown::Look;
use super::{CliError, interrupt, progress};
use crate::backend::pages::KvType;
use crate::engine::{
    AnswerEvent, EngineError, FinishReason, Model, Request, Runner, Stats, TokenEvent,
};
use crate::model::describe::counted;
use crate::sample::Filter;
use crate::text::{
    AnswerFormat, Message, Prompt, Prompter, StopStrings, TextError, Tokenizer, builtin_names,
};
use serde_json::{Value as Json, json};
use std::io::{IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest prompt that is read: no context holds a longer one.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// `teff run`
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt [default: read from standard input]
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Instructions that come before the prompt, for models with a chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Generate at most this many tokens [default: until the model ends or the context is full]
    #[arg(short, long, value_name = "TOKENS", value_parser = whole_number(0..=TOKENS_MAX as usize))]
    n_predict: Option<usize>,
    /// End the answer before this text. May be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Continue the text as it is, without the model's chat template
    #[arg(long, conflicts_with_all = ["chat_template", "template_arg", "think", "reasoning"])]
    raw: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Streams the answer to `out`.
pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.answer.sampling.params()?;
    let grammar = args.answer.grammar.read()?;
    args.answer.engine.options(KvType::F16)?;
    StopStrings::new(args.stop.clone()).map_err(|error| CliError::usage(error.to_string()))?;
    interrupt::done(|| "nothing was answered".into());
    // What cannot be read is told before a model is fetched; nobody types a prompt for a model that
    // is not there.
    let given = given_prompt(args)?;
    let source = args.answer.template.source()?;
    let model = args.answer.engine.open_generator(&args.model)?;
    let sampling = args.answer.sampling.params_of(model.file())?;
    // A text that chance had a part in can be made again.
    let seed =
        (args.answer.sampling.draws_seed() && sampling.temperature > 0.0).then_some(sampling.seed);
    let text = given.map_or_else(typed_prompt, Ok)?;
    let (tokenizer, engine) = args.answer.ready(&model)?;
    let tokenizer = Arc::new(tokenizer);
    let prefixes = args.answer.prefixes.open();
    let Prepared { prompt, n_shared, format, mut filters } =
        prepare(args, &model, &tokenizer, source.as_deref(), &text, &prefixes)
            .map_err(CliError::of_model(model.path()))?;
    filters.extend(grammar.map(|grammar| grammar.filter(&tokenizer)).transpose()?);
    let watch = Watch::new(prompt.ids.len());
    let reader = AnswerReader::new(format, tokenizer.clone(), args.answer.reasoning);
    let mut view = AnswerView::new(reader, &prompt.rendered.text, Look::of_stdout());
    let shared = prompt.ids[..n_shared].to_vec();
    let mut request = Request {
        prompt: prompt.ids,
        filters,
        max_tokens: args.n_predict,
        sampling,
        stop: args.stop.clone(),
        // Nobody comes after it.
        cache_prefix: false,
        speculation: args.answer.speculate.speculation(),
        ..Request::default()
    };
    let runner =
        Runner::start(engine, Some(tokenizer), 1).map_err(CliError::of_model(model.path()))?;
    prefixes.fetch(&runner, &mut request, &shared);
    let answered = answer(&runner, request, &model, &mut view, &watch, out);
    let end = view.finish() + "\n";
    let written = interrupt::whole(|| out.write_all(end.as_bytes()).and_then(|()| out.flush()));
    let stats = answered?;
    written?;
    prefixes.keep(&runner, &shared);
    view.tell_hidden();
    super::note(format_args!("{}", statistics(&stats)));
    if let Some(seed) = seed {
        super::note(format_args!("seed {seed}"));
    }
    Ok(())
}

/// Answers the request; each token's text is written as it comes.
fn answer(
    runner: &Runner,
    request: Request,
    model: &Model,
    view: &mut AnswerView,
    watch: &Watch,
    out: &mut dyn Write,
) -> Result<Stats, CliError> {
    let mut write = |text: &str, is_token: bool| {
        interrupt::whole(|| {
            if is_token {
                watch.token();
            }
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        })
    };
    for event in runner.submit(request) {
        model.file().check_uncut()?;
        match event {
            AnswerEvent::Token(TokenEvent::Token { id, text, .. }) => {
                progress::clear_line();
                write(&view.token(id, text), true)?;
            }
            AnswerEvent::Token(TokenEvent::Rest(text)) => write(&view.rest(text), false)?,
            AnswerEvent::Token(TokenEvent::Prompt { done, total }) => {
                watch.prompt(done);
                progress::show_line(&format!("reading the prompt: {done} of {total} tokens"));
            }
            AnswerEvent::End(stats) => {
                progress::clear_line();
                return stats.map_err(CliError::of_model(model.path()));
            }
        }
    }
    Err(CliError::of_model(model.path())(EngineError::Stopped))
}

/// Record of the request under way, from which an interruption tells what was done.
struct Watch(Arc<Mutex<Seen>>);

/// Tokens and times of the request under way.
struct Seen {
    n_prompt: usize,
    /// Tokens of the prompt that are computed.
    prompt_done: usize,
    start: Instant,
    /// Time of the answer's first token.
    first: Option<Instant>,
    n_generated: usize,
}

impl Watch {
    /// Begins a record, of which interruptions tell from now on.
    fn new(n_prompt: usize) -> Watch {
        let start = Instant::now();
        let seen = Seen { n_prompt, prompt_done: 0, start, first: None, n_generated: 0 };
        let seen = Arc::new(Mutex::new(seen));
        let told = seen.clone();
        interrupt::done(move || told.lock().unwrap_or_else(PoisonError::into_inner).in_words());
        Watch(seen)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn prompt(&self, done: usize) {
        self.update(|seen| seen.prompt_done = done);
    }

    fn token(&self) {
        self.update(|seen| {
            seen.n_generated += 1;
            seen.first.get_or_insert_with(Instant::now);
        });
    }
}

impl Seen {
    fn in_words(&self) -> String {
        let Seen { n_prompt, prompt_done, start, first, n_generated } = *self;
        let Some(first) = first else {
            let s = start.elapsed().as_secs_f64();
            return format!("{prompt_done} of {n_prompt} tokens of the prompt read in {s:.2} s");
        };
        let (prompt_time, generate_time) = (first - start, first.elapsed());
        speeds(n_prompt, 0, prompt_time, n_generated, generate_time)
    }
}

/// The prompt of `--prompt` or of the file; `None` if it is to be read from standard input.
fn given_prompt(args: &RunArgs) -> Result<Option<String>, CliError> {
    match (&args.prompt, input_file(args.file.as_deref())) {
        (Some(prompt), _) => Ok(Some(prompt.clone())),
        (None, Some(path)) => {
            let file = std::fs::File::open(path).map_err(CliError::at(path))?;
            read_prompt(file, path).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// The prompt on standard input.
fn typed_prompt() -> Result<String, CliError> {
    if stdin().is_terminal() {
        super::note(format_args!("Type the prompt, then Ctrl-D on a line of its own."));
    }
    read_prompt(stdin().lock(), Path::new("standard input"))
}

fn read_prompt(input: impl Read, name: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    input.take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(CliError::at(name))?;
    let failed = |problem: String| CliError::failed(format!("{}: {problem}", name.display()));
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(failed(format!("longer than the {PROMPT_BYTES_MAX} bytes that a prompt has")));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        failed(format!("is not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
    })?;
    // Editors end a file with a line break, which is no part of the prompt.
    let end = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(without_bom(&text).to_string())
}

/// A prompt, and what its answer will be like.
struct Prepared {
    prompt: Prompt,
    /// Tokens at the front with which other prompts begin, too, if they are worth keeping.
    n_shared: usize,
    /// Format of the answer; `None` where no template tells.
    format: Option<&'static AnswerFormat>,
    filters: Vec<Box<dyn Filter>>,
}

/// The prompt, rendered by the model's chat template or the one that stands in for it.
fn prepare(
    args: &RunArgs,
    model: &Model,
    tokenizer: &Tokenizer,
    source: Option<&str>,
    text: &str,
    prefixes: &PrefixCache,
) -> Result<Prepared, CliError> {
    let told = |error: TextError| {
        let hint = prompt_hint(&error);
        CliError::failed(format!("{}{hint}", args.answer.template.told(&error)))
    };
    if args.raw {
        let prompt = Prompter::with_template(tokenizer, None).text(text).map_err(told)?;
        return Ok(Prepared { prompt, n_shared: 0, format: None, filters: Vec::new() });
    }
    let mut prompter = args.answer.template.prompter(tokenizer, source).map_err(told)?;
    let system = args.system.iter().map(|system| Message::new("system", system));
    let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
    if !prompter.has_template() {
        let prompt = prompter.messages(&messages).map_err(told)?;
        super::note(format_args!(
            "note: the model has no chat template, so the text is continued; --chat-template takes a \
             file or one of {}",
            builtin_names()
        ));
        return Ok(Prepared { prompt, n_shared: 0, format: None, filters: Vec::new() });
    }
    let turns: Vec<Json> = messages.iter().map(Message::to_json).collect();
    let mut input = json!({ "messages": turns, "add_generation_prompt": true });
    let format = args.answer.template.format(model, source, tokenizer);
    let filters = args.answer.template.budget(format, tokenizer)?.into_iter().collect();
    args.answer.template.complete(&prompter, format, &mut input)?;
    let prompt = match prompter.conversation(&input) {
        // With `-n 0` the user asks for the prompt's figures, not for an answer.
        Err(error @ TextError::MessageLost { .. }) if args.n_predict == Some(0) => {
            super::note(format_args!("warning: {error}"));
            prompter = prompter.lossy();
            prompter.conversation(&input)
        }
        prompt => prompt,
    };
    let prompt = prompt.map_err(told)?;
    let n_shared = match prefixes.wants(prompt.ids.len()) {
        true => prompter.head(&input, &prompt),
        false => 0,
    };
    Ok(Prepared { prompt, n_shared, format: Some(format), filters })
}

/// Advice about a prompt that cannot be made; empty if there is none.
fn prompt_hint(error: &TextError) -> &'static str {
    match error {
        TextError::NoTemplate => "; --system needs one, which --chat-template can name",
        TextError::MessageLost { role, .. } if role == "system" => {
            "; leave out --system and put it into the prompt"
        }
        TextError::Template(_) | TextError::MessageLost { .. } => {
            "; --raw continues the text without the template"
        }
        _ => "",
    }
}

/// Statistics of an answer in one line: tokens, speeds and the reason for the end.
fn statistics(stats: &Stats) -> String {
    let finish = match stats.finish {
        FinishReason::EndOfGeneration => "the model ended",
        FinishReason::Stop { .. } => "a stop text came",
        FinishReason::MaxTokens => "-n reached",
        FinishReason::ContextFull => "the context is full: raise --ctx for more",
        FinishReason::OutOfMemory => "the memory of the KV cache is used up",
        FinishReason::Cancelled => "interrupted",
    };
    let Stats { n_prompt, n_cached, prompt_time, n_generated, generate_time, .. } = *stats;
    speeds(n_prompt, n_cached, prompt_time, n_generated, generate_time) + "; " + finish
}

/// Tokens and speeds of a prompt, of which so many tokens were known already, and its answer.
fn speeds(
    n_prompt: usize,
    n_cached: usize,
    prompt: Duration,
    n_generated: usize,
    generate: Duration,
) -> String {
    let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
    let s = prompt.as_secs_f64();
    let cached = if n_cached > 0 { format!(" ({n_cached} cached)") } else { String::new() };
    let speed = rate(n_prompt - n_cached, s);
    let prompt = counted(n_prompt, "token");
    let mut line = format!("prompt {prompt}{cached}, {s:.2} s ({speed:.1} tokens/s)");
    if n_generated > 1 {
        let s = generate.as_secs_f64();
        let speed = rate(n_generated - 1, s);
        line += &format!("; answer {n_generated} tokens, {s:.2} s ({speed:.1} tokens/s)");
    }
    line
}
