//! Text of models and files on its way to a terminal.
//!
//! Characters that act on a terminal (escape sequences, C1 controls) or on the order in which text
//! is read (bidirectional overrides) are shown as symbols, so that no answer moves the cursor, sets
//! a title or hides what it says. Line breaks and tabs stay.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::{IsTerminal, stdout};

/// Look of answers where they are shown: what may be sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// To a file or a pipe: the text as it is.
    Plain,
    /// To a terminal without styles: what would act on it as symbols.
    Terminal,
    /// To a terminal with styles.
    Styled,
}

impl Look {
    /// That of standard output.
    pub fn of_stdout() -> Look {
        match stdout().is_terminal() {
            false => Look::Plain,
            true if is_dumb() || var("NO_COLOR").is_some() => Look::Terminal,
            true => Look::Styled,
        }
    }

    /// A model's text as it may be sent.
    pub fn safe(self, text: &str) -> Cow<'_, str> {
        if self == Look::Plain { Cow::Borrowed(text) } else { shown(text) }
    }
}

/// Whether the terminal is one that knows no escape sequences.
pub fn is_dumb() -> bool {
    var("TERM").is_some_and(|term| term == "dumb")
}

/// A variable of the environment that is not empty.
fn var(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Distance from a C0 control to its picture, U+2400 to U+241F.
const PICTURES: u32 = 0x2400;
/// Picture of DEL.
const PICTURE_OF_DELETE: char = '\u{2421}';

/// The text with symbols in the place of what must not be sent.
pub fn shown(text: &str) -> Cow<'_, str> {
    if is_safe(text) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            _ if !acts(c) => safe.push(c),
            '\0'..='\x1f' => safe.extend(char::from_u32(PICTURES + u32::from(c))),
            '\x7f' => safe.push(PICTURE_OF_DELETE),
            // Writing to a string cannot fail.
            _ => drop(write!(safe, "<U+{:04X}>", u32::from(c))),
        }
    }
    Cow::Owned(safe)
}

/// The text with other characters, of as many bytes, in the place of those that must not be sent: for
/// editors, which count bytes.
pub fn masked(text: &str) -> Cow<'_, str> {
    let mask = |c: char| match c.len_utf8() {
        _ if !acts(c) => c,
        1 => '?',
        2 => '\u{bf}',
        _ => '\u{fffd}',
    };
    if is_safe(text) { Cow::Borrowed(text) } else { text.chars().map(mask).collect() }
}

/// Whether a text has nothing that acts on a terminal.
pub fn is_safe(text: &str) -> bool {
    !text.contains(acts)
}

/// Whether a character acts where it should only be seen.
fn acts(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Bidirectional embeddings, overrides and isolates.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_a_symbol() {
        for (text, expected) in [
            ("plain, tab\tand\nbreak, ü 日 👩‍👩‍👧", "plain, tab\tand\nbreak, ü 日 👩‍👩‍👧"),
            ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
            ("title\x1b]0;x\x07", "title␛]0;x␇"),
            ("over\rwritten\x08\0\x7f", "over␍written␈␀␡"),
            ("c1 \u{9b}31m \u{85}", "c1 <U+009B>31m <U+0085>"),
            ("bidi \u{202e}txt\u{2069}", "bidi <U+202E>txt<U+2069>"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!((masked(text).len(), is_safe(&masked(text))), (text.len(), true));
            assert_eq!(is_safe(text), text == expected);
        }
    }
}
