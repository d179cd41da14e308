//! Calls written in Python, of which only literals are read; nothing is evaluated.

use std::collections::HashSet;

use super::json::DEPTH_MAX;

/// A call: its name, and its keyword arguments as JSON beside their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonCall<'t> {
    /// Name, dots included.
    pub name: &'t str,
    /// Name, JSON, source.
    pub arguments: Vec<(&'t str, String, &'t str)>,
}

/// Scanner that finds the end of Python source: brackets and strings.
#[derive(Clone, Debug, Default)]
pub struct PythonScanner {
    brackets: Vec<u8>,
    text: Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    /// The quote was just read.
    Opened(u8),
    /// Two quotes were read: an empty string, or three of them to come.
    Twice(u8),
    Inside {
        quote: u8,
        escaped: bool,
    },
    Triple {
        quote: u8,
        escaped: bool,
        n_quotes: u8,
    },
}

impl PythonScanner {
    /// Takes the next byte; false if no call is written like this.
    pub fn push(&mut self, byte: u8) -> bool {
        match self.text {
            Text::Outside => return self.outside(byte),
            Text::Twice(quote) if byte == quote => {
                self.text = Text::Triple { quote, escaped: false, n_quotes: 0 };
            }
            Text::Twice(_) => {
                self.text = Text::Outside;
                return self.outside(byte);
            }
            Text::Opened(quote) if byte == quote => self.text = Text::Twice(quote),
            Text::Opened(quote) | Text::Inside { quote, escaped: false } => {
                if byte == b'\n' {
                    return false;
                }
                self.text = match byte == quote {
                    true => Text::Outside,
                    false => Text::Inside { quote, escaped: byte == b'\\' },
                };
            }
            Text::Inside { quote, escaped: true } => {
                self.text = Text::Inside { quote, escaped: false }
            }
            Text::Triple { quote, escaped, n_quotes } => {
                self.text = match (escaped, byte == quote, n_quotes) {
                    (false, true, 2) => Text::Outside,
                    (false, true, n) => Text::Triple { quote, escaped: false, n_quotes: n + 1 },
                    (true, _, _) => Text::Triple { quote, escaped: false, n_quotes: 0 },
                    _ => Text::Triple { quote, escaped: byte == b'\\', n_quotes: 0 },
                };
            }
        }
        true
    }

    /// Whether no bracket and no string is open.
    pub fn is_level(&self) -> bool {
        self.brackets.is_empty() && matches!(self.text, Text::Outside | Text::Twice(_))
    }

    fn outside(&mut self, byte: u8) -> bool {
        match byte {
            b'"' | b'\'' => self.text = Text::Opened(byte),
            b'(' | b'[' | b'{' if self.brackets.len() == DEPTH_MAX => return false,
            b'(' => self.brackets.push(b')'),
            b'[' => self.brackets.push(b']'),
            b'{' => self.brackets.push(b'}'),
            b')' | b']' | b'}' => return self.brackets.pop() == Some(byte),
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b'=' | b':' | b'+' | b';' => {}
            _ => return is_name(byte),
        }
        true
    }
}

/// Bytes of names and numbers; hyphens are no Python, but names of tools have them.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') || byte >= 0x80
}

/// Calls in a list or one behind another; `None` if anything is no call with literals.
pub fn calls(text: &str) -> Option<Vec<PythonCall<'_>>> {
    let mut reader = Reader { text, at: 0 };
    reader.space();
    let in_list = reader.skip(b'[');
    let mut calls = Vec::new();
    loop {
        reader.space();
        if in_list && reader.skip(b']') || !in_list && reader.at == text.len() {
            break;
        }
        calls.push(reader.call()?);
        reader.space();
        let separated = reader.skip(b',') || (!in_list && reader.skip(b';'));
        reader.space();
        if in_list && !separated && reader.peek() != Some(b']') {
            return None;
        }
    }
    reader.space();
    (reader.at == text.len()).then_some(calls)
}

