//! `teff run`: answers a prompt, streaming.

use super::grammar::GrammarArgs;
use super::lines::without_bom;
use super::options::{
    ContextArgs, EngineArgs, ModelArgs, TOKENS_MAX, input_file, tokenizer_of, whole_number,
};
use super::sampling::SamplingArgs;
use super::{CliError, interrupt, progress, threads};
use crate::backend::pages::KvType;
use crate::engine::{CancelToken, Engine, EngineOptions, FinishReason, Request, Stats, TokenEvent};
use crate::text::{Message, Prompter, StopStrings, TextError, Tokenizer};
use std::io::{IsTerminal, Read, Write, stdin};
use std::ops::ControlFlow;
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
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    grammar: GrammarArgs,
}

/// Streams the answer to `out`.
pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.sampling.params()?;
    let grammar = args.grammar.read()?;
    let options = args.engine.options(KvType::F16)?;
    StopStrings::new(args.stop.clone()).map_err(|error| CliError::usage(error.to_string()))?;
    interrupt::done(|| "nothing was answered".into());
    // What cannot be read is told before a model is fetched; nobody types a prompt for a model that
    // is not there.
    let given = given_prompt(args)?;
    let model = args.engine.open_generator(&args.model)?;
    let at = CliError::of_model(model.path());
    let sampling = args.sampling.params_of(model.file())?;
    // A text that chance had a part in can be made again.
    let seed = (args.sampling.draws_seed() && sampling.temperature > 0.0).then_some(sampling.seed);
    let text = given.map_or_else(typed_prompt, Ok)?;
    args.context.check(&model, &args.engine, KvType::F16)?;
    // Building the vocabulary takes as long as binding the weights: both are done at once.
    let n_ctx = args.context.ctx.map(|n| n as usize);
    let options = EngineOptions { n_ctx, ..options };
    let (tokenizer, engine) = std::thread::scope(|scope| {
        let tokenizer = threads::spawn(scope, || tokenizer_of(&model))?;
        let engine = Engine::new(&model, &options);
        Ok::<_, CliError>((tokenizer.join(), engine))
    })?;
    let tokenizer = tokenizer.map_err(|_| CliError::failed("the vocabulary's thread died"))??;
    let mut engine = engine.map_err(&at)?;
    args.engine.lock(&model, &engine)?;
    for warning in tokenizer.warnings() {
        super::note(format_args!("warning: {warning}"));
    }
    let prompt = prompt_tokens(args, &tokenizer, &text).map_err(|error| {
        let hint = prompt_hint(&error);
        CliError::of_model(model.path())(format!("{error}{hint}"))
    })?;
    let tokenizer = Arc::new(tokenizer);
    let filters = grammar.map(|grammar| grammar.filter(&tokenizer)).transpose()?;
    let watch = Watch::new(prompt.len());
    let request = Request {
        prompt,
        max_tokens: args.n_predict,
        sampling,
        filters: filters.into_iter().collect(),
        stop: args.stop.clone(),
        // Nobody comes after it.
        cache_prefix: false,
        ..Request::default()
    };
    let mut failure: Option<CliError> = None;
    let mut write = |text: &str, is_token: bool| {
        interrupt::whole(|| {
            if is_token {
                watch.token();
            }
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        })
    };
    // The request needs no switch: Ctrl-C ends the process.
    let cancel = CancelToken::default();
    // Tokens are drawn on a worker thread and the writer is not `Send`: events come over here.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<TokenEvent>(1);
    let stats = std::thread::scope(|scope| {
        let worker = threads::spawn(scope, || {
            let sender = sender;
            let mut tell = |event| match sender.send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            engine.generate(request, Some(tokenizer), &cancel, &mut tell)
        })?;
        for event in receiver {
            if let Err(error) = model.file().check_uncut() {
                failure = Some(error.into());
                break;
            }
            match event {
                TokenEvent::Token { text, .. } => {
                    progress::clear_line();
                    if let Err(error) = write(&text, true) {
                        failure = Some(error.into());
                        break;
                    }
                }
                TokenEvent::Rest(text) => {
                    if let Err(error) = write(&text, false) {
                        failure = Some(error.into());
                        break;
                    }
                }
                TokenEvent::Prompt { done, total } => {
                    watch.prompt(done);
                    progress::show_line(&format!("reading the prompt: {done} of {total} tokens"));
                }
            }
        }
        Ok::<_, CliError>(worker.join())
    })?;
    progress::clear_line();
    let stats = stats.map_err(|_| CliError::failed("the decoder's thread died"))?.map_err(&at)?;
    let written = interrupt::whole(|| out.write_all(b"\n").and_then(|()| out.flush()));
    if let Some(error) = failure {
        return Err(error);
    }
    written?;
    super::note(format_args!("{}", statistics(&stats)));
    if let Some(seed) = seed {
        super::note(format_args!("seed {seed}"));
    }
    Ok(())
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
        speeds(n_prompt, prompt_time, n_generated, generate_time)
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

/// Tokens of the prompt, rendered by the model's chat template if there is one.
fn prompt_tokens(args: &RunArgs, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TextError> {
    if args.raw {
        return Ok(Prompter::with_template(tokenizer, None).text(text)?.ids);
    }
    let system = args.system.iter().map(|system| Message::new("system", system));
    let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
    let prompter = Prompter::new(tokenizer)?;
    match prompter.messages(&messages) {
        // With `-n 0` the user asks for the prompt's figures, not for an answer.
        Err(error @ TextError::MessageLost { .. }) if args.n_predict == Some(0) => {
            super::note(format_args!("warning: {error}"));
            Ok(prompter.lossy().messages(&messages)?.ids)
        }
        prompt => Ok(prompt?.ids),
    }
}

/// Advice about a prompt that cannot be made; empty if there is none.
fn prompt_hint(error: &TextError) -> &'static str {
    match error {
        TextError::NoTemplate => "; --system needs one",
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
    let Stats { n_prompt, prompt_time, n_generated, generate_time, .. } = *stats;
    speeds(n_prompt, prompt_time, n_generated, generate_time) + "; " + finish
}

/// Tokens and speeds of a prompt and its answer.
fn speeds(n_prompt: usize, prompt: Duration, n_generated: usize, generate: Duration) -> String {
    let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
    let s = prompt.as_secs_f64();
    let mut line =
        format!("prompt {n_prompt} tokens, {s:.2} s ({:.1} tokens/s)", rate(n_prompt, s));
    if n_generated > 1 {
        let s = generate.as_secs_f64();
        let speed = rate(n_generated - 1, s);
        line += &format!("; answer {n_generated} tokens, {s:.2} s ({speed:.1} tokens/s)");
    }
    line
}
