//! GBNF, llama.cpp's notation of grammars: its parser. `lark.rs` writes what the engine reads.

mod chars;
mod lark;

use super::{GrammarError, NESTED_MAX, too_nested};
use std::collections::BTreeMap;

/// Groups in groups, at most.
const DEPTH_MAX: usize = 64;
/// Largest number of repetitions.
const REPEAT_MAX: u32 = 10_000;

/// Part of a sequence.
#[derive(Debug)]
enum Item {
    /// Characters from one to another, each inclusive; none of them if negated.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// A rule, by its number.
    Rule(usize),
    /// A token, in the engine's notation.
    Token(String),
    Group(Alternatives),
    Repeat {
        body: Alternatives,
        min: u32,
        max: Option<u32>,
    },
}

type Alternatives = Vec<Vec<Item>>;

/// Rules by number; `None` for one that is named and never defined.
#[derive(Debug, Default)]
struct Rules {
    bodies: Vec<Option<Alternatives>>,
    numbers: BTreeMap<String, usize>,
    /// Where each is named first, in characters.
    places: Vec<usize>,
}

impl Rules {
    fn number(&mut self, name: String, place: usize) -> usize {
        let next = self.bodies.len();
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.bodies.push(None);
            self.places.push(place);
        }
        number
    }
}

/// A Lark grammar that accepts what a GBNF grammar does.
///
/// # Errors
/// [`GrammarError::Syntax`]
pub(super) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
        rules: Rules::default(),
        depth: 0,
        deepest: 0,
        n_nested: 0,
    };
    parser.grammar()?;
    let Rules { bodies, numbers, places } = std::mem::take(&mut parser.rules);
    let Some(&root) = numbers.get("root") else {
        return Err(GrammarError::Syntax { line: 1, column: 1, reason: "no rule `root`".into() });
    };
    let mut defined = Vec::with_capacity(bodies.len());
    for (number, body) in bodies.into_iter().enumerate() {
        defined.push(body.ok_or_else(|| {
            let name = numbers.iter().find(|(_, n)| **n == number).map_or("", |(name, _)| name);
            parser.error_at(places[number], format!("no rule `{name}`"))
        })?);
    }
    Ok(lark::write(&defined, root))
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    rules: Rules,
    /// Groups around what is being read, and the most of them in the rule so far.
    depth: usize,
    deepest: usize,
    /// Rules read, and the groups in groups of each.
    n_nested: usize,
}

impl Parser {
    fn grammar(&mut self) -> Result<(), GrammarError> {
        self.space(true);
        while self.peek().is_some() {
            let place = self.at;
            let name = self.name()?;
            self.space(false);
            self.expect("::=")?;
            self.space(true);
            let number = self.rules.number(name.clone(), place);
            if self.rules.bodies[number].is_some() {
                return Err(self.error_at(place, format!("`{name}` is defined twice")));
            }
            let body = self.alternatives(false)?;
            self.rules.bodies[number] = Some(body);
            self.n_nested += 1 + std::mem::take(&mut self.deepest);
            if self.n_nested > NESTED_MAX {
                return Err(self.error_at(place, too_nested()));
            }
            if !matches!(self.peek(), None | Some('\n' | '\r')) {
                return Err(self.error("a rule ends with its line"));
            }
            self.space(true);
        }
        Ok(())
    }

    fn alternatives(&mut self, in_group: bool) -> Result<Alternatives, GrammarError> {
        let mut body = vec![self.sequence(in_group)?];
        while self.peek() == Some('|') {
            self.at += 1;
            self.space(true);
            body.push(self.sequence(in_group)?);
        }
        Ok(body)
    }

    fn sequence(&mut self, in_group: bool) -> Result<Vec<Item>, GrammarError> {
        let mut items: Vec<Item> = Vec::new();
        // What a sign of repetition repeats: the last literal as a whole, or the last item, once.
        let mut last = None;
        loop {
            let start = items.len();
            match self.peek() {
                Some('"') => self.literal(&mut items)?,
                Some('[') => items.push(self.class()?),
                Some('.') => {
                    self.at += 1;
                    items.push(Item::Class { is_negated: false, ranges: vec![('\0', char::MAX)] });
                }
                Some('(') => items.push(self.group()?),
                Some('<' | '!') => items.push(self.token()?),
                Some('*' | '+' | '?' | '{') => {
                    let Some(start) = last.take() else {
                        return Err(self.error("nothing before it that could be repeated"));
                    };
                    let (min, max) = self.repetition()?;
                    let repeated: Vec<Item> = items.drain(start..).collect();
                    items.push(Item::Repeat { body: vec![repeated], min, max });
                    self.space(in_group);
                    continue;
                }
                Some(c) if is_name(c) => {
                    let place = self.at;
                    let name = self.name()?;
                    items.push(Item::Rule(self.rules.number(name, place)));
                }
                _ => return Ok(items),
            }
            last = Some(start);
            self.space(in_group);
        }
    }

