//! `teff edit`: metadata of a file changed: in place where the new header fits the room of the old one,
//! else by a copy that takes the file's place when it is whole. Of a model in several files the first is
//! changed, which has the metadata.
//!
//! What could be loaded as a model before can be so afterwards, or nothing is changed.
//!
//! Room that a shorter header leaves over is filled by the key `teff.padding`, which nobody reads and
//! later edits use. How headers are replaced, and what becomes of that if the process dies:
//! [`super::header`].

mod settings;

use super::copy::{self, Entries};
use super::header::{self, HEADER_BYTES_MAX};
use super::{CliError, interrupt, space};
use crate::convert::outline;
use crate::engine::report::{Problem, Report, ReportOptions};
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedArray, OwnedValue, TensorInfo, WriteOptions};
pub use settings::told;
use settings::{Setting, parse_setting, type_name};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The key that fills what is left over.
const PADDING_KEY: &str = "teff.padding";
/// Bytes of an entry with that key and an empty array of bytes, in versions 2 and 3: length and key, two
/// types, length.
const PADDING_BYTES: usize = 8 + PADDING_KEY.len() + 4 + 4 + 8;
const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// `teff edit`
#[derive(clap::Args, Debug)]
pub struct EditArgs {
    /// The file; of a model in several files any, the first is changed
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Metadata that replaces the file's or is added to it; TYPE is u8, i8, u16, i16, u32, i32, u64, i64,
    /// f32, f64, bool or str, or a list of these: --set KEY=[u32]:1,2,3 or KEY=[str]:'["a, b", "c"]'. May
    /// be given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = parse_setting)]
    set: Vec<Setting>,
    /// Take a key away. May be given several times
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    /// Set the chat template to the text of a file, byte for byte
    #[arg(long, value_name = "PATH")]
    template: Option<PathBuf>,
    /// Write a file of its own instead of changing the given one
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Say what would be changed, from what to what, and how
    #[arg(long)]
    dry_run: bool,
}

/// Changes the file.
pub fn edit(args: &EditArgs, out: &mut dyn Write) -> Result<(), CliError> {
    interrupt::done(|| "nothing was changed".into());
    let file = header::open(&args.input)?;
    // What a link names is changed, not the link; and of several files the first.
    let first = file.path().unwrap_or(&args.input);
    let input = first.canonicalize().map_err(CliError::at(first))?;
    if let Some(output) = args.output.as_ref().filter(|_| file.shard_count() > 1) {
        return Err(CliError::failed(format!(
            "{}: the model has {} files, and a copy of one would have none of the others: merge them \
             first, or change it where it is",
            output.display(),
            file.shard_count()
        )));
    }
    let (entries, changes) = changed(args, &file)?;
    check_loads(&file, &entries).map_err(CliError::of_model(&input))?;
    changes.iter().try_for_each(|change| writeln!(out, "{change}"))?;
    if changes.is_empty() && args.output.is_none() {
        writeln!(out, "nothing to change")?;
        return Ok(());
    }
    let tensors = own_tensors(&file);
    let fitting = match args.output {
        Some(_) => None,
        None => fit(&file, &input, entries.clone()).map_err(CliError::of_model(&input))?,
    };
    let bytes: u64 = tensors.iter().map(|info| info.bytes).sum();
    let how = match (&fitting, &args.output) {
        (Some(header), _) => format!("in place: a header of {} bytes", header.len()),
        (None, Some(path)) => format!("a copy, {}", path.display()),
        (None, None) => format!("by a copy of {bytes} bytes of tensors"),
    };
    writeln!(out, "{how}")?;
    if args.dry_run {
        return Ok(());
    }
    match fitting {
        Some(header) => {
            // Nobody may have the file mapped while it changes.
            drop(file);
            header::replace(&input, &header)
        }
        None => {
            let path = args.output.as_deref().unwrap_or(&input);
            space::check_output(path, args.template.as_deref(), &[])?;
            copy::write(&file, &entries, tensors, path)
        }
    }
}

/// Refuses metadata that keeps the file from being loaded as a model, where the old one does not.
fn check_loads(file: &GgufFile, entries: &Entries) -> Result<(), CliError> {
    let new = problems(file, entries)?;
    if new.iter().all(Option::is_none) {
        return Ok(());
    }
    let old = file.entries().map(|(key, value)| (key.to_owned(), OwnedValue::from(value)));
    let old = problems(file, &old.collect())?;
    let found = new.into_iter().zip(old).find(|(new, old)| new.is_some() && old.is_none());
    match found.and_then(|(new, _)| new) {
        Some(problem) => Err(CliError::failed(format!("the result would not load: {problem}"))),
        None => Ok(()),
    }
}

