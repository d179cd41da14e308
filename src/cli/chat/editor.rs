//! The editor of a terminal: `reedline` with history, completion and messages of several lines.

use super::super::shown::{is_safe, masked};
use super::super::{CliError, interrupt, note};
use super::history::History;
use super::input::{Input, Typed, is_open_block, typed};
use super::{LEAVE_WITHIN, commands, saved};
use reedline::{
    Color, ColumnarMenu, Completer, CompletionResult, EditCommand, Emacs, Highlighter, KeyCode,
    KeyModifiers, MenuBuilder, Prompt, PromptEditMode, PromptHistorySearch, Reedline,
    ReedlineEvent, ReedlineMenu, Signal, Span, StyledText, Suggestion, ValidationResult, Validator,
    default_emacs_keybindings,
};
use std::borrow::Cow;
use std::path::MAIN_SEPARATOR;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Name of the menu of completions.
const MENU: &str = "completions";
/// Files that a completion lists, most.
const FILES_MAX: usize = 200;

/// The editor.
pub struct Editor {
    reedline: Reedline,
    history: History,
    /// Whether an interruption came by a signal.
    signal: Arc<AtomicBool>,
    /// Whether the line that is shown is empty.
    is_empty: Arc<AtomicBool>,
    /// Time of the last Ctrl-C.
    interrupted: Option<Instant>,
}

impl Editor {
    /// An editor with colours or without.
    pub fn new(colours: bool) -> Editor {
        let menu = ColumnarMenu::default().with_name(MENU).with_marker(super::PROMPT);
        let mut keys = default_emacs_keybindings();
        let next = vec![ReedlineEvent::Menu(MENU.into()), ReedlineEvent::MenuNext];
        keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, ReedlineEvent::UntilFound(next));
        let line_break = ReedlineEvent::Edit(vec![EditCommand::InsertNewline]);
        keys.add_binding(KeyModifiers::ALT, KeyCode::Enter, line_break);
        let (signal, is_empty) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let reedline = Reedline::create()
            .with_break_signal(signal.clone())
            .with_ansi_colors(colours)
            .use_bracketed_paste(true)
            .with_edit_mode(Box::new(Emacs::new(keys)))
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
            .with_completer(Box::new(Words))
            .with_quick_completions(true)
            .with_partial_completions(true)
            .with_highlighter(Box::new(Unstyled { is_empty: is_empty.clone() }))
            .with_validator(Box::new(Blocks));
        let mut history = History::new();
        let reedline = history.attach(reedline);
        Editor { reedline, history, signal, is_empty, interrupted: None }
    }

    /// Meaning of Ctrl-C at the prompt: it clears the line, and at an empty one the second within
    /// [`LEAVE_WITHIN`] leaves.
    fn interrupt(&mut self) -> Typed {
        let was_empty = self.is_empty.load(Ordering::SeqCst);
        self.reedline.run_edit_commands(&[EditCommand::Clear]);
        match self.interrupted.replace(Instant::now()) {
            Some(before) if was_empty && before.elapsed() < LEAVE_WITHIN => Typed::End,
            _ => Typed::Interrupted,
        }
    }

    /// Writes what was typed into the history's file: signals that end the process give no time for it.
    fn keep_history(&mut self) {
        if self.history.is_saved()
            && let Err(error) = self.reedline.sync_history()
        {
            note(format_args!("note: what you type is not remembered: {error}"));
            // It cannot fail.
            let _ = self.remember(false);
        }
    }
}

/// Puts the terminal in order as it was found, but for what was written: not raw, pasted texts unmarked,
/// the cursor shown, no styles.
#[cfg(unix)]
pub fn restore_terminal() {
    use std::io::{Write, stderr};
    // The process ends, whatever comes of it. Standard output is another thread's.
    let _ = crossterm::terminal::disable_raw_mode();
    let _ = stderr().write_all(b"\x1b[0m\x1b[?2004l\x1b[?25h\n");
}

/// Terminals of other systems are put in order by them.
#[cfg(not(unix))]
pub fn restore_terminal() {}

impl Input for Editor {
    fn next(&mut self, begun: &str) -> Result<Typed, CliError> {
        if !begun.is_empty() {
            self.reedline.run_edit_commands(&[EditCommand::InsertString(begun.to_owned())]);
        }
        loop {
            // The terminal sends none while a line is edited; others may, and it has to be put in order.
            let came = self.signal.clone();
            let caught = interrupt::instead(move || came.store(true, Ordering::SeqCst));
            let signal = self.reedline.read_line(&Prompts);
            drop(caught);
            let signal = signal.map_err(|error| CliError::failed(format!("terminal: {error}")))?;
            match signal {
                Signal::Success(text) => {
                    self.interrupted = None;
                    self.keep_history();
                    if let Some(typed) = typed(&text) {
                        return Ok(typed);
                    }
                }
                Signal::CtrlD => return Ok(Typed::End),
                _ => return Ok(self.interrupt()),
            }
        }
    }

    fn remember(&mut self, on: bool) -> Result<(), String> {
        let reedline = std::mem::replace(&mut self.reedline, Reedline::create());
        let result = self.history.set(on);
        self.reedline = self.history.attach(reedline);
        result
    }

