//! Commands of a chat: one row each.

use super::super::options::ModelArgs;
use super::super::{CliError, note};
use super::input::Input;
use super::saved::{self, SessionFile};
use super::screen::Screen;
use super::talk::Talk;
use super::{ChatArgs, settings};
use crate::cache::ModelRef;
use crate::model::describe::{bytes, counted};
use crate::text::{EncodeOptions, Message};
use std::str::FromStr;

/// Longest distance, in edits, of a name that is offered in the place of an unknown one.
const EDITS_MAX: usize = 3;

/// Parts of a chat that commands work on.
pub struct Desk<'d, 'o> {
    pub args: &'d ChatArgs,
    pub talk: &'d mut Talk,
    pub input: &'d mut dyn Input,
    pub screen: &'d mut Screen<'o>,
    /// The file that the conversation is kept in.
    pub session: Option<&'d mut SessionFile>,
}

/// Continuation of the chat after a command.
pub enum Next {
    /// The next line.
    Line,
    /// The next line, which begins with a text.
    Begun {
        text: String,
        /// Messages that come back if the line is left.
        before: Vec<Message>,
    },
    /// The end.
    Leave,
}

/// Why a command did nothing, in words, or why the program cannot go on.
pub enum Failure {
    Refused(String),
    Fatal(CliError),
}

impl From<String> for Failure {
    fn from(problem: String) -> Failure {
        Failure::Refused(problem)
    }
}

impl From<&str> for Failure {
    fn from(problem: &str) -> Failure {
        Failure::Refused(problem.into())
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Failure {
        Failure::Fatal(error)
    }
}

/// A command.
pub struct Command {
    pub name: &'static str,
    /// Arguments, as help shows them.
    args: &'static str,
    pub help: &'static str,
    run: fn(&mut Desk<'_, '_>, &str) -> Result<Next, Failure>,
}

/// All commands, as help lists them.
pub const COMMANDS: &[Command] = &[
    Command { name: "help", args: "", help: "List the commands", run: help },
    Command {
        name: "exit",
        args: "",
        help: "Leave; Ctrl-D on an empty line does, too",
        run: leave,
    },
    Command { name: "clear", args: "", help: "Begin anew, with the same instructions", run: clear },
    Command {
        name: "system",
        args: "[TEXT|-]",
        help: "Show the instructions, set them, or take them away",
        run: system,
    },
    Command {
        name: "regenerate",
        args: "",
        help: "Answer the last message again",
        run: regenerate,
    },
    Command { name: "undo", args: "[N]", help: "Take back the last turn, or N turns", run: undo },
    Command {
        name: "edit",
        args: "[TEXT]",
        help: "Change the last message and answer it anew",
        run: edit,
    },
    Command {
        name: "save",
        args: "[FILE]",
        help: "Save the conversation, which --session opens again",
        run: save,
    },
    Command { name: "load", args: "FILE", help: "Go on with a saved conversation", run: load },
    Command {
        name: "export",
        args: "FILE.md|.json",
        help: "Write the conversation for people or programs",
        run: export,
    },
    Command {
        name: "set",
        args: "[NAME [VALUE]]",
        help: "Show or change how answers are made",
        run: set,
    },
    Command { name: "stats", args: "", help: "Figures of the last answer", run: stats },
    Command { name: "tokens", args: "", help: "Tokens of the conversation", run: tokens },
    Command {
        name: "model",
        args: "[MODEL]",
        help: "Name the model, or go on with another",
        run: model,
    },
    Command { name: "image", args: "[FILE]", help: "Images are not supported", run: image },
];

/// Runs a command, `line` without its slash.
///
/// # Errors
/// Only those after which the program cannot go on.
pub fn run(desk: &mut Desk<'_, '_>, line: &str) -> Result<Next, CliError> {
    let (name, args) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let Some(command) = COMMANDS.iter().find(|command| command.name.eq_ignore_ascii_case(name))
    else {
        let near = nearest(name, COMMANDS.iter().map(|command| command.name));
        let near = near.map_or(String::new(), |near| format!(": did you mean /{near}?"));
        note(format_args!("there is no command /{name}{near} (/help lists all)"));
        return Ok(Next::Line);
    };
    let args = args.trim();
    if command.args.is_empty() && !args.is_empty() {
        note(format_args!("/{name} takes nothing behind it"));
        return Ok(Next::Line);
    }
    match (command.run)(desk, args) {
        Ok(next) => Ok(next),
        Err(Failure::Refused(problem)) => {
            note(format_args!("/{name}: {problem}"));
            Ok(Next::Line)
        }
        Err(Failure::Fatal(error)) => Err(error),
    }
}

/// The name that is most like an unknown one, if any is.
pub fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let begins = |other: &str| !name.is_empty() && other.starts_with(name);
    // What begins so is nearer than any other.
    let edits = |other| if begins(other) { 0 } else { strsim::damerau_levenshtein(name, other) };
    let all = names.map(|other| (edits(other), other));
    all.filter(|&(edits, other)| edits <= EDITS_MAX && edits < other.len() / 2 + 1)
        .min()
        .map(|(_, other)| other)
}