    fn group(&mut self) -> Result<Item, GrammarError> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > DEPTH_MAX {
            return Err(self.error(format!("more than {DEPTH_MAX} groups in groups")));
        }
        self.at += 1;
        self.space(true);
        let body = self.alternatives(true)?;
        self.expect(")")?;
        self.depth -= 1;
        Ok(Item::Group(body))
    }

    fn literal(&mut self, items: &mut Vec<Item>) -> Result<(), GrammarError> {
        let place = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some('"') => break self.at += 1,
                Some('\n') | None => {
                    return Err(self.error_at(place, "a literal without an end".into()));
                }
                Some(_) => {
                    let c = self.char()?;
                    items.push(Item::Class { is_negated: false, ranges: vec![(c, c)] });
                }
            }
        }
        Ok(())
    }

    fn class(&mut self) -> Result<Item, GrammarError> {
        let place = self.at;
        self.at += 1;
        let is_negated = self.peek() == Some('^');
        self.at += usize::from(is_negated);
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                Some(']') => break self.at += 1,
                None => return Err(self.error_at(place, "a class without an end".into())),
                Some(_) => {}
            }
            let first = self.char()?;
            let is_range = self.peek() == Some('-') && self.chars.get(self.at + 1) != Some(&']');
            let last = match is_range {
                true => {
                    self.at += 1;
                    self.char()?
                }
                false => first,
            };
            if last < first {
                return Err(self.error_at(place, "a range that ends before it begins".into()));
            }
            ranges.push((first, last));
        }
        match ranges.is_empty() {
            true if is_negated => {
                Ok(Item::Class { is_negated: false, ranges: vec![('\0', char::MAX)] })
            }
            true => Err(self.error_at(place, "a class without a character".into())),
            false => Ok(Item::Class { is_negated, ranges }),
        }
    }

    /// A character of a literal or class, escaped or not.
    fn char(&mut self) -> Result<char, GrammarError> {
        let place = self.at;
        let ended = || "an escape without an end".to_owned();
        let Some(c) = self.next() else { return Err(self.error_at(place, ended())) };
        if c != '\\' {
            return Ok(c);
        }
        let Some(escape) = self.next() else { return Err(self.error_at(place, ended())) };
        let n_digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' => return Ok(escape),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error_at(place, format!("no escape: `\\{escape}`"))),
        };
        let mut code = 0u32;
        for _ in 0..n_digits {
            let digit = self.next().and_then(|c| c.to_digit(16));
            let Some(digit) = digit.filter(|_| code < 1 << 28) else {
                return Err(
                    self.error_at(place, format!("`\\{escape}` wants {n_digits} hex digits"))
                );
            };
            code = code << 4 | digit;
        }
        char::from_u32(code)
            .ok_or_else(|| self.error_at(place, format!("{code:#x} is no character")))
    }

    fn token(&mut self) -> Result<Item, GrammarError> {
        let place = self.at;
        if self.peek() == Some('!') {
            return Err(self.error("tokens that are excluded are not supported"));
        }
        let rest = &self.chars[self.at..];
        let end = rest.iter().position(|c| *c == '>' || c.is_whitespace());
        match end.filter(|&end| end > 1 && rest[end] == '>') {
            Some(end) => {
                let token = rest[..=end].iter().collect();
                self.at += end + 1;
                Ok(Item::Token(token))
            }
            None => Err(self.error_at(place, "a token is <name> or <[number]>".into())),
        }
    }

    fn repetition(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        let place = self.at;
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.space(false);
        let min = self.number()?;
        self.space(false);
        let max = match self.peek() {
            Some(',') => {
                self.at += 1;
                self.space(false);
                if self.peek() == Some('}') { None } else { Some(self.number()?) }
            }
            _ => Some(min),
        };
        self.space(false);
        self.expect("}")?;
        match max.is_some_and(|max| max < min) {
            true => Err(self.error_at(place, "at most fewer than at least".into())),
            false => Ok((min, max)),
        }
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let digits: String =
            self.chars[self.at..].iter().take_while(|c| c.is_ascii_digit()).take(10).collect();
        match digits.parse() {
            Ok(number) if number <= REPEAT_MAX => {
                self.at += digits.len();
                Ok(number)
            }
            _ => Err(self.error(format!("expected a number up to {REPEAT_MAX}"))),
        }
    }

    fn name(&mut self) -> Result<String, GrammarError> {
        let name: String =
            self.chars[self.at..].iter().copied().take_while(|&c| is_name(c)).collect();
        if name.is_empty() {
            return Err(self.error("expected the name of a rule"));
        }
        self.at += name.len();
        Ok(name)
    }

    fn expect(&mut self, text: &str) -> Result<(), GrammarError> {
        if !self.chars[self.at..].iter().copied().take(text.len()).eq(text.chars()) {
            return Err(self.error(format!("expected `{text}`")));
        }
        self.at += text.len();
        Ok(())
    }

    /// Skips blanks and comments, and ends of lines where they mean nothing.
    fn space(&mut self, with_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if with_lines => self.at += 1,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n' && c != '\r') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn error(&self, reason: impl Into<String>) -> GrammarError {
        self.error_at(self.at, reason.into())
    }

    fn error_at(&self, place: usize, reason: String) -> GrammarError {
        let before = &self.chars[..place];
        let line_start = before.iter().rposition(|&c| c == '\n').map_or(0, |at| at + 1);
        let line = 1 + before.iter().filter(|&&c| c == '\n').count();
        GrammarError::Syntax { line, column: 1 + place - line_start, reason }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
