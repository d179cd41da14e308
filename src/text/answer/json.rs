//! JSON that arrives in pieces: where a value ends or breaks, and the parts of a whole one as written.
//!
//! Each byte is looked at once; nesting is bounded.

use std::ops::Range;

/// Nesting of containers; deeper arguments are no data for a tool.
pub const DEPTH_MAX: usize = 100;

/// What a byte makes of the value so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value goes on.
    More,
    /// The value is whole with this byte.
    Done,
    /// No JSON continues like this.
    Broken,
}

/// Scanner of one object or array, which white space may precede.
#[derive(Clone, Debug, Default)]
pub struct JsonScanner {
    /// Open containers: whether each is an object.
    stack: Vec<bool>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    After,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    Number(Number),
    Word(&'static [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl JsonScanner {
    /// Takes the next byte. Nothing is to follow [`Step::Done`] and [`Step::Broken`].
    pub fn push(&mut self, byte: u8) -> Step {
        if let State::Number(number) = self.state {
            match number.next(byte) {
                Some(next) => return self.go(State::Number(next)),
                None if number.is_whole() => self.state = State::After,
                None => return Step::Broken,
            }
        }
        match (self.state, byte) {
            (State::Text { key }, b'"') => self.go(if key { State::Colon } else { State::After }),
            (State::Text { key }, b'\\') => self.go(State::Escape { key }),
            (State::Text { .. }, 0..=0x1f) => Step::Broken,
            (State::Text { .. }, _) => Step::More,
            (State::Escape { key }, b'u') => self.go(State::Hex { key, left: 4 }),
            (State::Escape { key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.go(State::Text { key })
            }
            (State::Hex { key, left }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.go(if left == 1 {
                    State::Text { key }
                } else {
                    State::Hex { key, left: left - 1 }
                })
            }
            (State::Word([first, rest @ ..]), byte) if *first == byte => {
                self.go(if rest.is_empty() { State::After } else { State::Word(rest) })
            }
            (State::Escape { .. } | State::Hex { .. } | State::Word(_), _) => Step::Broken,
            (_, b' ' | b'\t' | b'\n' | b'\r') => Step::More,
            (State::FirstKey | State::Key, b'"') => self.go(State::Text { key: true }),
            (State::Colon, b':') => self.go(State::Value),
            (State::After, b',') => {
                self.go(if self.stack.last() == Some(&true) { State::Key } else { State::Value })
            }
            (State::After | State::FirstKey, b'}') => self.close(true),
            (State::After | State::FirstItem, b']') => self.close(false),
            (State::Start | State::Value | State::FirstItem, b'{' | b'[') => {
                self.open(byte == b'{')
            }
            (State::Value | State::FirstItem, _) => self.scalar(byte),
            _ => Step::Broken,
        }
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::More
    }

    fn open(&mut self, is_object: bool) -> Step {
        if self.stack.len() == DEPTH_MAX {
            return Step::Broken;
        }
        self.stack.push(is_object);
        self.go(if is_object { State::FirstKey } else { State::FirstItem })
    }

    fn close(&mut self, is_object: bool) -> Step {
        match self.stack.pop() {
            Some(open) if open == is_object && self.stack.is_empty() => Step::Done,
            Some(open) if open == is_object => self.go(State::After),
            _ => Step::Broken,
        }
    }

    fn scalar(&mut self, byte: u8) -> Step {
        match byte {
            b'"' => self.go(State::Text { key: false }),
            b'-' => self.go(State::Number(Number::Minus)),
            b'0' => self.go(State::Number(Number::Zero)),
            b'1'..=b'9' => self.go(State::Number(Number::Integer)),
            b't' => self.go(State::Word(b"rue")),
            b'f' => self.go(State::Word(b"alse")),
            b'n' => self.go(State::Word(b"ull")),
            _ => Step::Broken,
        }
    }
}

impl Number {
    fn next(self, byte: u8) -> Option<Number> {
        use Number::*;
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => E,
            (E, b'+' | b'-') => Sign,
            (E | Sign | Exponent, b'0'..=b'9') => Exponent,
            _ => return None,
        })
    }

    fn is_whole(self) -> bool {
        matches!(self, Number::Zero | Number::Integer | Number::Fraction | Number::Exponent)
    }
}

/// Whether all of `text` is one object or array, with white space around it.
#[cfg(test)]
fn is_container(text: &str) -> bool {
    let mut scanner = JsonScanner::default();
    let mut steps = text.trim().bytes().map(|byte| scanner.push(byte));
    steps.find(|step| *step != Step::More) == Some(Step::Done) && steps.next().is_none()
}