fn help(_: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    let usage = |command: &Command| format!("/{} {}", command.name, command.args);
    let width = COMMANDS.iter().map(|command| usage(command).len()).max().unwrap_or_default();
    for command in COMMANDS {
        note(format_args!("  {:width$}  {}", usage(command), command.help));
    }
    note(format_args!(
        "A line of \"\"\" begins and ends a message of several lines; a message that begins with a \
         slash is written with two. Ctrl-C stops an answer."
    ));
    Ok(Next::Line)
}

fn leave(_: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    Ok(Next::Leave)
}

fn clear(desk: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    desk.talk.chat.set_messages(Vec::new());
    desk.talk.last = None;
    Ok(Next::Line)
}

fn system(desk: &mut Desk<'_, '_>, text: &str) -> Result<Next, Failure> {
    let chat = &mut desk.talk.chat;
    match (text, chat.system()) {
        ("" | "-", None) => note(format_args!("there are no instructions")),
        ("", Some(system)) => note(format_args!("{system}")),
        ("-", Some(_)) => {
            chat.set_system(None);
            note(format_args!("the instructions are taken away"));
        }
        (text, _) => chat.set_system(Some(text.to_owned())),
    }
    Ok(Next::Line)
}

fn regenerate(desk: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    let chat = &mut desk.talk.chat;
    match chat.messages().last() {
        None => return Err("there is nothing to answer".into()),
        Some(last) if last.role == "assistant" => drop(chat.pop()),
        Some(_) => {}
    }
    desk.talk.answer(desk.screen)?;
    Ok(Next::Line)
}

fn undo(desk: &mut Desk<'_, '_>, n: &str) -> Result<Next, Failure> {
    let needed = || Failure::from("must be a whole number from 1");
    let n = if n.is_empty() { 1 } else { n.parse().ok().filter(|&n| n > 0).ok_or_else(needed)? };
    let mut done = 0;
    while done < n && take_turn(desk.talk).is_some() {
        done += 1;
    }
    match done {
        0 => Err("there is no turn to take back".into()),
        1 => {
            note(format_args!("the last turn is taken back"));
            Ok(Next::Line)
        }
        _ => {
            note(format_args!("{done} turns are taken back"));
            Ok(Next::Line)
        }
    }
}

/// Takes the last turn away; the text of its message.
fn take_turn(talk: &mut Talk) -> Option<String> {
    talk.last = None;
    while let Some(message) = talk.chat.pop() {
        if message.role == "user" {
            return Some(message.content);
        }
    }
    None
}

fn edit(desk: &mut Desk<'_, '_>, text: &str) -> Result<Next, Failure> {
    let before = desk.talk.chat.messages().to_vec();
    let last = take_turn(desk.talk).ok_or("there is no message to change")?;
    if text.is_empty() {
        return Ok(Next::Begun { text: last, before });
    }
    desk.talk.say(text.to_owned(), desk.screen)?;
    Ok(Next::Line)
}

fn save(desk: &mut Desk<'_, '_>, file: &str) -> Result<Next, Failure> {
    let path = match (file, &desk.session) {
        ("", None) => return Err("needs a FILE, as there is no --session".into()),
        ("", Some(session)) => session.path().to_owned(),
        (file, _) => saved::path_of(file),
    };
    let talk = &*desk.talk;
    match desk.session.as_deref_mut().filter(|session| session.is_at(&path)) {
        Some(session) => session.save(talk)?,
        None => saved::save(talk, &path)?,
    }
    note(format_args!("saved as {}", path.display()));
    Ok(Next::Line)
}

