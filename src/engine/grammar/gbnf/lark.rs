//! GBNF rules as Lark, which accepts exactly the same.
//!
//! A grammar whose rules do not come back to themselves becomes one lexeme: its rules are terminals.
//! In others a character is a lexeme, as the engine's lexer takes the longest match and knows one cut of
//! a text only. Parts of sequences are lexemes as a whole where that is the only cut: where a part's
//! matches go on in one way, none begins another, and no other lexeme begins as they do. The masks of
//! quoted strings are some twenty times faster then.

use super::chars::Chars;
use super::{Alternatives, Item};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Parts that may be lexemes, at most: each is compared with each.
const PARTS_MAX: usize = 300;
/// Items of a part, at most: they are tried from each item on.
const PART_ITEMS_MAX: usize = 256;
/// Rounds of giving up parts that collide; then all are given up.
const ROUNDS_MAX: usize = 20;

/// The Lark text of the rules that `root` leads to.
pub(super) fn write(bodies: &[Alternatives], root: usize) -> String {
    let used = reachable(bodies, root);
    let regular = regular(bodies, &used);
    if regular.len() == used.len() {
        let mut lark = format!("start: T{root}\n");
        define_terminals(&mut lark, bodies, used);
        return lark;
    }
    let shapes = shapes(bodies, &regular);
    let mut given_up = BTreeSet::new();
    for round in 0.. {
        let is_plain = round == ROUNDS_MAX;
        let mut writer = Writer {
            shapes: &shapes,
            given_up: &given_up,
            is_plain,
            parts: Vec::new(),
            chars: Chars::none(),
        };
        let mut lark = format!("start: r{root}\n");
        for &number in &used {
            let _ = write!(lark, "r{number}: ");
            writer.alternatives(&mut lark, &bodies[number]);
            lark.push('\n');
        }
        let colliding = writer.colliding();
        if colliding.is_empty() {
            let mut named = Vec::new();
            for (number, part) in writer.parts.iter().enumerate() {
                let _ = writeln!(lark, "P{number}: {}", part.text);
                part.items.iter().for_each(|item| rules_in(item, &mut named));
            }
            let mut needed = BTreeSet::new();
            for rule in named {
                if !needed.contains(&rule) {
                    needed.extend(reachable(bodies, rule));
                }
            }
            define_terminals(&mut lark, bodies, needed);
            return lark;
        }
        given_up.extend(colliding);
    }
    unreachable!("plain rules have no parts that collide")
}

/// Writes rules as terminals.
fn define_terminals(
    lark: &mut String,
    bodies: &[Alternatives],
    rules: impl IntoIterator<Item = usize>,
) {
    for number in rules {
        let _ = write!(lark, "T{number}: ");
        terminal(lark, &bodies[number]);
        lark.push('\n');
    }
}

fn terminal(lark: &mut String, body: &Alternatives) {
    for (i, items) in body.iter().enumerate() {
        lark.push_str(if i > 0 { "| " } else { "" });
        terminal_sequence(lark, items);
    }
}

fn terminal_sequence(lark: &mut String, items: &[Item]) {
    if items.is_empty() {
        lark.push_str("\"\" ");
    }
    for item in items {
        write_item(lark, item, "T", &mut terminal);
    }
}

/// Writes an item, with a blank behind it; rules get a letter before their number, what is in groups is
/// written by `nested`.
fn write_item<'i>(
    lark: &mut String,
    item: &'i Item,
    letter: &str,
    nested: &mut dyn FnMut(&mut String, &'i Alternatives),
) {
    // Writing to a string cannot fail.
    let _ = match item {
        Item::Class { is_negated, ranges } => {
            lark.push_str(if *is_negated { "/[^" } else { "/[" });
            for &(first, last) in ranges {
                let _ = write!(lark, "\\x{{{:X}}}-\\x{{{:X}}}", first as u32, last as u32);
            }
            write!(lark, "]/ ")
        }
        Item::Rule(number) => write!(lark, "{letter}{number} "),
        Item::Token(token) => write!(lark, "{token} "),
        Item::Group(body) => {
            lark.push('(');
            nested(lark, body);
            write!(lark, ") ")
        }
        Item::Repeat { max: Some(0), .. } => write!(lark, "\"\" "),
        Item::Repeat { body, min, max } => {
            lark.push('(');
            nested(lark, body);
            match (min, max) {
                (0, None) => write!(lark, ")* "),
                (1, None) => write!(lark, ")+ "),
                (0, Some(1)) => write!(lark, ")? "),
                (min, None) => write!(lark, "){{{min},}} "),
                (min, Some(max)) => write!(lark, "){{{min},{max}}} "),
            }
        }
    };
}