/// A literal with nothing behind it, as JSON.
pub fn literal(text: &str) -> Option<String> {
    let mut reader = Reader { text, at: 0 };
    let mut json = String::new();
    reader.space();
    reader.value(&mut json, 0)?;
    reader.space();
    (reader.at == text.len()).then_some(json)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self) -> &'t str {
        let start = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn call(&mut self) -> Option<PythonCall<'t>> {
        let name = self.word();
        self.space();
        if name.is_empty() || !self.skip(b'(') {
            return None;
        }
        let (mut arguments, mut keys) = (Vec::new(), HashSet::new());
        loop {
            self.space();
            if self.skip(b')') {
                return Some(PythonCall { name, arguments });
            }
            let key = self.word();
            self.space();
            let named = !key.is_empty() && self.skip(b'=');
            if !named || !keys.insert(key) {
                return None;
            }
            self.space();
            let (start, mut json) = (self.at, String::new());
            self.value(&mut json, 0)?;
            arguments.push((key, json, &self.text[start..self.at]));
            self.space();
            if !self.skip(b',') && self.peek() != Some(b')') {
                return None;
            }
        }
    }

    fn value(&mut self, json: &mut String, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'"' | b'\'' => json.push_str(&serde_json::to_string(&self.string()?).ok()?),
            b'[' => self.items(json, b']', depth)?,
            b'(' => self.items(json, b')', depth)?,
            b'{' => self.dict(json, depth)?,
            _ => {
                let sign = self.skip(b'+');
                let word = self.word();
                match word {
                    "True" | "true" if !sign => json.push_str("true"),
                    "False" | "false" if !sign => json.push_str("false"),
                    "None" | "null" if !sign => json.push_str("null"),
                    word => json.push_str(&number(word)?),
                }
            }
        }
        Some(())
    }

    fn items(&mut self, json: &mut String, close: u8, depth: usize) -> Option<()> {
        self.at += 1;
        json.push('[');
        let mut n = 0;
        loop {
            self.space();
            if self.skip(close) {
                break;
            }
            if n > 0 {
                json.push_str(", ");
            }
            self.value(json, depth + 1)?;
            n += 1;
            self.space();
            let more = self.skip(b',');
            // Brackets around one value without a comma are no tuple.
            let ends = self.peek() == Some(close) && (close == b']' || n > 1);
            if !more && !ends {
                return None;
            }
        }
        json.push(']');
        Some(())
    }

    fn dict(&mut self, json: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        json.push('{');
        let mut n = 0;
        loop {
            self.space();
            if self.skip(b'}') {
                break;
            }
            if n > 0 {
                json.push_str(", ");
            }
            json.push_str(&serde_json::to_string(&self.string()?).ok()?);
            self.space();
            if !self.skip(b':') {
                return None;
            }
            self.space();
            json.push_str(": ");
            self.value(json, depth + 1)?;
            n += 1;
            self.space();
            if !self.skip(b',') && self.peek() != Some(b'}') {
                return None;
            }
        }
        json.push('}');
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek().filter(|byte| matches!(byte, b'"' | b'\''))?;
        let triple = self.text.as_bytes()[self.at..].starts_with(&[quote; 3]);
        let n_quotes = if triple { 3 } else { 1 };
        self.at += n_quotes;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            if rest.as_bytes().starts_with(&[quote; 3][..n_quotes]) {
                self.at += n_quotes;
                return Some(out);
            }
            let c = rest.chars().next()?;
            self.at += c.len_utf8();
            match c {
                '\\' => self.escape(&mut out)?,
                '\n' if !triple => return None,
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Option<()> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        let n_digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => {
                let rest = &self.text[self.at - 1..];
                let n = rest.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                out.push(char::from_u32(u32::from_str_radix(&rest[..n], 8).ok()?)?);
                self.at += n - 1;
                return Some(());
            }
            '\n' => return Some(()),
            c => {
                match "abfnrtv\\'\"".find(c) {
                    Some(at) => out.extend("\x07\x08\x0c\n\r\t\x0b\\'\"".chars().nth(at)),
                    // Python keeps the backslash of an escape that it does not know.
                    None => out.extend(['\\', c]),
                }
                return Some(());
            }
        };
        let digits = self.text.get(self.at..self.at + n_digits)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        self.at += n_digits;
        Some(())
    }
}