fn load(desk: &mut Desk<'_, '_>, file: &str) -> Result<Next, Failure> {
    if file.is_empty() {
        return Err("needs a FILE".into());
    }
    let path = saved::path_of(file);
    match desk.session.as_deref_mut().filter(|session| session.is_at(&path)) {
        Some(session) => session.load(desk.talk)?,
        None => saved::load(desk.talk, &path)?,
    }
    let messages = counted(desk.talk.chat.messages().len(), "message");
    note(format_args!("{messages} from {file}"));
    Ok(Next::Line)
}

fn export(desk: &mut Desk<'_, '_>, file: &str) -> Result<Next, Failure> {
    saved::export(desk.talk, &saved::path_of(file))?;
    note(format_args!("written to {file}"));
    Ok(Next::Line)
}

fn set(desk: &mut Desk<'_, '_>, args: &str) -> Result<Next, Failure> {
    let ends_name = |c: char| c == '=' || c.is_whitespace();
    let (name, value) = args.split_once(ends_name).unwrap_or((args, ""));
    let value = Some(value.trim()).filter(|value| !value.is_empty());
    let told = match name {
        "" => settings::table(desk.talk, desk.input),
        name => settings::set(desk.talk, desk.input, name, value)?,
    };
    note(format_args!("{told}"));
    Ok(Next::Line)
}

fn stats(desk: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    let talk = &desk.talk;
    let stats = talk.last.ok_or("there was no answer yet")?;
    let n_computed = stats.n_prompt - stats.n_cached.min(stats.n_prompt);
    let seconds = stats.generate_time.as_secs_f64().max(1e-9);
    let rate = stats.n_generated.saturating_sub(1) as f64 / seconds;
    note(format_args!(
        "prompt {} ({} cached), answer {}, {rate:.1} tokens/s, context {} of {}, KV {}",
        counted(n_computed, "token"),
        stats.n_cached,
        counted(stats.n_generated, "token"),
        talk.n_used(),
        talk.chat.n_ctx(),
        bytes(talk.kv_bytes() as u64),
    ));
    Ok(Next::Line)
}

fn tokens(desk: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    let talk = &desk.talk;
    let prompt = talk.chat.prompt().map_err(|error| error.to_string())?;
    let n_texts = |role: &str| -> usize {
        let texts = talk.chat.messages()[talk.chat.n_dropped()..].iter();
        let texts = texts.filter(|message| message.role == role).map(|m| m.content.as_str());
        let system = talk.chat.system().filter(|_| role == "system");
        let count = |text| {
            let ids = talk.tokenizer().encode(text, EncodeOptions::default());
            ids.map_or(0, |ids| ids.len())
        };
        texts.chain(system).map(count).sum()
    };
    note(format_args!(
        "{} of {} tokens with the template: {} of instructions, {} of yours, {} of answers",
        prompt.ids.len(),
        talk.chat.n_ctx(),
        n_texts("system"),
        n_texts("user"),
        n_texts("assistant"),
    ));
    Ok(Next::Line)
}

fn model(desk: &mut Desk<'_, '_>, name: &str) -> Result<Next, Failure> {
    if name.is_empty() {
        note(format_args!("{}", desk.talk.path().display()));
        return Ok(Next::Line);
    }
    let name = ModelRef::from_str(name).map_err(|error| error.to_string())?;
    let named = ModelArgs::named(name);
    let other = desk.args.answer.engine.open_generator(&named);
    let other = other.and_then(|model| Talk::new(desk.args, model, desk.talk.catches));
    desk.talk.move_to(other.map_err(|error| error.one_line())?);
    note(format_args!("going on with {}", desk.talk.path().display()));
    Ok(Next::Line)
}

fn image(_: &mut Desk<'_, '_>, _: &str) -> Result<Next, Failure> {
    Err("images are not supported: teff runs text models".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_offered() {
        let near = |name| nearest(name, COMMANDS.iter().map(|command| command.name));
        assert_eq!(near("regnerate"), Some("regenerate"));
        assert_eq!(near("stat"), Some("stats"));
        assert_eq!(near("xyzzyx"), None);
    }
}
