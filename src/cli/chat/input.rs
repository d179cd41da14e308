//! What the user types: lines of a pipe, each a turn, or an editor on a terminal.
//!
//! A text that begins with `"""` goes on over several lines, up to the next `"""`.

use super::super::lines::without_bom;
use super::super::{CliError, interrupt, note};
use super::{LEAVE_WITHIN, LEAVING};
use std::io::{BufRead, Read, Write, stderr, stdin};
use std::process::exit;
use std::time::Instant;

/// Longest message: no context holds a longer one.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Begins and ends a message of several lines.
pub const BLOCK: &str = "\"\"\"";

/// Line or message that was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A command, with its arguments and without its slash.
    Command(String),
    /// A message.
    Message(String),
    /// Nothing: the line was left by Ctrl-C.
    Interrupted,
    /// The input has ended.
    End,
}

/// Where messages and commands come from.
pub trait Input {
    /// The next one, blank lines left out. `begun` is text to begin with, for editors.
    ///
    /// # Errors
    /// The input cannot be read.
    fn next(&mut self, begun: &str) -> Result<Typed, CliError>;

    /// Switches on or off that what is typed is remembered for later starts.
    ///
    /// # Errors
    /// There is no place for it, or nothing is ever remembered here.
    fn remember(&mut self, on: bool) -> Result<(), String>;

    /// Whether what is typed is remembered for later starts.
    fn remembers(&self) -> bool;
}

/// Meaning of a text; `None` for a blank one.
pub fn typed(text: &str) -> Option<Typed> {
    let text = text.trim_end_matches(['\n', '\r']);
    if let Some(inner) = text.trim().strip_prefix(BLOCK) {
        let inner = inner.strip_suffix(BLOCK).unwrap_or(inner);
        let inner = inner.strip_prefix('\n').unwrap_or(inner);
        let inner = inner.strip_suffix('\n').unwrap_or(inner);
        return (!inner.trim().is_empty()).then(|| Typed::Message(inner.to_owned()));
    }
    match text.trim_start().strip_prefix('/') {
        _ if text.trim().is_empty() => None,
        // Two slashes are one at the beginning of a message.
        Some(rest) if rest.starts_with('/') => Some(Typed::Message(rest.to_owned())),
        Some(command) if is_command(command) => Some(Typed::Command(command.trim_end().to_owned())),
        Some(_) | None => Some(Typed::Message(text.to_owned())),
    }
}

/// Whether what follows a slash is a command: texts of several lines and paths are none.
fn is_command(text: &str) -> bool {
    let name = text.split_whitespace().next().unwrap_or_default();
    !text.contains('\n') && !name.contains('/') && !text.starts_with(char::is_whitespace)
}

/// Whether a text begins a block that it does not end.
pub fn is_open_block(text: &str) -> bool {
    text.trim().strip_prefix(BLOCK).is_some_and(|rest| !rest.ends_with(BLOCK))
}

/// Shows that a line is to be typed.
fn ask(prompt: &str) {
    // A closed stderr is no reason to stop.
    let _ = write!(stderr(), "{prompt}").and_then(|()| stderr().flush());
}

/// Lines of standard input.
pub struct Lines {
    /// Prompt before each line, for people.
    prompt: &'static str,
    n_lines: u64,
}

impl Lines {
    /// Lines before which `prompt` is written to standard error.
    pub fn new(prompt: &'static str) -> Lines {
        Lines { prompt, n_lines: 0 }
    }

    /// Adds a line to `text`; `false` at the end.
    fn read_line(&mut self, text: &mut String) -> Result<bool, CliError> {
        ask(self.prompt);
        // The terminal has cleared the line; the reader waits on.
        let prompt = self.prompt;
        let mut before: Option<Instant> = None;
        let _caught = (!prompt.is_empty()).then(|| {
            interrupt::always(move || match before.replace(Instant::now()) {
                Some(before) if before.elapsed() < LEAVE_WITHIN => exit(0),
                _ => {
                    note(format_args!("\n{LEAVING}"));
                    ask(prompt);
                }
            })
        });
        self.n_lines += 1;
        let failed = |problem: &str| {
            CliError::failed(format!("standard input, line {}: {problem}", self.n_lines))
        };
        let mut line = Vec::new();
        let room = (MESSAGE_BYTES_MAX - text.len()) as u64;
        stdin()
            .lock()
            .take(room + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| failed(&error.to_string()))?;
        if line.len() as u64 > room {
            return Err(failed(&format!("longer than the {MESSAGE_BYTES_MAX} bytes of a message")));
        }
        let line = String::from_utf8(line).map_err(|_| failed("is not UTF-8"))?;
        let clean = if self.n_lines == 1 { without_bom(&line) } else { &line };
        text.push_str(clean.strip_suffix("\r\n").unwrap_or(clean));
        if clean.ends_with("\r\n") {
            text.push('\n');
        }
        Ok(!line.is_empty())
    }
}

impl Input for Lines {
    fn next(&mut self, _: &str) -> Result<Typed, CliError> {
        loop {
            let mut text = String::new();
            let mut more = self.read_line(&mut text)?;
            while more && is_open_block(&text) {
                more = self.read_line(&mut text)?;
            }
            match typed(&text) {
                Some(typed) => return Ok(typed),
                None if more => {}
                None => return Ok(Typed::End),
            }
        }
    }

    fn remember(&mut self, on: bool) -> Result<(), String> {
        match on {
            true => Err("only an editor on a terminal has a history".into()),
            false => Ok(()),
        }
    }

    fn remembers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_messages_or_commands() {
        let message = |text: &str| Some(Typed::Message(text.into()));
        for (text, expected) in [
            ("hello\n", message("hello")),
            ("  indented\r\n", message("  indented")),
            ("/set temp 0 \n", Some(Typed::Command("set temp 0".into()))),
            ("/clear\nas a heading", message("/clear\nas a heading")),
            ("/usr/bin/ls fails", message("/usr/bin/ls fails")),
            ("/ nothing", message("/ nothing")),
            ("//etc is a folder", message("/etc is a folder")),
            ("\"\"\"\n/not a command\nsecond\n\"\"\"\n", message("/not a command\nsecond")),
            ("\"\"\"one line\"\"\"", message("one line")),
            ("\"\"\"\n\"\"\"", None),
            (" \n", None),
            ("", None),
        ] {
            assert_eq!(typed(text), expected, "{text:?}");
        }
        assert!(is_open_block("\"\"\"") && is_open_block("\"\"\"a\n\"\"\" b"));
        assert!(!is_open_block("\"\"\"a\n\"\"\"") && !is_open_block("a\"\"\""));
    }
}