/// What keeps the tensors with this metadata from being loaded: of the description, and of the
/// vocabulary. Weights are not looked at.
fn problems(file: &GgufFile, entries: &Entries) -> Result<[Option<String>; 2], CliError> {
    let own: Entries =
        entries.iter().filter(|(key, _)| !key.starts_with("split.")).cloned().collect();
    let padded = |info: &TensorInfo| info.bytes.saturating_add(file.alignment().into());
    let bytes = file.tensors().iter().map(padded);
    let (outline, _place) =
        outline(|out| copy::writer(out, WriteOptions::default(), &own, file.tensors()), bytes)?;
    let report = Report::new(outline, &ReportOptions::default());
    let mut found = [None, None];
    for problem in &report.problems {
        let is_of_text = matches!(problem, Problem::Text(_) | Problem::Vocabulary(_));
        found[usize::from(is_of_text)].get_or_insert_with(|| problem.to_string());
    }
    Ok(found)
}

/// The tensors of the file itself; further files have their own.
fn own_tensors(file: &GgufFile) -> &[TensorInfo] {
    let n = file.tensors().partition_point(|info| info.shard == 0);
    &file.tensors()[..n]
}

/// The metadata as it is to be, without filling, and what changes in words.
fn changed(args: &EditArgs, file: &GgufFile) -> Result<(Entries, Vec<String>), CliError> {
    let mut settings = args.set.clone();
    if let Some(path) = &args.template {
        let text = std::fs::read(path).map_err(CliError::at(path))?;
        let text = String::from_utf8(text)
            .map_err(|_| CliError::failed(format!("{}: not UTF-8", path.display())))?;
        settings.push(Setting { key: TEMPLATE_KEY.into(), value: OwnedValue::Str(text) });
    }
    let keys = settings.iter().map(|setting| &setting.key).chain(&args.remove);
    for key in keys.clone() {
        if key == "general.alignment" || key.starts_with("split.") || key == PADDING_KEY {
            let problem = "says how the file is laid out and cannot be changed";
            return Err(CliError::failed(format!("key `{key}` {problem}")));
        }
        if keys.clone().filter(|other| *other == key).count() > 1 {
            return Err(CliError::usage(format!("key `{key}` is given twice")));
        }
    }
    let own = file.entries().filter(|(key, _)| *key != PADDING_KEY);
    let mut entries: Entries =
        own.map(|(key, value)| (key.to_owned(), OwnedValue::from(value))).collect();
    let mut changes = Vec::new();
    for key in &args.remove {
        let before = entries.len();
        entries.retain(|(other, _)| other != key);
        match entries.len() < before {
            true => changes.push(format!("{key}: removed")),
            false => crate::cli::note(format_args!("warning: key `{key}` is not there")),
        }
    }
    for Setting { key, value } in settings {
        match entries.iter_mut().find(|(other, _)| *other == key) {
            Some((_, own)) if *own == value => {}
            Some((_, own)) => {
                let (from, to) = (type_name(own), type_name(&value));
                if from != to {
                    crate::cli::note(format_args!(
                        "warning: key `{key}` was of type {from} and becomes {to}"
                    ));
                }
                changes.push(format!("{key}: {} instead of {}", told(&value), told(own)));
                *own = value;
            }
            None => {
                changes.push(format!("{key}: {}, new", told(&value)));
                entries.push((key, value));
            }
        }
    }
    Ok((entries, changes))
}

/// Output that keeps what is written to it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The bytes before the tensors of a file with this metadata.
fn header(file: &GgufFile, entries: &Entries) -> Result<Vec<u8>, gguf_rs_lite::Error> {
    let kept = Kept::default();
    let writer = copy::writer(kept.clone(), copy::options_of(file), entries, own_tensors(file))?;
    // Dropped with all it has buffered.
    drop(GgufWriter::write_header(writer)?);
    let bytes = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(bytes)
}

/// The header with this metadata that leaves every tensor where it is; `None` if there is none.
fn fit(
    file: &GgufFile,
    path: &Path,
    mut entries: Entries,
) -> Result<Option<Vec<u8>>, gguf_rs_lite::Error> {
    // Version 1 has other lengths, and a file without tensors nothing that must stay.
    let Some(first) = own_tensors(file).iter().map(|info| info.offset).min() else {
        return Ok(None);
    };
    if file.version() == 1 {
        return Ok(None);
    }
    let old: Entries =
        file.entries().map(|(key, value)| (key.to_owned(), OwnedValue::from(value))).collect();
    // Tensors lie where a writer puts them, or they would have to be moved.
    let Some(room) = usize::try_from(first).ok().filter(|&n| n <= HEADER_BYTES_MAX) else {
        return Ok(None);
    };
    let mut bytes = vec![0; room];
    let is_read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).is_ok();
    if !is_read || header(file, &old)? != bytes {
        return Ok(None);
    }
    let new = header(file, &entries)?;
    if new.len() == room {
        return Ok(Some(new));
    }
    let Some(left) = room.checked_sub(new.len()) else { return Ok(None) };
    // What pads the header to the alignment is part of what is left: this is the largest that fits.
    let filling = left.saturating_sub(PADDING_BYTES);
    entries.push((PADDING_KEY.into(), OwnedValue::Array(OwnedArray::U8(vec![0; filling]))));
    let filled = header(file, &entries)?;
    Ok((filled.len() == room).then_some(filled))
}