    fn remembers(&self) -> bool {
        self.history.is_saved()
    }
}

/// Prompts before the lines of the editor.
struct Prompts;

impl Prompt for Prompts {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        super::PROMPT.into()
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        ". ".into()
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        format!("search `{}`: ", search.term).into()
    }
}

/// Shows what is typed in the terminal's own colour. A paste may have what acts on a terminal.
struct Unstyled {
    /// Whether there is nothing to show.
    is_empty: Arc<AtomicBool>,
}

impl Highlighter for Unstyled {
    fn highlight(&self, line: &str, _: usize) -> StyledText {
        self.is_empty.store(line.is_empty(), Ordering::SeqCst);
        let mut text = StyledText::new();
        text.push((Color::Default.normal(), masked(line).into_owned()));
        text
    }
}

/// Enter goes on with an open block, and ends anything else.
struct Blocks;

impl Validator for Blocks {
    fn validate(&self, text: &str) -> ValidationResult {
        match is_open_block(text) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Complete,
        }
    }
}

/// Completions of commands, of the names that `/set` knows, and of files.
struct Words;

impl Completer for Words {
    fn complete(&mut self, line: &str, at: usize) -> CompletionResult {
        let typed = line.get(..at).unwrap_or(line);
        let start = word_start(typed);
        let found = candidates(&typed[..start], &typed[start..]);
        let suggestions: Vec<Suggestion> = found
            .into_iter()
            .map(|(value, description)| Suggestion {
                append_whitespace: !value.ends_with(MAIN_SEPARATOR),
                value,
                description,
                span: Span::new(start, at),
                ..Suggestion::default()
            })
            .collect();
        CompletionResult::fresh(suggestions)
    }
}

/// Commands behind which a file is named.
const WITH_FILE: [&str; 4] = ["save", "load", "export", "model"];

/// Where the last word begins: names of files may have blanks.
fn word_start(typed: &str) -> usize {
    let words = typed.strip_prefix('/').and_then(|line| line.split_once(char::is_whitespace));
    match words {
        Some((command, file)) if WITH_FILE.contains(&command) => {
            typed.len() - file.trim_start().len()
        }
        _ => typed.rfind(char::is_whitespace).map_or(0, |space| space + 1),
    }
}

/// Words that may stand in the place of the last one, with what they mean.
fn candidates(before: &str, word: &str) -> Vec<(String, Option<String>)> {
    let Some(command) = before.trim().strip_prefix('/') else {
        let names = commands::COMMANDS.iter().filter(|_| before.is_empty());
        let all = names.map(|row| (format!("/{}", row.name), Some(row.help.to_owned())));
        return all.filter(|(name, _)| word.starts_with('/') && name.starts_with(word)).collect();
    };
    match command {
        "set" => {
            let names = super::settings::names();
            names.filter(|name| name.starts_with(word)).map(|name| (name, None)).collect()
        }
        command if WITH_FILE.contains(&command) => {
            files(word).into_iter().map(|f| (f, None)).collect()
        }
        _ => Vec::new(),
    }
}

/// Files whose paths begin with `word`.
fn files(word: &str) -> Vec<String> {
    let split = word.rfind(['/', MAIN_SEPARATOR]).map_or(0, |at| at + 1);
    let (folder, begun) = word.split_at(split);
    let here = saved::path_of(if folder.is_empty() { "." } else { folder });
    let Ok(entries) = std::fs::read_dir(here) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let end = if entry.path().is_dir() { MAIN_SEPARATOR.to_string() } else { String::new() };
        let hidden = name.starts_with('.') && !begun.starts_with('.');
        (name.starts_with(begun) && !hidden && is_safe(&name))
            .then(|| format!("{folder}{name}{end}"))
    };
    let mut found: Vec<String> = entries.flatten().filter_map(name).collect();
    found.sort();
    found.truncate(FILES_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_by_what_stands_before_them() {
        let of = |before: &str, word: &str| -> Vec<String> {
            candidates(before, word).into_iter().map(|(word, _)| word).collect()
        };
        assert_eq!(of("", "/he"), ["/help"]);
        assert!(of("", "he").is_empty() && of("say ", "/he").is_empty());
        assert!(of("/set ", "temp").contains(&"temp".to_owned()), "{:?}", of("/set ", "temp"));
        let folder = std::env::temp_dir().join(format!("teff-words-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("notes")).unwrap();
        std::fs::write(folder.join("note.json"), "").unwrap();
        std::fs::write(folder.join(".hidden"), "").unwrap();
        let path = |name: &str| format!("{}{MAIN_SEPARATOR}{name}", folder.display());
        let line = format!("/load  {}", path("my no"));
        assert_eq!(&line[word_start(&line)..], path("my no"), "a name with a blank");
        assert_eq!(word_start("/set temp"), 5);
        let notes = path("notes") + std::path::MAIN_SEPARATOR_STR;
        assert_eq!(of("/load ", &path("no")), [path("note.json"), notes]);
        assert_eq!(of("/load ", &path("")).len(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