/// A Python number in JSON.
fn number(word: &str) -> Option<String> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", word),
    };
    let clean = digits.replace('_', "");
    let bytes = clean.as_bytes();
    let starts = bytes.first().is_some_and(|b| b.is_ascii_digit() || *b == b'.');
    let odd = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    if !starts || odd {
        return None;
    }
    if bytes.iter().all(u8::is_ascii_digit) {
        let zeros = clean.len() - clean.trim_start_matches('0').len();
        return match zeros {
            0 => Some(format!("{sign}{clean}")),
            n if n == clean.len() => Some(format!("{sign}0")),
            _ => None,
        };
    }
    let value: f64 = clean.parse().ok()?;
    // The spelling stays where it is JSON.
    let json = format!("{sign}{clean}");
    match serde_json::from_str::<serde_json::Value>(&json) {
        Ok(_) => Some(json),
        Err(_) => value.is_finite().then(|| format!("{sign}{value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str) -> Option<String> {
        literal(text)
    }

    #[test]
    fn literals_become_json() {
        for (python, expected) in [
            ("1", "1"),
            ("-2", "-2"),
            ("1_000", "1000"),
            ("+3", "3"),
            ("0", "0"),
            ("0.5", "0.5"),
            (".5", "0.5"),
            ("5.", "5.0"),
            ("1e3", "1e3"),
            ("True", "true"),
            ("None", "null"),
            ("'a\"b'", "\"a\\\"b\""),
            ("\"\\n\\x41\\u00e9\\'\\d\\101\"", "\"\\nAé'\\\\dA\""),
            ("'''a\n'b'''", "\"a\\n'b\""),
            ("[1, 'x', ]", "[1, \"x\"]"),
            ("(1, 2)", "[1, 2]"),
            ("(1,)", "[1]"),
            ("()", "[]"),
            ("{'a': {'b': []}}", "{\"a\": {\"b\": []}}"),
            ("''", "\"\""),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ] {
            assert_eq!(json(python).as_deref(), Some(expected), "{python}");
        }
        for python in [
            "",
            "x",
            "f()",
            "1 + 1",
            "'a",
            "[1",
            "{1: 2}",
            "(1)",
            "1__0",
            "01",
            "inf",
            "nan",
            "__import__",
            "lambda: 1",
            "'a' 'b'",
            "'\\x4'",
            "'\\ud800'",
            "{'a'}",
            "1e999",
            "-",
            "+True",
            "'a\nb'",
        ] {
            assert_eq!(json(python), None, "{python}");
        }
        assert_eq!(json(&("[".repeat(200) + &"]".repeat(200))), None);
    }

    #[test]
    fn calls_have_keyword_arguments_only() {
        let found = calls("[now(), my-tool.x(a=1, b = 'é)')]").unwrap();
        assert_eq!(found[0], PythonCall { name: "now", arguments: vec![] });
        let arguments = vec![("a", "1".to_owned(), "1"), ("b", "\"é)\"".to_owned(), "'é)'")];
        assert_eq!(found[1], PythonCall { name: "my-tool.x", arguments });
        assert_eq!(calls("a()\nb(x=1)").unwrap().len(), 2);
        for text in ["[f(1)]", "[f(a=1, a=2)]", "[f(a=g())]", "[f()", "f() x", "[f(**{})]", "[1]"] {
            assert_eq!(calls(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_the_scanner_never_refuses_calls(
            text in r#"(\[|f\(|a=|'|"|\\|\)|\]|,|é|1|\.5|True|\{|\}|: |\n){0,14}"#
        ) {
            let mut scanner = PythonScanner::default();
            let scanned = text.bytes().all(|byte| scanner.push(byte)) && scanner.is_level();
            if calls(&text).is_some() {
                prop_assert!(scanned, "{}", text);
            }
        }
    }
}
