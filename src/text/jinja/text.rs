//! Strings that know which of their bytes came from outside the template.
//!
//! Every operation of the engine that makes a string out of others makes it of slices of them, or
//! character by character, and so hands the marks on. Cost: one range per stretch of marked bytes.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// A string with marks on the bytes that are not the template's own. Comparisons ignore marks.
#[derive(Clone, Default)]
pub struct Text(Rc<Marked>);

/// Content that clones of a [`Text`] share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The string.
    pub string: String,
    /// Ranges of bytes that came from outside: ascending, apart, none empty.
    pub marks: Vec<Range<usize>>,
}

impl Marked {
    /// Appends bytes that came from outside (`marked`) or from the template.
    pub fn push_str(&mut self, text: &str, marked: bool) {
        let start = self.string.len();
        self.string.push_str(text);
        if marked {
            self.mark(start..self.string.len());
        }
    }

    /// Appends a character.
    pub fn push(&mut self, character: char, marked: bool) {
        self.push_str(character.encode_utf8(&mut [0; 4]), marked);
    }

    /// Appends a text with its marks.
    pub fn push_text(&mut self, text: &Text) {
        self.push_slice(text, 0..text.len());
    }

    /// Appends a part of a text with its marks.
    pub fn push_slice(&mut self, text: &Text, range: Range<usize>) {
        let start = self.string.len();
        self.string.push_str(&text[range.clone()]);
        let first = text.0.marks.partition_point(|mark| mark.end <= range.start);
        for mark in &text.0.marks[first..] {
            if mark.start >= range.end {
                break;
            }
            let (from, to) = (mark.start.max(range.start), mark.end.min(range.end));
            self.mark(start + from - range.start..start + to - range.start);
        }
    }

    /// Marks a range behind all that are marked.
    fn mark(&mut self, range: Range<usize>) {
        match self.marks.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.marks.push(range),
        }
    }
}

impl From<Marked> for Text {
    fn from(marked: Marked) -> Self {
        Self(Rc::new(marked))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Text {
    fn from(string: String) -> Self {
        Marked { string, marks: Vec::new() }.into()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.string
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Text {
    /// A string from outside.
    pub fn outside(string: impl Into<String>) -> Self {
        let mut marked = Marked { string: string.into(), marks: Vec::new() };
        marked.mark(0..marked.string.len());
        marked.into()
    }

    /// A part, by bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        if range == (0..self.len()) {
            return self.clone();
        }
        let mut out = Marked::default();
        out.push_slice(self, range);
        out.into()
    }

    /// The part that `part`, a slice of this very string, is.
    pub fn part(&self, part: &str) -> Self {
        let start = part.as_ptr() as usize - self.as_ptr() as usize;
        self.slice(start..start + part.len())
    }

    /// The string with its marks.
    #[cfg(test)]
    pub fn marked(&self) -> &Marked {
        &self.0
    }

    /// Characters with their marks.
    pub fn marked_chars(&self) -> impl Iterator<Item = (char, bool)> + '_ {
        let mut marks = self.0.marks.iter().peekable();
        self.char_indices().map(move |(at, character)| {
            while marks.next_if(|mark| mark.end <= at).is_some() {}
            (character, marks.peek().is_some_and(|mark| mark.start <= at))
        })
    }

    /// Each character replaced by what `f` writes for it, under its mark.
    pub fn map(&self, mut f: impl FnMut(char, &mut String)) -> Self {
        let (mut out, mut piece) = (Marked::default(), String::new());
        for (character, marked) in self.marked_chars() {
            piece.clear();
            f(character, &mut piece);
            out.push_str(&piece, marked);
        }
        out.into()
    }

    /// Texts one behind the other.
    pub fn concat<'a>(parts: impl IntoIterator<Item = &'a Text>) -> Self {
        let mut out = Marked::default();
        parts.into_iter().for_each(|part| out.push_text(part));
        out.into()
    }

    /// The text `n` times, padded characters and such.
    pub fn repeat(&self, n: usize) -> Self {
        let mut out = Marked::default();
        (0..n).for_each(|_| out.push_text(self));
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_slices_and_changes() {
        let text = Text::concat([&"ab".into(), &Text::outside("cdé"), &"f".into()]);
        assert_eq!(text.marked().marks, std::slice::from_ref(&(2..6)));
        assert_eq!(text.slice(3..7).marked().marks, std::slice::from_ref(&(0..3)));
        assert_eq!(text.part(&text[1..3]).marked().marks, std::slice::from_ref(&(1..2)));
        assert!(text.slice(0..2).marked().marks.is_empty());
        let upper = text.map(|c, out| out.extend(c.to_uppercase().chain(['-'])));
        assert_eq!(&*upper, "A-B-C-D-É-F-");
        assert_eq!(upper.marked().marks, std::slice::from_ref(&(4..11)));
        assert_eq!(text.repeat(2).marked().marks, [2..6, 9..13]);
        let joined = Text::concat([&Text::outside("a"), &Text::outside("b")]);
        assert_eq!(joined.marked().marks, std::slice::from_ref(&(0..2)));
    }
}
