//! Texts from the command line, or from a file or standard input, one on each line, on their way
//! through a model: several at a time as they come, each answered at its place.
//!
//! A text that cannot be used is told with its file and line. Those before it are answered first;
//! it ends the work with an error, or is passed over if the user wants that.

use super::options::input_file;
use super::{CliError, interrupt};
use crate::engine::EngineError;
use crate::text::TEXT_BYTES_MAX;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Texts that are worked on together, if as many have come: enough for several steps.
const TEXTS_MAX: usize = 64;
/// Bytes of the lines that are read at a time: as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// U+FEFF, which editors of Windows put in front of a text.
const BOM: char = '\u{feff}';

/// A text without the byte order mark in front, which is no part of it.
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// Handling of texts that cannot be used.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct BadTextArgs {
    /// Cut texts that are longer than the model can take
    #[arg(long)]
    pub truncate: bool,
    /// Go on after a text that cannot be used, with a warning; `embed` leaves an empty line in place
    /// of its vector
    #[arg(long)]
    pub skip_bad: bool,
}

/// Place of a text.
#[derive(Clone, Debug)]
pub enum Place {
    /// The text of this number, counted from 1, on the command line.
    Given(usize),
    /// The line of this number, counted from 1, of a file or of standard input.
    Line(PathBuf, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Given(number) => write!(f, "text {number}"),
            Place::Line(file, number) => write!(f, "{}, line {number}", file.display()),
        }
    }
}

/// A text and where it stands, or what is wrong with it.
struct Text {
    place: Place,
    text: Result<String, String>,
}

/// A text that was worked on.
pub struct Answered {
    /// Number among all texts, counted from 0.
    pub index: usize,
    /// The text; empty if it could not be used.
    pub text: String,
    /// Number of tokens.
    pub n_tokens: usize,
    /// Result of the model; `None` for a text that was passed over.
    pub vectors: Option<Vec<f32>>,
}

/// Work of a verb on texts.
pub trait Work {
    /// The model's file.
    fn model_path(&self) -> &Path;

    /// A text's tokens.
    ///
    /// # Errors
    /// The fault of a text that cannot be used, in words that continue "text ..".
    fn tokens(&self, text: &str) -> Result<Vec<u32>, String>;

    /// Results of the model for some texts, given as tokens.
    ///
    /// # Errors
    /// A text that the model cannot take, or a file that was cut short meanwhile.
    fn compute(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Writes the answer to a text.
    ///
    /// # Errors
    /// The output cannot be written.
    fn write(&mut self, answered: Answered, out: &mut dyn Write) -> Result<(), CliError>;
}

/// Checks that a text of so many tokens can be worked on.
///
/// # Errors
/// No token, or more than `max`, in words that continue "text ..".
pub fn check_len(n_tokens: usize, max: usize) -> Result<(), String> {
    match n_tokens {
        0 => Err("has no token".into()),
        n if n > max => Err(format!(
            "has {n} tokens, more than the {max} that a text may have: cut it (--truncate does), \
             or raise --ctx where the model can take more"
        )),
        _ => Ok(()),
    }
}

/// Works on all texts in their order: on those given, else on the lines of the file or of standard
/// input.
///
/// # Errors
/// An input that cannot be read, a text that cannot be used (unless such are to be passed over), or
/// what the work says.
pub fn each_text(
    given: &[String],
    file: Option<&Path>,
    bad: BadTextArgs,
    work: &mut dyn Work,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let n_done = interrupt::count("text");
    let mut batch = Batch { bad, work, out, index: 0, n_done };
    if !given.is_empty() {
        let texts = given.iter().zip(1..);
        let texts: Vec<Text> = texts
            .map(|(text, number)| Text { place: Place::Given(number), text: Ok(text.clone()) })
            .collect();
        return texts.chunks(TEXTS_MAX).try_for_each(|texts| batch.take(texts));
    }
    let mut lines = Lines::open(input_file(file), bad.truncate)?;
    loop {
        let texts = lines.next_group()?;
        if texts.is_empty() {
            return Ok(());
        }
        batch.take(&texts)?;
    }
}

/// The state of [`each_text`].
struct Batch<'a> {
    bad: BadTextArgs,
    work: &'a mut dyn Work,
    out: &'a mut dyn Write,
    /// Texts so far.
    index: usize,
    /// Number of texts that were answered.
    n_done: &'static AtomicU64,
}

