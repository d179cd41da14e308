//! Markdown as it streams in: the text stays as it is, styles are put around it.
//!
//! Nothing that was written is laid out anew, so scrollback, copies and resized windows stay right.
//! Every style ends with its line at the latest. Recognized are headings, fenced code, quotes, list
//! marks, `code` and **strong**. At most the mark at a line's start, or one `*`, is held back.

/// Styles in ANSI's SGR codes.
const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const CODE: &str = "\x1b[36m";
const MARK: &str = "\x1b[33m";

/// Longest mark at a line's start that is waited for; a longer one is text.
const MARK_BYTES_MAX: usize = 16;

/// Styles of one answer.
#[derive(Debug, Default)]
pub struct Markdown {
    /// Text that is held back: the mark at a line's start, or `*`s within a line.
    held: String,
    /// Whether the line's first word has begun.
    in_line: bool,
    /// Mark of the fence that is open.
    fence: Option<String>,
    /// Style of the whole line.
    line: &'static str,
    is_code: bool,
    is_strong: bool,
}

impl Markdown {
    /// The next piece of the text with its styles, but for what is held back.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            match c {
                '\n' => self.end_line(&mut out),
                _ if self.in_line => self.inline(c, &mut out),
                _ => self.line_start(c, &mut out),
            }
        }
        out
    }

    /// Text that was held back, at the end.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.end_mark(None, &mut out);
        self.reset(&mut out);
        *self = Markdown::default();
        out
    }

    fn end_line(&mut self, out: &mut String) {
        self.end_mark(None, out);
        self.reset(out);
        out.push('\n');
        (self.in_line, self.is_code, self.is_strong) = (false, false, false);
        self.line = "";
    }

    /// A character of what may be a mark, which a space or anything else ends.
    fn line_start(&mut self, c: char, out: &mut String) {
        let is_mark = matches!(c, '#' | '>' | '-' | '*' | '+' | '`' | '~' | '.' | ')');
        let goes_on = is_mark || c.is_ascii_digit() || (c == ' ' && self.held.trim().is_empty());
        if goes_on && self.held.len() < MARK_BYTES_MAX {
            self.held.push(c);
            return;
        }
        self.end_mark(Some(c), out);
        self.inline(c, out);
    }

    /// Writes what was held back: the mark at a line's start with what it means, or `*`s. `next`
    /// comes behind it; `None`: the line ends.
    fn end_mark(&mut self, next: Option<char>, out: &mut String) {
        let held = std::mem::take(&mut self.held);
        if self.in_line {
            // `**` that nothing follows on its line closes, if anything.
            return self.stars(&held, false, out);
        }
        self.in_line = true;
        let mark = held.trim();
        let ends = next.is_none_or(char::is_whitespace);
        let fence = mark.chars().next().filter(|c| matches!(c, '`' | '~') && mark.len() >= 3);
        let is_fence = fence.is_some_and(|first| mark.chars().all(|c| c == first));
        let style = match &self.fence {
            Some(open) if is_fence && ends && mark.starts_with(&**open) => {
                self.fence = None;
                DIM
            }
            Some(_) => CODE,
            None if is_fence => {
                self.fence = Some(mark.to_owned());
                DIM
            }
            None if ends && (1..=6).contains(&mark.len()) && mark.bytes().all(|b| b == b'#') => {
                BOLD
            }
            None if mark.starts_with('>') => DIM,
            None if ends && is_list_mark(mark) => {
                out.extend([MARK, &held, RESET]);
                return;
            }
            None => {
                self.first_word(&held, out);
                if next.is_none() {
                    let stars = std::mem::take(&mut self.held);
                    self.stars(&stars, false, out);
                }
                return;
            }
        };
        self.line = style;
        out.extend([style, &held]);
    }

    /// Marks that begin no block are the beginning of the line's text.
    fn first_word(&mut self, held: &str, out: &mut String) {
        for c in held.chars() {
            self.inline(c, out);
        }
    }

    fn inline(&mut self, c: char, out: &mut String) {
        // In a line of code, and in one whose style is decided, marks mean nothing.
        if !self.line.is_empty() {
            out.push(c);
            return;
        }
        if c == '*' && !self.is_code {
            self.held.push(c);
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.stars(&held, !c.is_whitespace(), out);
        match c {
            '`' if self.is_code => {
                out.push(c);
                self.is_code = false;
                self.restyle(out);
            }
            '`' => {
                self.is_code = true;
                out.push_str(CODE);
                out.push(c);
            }
            _ => out.push(c),
        }
    }

    /// Writes `*`s; two open strong text if a word follows, and close it.
    fn stars(&mut self, stars: &str, word_follows: bool, out: &mut String) {
        if stars.len() == 2 && self.is_strong {
            out.push_str(stars);
            self.is_strong = false;
            self.restyle(out);
        } else if stars.len() == 2 && word_follows {
            self.is_strong = true;
            out.extend([BOLD, stars]);
        } else {
            out.push_str(stars);
        }
    }

    /// Ends all styles, then sets those again that go on.
    fn restyle(&self, out: &mut String) {
        out.push_str(RESET);
        out.push_str(if self.is_strong { BOLD } else { "" });
        out.push_str(if self.is_code { CODE } else { "" });
    }

    fn reset(&self, out: &mut String) {
        if self.is_code || self.is_strong || !self.line.is_empty() {
            out.push_str(RESET);
        }
    }
}

