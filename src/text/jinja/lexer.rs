//! Source to tokens, with Jinja2's rules of white space under `trim_blocks` and `lstrip_blocks`: the
//! line break behind a block is dropped, and so are spaces and tabs before one that begins its line.

use super::error::{JinjaError, Result};

/// A token and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub line: u32,
    pub kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TokenKind {
    /// Text between tags.
    Data(String),
    /// `{{`
    OutputBegin,
    /// `}}`
    OutputEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
}

/// Longest first.
const OPS: [&str; 26] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// The tokens of a template.
pub fn tokens(source: &str) -> Result<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_start: true, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Whether what was read last ended a line.
    line_start: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    /// Goes on by `n` bytes.
    fn skip(&mut self, n: usize) {
        let passed = &self.rest()[..n];
        self.line += passed.matches('\n').count() as u32;
        if n > 0 {
            self.line_start = passed.ends_with('\n');
        }
        self.at += n;
    }

    fn skip_space(&mut self) {
        self.skip(self.rest().len() - self.rest().trim_start().len());
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(JinjaError::syntax(message).at(self.line))
    }

    fn run(&mut self) -> Result<()> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some(start) = next_tag(rest) else {
                self.data(rest, rest.len());
                return Ok(());
            };
            let tag = &rest[start..start + 2];
            let sign = rest[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let shown = self.before_tag(&rest[..start], tag, sign);
            self.data(shown, start);
            let signed = 2 + usize::from(sign.is_some());
            match tag {
                "{#" => {
                    let Some(end) = self.rest()[2..].find("#}") else {
                        return self.fail("a comment has no end");
                    };
                    // `{#-#}` has one sign for both ends.
                    let inside = &self.rest()[2..2 + end];
                    let closing = inside.chars().next_back().filter(|c| matches!(c, '-' | '+'));
                    self.skip(2 + end);
                    self.end_tag(2, closing, true);
                }
                "{{" => {
                    self.push(TokenKind::OutputBegin);
                    self.skip(signed);
                    self.inside("}}", TokenKind::OutputEnd)?;
                }
                _ if raw_tag(&self.rest()[signed..], "raw").is_some() => self.raw(signed)?,
                _ => {
                    self.push(TokenKind::BlockBegin);
                    self.skip(signed);
                    self.inside("%}", TokenKind::BlockEnd)?;
                }
            }
        }
        Ok(())
    }

    /// The part of the text before a tag that is shown.
    fn before_tag(&self, text: &'a str, tag: &str, sign: Option<char>) -> &'a str {
        if sign == Some('-') {
            return text.trim_end();
        }
        if sign == Some('+') || tag == "{{" {
            return text;
        }
        let line = text.rfind('\n').map_or(0, |at| at + 1);
        let begins_line = line > 0 || self.line_start;
        let blank = text[line..].bytes().all(|byte| matches!(byte, b' ' | b'\t'));
        if begins_line && blank { &text[..line] } else { text }
    }

    fn data(&mut self, shown: &str, n: usize) {
        if !shown.is_empty() {
            self.push(TokenKind::Data(shown.to_owned()));
        }
        self.skip(n);
    }

    /// Passes the end of a tag, of `n` bytes behind its sign, and the white space that goes with it.
    fn end_tag(&mut self, n: usize, sign: Option<char>, is_block: bool) {
        self.skip(n);
        match sign {
            Some('-') => self.skip_space(),
            None if is_block && self.rest().starts_with('\n') => self.skip(1),
            _ => {}
        }
    }

    fn raw(&mut self, signed: usize) -> Result<()> {
        let (n, sign) = raw_tag(&self.rest()[signed..], "raw").expect("looked for before");
        self.skip(signed + n);
        self.end_tag(0, sign.or(Some('+')), true);
        let text = self.rest();
        let mut from = 0;
        while let Some(found) = text[from..].find("{%") {
            let start = from + found;
            let sign = text[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let signed = 2 + usize::from(sign.is_some());
            if let Some((n, closing)) = raw_tag(&text[start + signed..], "endraw") {
                let shown = self.before_tag(&text[..start], "{%", sign);
                self.data(shown, start);
                self.skip(signed + n);
                self.end_tag(0, closing, true);
                return Ok(());
            }
            from = start + 2;
        }
        self.fail("`raw` has no end")
    }

    /// The tokens up to the end of a tag.
    fn inside(&mut self, end: &str, kind: TokenKind) -> Result<()> {
        let mut open: Vec<char> = Vec::new();
        loop {
            self.skip_space();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return self.fail("a tag has no end");
            };
            let sign = Some(first).filter(|c| matches!(c, '-' | '+'));
            let behind = &rest[usize::from(sign.is_some())..];
            // A plus may only end blocks: in `{{ a +}}` it is an operator.
            let ends = behind.starts_with(end) && (sign != Some('+') || end == "%}");
            if open.is_empty() && ends {
                self.skip(usize::from(sign.is_some()));
                self.push(kind);
                self.end_tag(2, sign, end == "%}");
                return Ok(());
            }
            match first {
                '\'' | '"' => self.string(first)?,
                '0'..='9' => self.number()?,
                c if c.is_alphabetic() || c == '_' => {
                    let n = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                    let name = &rest[..n.unwrap_or(rest.len())];
                    self.push(TokenKind::Name(name.to_owned()));
                    self.skip(name.len());
                }
                _ => {
                    let Some(op) = OPS.iter().find(|op| rest.starts_with(**op)) else {
                        return self.fail(format!("unexpected {first:?}"));
                    };
                    match first {
                        '(' | '[' | '{' => open.push(first),
                        ')' | ']' | '}' => {
                            let matching = match first {
                                ')' => '(',
                                ']' => '[',
                                _ => '{',
                            };
                            if open.pop() != Some(matching) {
                                return self.fail(format!("unexpected {first:?}"));
                            }
                        }
                        _ => {}
                    }
                    self.push(TokenKind::Op(op));
                    self.skip(op.len());
                }
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = &self.rest()[1..];
        let (mut escaped, mut end) = (false, None);
        for (at, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let Some(end) = end else { return self.fail("a string has no end") };
        let text = match unescape(&rest[..end]) {
            Ok(text) => text,
            Err(message) => return self.fail(message),
        };
        self.push(TokenKind::Str(text));
        self.skip(end + 2);
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| {
            let is_digit = |b: &u8| b.is_ascii_digit() || *b == b'_';
            from + rest[from..].iter().take_while(|b| is_digit(b)).count()
        };
        let radix = match rest.get(..2).map(|two| two.to_ascii_lowercase()).as_deref() {
            Some(b"0x") => 16,
            Some(b"0o") => 8,
            Some(b"0b") => 2,
            _ => 10,
        };
        if radix != 10 {
            let is_digit = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
            let n = 2 + rest[2..].iter().take_while(is_digit).count();
            let text = self.rest()[2..n].replace('_', "");
            let Ok(value) = i128::from_str_radix(&text, radix) else {
                return self.fail("a bad number");
            };
            self.push(TokenKind::Int(value));
            self.skip(n);
            return Ok(());
        }
        let (mut n, mut is_float) = (digits(0), false);
        let digit_at = |at: usize| rest.get(at).is_some_and(u8::is_ascii_digit);
        if rest.get(n) == Some(&b'.') && digit_at(n + 1) {
            (n, is_float) = (digits(n + 1), true);
        }
        if matches!(rest.get(n), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(n + 1), Some(b'+' | b'-')));
            if digit_at(n + 1 + sign) {
                (n, is_float) = (digits(n + 1 + sign), true);
            }
        }
        let text = self.rest()[..n].replace('_', "");
        let kind = match is_float {
            true => text.parse().ok().map(TokenKind::Float),
            false => text.parse().ok().map(TokenKind::Int),
        };
        let Some(kind) = kind else {
            return Err(JinjaError::unsupported("a number of more than 127 bits").at(self.line));
        };
        self.push(kind);
        self.skip(n);
        Ok(())
    }
}

/// Position of the next tag.
fn next_tag(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = text[from..].find('{') {
        let at = from + found;
        if matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Length of `name %}` with the sign at its end, if the text begins so.
fn raw_tag(text: &str, name: &str) -> Option<(usize, Option<char>)> {
    let rest = text.trim_start().strip_prefix(name)?.trim_start();
    let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
    let rest = rest[usize::from(sign.is_some())..].strip_prefix("%}")?;
    Some((text.len() - rest.len(), sign))
}

/// The value of a string literal, by Python's escapes.
fn unescape(text: &str) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match text_escape(rest.clone().next()) {
            Some(plain) => {
                rest.next();
                out.push_str(plain);
            }
            None => match rest.clone().next() {
                Some('x') => {
                    rest.next();
                    let hex: String = rest.clone().take(2).collect();
                    rest.nth(1);
                    let value = u8::from_str_radix(&hex, 16).map_err(|_| "a bad \\x".to_owned())?;
                    out.push(char::from(value));
                }
                Some('u') => {
                    rest.next();
                    let hex: String = rest.clone().take(4).collect();
                    rest.nth(3);
                    out.push(char_of(&hex, 4)?);
                }
                Some('U') => {
                    rest.next();
                    let hex: String = rest.clone().take(8).collect();
                    rest.nth(7);
                    out.push(char_of(&hex, 8)?);
                }
                Some('0'..='7') => {
                    let octal: String =
                        rest.clone().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
                    rest.nth(octal.len() - 1);
                    let value = u32::from_str_radix(&octal, 8).unwrap_or(0);
                    out.extend(char::from_u32(value));
                }
                Some('N') => return Err("names of characters (\\N) are not supported".to_owned()),
                _ => out.push('\\'),
            },
        }
    }
    Ok(out)
}

fn char_of(hex: &str, digits: usize) -> std::result::Result<char, String> {
    let value = u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() == digits);
    value.and_then(char::from_u32).ok_or_else(|| format!("no character has the code {hex}"))
}

fn text_escape(escaped: Option<char>) -> Option<&'static str> {
    Some(match escaped? {
        'n' => "\n",
        't' => "\t",
        'r' => "\r",
        '\\' => "\\",
        '\'' => "'",
        '"' => "\"",
        'a' => "\u{7}",
        'b' => "\u{8}",
        'f' => "\u{c}",
        'v' => "\u{b}",
        '\n' => "",
        _ => return None,
    })
}
