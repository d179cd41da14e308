//! `teff chat`: an interactive conversation.
//!
//! On a terminal messages come from an editor and answers are styled; through a pipe each line is a
//! turn and answers are plain text. Answers go to standard output, all else to standard error.

mod commands;
mod editor;
mod history;
mod input;
mod markdown;
mod saved;
mod screen;
mod settings;
mod talk;

use super::answer_args::AnswerArgs;
use super::options::{ModelArgs, TOKENS_MAX, whole_number};
use super::shown::{self, Look};
use super::{CliError, interrupt, note};
use crate::model::describe::counted;
use commands::{Desk, Next};
use editor::Editor;
use input::{Input, Lines, Typed};
use saved::SessionFile;
use screen::Screen;
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::path::PathBuf;
use std::time::Duration;
use talk::Talk;

/// Prompt before a line that is to be typed.
const PROMPT: &str = "> ";

/// Note after Ctrl-C at the prompt.
const LEAVING: &str = "Ctrl-C once more, or Ctrl-D, leaves";
/// Two Ctrl-C within this time leave the chat.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// `teff chat`
#[derive(clap::Args, Debug)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Open this conversation if the file is there, and save to it after each answer and at the end. It
    /// holds what was said
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Save conversations as text alone, in small files: what was said is computed again where it goes on
    #[arg(long)]
    without_kv: bool,
    /// Tokens of an answer, most [default: until the model ends or the context is full]
    #[arg(short, long, value_name = "TOKENS", value_parser = whole_number(1..=TOKENS_MAX as usize))]
    n_predict: Option<usize>,
    /// What happens when the context is full: the answer ends, or the oldest turns are left out
    /// [default: stop]
    #[arg(long, value_name = "stop|shift")]
    context_full: Option<OnFull>,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl ChatArgs {
    /// Has what was given count more than what a session has saved.
    fn override_saved(&self, talk: &mut Talk) -> Result<(), CliError> {
        talk.params = self.answer.sampling.over(talk.params.clone())?;
        talk.n_predict = self.n_predict.or(talk.n_predict);
        talk.on_full = self.context_full.unwrap_or(talk.on_full);
        if self.system.is_some() {
            talk.chat.set_system(self.system.clone());
        }
        Ok(())
    }
}

/// Policy for a context that is full.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum OnFull {
    /// The answer ends.
    Stop,
    /// The oldest turns are left out.
    Shift,
}

impl OnFull {
    fn name(self) -> &'static str {
        match self {
            OnFull::Stop => "stop",
            OnFull::Shift => "shift",
        }
    }

    /// Advice where it does not help by itself.
    fn ways_on(self) -> &'static str {
        match self {
            OnFull::Stop => {
                "/undo takes turns back, /clear begins anew, `/set context-full shift` leaves the \
                 oldest turns out"
            }
            OnFull::Shift => {
                "no older turn is left to leave out; /undo takes turns back, /clear begins anew, \
                 and a start with a larger --ctx holds more"
            }
        }
    }
}

/// Talks until the user leaves.
pub fn chat(args: &ChatArgs, out: &mut dyn Write) -> Result<(), CliError> {
    args.answer.sampling.params()?;
    args.answer.grammar.read()?;
    let mut session =
        args.session.as_deref().map(SessionFile::new).transpose().map_err(CliError::failed)?;
    let is_terminal = stdin().is_terminal() && stdout().is_terminal();
    let look = match Look::of_stdout() {
        Look::Styled if !is_terminal => Look::Terminal,
        look => look,
    };
    // The editor draws on standard error.
    let edits = is_terminal && !shown::is_dumb() && stderr().is_terminal();
    let model = args.answer.engine.open_generator(&args.model)?;
    let mut talk = Talk::new(args, model, is_terminal)?;
    if let Some(session) = session.as_mut().filter(|session| session.path().exists()) {
        session.load(&mut talk).map_err(CliError::failed)?;
        args.override_saved(&mut talk)?;
        session.settle(&talk);
        let messages = counted(talk.chat.messages().len(), "message");
        note(format_args!("{messages} from {}", session.path().display()));
    }
    let mut input: Box<dyn Input> = match is_terminal {
        true if edits => Box::new(Editor::new(look == Look::Styled)),
        true => Box::new(Lines::new(PROMPT)),
        false => Box::new(Lines::new("")),
    };
    if edits {
        interrupt::before_end(editor::restore_terminal);
    }
    if is_terminal {
        note(format_args!(
            "{}, a context of {} tokens. /help lists the commands, Ctrl-C stops an answer, Ctrl-D \
             leaves.",
            talk.path().display(),
            talk.chat.n_ctx()
        ));
    }
    let mut screen = Screen::new(out, look, !is_terminal);
    converse(args, &mut talk, &mut *input, &mut screen, session.as_mut())?;
    // A person has seen it; a script looks at the code.
    match talk.n_refused {
        _ if is_terminal => Ok(()),
        n if n > 0 => {
            let were = if n == 1 { "was" } else { "were" };
            Err(CliError::failed(format!("{n} of the messages {were} not answered")))
        }
        _ if session.is_some_and(|session| session.is_behind) => {
            Err(CliError::failed("the conversation was not saved"))
        }
        _ => Ok(()),
    }
}

/// Turn by turn, until the input ends or a command does.
fn converse(
    args: &ChatArgs,
    talk: &mut Talk,
    input: &mut dyn Input,
    screen: &mut Screen<'_>,
    mut session: Option<&mut SessionFile>,
) -> Result<(), CliError> {
    let (mut begun, mut edited) = (String::new(), None);
    loop {
        let typed = input.next(&std::mem::take(&mut begun))?;
        let before = edited.take();
        let n_before = talk.n_answers;
        match typed {
            Typed::End => break,
            Typed::Interrupted => {
                if let Some(messages) = before {
                    talk.chat.set_messages(messages);
                }
                note(format_args!("{LEAVING}"));
            }
            Typed::Message(text) => talk.say(text, screen)?,
            Typed::Command(line) => {
                let session = session.as_deref_mut();
                let mut desk = Desk { args, talk, input, screen, session };
                match commands::run(&mut desk, &line)? {
                    Next::Line => {}
                    Next::Begun { text, before: messages } => {
                        (begun, edited) = (text, Some(messages))
                    }
                    Next::Leave => break,
                }
            }
        }
        if talk.n_answers != n_before {
            keep(talk, session.as_deref_mut());
        }
    }
    // What commands have changed since the last answer.
    keep(talk, session);
    Ok(())
}

/// Saves the conversation where it has a file.
fn keep(talk: &Talk, session: Option<&mut SessionFile>) {
    let Some(session) = session else { return };
    // A turn that is whole is not lost to Ctrl-C.
    if let Err(problem) = interrupt::orderly(|_| session.keep(talk)) {
        note(format_args!("not saved: {problem}; /save takes another file"));
    }
}
