//! Patterns as ECMA-262 has them, in the syntax of the engine, which is that of the `regex` crate.
//!
//! The two agree on most; what means something else is written anew: `.` and `\s`, and inside classes `[`, `&&`,
//! `--` and `~~`, which are operators of that crate. What it does not know at all (look-around, references to
//! groups) the engine refuses. The engine itself makes `\d` and `\w` ASCII's, as they are in ECMA-262.
//!
//! Documents have no `\u` escapes as a rule, and the engine would leave out what it cannot write: control characters that have
//! no short escape are refused where they have to stand.

use std::iter::Peekable;
use std::str::Chars;

/// Ends of lines, which `.` does not match.
const LINE_ENDS: &str = "\\n\\r\\x{2028}\\x{2029}";
/// White space, which `\s` matches.
const SPACES: &str = "\\t-\\r \\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}\\x{FEFF}";

/// What `\b` is inside a class.
const BACKSPACE: &str = "\\x08";

/// Why a pattern is refused.
const UNSPELLABLE: &str = "a control character without a short escape, which documents do not have";

/// Whether a character can only be written by `\u` in JSON.
pub(super) fn is_unspellable(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{8}' | '\u{c}')
}

/// The pattern in the engine's syntax.
///
/// # Errors
/// A character cannot be written.
pub(super) fn as_meant(pattern: &str) -> Result<String, &'static str> {
    let mut written = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    loop {
        let rest = chars.clone();
        match chars.next() {
            None => return Ok(written),
            Some('.') => written += &format!("[^{LINE_ENDS}]"),
            Some('[') => class(&mut chars, &mut written)?,
            Some('\\') => {
                chars = rest;
                match Atom::read(&mut chars) {
                    Some(Atom::Set(set)) if set == SPACES => written += &format!("[{SPACES}]"),
                    // Outside a class it is the end of a word.
                    Some(Atom::Char(text)) if text == BACKSPACE => written += "\\b",
                    Some(atom) if atom.is_unspellable() => return Err(UNSPELLABLE),
                    Some(atom) => atom.write(&mut written),
                    // An escape of nothing, which the engine refuses.
                    None => written.push('\\'),
                }
            }
            Some(c) if is_unspellable(c) => return Err(UNSPELLABLE),
            Some(c) => written.push(c),
        }
    }
}

