//! `teff run`: answers a prompt, streaming.

use super::options::{ContextArgs, EngineArgs, ModelArgs};
use super::sampling::SamplingArgs;
use super::{CliError, interrupt};
use crate::backend::pages::KvType;
use crate::engine::{Engine, EngineOptions, FinishReason, Request, Stats, TokenEvent};
use crate::text::{ChatTemplate, EncodeOptions, Message, TextStream, Tokenizer};
use std::io::{IsTerminal, Read, Write, stderr, stdin};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// A prompt longer than this is a mistake: no context holds it.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// `teff run`
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt [default: read from standard input]
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Instructions that come before the prompt, for models with a chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Generate at most this many tokens [default: until the model ends or the context is full]
    #[arg(short, long, value_name = "TOKENS")]
    n_predict: Option<usize>,
    /// Continue the text as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Streams the answer to `out`.
pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let sampling = args.sampling.params()?;
    let options = args.engine.options(KvType::F16)?;
    let cancel = interrupt::flag()?;
    let text = prompt_text(args)?;
    let model = args.engine.open_generator(&args.model)?;
    // The vocabulary takes as long to build as the rest: do both at once.
    let n_ctx = args.context.ctx.map(|n| n as usize);
    let options = EngineOptions { n_ctx, ..options };
    let (tokenizer, engine) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| model.tokenizer());
        let engine = Engine::new(&model, &options);
        (tokenizer.join(), engine)
    });
    let tokenizer = tokenizer.map_err(|_| CliError::failed("the vocabulary's thread died"))??;
    let mut engine = engine?;
    args.engine.lock(&model, &engine)?;
    for warning in tokenizer.warnings() {
        writeln!(stderr(), "warning: {warning}")?;
    }
    let prompt = prompt_tokens(args, &tokenizer, &text)
        .map_err(|error| CliError::failed(format!("{}: {error}", model.path().display())))?;
    let tokenizer = Arc::new(tokenizer);
    let mut stream = TextStream::new(tokenizer.clone());
    let request = Request { prompt, max_tokens: args.n_predict, sampling };
    let mut write_error = None;
    let mut write = |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            write_error = Some(error);
            ControlFlow::Break(())
        }
    };
    // Tokens are drawn on a worker thread, the writer is not Send: events are handed over.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<TokenEvent>(1);
    let stats = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let sender = sender;
            let mut tell = |event| match sender.send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            engine.generate(&request, Some(&tokenizer), cancel, &mut tell)
        });
        for event in receiver {
            let flow = match event {
                TokenEvent::Token(id) => write(&stream.push(id)),
                TokenEvent::Prompt { done, total } => {
                    show_prompt_progress(done, total);
                    ControlFlow::Continue(())
                }
            };
            if flow.is_break() {
                break;
            }
        }
        worker.join()
    });
    let stats = stats.map_err(|_| CliError::failed("the decoder's thread died"))??;
    let _ = write(&stream.finish());
    let _ = write("\n");
    if let Some(error) = write_error {
        return Err(error.into());
    }
    let _ = writeln!(stderr(), "{}", statistics(&stats));
    Ok(())
}

/// How far a long prompt is, on a terminal.
fn show_prompt_progress(done: usize, total: usize) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\rreading the prompt: {done} of {total} tokens");
    }
}

/// The prompt as the user gave it.
fn prompt_text(args: &RunArgs) -> Result<String, CliError> {
    let mut text = String::new();
    match (&args.prompt, &args.file) {
        (Some(prompt), _) => return Ok(prompt.clone()),
        (None, Some(path)) => {
            let at = CliError::at(path);
            let file = std::fs::File::open(path).map_err(&at)?;
            file.take(PROMPT_BYTES_MAX).read_to_string(&mut text).map_err(at)?;
        }
        (None, None) => {
            if stdin().is_terminal() {
                let _ = writeln!(stderr(), "Type the prompt, then Ctrl-D on a line of its own.");
            }
            let at = CliError::at(std::path::Path::new("standard input"));
            stdin().lock().take(PROMPT_BYTES_MAX).read_to_string(&mut text).map_err(at)?;
        }
    }
    // The line break that ends a file is the editor's, not the prompt's.
    let end = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(text)
}

/// The prompt's tokens, by way of the model's chat template if it has one.
fn prompt_tokens(
    args: &RunArgs,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<Vec<u32>, crate::text::TextError> {
    let template = tokenizer.chat_template().filter(|_| !args.raw);
    let Some(template) = template else {
        return tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false });
    };
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let mut messages: Vec<Message> = args.system.iter().map(|s| message("system", s)).collect();
    messages.push(message("user", text));
    let spelled = |id: Option<u32>| id.and_then(|id| tokenizer.token_str(id)).unwrap_or_default();
    let (bos, eos) = (spelled(tokenizer.bos()), spelled(tokenizer.eos()));
    let rendered = ChatTemplate::new(template)?.render(&messages, true, bos, eos)?;
    // Templates that spell the BOS token must not get a second one.
    let add_special = bos.is_empty() || !rendered.starts_with(bos);
    tokenizer.encode(&rendered, EncodeOptions { add_special, parse_special: true })
}

/// One line: how many tokens, how fast, and why it ended.
fn statistics(stats: &Stats) -> String {
    let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
    let finish = match stats.finish {
        FinishReason::EndOfGeneration => "the model ended",
        FinishReason::MaxTokens => "-n reached",
        FinishReason::ContextFull => "the context is full: raise --ctx for more",
        FinishReason::Cancelled => "interrupted",
    };
    let prompt_s = stats.prompt_time.as_secs_f64();
    let mut line = format!(
        "prompt {} tokens, {:.2} s ({:.1} tokens/s)",
        stats.n_prompt,
        prompt_s,
        rate(stats.n_prompt, prompt_s)
    );
    if stats.n_generated > 1 {
        let s = stats.generate_time.as_secs_f64();
        let speed = rate(stats.n_generated - 1, s);
        line += &format!("; answer {} tokens, {s:.2} s ({speed:.1} tokens/s)", stats.n_generated);
    }
    line + "; " + finish
}