impl Batch<'_> {
    /// Works on some texts.
    fn take(&mut self, texts: &[Text]) -> Result<(), CliError> {
        let mut tokens = Vec::new();
        let mut problems = Vec::with_capacity(texts.len());
        for Text { text, .. } in texts {
            let found = text.as_ref().map_err(String::clone);
            match found.and_then(|text| self.work.tokens(text)) {
                Ok(found) => {
                    tokens.push(found);
                    problems.push(None);
                }
                Err(problem) => problems.push(Some(problem)),
            }
            // Nothing behind it will be wanted.
            if !self.bad.skip_bad && problems.last().is_some_and(Option::is_some) {
                break;
            }
        }
        let mut results = self.compute(&tokens)?.into_iter().zip(tokens);
        for (Text { place, text }, problem) in texts.iter().zip(problems) {
            let result = match problem {
                Some(problem) => Err(problem),
                None => {
                    let (result, tokens) = results.next().expect("one for each text with tokens");
                    result.map(|vectors| (tokens.len(), vectors))
                }
            };
            let text = text.as_deref().unwrap_or_default();
            self.answer(place, text, result)?;
        }
        Ok(())
    }

    /// Result of the model for each text, or what is wrong with the text; at most one wrong text if
    /// that ends the work.
    fn compute(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Result<Vec<f32>, String>>, CliError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        match self.work.compute(texts) {
            Ok(vectors) => Ok(vectors.into_iter().map(Ok).collect()),
            // The others are computed without it, which changes no bit of them.
            Err(EngineError::NotFinite { text }) => {
                let mut results = self.compute(&texts[..text])?;
                results.push(Err("gives vectors that are no finite numbers".into()));
                if self.bad.skip_bad {
                    results.extend(self.compute(&texts[text + 1..])?);
                } else {
                    let unknown = || Err("is behind one that cannot be used".into());
                    results.resize_with(texts.len(), unknown);
                }
                Ok(results)
            }
            Err(error) => Err(CliError::of_model(self.work.model_path())(error)),
        }
    }

    fn answer(
        &mut self,
        place: &Place,
        text: &str,
        result: Result<(usize, Vec<f32>), String>,
    ) -> Result<(), CliError> {
        let (n_tokens, vectors) = match result {
            Ok((n_tokens, vectors)) => (n_tokens, Some(vectors)),
            Err(problem) if self.bad.skip_bad => {
                super::note(format_args!("warning: {place}: {problem}: skipped"));
                (0, None)
            }
            Err(problem) => return Err(CliError::failed(format!("{place}: {problem}"))),
        };
        let is_done = vectors.is_some();
        let answered = Answered { index: self.index, text: text.into(), n_tokens, vectors };
        self.index += 1;
        interrupt::whole(|| {
            self.work.write(answered, self.out)?;
            self.n_done.fetch_add(is_done.into(), Ordering::SeqCst);
            Ok(self.out.flush()?)
        })
    }
}

/// The lines of an input.
struct Lines<'a> {
    reader: BufReader<Box<dyn Read>>,
    name: &'a Path,
    /// Lines so far.
    number: usize,
    /// Whether lines that are too long are cut.
    truncate: bool,
}

