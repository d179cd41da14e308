//! Stop strings: an answer ends where one of them is complete, and no part of it is shown.
//!
//! Text arrives in pieces that know nothing of the strings' borders. The end of the text that may
//! be the beginning of a stop string is held back, never more than the longest string. The first
//! string that is complete decides, so that results do not depend on how the text is cut.

use std::fmt;

/// Stop strings of a request, at most: clients send a handful, each costs a search per token.
pub const STOP_STRINGS_MAX: usize = 64;
/// Bytes of a stop string, at most: as much text may be held back.
pub const STOP_BYTES_MAX: usize = 1024;

/// Why stop strings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// An empty string, which would end every answer before its first character.
    Empty,
    /// More strings than [`STOP_STRINGS_MAX`].
    TooMany {
        /// Number of strings.
        n: usize,
    },
    /// A string longer than [`STOP_BYTES_MAX`].
    TooLong {
        /// Bytes of the string.
        n_bytes: usize,
    },
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopError::Empty => write!(f, "a stop string is empty"),
            StopError::TooMany { n } => {
                write!(f, "{n} stop strings are more than the {STOP_STRINGS_MAX} allowed")
            }
            StopError::TooLong { n_bytes } => {
                write!(f, "a stop string has {n_bytes} bytes, more than {STOP_BYTES_MAX}")
            }
        }
    }
}

impl std::error::Error for StopError {}

/// Matcher of stop strings in a stream of text.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

/// Text that a [`StopStrings`] lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Text that is part of no stop string.
    pub text: String,
    /// Index of the stop string that ended the text, if one did.
    pub stop: Option<usize>,
}

impl StopStrings {
    /// Matcher of `strings`; with none, all text is released at once.
    ///
    /// # Errors
    /// An empty string, one that is too long, or too many.
    pub fn new(strings: Vec<String>) -> Result<StopStrings, StopError> {
        if strings.len() > STOP_STRINGS_MAX {
            return Err(StopError::TooMany { n: strings.len() });
        }
        for string in &strings {
            match string.len() {
                0 => return Err(StopError::Empty),
                n_bytes if n_bytes > STOP_BYTES_MAX => return Err(StopError::TooLong { n_bytes }),
                _ => {}
            }
        }
        Ok(StopStrings { strings, held: String::new() })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.strings.len()
    }

    /// Whether there is no string to look for.
    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    /// Adds text and returns what may be shown of all text so far. After a stop string nothing
    /// more is to be pushed.
    pub fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        if let Some((start, stop)) = self.first_complete() {
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let rest = self.held.split_off(self.possible_start());
        Released { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// Ends the text: what was held back is no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the string whose last byte comes first; of several the longest.
    fn first_complete(&self) -> Option<(usize, usize)> {
        let matches = self.strings.iter().enumerate().filter_map(|(index, string)| {
            self.held.find(string).map(|start| (start + string.len(), start, index))
        });
        matches.min().map(|(_, start, index)| (start, index))
    }

    /// First byte of the held text from which on it begins a stop string; its length if none does.
    fn possible_start(&self) -> usize {
        let begins = |&start: &usize| {
            let end = &self.held.as_bytes()[start..];
            self.strings.iter().any(|string| string.as_bytes().starts_with(end))
        };
        let longest = self.strings.iter().map(String::len).max().unwrap_or_default();
        let first = self.held.len().saturating_sub(longest.saturating_sub(1));
        let starts = (first..self.held.len()).filter(|&at| self.held.is_char_boundary(at));
        starts.into_iter().find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stop(strings: &[&str]) -> StopStrings {
        StopStrings::new(strings.iter().map(ToString::to_string).collect()).unwrap()
    }

    /// The shown text and the string that ended it, of text in such pieces.
    fn stream(strings: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut stop = stop(strings);
        let mut shown = String::new();
        for piece in pieces {
            let released = stop.push(piece);
            shown += &released.text;
            if released.stop.is_some() {
                return (shown, released.stop);
            }
        }
        (shown + &stop.finish(), None)
    }

    #[test]
    fn a_string_across_pieces_is_found_and_not_shown() {
        assert_eq!(stream(&["\n\n"], &["one\n", "\ntwo"]), ("one".into(), Some(0)));
        assert_eq!(stream(&["</s>"], &["a<", "/", "s", ">b"]), ("a".into(), Some(0)));
        assert_eq!(stream(&["</s>"], &["a<", "/", "t>"]), ("a</t>".into(), None));
        assert_eq!(stream(&["é!"], &["caf", "é", "!"]), ("caf".into(), Some(0)));
    }

    #[test]
    fn text_waits_only_while_it_may_become_a_stop_string() {
        let mut stop = stop(&["aab"]);
        assert_eq!(stop.push("xaa").text, "x");
        assert_eq!(stop.push("a").text, "a");
        assert_eq!(stop.push("c").text, "aac");
        assert_eq!(stop.push("a").text, "");
        assert_eq!(stop.finish(), "a");
    }

    #[test]
    fn the_string_that_is_complete_first_wins() {
        assert_eq!(stream(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some(1)));
        assert_eq!(stream(&["b", "ab"], &["ab"]), ("".into(), Some(1)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(StopStrings::new(vec![String::new()]).unwrap_err(), StopError::Empty);
        let long = StopStrings::new(vec!["x".repeat(STOP_BYTES_MAX + 1)]);
        assert_eq!(long.unwrap_err(), StopError::TooLong { n_bytes: STOP_BYTES_MAX + 1 });
        let many = StopStrings::new(vec!["x".into(); STOP_STRINGS_MAX + 1]);
        assert_eq!(many.unwrap_err(), StopError::TooMany { n: STOP_STRINGS_MAX + 1 });
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            text in "[abé]{0,40}",
            strings in prop::collection::vec("[abé]{1,5}", 1..4),
            cuts in prop::collection::vec(0..41_usize, 0..8),
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let pieces: Vec<String> =
                cuts.windows(2).map(|cut| chars[cut[0]..cut[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = stream(&strings, &[&text]);
            prop_assert_eq!(stream(&strings, &pieces), whole.clone());
            // The definition: the first end of any of the strings.
            let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
            let first = ends.into_iter().find_map(|end| {
                let of = |string: &&str| text[..end].ends_with(string).then_some(string.len());
                strings.iter().filter_map(of).max().map(|len| end - len)
            });
            prop_assert_eq!(whole.0, &text[..first.unwrap_or(text.len())]);
        }
    }
}
