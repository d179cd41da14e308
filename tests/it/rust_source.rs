//! Rust sources read as text, with comments, strings and tests blanked.

/// Folders of `src` that are crates of their own.
const CRATES: &[&str] = &["gguf-rs-lite/", "teff-c/", "teff-py/"];

/// Something against the rules.
#[derive(Debug, PartialEq)]
pub struct Finding(pub String);

impl Finding {
    pub fn new(source: &Source, at: usize, what: String) -> Finding {
        let line = source.code[..at].matches('\n').count() + 1;
        Finding(format!("{}:{line}: {what}", source.path))
    }
}

/// One file of library code. Both texts have the file's length and lines.
pub struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Comments, strings and test modules blanked.
    pub code: String,
    /// Comments and test modules blanked.
    pub with_strings: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let (mut code, mut with_strings) = blank(text);
        blank_tests(&mut code, &mut with_strings);
        Source { path: path.to_owned(), code, with_strings }
    }

    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            self.path == *place || { place.ends_with('/') && self.path.starts_with(place) }
        })
    }

    /// The room a file of the root crate belongs to; `None` for other crates, `lib.rs`, `main.rs`.
    pub fn room(&self) -> Option<String> {
        self.module_path().first().cloned()
    }

    /// `["decoder", "mixer", "attention"]` for `src/decoder/mixer/attention.rs`.
    pub fn module_path(&self) -> Vec<String> {
        let Some(inner) = self.path.strip_prefix("src/") else { return Vec::new() };
        if CRATES.iter().any(|other| inner.starts_with(other)) {
            return Vec::new();
        }
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut path: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            path.pop();
        }
        path
    }

    /// Every first segment below the crate's root that the file mentions, with its place.
    pub fn used_rooms(&self) -> Vec<(usize, String)> {
        let mut used = Vec::new();
        for at in word_positions(&self.code, "crate") {
            used.extend(segments_at(&self.code, at + "crate".len()));
        }
        let depth = self.module_path().len();
        for at in word_positions(&self.code, "super") {
            // Only the first of `super::super` starts a climb.
            if self.code[..at].ends_with("super::") {
                continue;
            }
            let chain = self.code[at..].split("::").take_while(|part| *part == "super").count();
            if chain >= depth {
                let end = at + chain * "super".len() + (chain - 1) * "::".len();
                used.extend(segments_at(&self.code, end));
            }
        }
        used
    }

    pub fn find_any(&self, words: &[&str], what: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for word in words {
            for at in word_positions(&self.code, word) {
                findings.push(Finding::new(self, at, format!("`{word}`: {what}")));
            }
        }
        findings
    }
}

/// The names right after `::` at `at`: one, or each that a group `{a::.., b}` begins with.
pub fn segments_at(code: &str, at: usize) -> Vec<(usize, String)> {
    let name_at = |at: usize| {
        let end = code[at..].find(|c: char| !is_word(c)).map_or(code.len(), |n| at + n);
        (at, code[at..end].to_owned())
    };
    let skip = |at: usize| at + code[at..].len() - code[at..].trim_start().len();
    let Some(rest) = code[at..].strip_prefix("::") else { return Vec::new() };
    let start = skip(code.len() - rest.len());
    if !code[start..].starts_with('{') {
        return vec![name_at(start)];
    }
    let (mut segments, mut depth) = (Vec::new(), 0);
    for (n, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(c, '{' | ',') {
            segments.push(name_at(skip(start + n + 1)));
        }
    }
    segments.retain(|(_, name)| !name.is_empty());
    segments
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands by itself, not as part of a longer one.
pub fn word_positions<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let ends = |c: Option<char>, inner: Option<char>| {
        !(inner.is_some_and(is_word) && c.is_some_and(is_word))
    };
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        ends(text[..at].chars().next_back(), word.chars().next())
            && ends(text[at + word.len()..].chars().next(), word.chars().next_back())
    })
}

/// `text` with comments, strings and characters blanked, and with comments alone blanked.
pub fn blank(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let (mut code, mut with_strings) = (bytes.to_vec(), bytes.to_vec());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let previous = text[..at].chars().next_back();
        let is_literal_start = !previous.is_some_and(is_word);
        let (len, is_comment) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if rest.starts_with("/*") {
            (block_comment_len(rest), true)
        } else if let Some(len) = raw_string_len(rest).filter(|_| is_literal_start) {
            (len, false)
        } else if rest.starts_with('"') {
            (quoted_len(rest, '"'), false)
        } else if rest.starts_with('\'') && is_char_literal(rest) {
            (quoted_len(rest, '\''), false)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        let end = at + len;
        for i in (at..end).filter(|&i| bytes[i] != b'\n') {
            code[i] = b' ';
            if is_comment {
                with_strings[i] = b' ';
            }
        }
        at = end;
    }
    let utf8 = |bytes| String::from_utf8(bytes).expect("whole characters are blanked");
    (utf8(code), utf8(with_strings))
}

pub fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of `r"..."`, `r#"..."#`, `br"..."`, if `text` starts with one.
pub fn raw_string_len(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('b').or_else(|| text.strip_prefix('c')).unwrap_or(text);
    let inner = inner.strip_prefix('r')?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let body = inner[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&close).map_or(text.len(), |n| start + n + close.len()))
}

pub fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'x'` and `'\n'` are characters, `'a` of `&'a str` is a lifetime.
pub fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// Blanks what `#[cfg(test)]` and `#[test]` stand before.
pub fn blank_tests(code: &mut String, with_strings: &mut String) {
    for attribute in ["#[cfg(test)]", "#[test]"] {
        while let Some(start) = code.find(attribute) {
            let end = item_end(code, start + attribute.len());
            for text in [&mut *code, &mut *with_strings] {
                let blanked: String =
                    text[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
                text.replace_range(start..end, &blanked);
            }
        }
    }
}

/// The end of the item that starts at `at`: its `;`, or the brace that closes its body.
pub fn item_end(code: &str, at: usize) -> usize {
    let (mut braces, mut others) = (0, 0);
    for (n, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        if (c == '}' && braces == 0) || (c == ';' && braces == 0 && others == 0) {
            return at + n + 1;
        }
    }
    code.len()
}

#[test]
fn sources_are_read_as_rust() {
    let code = |text: &str| Source::new("src/kv/mod.rs", text).code;
    for hidden in [
        "/* x /* y */ z */",
        "// x \" y",
        "\"x // y\"",
        "\"\\\"x\"",
        "r#\"x \" y\"#",
        "br\"\\\"",
        "'\"'",
        "'\\''",
        "'x'",
    ] {
        let expected = format!("a {}\n b", " ".repeat(hidden.len()));
        assert_eq!(code(&format!("a {hidden}\n b")), expected, "{hidden}");
    }
    for shown in ["&'a str, 'b: {", "fn f<'a>(x: &'a u8, y: &'a u8)", "r#type"] {
        assert_eq!(code(shown), shown);
    }
    assert_eq!(code("a\n#[cfg(test)]\nuse x;\nb"), "a\n            \n      \nb");
    assert_eq!(code("#[test]\nfn t() -> [u8; 2] {\n{}\n}\nb").trim(), "b");
}