/// Members of an object, which has to be valid: names and where their values are written.
pub fn members(text: &str) -> Option<Vec<(String, Range<usize>)>> {
    let mut members = Vec::new();
    let mut at = space(text, text.find('{')? + 1);
    while text.as_bytes().get(at)? != &b'}' {
        let end = value_end(text, at)?;
        let name = serde_json::from_str(text.get(at..end)?).ok()?;
        let start = space(text, space(text, end) + 1);
        let end = value_end(text, start)?;
        members.push((name, start..end));
        at = next_item(text, end);
    }
    Some(members)
}

/// Where the elements of an array are written, which has to be valid.
pub fn elements(text: &str) -> Option<Vec<Range<usize>>> {
    let mut elements = Vec::new();
    let mut at = space(text, text.find('[')? + 1);
    while text.as_bytes().get(at)? != &b']' {
        let end = value_end(text, at)?;
        elements.push(at..end);
        at = next_item(text, end);
    }
    Some(elements)
}

fn space(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.len() - rest.trim_start().len()
}

fn next_item(text: &str, at: usize) -> usize {
    let at = space(text, at);
    if text.as_bytes().get(at) == Some(&b',') { space(text, at + 1) } else { at }
}

/// End of the valid value that starts at `at`.
fn value_end(text: &str, at: usize) -> Option<usize> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (i, byte) in text.as_bytes().iter().enumerate().skip(at) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => {
                in_text = !in_text;
                if !in_text && depth == 0 {
                    return Some(i + 1);
                }
            }
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(i + 1),
            b'}' | b']' if depth > 0 => depth -= 1,
            b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => {
                return (i > at).then_some(i);
            }
            _ => {}
        }
    }
    None
}

/// The JSON without white space between its parts: one line.
pub fn on_one_line(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let kept = |c: &char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            ' ' | '\t' | '\n' | '\r' => return in_text,
            _ => {}
        }
        true
    };
    json.chars().filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn containers_end_where_json_ends() {
        let whole = [
            "{}",
            "[]",
            " {\"a\": [1, -0.5e+3, true, false, null, \"x\\u00e9\\n\"]}",
            "[0,{\"a\":{}},[]]",
            "[\"}]\"]",
        ];
        for text in whole {
            assert!(is_container(text), "{text}");
        }
        let broken = [
            "1",
            "{",
            "{}}",
            "{a: 1}",
            "[1,]",
            "{\"a\",}",
            "[01]",
            "[.5]",
            "[1.]",
            "[-]",
            "[nul]",
            "[\"\\x\"]",
            "[\"\n\"]",
            "{]",
            "[1 2]",
            "{\"a\" 1}",
            "[tru,e]",
            "[1e]",
            "[\"\\u12g4\"]",
        ];
        for text in broken {
            assert!(!is_container(text), "{text}");
        }
        assert!(is_container(&("[".repeat(DEPTH_MAX) + &"]".repeat(DEPTH_MAX))));
        assert!(!is_container(&("[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1))));
    }

    #[test]
    fn parts_are_found_as_written() {
        let text = " { \"a\" : [1, {\"x\": \"]}\"}] ,\"é\\n\":-1e5, \"c\":\"\\\"\"}";
        let found: Vec<_> =
            members(text).unwrap().into_iter().map(|(name, at)| (name, &text[at])).collect();
        let expected = [("a", "[1, {\"x\": \"]}\"}]"), ("é\n", "-1e5"), ("c", "\"\\\"\"")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
        let text = "[ {} , 2,\"a,b\", [[]]]";
        let found: Vec<_> = elements(text).unwrap().into_iter().map(|at| &text[at]).collect();
        assert_eq!(found, ["{}", "2", "\"a,b\"", "[[]]"]);
        assert_eq!(on_one_line("{ \"a b\" :\n [1,\t\" \\\" \"] }"), "{\"a b\":[1,\" \\\" \"]}");
    }

    proptest! {
        #[test]
        fn the_scanner_agrees_with_a_parser(text in r#"[\[{](["a\\:,\[\]{} 0-2e.tn-]|true|null|"a"|: ){0,12}[\]}]"#) {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
            prop_assert_eq!(is_container(&text), parsed.is_ok(), "{}", text);
        }

        #[test]
        fn nothing_panics_on_any_text(text in r#"[\["a\\:,\]{}é ]{0,30}"#) {
            let _ = (members(&text), elements(&text), on_one_line(&text));
        }
    }
}