/// Writes a class whose `[` has been read. One without an end stays without.
fn class(chars: &mut Peekable<Chars<'_>>, written: &mut String) -> Result<(), &'static str> {
    let is_negated = chars.next_if_eq(&'^').is_some();
    if chars.next_if_eq(&']').is_some() {
        // None and all characters, which the engine would take for the begin of a class.
        written.push_str(if is_negated { "[\\x{0}-\\x{10FFFF}]" } else { "[^\\x{0}-\\x{10FFFF}]" });
        return Ok(());
    }
    written.push_str(if is_negated { "[^" } else { "[" });
    while let Some(first) = Atom::read(chars) {
        if first == Atom::End {
            written.push(']');
            return Ok(());
        }
        first.write(written);
        if chars.next_if_eq(&'-').is_none() {
            // Alone it would be what has to stand there.
            if first.is_unspellable() && !is_negated {
                return Err(UNSPELLABLE);
            }
            continue;
        }
        match Atom::read(chars) {
            None | Some(Atom::End) => {
                written.push_str("\\-]");
                return Ok(());
            }
            // Beside a set, as in `[\w-.]`, it is a character.
            Some(last) if matches!(first, Atom::Set(_)) || matches!(last, Atom::Set(_)) => {
                written.push_str("\\-");
                last.write(written);
            }
            Some(last) => {
                written.push('-');
                last.write(written);
            }
        }
    }
    Ok(())
}

/// Part of a class.
#[derive(Debug, PartialEq)]
enum Atom {
    /// A character as it stands, or escaped in the engine's syntax.
    Char(String),
    /// Several characters, as `\d`.
    Set(String),
    /// The `]`.
    End,
}

impl Atom {
    fn read(chars: &mut Peekable<Chars<'_>>) -> Option<Atom> {
        Some(match chars.next()? {
            ']' => Atom::End,
            '\\' => match chars.next()? {
                's' => Atom::Set(SPACES.to_owned()),
                'S' => Atom::Set(format!("[^{SPACES}]")),
                c @ ('d' | 'D' | 'w' | 'W') => Atom::Set(format!("\\{c}")),
                c @ ('p' | 'P') => Atom::Set(format!("\\{c}{}", braced(chars))),
                'b' => Atom::Char(BACKSPACE.to_owned()),
                c @ ('x' | 'u') if chars.peek() == Some(&'{') => {
                    Atom::Char(format!("\\{c}{}", braced(chars)))
                }
                'x' => Atom::Char("\\x".to_owned() + &taken(chars, 2)),
                'u' => Atom::Char("\\u".to_owned() + &taken(chars, 4)),
                c => Atom::Char(format!("\\{c}")),
            },
            c @ ('[' | '&' | '~' | '-' | '^') => Atom::Char(format!("\\{c}")),
            c => Atom::Char(c.to_string()),
        })
    }

    /// Whether it is a character that can only be written by `\u`.
    fn is_unspellable(&self) -> bool {
        let Atom::Char(text) = self else { return false };
        let Some(escaped) = text.strip_prefix('\\') else {
            return text.chars().all(is_unspellable);
        };
        let digits = escaped.strip_prefix(['x', 'u']);
        let digits = digits.map(|digits| digits.trim_matches(['{', '}']));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let named = escaped.starts_with(['0', 'a', 'c', 'v']);
        named || code.and_then(char::from_u32).is_some_and(is_unspellable)
    }

    fn write(&self, written: &mut String) {
        match self {
            Atom::Char(text) | Atom::Set(text) => written.push_str(text),
            Atom::End => written.push(']'),
        }
    }
}

/// The next characters, at most `n`.
fn taken(chars: &mut Peekable<Chars<'_>>, n: usize) -> String {
    (0..n).map_while(|_| chars.next_if(char::is_ascii_hexdigit)).collect()
}

/// What is in braces, with them; nothing if no brace comes.
fn braced(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    if chars.peek() == Some(&'{') {
        for c in chars.by_ref() {
            text.push(c);
            if c == '}' {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_stays_and_the_rest_is_written_anew() {
        for same in [
            "^[a-z]+$",
            "a|b*?",
            "(?<year>\\d{4})",
            "[^\\]x]",
            "\\[\\.\\\\",
            "[\\x41-\\x5A\\u00e9]",
            "[\\p{L}_]",
            "[0-9",
            "[a",
            "\\",
        ] {
            assert_eq!(as_meant(same).as_deref(), Ok(same));
        }
        for (given, written) in [
            ("a.b", format!("a[^{LINE_ENDS}]b")),
            ("\\s\\S", format!("[{SPACES}][^{SPACES}]")),
            ("[.]", "[.]".into()),
            ("[[:a:]]", "[\\[:a:]]".into()),
            ("[a-z&&b]", "[a-z\\&\\&b]".into()),
            ("[+--]", "[+-\\-]".into()),
            ("[--/]", "[\\--/]".into()),
            ("[\\w-.]", "[\\w\\-.]".into()),
            ("[a-]", "[a\\-]".into()),
            ("[\\b~]", "[\\x08\\~]".into()),
            ("[]", "[^\\x{0}-\\x{10FFFF}]".into()),
            ("[^]x", "[\\x{0}-\\x{10FFFF}]x".into()),
            ("[\\s,]", format!("[{SPACES},]")),
        ] {
            assert_eq!(as_meant(given), Ok(written), "{given}");
        }
        for fine in ["\\bx\\n", "[^\\x00-\\x1f\\x7f]", "[\\0-\\x1f]", "[\\t\\n]", "\\u0041\\x{e9}"]
        {
            assert!(as_meant(fine).is_ok(), "{fine}");
        }
        for unspellable in
            ["a\u{1}", "\\x01", "\\x{1f}", "\\u007f", "\\v", "\\0", "[\\x01]", "[a\u{7f}]"]
        {
            assert_eq!(as_meant(unspellable), Err(UNSPELLABLE), "{unspellable}");
        }
    }
}