fn is_list_mark(mark: &str) -> bool {
    let number = mark.strip_suffix('.').or_else(|| mark.strip_suffix(')'));
    let is_number = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_number || matches!(mark, "-" | "*" | "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn styled(text: &str) -> String {
        let mut markdown = Markdown::default();
        markdown.push(text) + &markdown.finish()
    }

    /// The text without its styles.
    fn plain(styled: &str) -> String {
        let mut parts = styled.split("\x1b[");
        let first = parts.next().unwrap_or_default().to_owned();
        first + &parts.map(|part| part.split_once('m').unwrap().1).collect::<String>()
    }

    #[test]
    fn styles_stand_around_the_text() {
        for (text, expected) in [
            ("# Title\ntext", "\x1b[1m# Title\x1b[0m\ntext"),
            ("a **b c** d", "a \x1b[1m**b c**\x1b[0m d"),
            ("say `x**2` now", "say \x1b[36m`x**2`\x1b[0m now"),
            ("- one\n1. two", "\x1b[33m-\x1b[0m one\n\x1b[33m1.\x1b[0m two"),
            (
                "```py\na = 1 # b\n```\nend",
                "\x1b[2m```py\x1b[0m\n\x1b[36ma = 1 # b\x1b[0m\n\x1b[2m```\x1b[0m\nend",
            ),
            ("2 ** 3 and 4*5", "2 ** 3 and 4*5"),
            ("**open\nnext", "\x1b[1m**open\x1b[0m\nnext"),
            ("#hashtag", "#hashtag"),
            ("**Note:** x", "\x1b[1m**Note:**\x1b[0m x"),
            ("> quoted", "\x1b[2m> quoted\x1b[0m"),
            ("-5 degrees", "-5 degrees"),
            ("", ""),
            ("**", "**"),
        ] {
            assert_eq!(styled(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_lost_and_pieces_do_not_matter() {
        let text = "# A\n\n* **x** and `y`\n10) z *i* ***both***\n~~~\n**no**\n~~~\n    -- ### 3.14. ``` \n";
        let whole = styled(text);
        assert_eq!(plain(&whole), text);
        for size in 1..text.len() {
            let mut markdown = Markdown::default();
            let pieces = text.as_bytes().chunks(size);
            let mut out: String =
                pieces.map(|piece| markdown.push(std::str::from_utf8(piece).unwrap())).collect();
            out += &markdown.finish();
            assert_eq!(out, whole, "pieces of {size}");
        }
    }
}
