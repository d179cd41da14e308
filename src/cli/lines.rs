//! Texts from the command line, or from a file or standard input, one on each line.

use super::CliError;
use crate::text::TEXT_BYTES_MAX;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stderr, stdin};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Texts that are handed over together, if as many have come: enough for several steps.
const TEXTS_MAX: usize = 64;
/// Bytes of the lines that are read at a time: as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// Hands over the texts in groups, in their order: those given, else the lines of the file or of
/// standard input, until `cancel` is set.
pub fn each_group(
    given: &[String],
    file: Option<&Path>,
    cancel: &AtomicBool,
    mut take: impl FnMut(&[String]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if !given.is_empty() {
        return given.chunks(TEXTS_MAX).try_for_each(take);
    }
    let mut lines = Lines::open(file)?;
    loop {
        let texts = lines.next_group()?;
        if texts.is_empty() || cancel.load(Ordering::Relaxed) {
            return Ok(());
        }
        take(&texts)?;
    }
}

/// The lines of an input.
struct Lines<'a> {
    reader: BufReader<Box<dyn Read>>,
    name: &'a Path,
    /// Lines so far.
    number: usize,
}

impl<'a> Lines<'a> {
    /// Of a file, or of standard input.
    fn open(file: Option<&'a Path>) -> Result<Lines<'a>, CliError> {
        let (input, name): (Box<dyn Read>, &Path) = match file {
            Some(path) => (Box::new(File::open(path).map_err(CliError::at(path))?), path),
            None => (Box::new(stdin().lock()), Path::new("standard input")),
        };
        if file.is_none() && stdin().is_terminal() {
            writeln!(stderr(), "Type one text on each line, then Ctrl-D on a line of its own.")?;
        }
        Ok(Lines { reader: BufReader::with_capacity(READ_BYTES, input), name, number: 0 })
    }

    /// The next lines, as many as have come but not more than [`TEXTS_MAX`]; none after the last.
    /// Whoever waits for an answer before the next line gets it.
    fn next_group(&mut self) -> Result<Vec<String>, CliError> {
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
    fn next(&mut self) -> Result<Option<String>, CliError> {
        self.number += 1;
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(TEXT_BYTES_MAX as u64 + 1);
        limited.read_until(b'\n', &mut line).map_err(CliError::at(self.name))?;
        if line.is_empty() {
            return Ok(None);
        }
        let at = |problem: &str| {
            CliError::failed(format!("{}, line {}: {problem}", self.name.display(), self.number))
        };
        if line.len() > TEXT_BYTES_MAX {
            return Err(at(&format!("longer than {TEXT_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(line).map_err(|_| at("is not UTF-8"))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_string()))
    }

    /// Whether a further line has come already.
    fn has_next(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}