impl<'a> Lines<'a> {
    /// The lines of a file, or of standard input.
    fn open(file: Option<&'a Path>, truncate: bool) -> Result<Lines<'a>, CliError> {
        let (input, name): (Box<dyn Read>, &Path) = match file {
            Some(path) => (Box::new(File::open(path).map_err(CliError::at(path))?), path),
            None => (Box::new(stdin().lock()), Path::new("standard input")),
        };
        if file.is_none() && stdin().is_terminal() {
            super::note(format_args!(
                "Type one text on each line, then Ctrl-D on a line of its own."
            ));
        }
        let reader = BufReader::with_capacity(READ_BYTES, input);
        Ok(Lines { reader, name, number: 0, truncate })
    }

    /// The next lines, as many as have come but not more than [`TEXTS_MAX`]; none after the last.
    /// Whoever waits for an answer before the next line gets it.
    fn next_group(&mut self) -> Result<Vec<Text>, CliError> {
        let mut texts = Vec::new();
        while let Some(text) = self.next()? {
            texts.push(text);
            if texts.len() == TEXTS_MAX || !self.has_next() {
                break;
            }
        }
        Ok(texts)
    }

    /// The next line without its end, or `None` after the last.
    fn next(&mut self) -> Result<Option<Text>, CliError> {
        self.number += 1;
        let mut line = Vec::new();
        // Two bytes more than a text: the end of the line.
        let mut limited = self.reader.by_ref().take(TEXT_BYTES_MAX as u64 + 2);
        limited.read_until(b'\n', &mut line).map_err(CliError::at(self.name))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() > TEXT_BYTES_MAX && line.last() != Some(&b'\n') {
            self.skip_line()?;
        }
        let place = Place::Line(self.name.to_path_buf(), self.number);
        Ok(Some(Text { place, text: self.text(line) }))
    }

    /// Passes over what is left of a line.
    fn skip_line(&mut self) -> Result<(), CliError> {
        loop {
            let buffer = self.reader.fill_buf().map_err(CliError::at(self.name))?;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let (n, is_end) = (end.map_or(buffer.len(), |at| at + 1), end.is_some());
            self.reader.consume(n);
            if n == 0 || is_end {
                return Ok(());
            }
        }
    }

    /// The text of a line, or what is wrong with it.
    fn text(&self, mut line: Vec<u8>) -> Result<String, String> {
        let end = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let end = end.map_or(line.len(), <[u8]>::len);
        line.truncate(end);
        if line.len() > TEXT_BYTES_MAX {
            if !self.truncate {
                return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
            }
            // Whole characters: the others of a byte begin with the bits 10.
            let is_start = |&at: &usize| line[at] & 0xc0 != 0x80;
            let end = (0..=TEXT_BYTES_MAX).rev().find(is_start).unwrap_or(0);
            line.truncate(end);
        }
        let text = String::from_utf8(line).map_err(|_| "is not UTF-8".to_string())?;
        Ok(if self.number == 1 { without_bom(&text).to_string() } else { text })
    }

    /// Whether a further line has come already.
    fn has_next(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of an input, or what is wrong with them, with the numbers of their lines.
    fn texts(input: Vec<u8>, truncate: bool) -> Vec<(usize, Result<String, String>)> {
        let input: Box<dyn Read> = Box::new(std::io::Cursor::new(input));
        let (reader, name) = (BufReader::with_capacity(7, input), Path::new("x"));
        let mut lines = Lines { reader, name, number: 0, truncate };
        let mut texts = Vec::new();
        while let Some(Text { place, text }) = lines.next().unwrap() {
            let Place::Line(_, number) = place else { panic!("a line") };
            texts.push((number, text));
        }
        texts
    }

    #[test]
    fn lines_end_as_on_any_system() {
        let found = texts("\u{feff}a\r\n\n\u{feff}b\n\r\nc".into(), false);
        let expected = ["a", "", "\u{feff}b", "", "c"].map(|text| Ok(text.to_string()));
        assert_eq!(found, (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(texts(Vec::new(), false), []);
    }

    #[test]
    fn a_bad_line_leaves_the_next_one_alone() {
        let long = "é".repeat(TEXT_BYTES_MAX / 2);
        let input = || [long.as_bytes(), b"e\nnext\n\xff\xfe\nlast"].concat();
        let found = texts(input(), false);
        assert_eq!(found[0].1, Err(format!("is longer than {TEXT_BYTES_MAX} bytes")));
        assert_eq!(found[1], (2, Ok("next".into())));
        assert_eq!(found[2], (3, Err("is not UTF-8".into())));
        assert_eq!(found[3], (4, Ok("last".into())));
        let whole = [long.as_bytes(), b"\r\nx"].concat();
        assert!(texts(whole, false)[0].1 == Ok(long.clone()), "as long as may be");
        // One byte before it: the cut would be inside a character.
        let odd = [b"a", long.as_bytes(), b"\nnext"].concat();
        let found = texts(odd, true);
        assert_eq!(found[0].1.as_ref().map(String::len), Ok(TEXT_BYTES_MAX - 1));
        assert_eq!(found[1], (2, Ok("next".into())));
    }
}