fn rules_in(item: &Item, found: &mut Vec<usize>) {
    match item {
        Item::Rule(number) => found.push(*number),
        Item::Group(body) | Item::Repeat { body, .. } => {
            body.iter().flatten().for_each(|item| rules_in(item, found));
        }
        Item::Class { .. } | Item::Token(_) => {}
    }
}

fn has_token(item: &Item) -> bool {
    match item {
        Item::Token(_) => true,
        Item::Group(body) | Item::Repeat { body, .. } => body.iter().flatten().any(has_token),
        Item::Class { .. } | Item::Rule(_) => false,
    }
}

/// Rules that a rule leads to, itself among them, by number.
fn reachable(bodies: &[Alternatives], from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(number) = open.pop() {
        if found.insert(number) {
            bodies[number].iter().flatten().for_each(|item| rules_in(item, &mut open));
        }
    }
    found
}

/// Rules that lead neither to themselves nor to others that do nor to tokens, each behind those that it
/// names.
fn regular(bodies: &[Alternatives], used: &BTreeSet<usize>) -> Vec<usize> {
    let mut n_named = vec![0; bodies.len()];
    let mut callers = vec![Vec::new(); bodies.len()];
    let mut open = Vec::new();
    for &number in used {
        if bodies[number].iter().flatten().any(has_token) {
            continue;
        }
        let mut named = Vec::new();
        bodies[number].iter().flatten().for_each(|item| rules_in(item, &mut named));
        named.iter().for_each(|&rule| callers[rule].push(number));
        n_named[number] = named.len();
        if named.is_empty() {
            open.push(number);
        }
    }
    let mut regular = Vec::new();
    while let Some(number) = open.pop() {
        regular.push(number);
        for &caller in &callers[number] {
            n_named[caller] -= 1;
            if n_named[caller] == 0 {
                open.push(caller);
            }
        }
    }
    regular
}

/// What matches of a part look like.
#[derive(Clone, Debug)]
struct Shape {
    /// Whether nothing is a match.
    is_nullable: bool,
    /// Characters that matches begin with.
    first: Chars,
    /// Characters by which a match may go on and be the beginning of another.
    next: Chars,
}

impl Shape {
    fn nothing() -> Shape {
        Shape { is_nullable: true, first: Chars::none(), next: Chars::none() }
    }

    /// One and then another; `None` if where the one ends is not seen by the next character.
    fn then(&self, other: &Shape) -> Option<Shape> {
        let is_seen = self.next.is_apart_from(&other.first)
            && (!self.is_nullable || self.first.is_apart_from(&other.first));
        let next = match other.is_nullable {
            true => other.next.with(&self.next).with(&other.first),
            false => other.next.clone(),
        };
        let first =
            if self.is_nullable { self.first.with(&other.first) } else { self.first.clone() };
        let is_nullable = self.is_nullable && other.is_nullable;
        is_seen.then_some(Shape { is_nullable, first, next })
    }

    /// One or another; `None` if which of them it is is not seen by the first character.
    fn or(&self, other: &Shape) -> Option<Shape> {
        let is_seen =
            self.first.is_apart_from(&other.first) && !(self.is_nullable && other.is_nullable);
        is_seen.then(|| Shape {
            is_nullable: self.is_nullable || other.is_nullable,
            first: self.first.with(&other.first),
            next: self.next.with(&other.next),
        })
    }

    fn repeated(self, min: u32, max: Option<u32>) -> Option<Shape> {
        match (min, max) {
            (_, Some(0)) => Some(Shape::nothing()),
            (1, Some(1)) => Some(self),
            (0, Some(1)) => Some(Shape { is_nullable: true, ..self }),
            _ if self.is_nullable || !self.next.is_apart_from(&self.first) => None,
            _ => Some(Shape {
                is_nullable: min == 0,
                next: if max == Some(min) { self.next } else { self.next.with(&self.first) },
                first: self.first,
            }),
        }
    }

    /// Whether a lexer that takes the longest match loses nothing.
    fn is_lexeme(&self) -> bool {
        !self.is_nullable && self.next.is_none()
    }
}

type Shapes = Vec<Option<Shape>>;

/// Shapes of regular rules, each behind those that it names.
fn shapes(bodies: &[Alternatives], regular: &[usize]) -> Shapes {
    let mut shapes = vec![None; bodies.len()];
    for &number in regular {
        shapes[number] = shape_of(&bodies[number], &shapes);
    }
    shapes
}

fn shape_of(body: &Alternatives, shapes: &Shapes) -> Option<Shape> {
    let sequence = |items: &Vec<Item>| {
        items
            .iter()
            .try_fold(Shape::nothing(), |shape, item| shape.then(&item_shape(item, shapes)?))
    };
    let mut alternatives = body.iter().map(sequence);
    let first = alternatives.next()??;
    alternatives.try_fold(first, |shape, next| shape.or(&next?))
}

fn item_shape(item: &Item, shapes: &Shapes) -> Option<Shape> {
    match item {
        Item::Class { is_negated, ranges } => {
            let first = Chars::of_class(ranges, *is_negated);
            Some(Shape { is_nullable: false, first, next: Chars::none() })
        }
        Item::Rule(number) => shapes[*number].clone(),
        Item::Token(_) => None,
        Item::Group(body) => shape_of(body, shapes),
        Item::Repeat { body, min, max } => shape_of(body, shapes)?.repeated(*min, *max),
    }
}

/// Part of a sequence that is a lexeme.
struct Part<'a> {
    text: String,
    items: &'a [Item],
    first: Chars,
    /// Where it stands: sequences by their addresses, which stay.
    places: Vec<Place>,
}

type Place = (usize, usize);

/// Writes rules with their parts, and takes note of the lexemes.
struct Writer<'a> {
    shapes: &'a Shapes,
    given_up: &'a BTreeSet<Place>,
    /// Whether nothing but characters are lexemes.
    is_plain: bool,
    parts: Vec<Part<'a>>,
    /// Characters that are lexemes themselves.
    chars: Chars,
}

impl<'a> Writer<'a> {
    fn alternatives(&mut self, lark: &mut String, body: &'a Alternatives) {
        for (i, items) in body.iter().enumerate() {
            lark.push_str(if i > 0 { " | " } else { "" });
            self.sequence(lark, items);
        }
    }

    fn sequence(&mut self, lark: &mut String, items: &'a [Item]) {
        if items.is_empty() {
            lark.push_str("\"\"");
        }
        let mut at = 0;
        while at < items.len() {
            let place = (items.as_ptr() as usize, at);
            let (n, shape) = self.part(&items[at..]);
            match shape.filter(|_| !self.given_up.contains(&place)) {
                Some(shape) => self.write_part(lark, &items[at..at + n], shape.first, place),
                None => items[at..at + n].iter().for_each(|item| self.item(lark, item)),
            }
            at += n;
        }
    }

    /// The longest lexeme that items begin with, and its shape; otherwise the first item alone.
    fn part(&self, items: &[Item]) -> (usize, Option<Shape>) {
        let (mut shape, mut longest) = (Shape::nothing(), (1, None));
        if self.is_plain {
            return longest;
        }
        for (i, item) in items.iter().take(PART_ITEMS_MAX).enumerate() {
            // A rule is written by itself: its parts are the same wherever it is named.
            let next = match item {
                Item::Rule(_) => None,
                item => item_shape(item, self.shapes).and_then(|next| shape.then(&next)),
            };
            let Some(next) = next else { break };
            let is_character = i == 0 && matches!(item, Item::Class { .. });
            if next.is_lexeme() && !is_character {
                longest = (i + 1, Some(next.clone()));
            }
            shape = next;
        }
        longest
    }

    fn write_part(&mut self, lark: &mut String, items: &'a [Item], first: Chars, place: Place) {
        let mut text = String::new();
        terminal_sequence(&mut text, items);
        let known = self.parts.iter().position(|part| part.text == text);
        let number = known.unwrap_or(self.parts.len());
        match known {
            Some(known) => self.parts[known].places.push(place),
            None => self.parts.push(Part { text, items, first, places: vec![place] }),
        }
        let _ = write!(lark, "P{number} ");
    }

    fn item(&mut self, lark: &mut String, item: &'a Item) {
        if let Item::Class { is_negated, ranges } = item {
            self.chars = self.chars.with(&Chars::of_class(ranges, *is_negated));
        }
        write_item(lark, item, "r", &mut |lark, body| self.alternatives(lark, body));
    }

    /// Places of parts that begin as another lexeme does, and of those that are too many.
    fn colliding(&self) -> Vec<Place> {
        let collides = |(i, part): &(usize, &Part<'_>)| {
            let others = self.parts.iter().enumerate().filter(|(j, _)| j != i);
            *i >= PARTS_MAX
                || !part.first.is_apart_from(&self.chars)
                || others.take(PARTS_MAX).any(|(_, other)| !part.first.is_apart_from(&other.first))
        };
        let colliding = self.parts.iter().enumerate().filter(collides);
        colliding.flat_map(|(_, part)| part.places.iter().copied()).collect()
    }
}
