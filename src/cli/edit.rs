//! `teff edit`: metadata of a file changed: in place where the new header fits the room of the old one,
//! else by a copy that takes the file's place when it is whole.
//!
//! Room that a shorter header leaves over is filled by the key `teff.padding`, which nobody reads and
//! later edits use. In place means: the old header goes to `FILE.teff-edit` beside the new one and onto
//! the disk first, then the new one over the old, then that file goes away. If the process dies between,
//! the next `teff edit` of the file puts the old header back.

use super::copy::{self, Entries};
use super::corpus::check_output;
use super::{CliError, interrupt};
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedArray, OwnedValue};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The key that fills what is left over.
const PADDING_KEY: &str = "teff.padding";
/// Bytes of an entry with that key and an empty array of bytes, in versions 2 and 3: length and key, two
/// types, length.
const PADDING_BYTES: usize = 8 + PADDING_KEY.len() + 4 + 4 + 8;
/// First bytes of a kept header.
const JOURNAL_MAGIC: [u8; 8] = *b"TEFFEDIT";
/// Bytes of a header that is changed in place, at most: the largest vocabularies take some 20 MB.
const HEADER_BYTES_MAX: usize = 256 << 20;
/// Bytes of a kept header with its successor, at most.
const JOURNAL_BYTES_MAX: u64 = 2 * HEADER_BYTES_MAX as u64 + 16;
const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// `teff edit`
#[derive(clap::Args, Debug)]
pub struct EditArgs {
    /// The file
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Metadata that replaces the file's or is added to it; TYPE is u8, i8, u16, i16, u32, i32, u64, i64,
    /// f32, f64, bool or str. May be given several times
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
    /// Say what would be changed, and how
    #[arg(long)]
    dry_run: bool,
}

/// A key and its new value.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    key: String,
    value: OwnedValue,
}

/// Parses `key=type:value`.
fn parse_setting(text: &str) -> Result<Setting, String> {
    let parts = text.split_once('=').and_then(|(key, typed)| Some((key, typed.split_once(':')?)));
    let (key, (ty, value)) = parts.ok_or("must be KEY=TYPE:VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let wrong = || format!("key `{key}`: `{value}` is no {ty}");
    /// The number of a variant.
    macro_rules! number {
        ($variant:ident) => {
            OwnedValue::$variant(value.parse().map_err(|_| wrong())?)
        };
    }
    let value = match ty {
        "u8" => number!(U8),
        "i8" => number!(I8),
        "u16" => number!(U16),
        "i16" => number!(I16),
        "u32" => number!(U32),
        "i32" => number!(I32),
        "u64" => number!(U64),
        "i64" => number!(I64),
        "f32" => number!(F32),
        "f64" => number!(F64),
        "bool" => number!(Bool),
        "str" => OwnedValue::Str(value.into()),
        _ => return Err(format!("key `{key}`: type `{ty}` is none that can be set")),
    };
    Ok(Setting { key: key.into(), value })
}

/// Changes the file.
pub fn edit(args: &EditArgs, out: &mut dyn Write) -> Result<(), CliError> {
    interrupt::done(|| "nothing was changed".into());
    // What a link names is changed, not the link.
    let input = args.input.canonicalize().map_err(CliError::at(&args.input))?;
    if !args.dry_run {
        recover(&input)?;
    }
    let file = GgufFile::open(&input)?;
    let at_input = CliError::of_model::<String>(&input);
    if file.shard_count() > 1 {
        return Err(at_input("is one of several files: merge them first".into()));
    }
    let (entries, changes) = changed(args, &file)?;
    changes.iter().try_for_each(|change| writeln!(out, "{change}"))?;
    if changes.is_empty() && args.output.is_none() {
        writeln!(out, "nothing to change")?;
        return Ok(());
    }
    let fitting = match args.output {
        Some(_) => None,
        None => fit(&file, entries.clone()).map_err(CliError::of_model(&input))?,
    };
    let how = match (&fitting, &args.output) {
        (Some(header), _) => format!("in place: a header of {} bytes", header.len()),
        (None, Some(path)) => format!("a copy, {}", path.display()),
        (None, None) => format!("by a copy of {} bytes", file.total_bytes()),
    };
    writeln!(out, "{how}")?;
    if args.dry_run {
        return Ok(());
    }
    match fitting {
        Some(header) => {
            // Nobody may have the file mapped while it changes.
            drop(file);
            replace_header(&input, &header)
        }
        None => {
            let path = args.output.as_deref().unwrap_or(&input);
            check_output(path)?;
            copy::write(&file, &entries, file.tensors(), path)
        }
    }
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
            false => writeln!(stderr(), "warning: key `{key}` is not there")?,
        }
    }
    for Setting { key, value } in settings {
        match entries.iter_mut().find(|(other, _)| *other == key) {
            Some((_, own)) if *own == value => {}
            Some((_, own)) => {
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

/// A value in words, on one line.
fn told(value: &OwnedValue) -> String {
    match value {
        OwnedValue::Str(text) if text.len() > 40 => format!("a text of {} bytes", text.len()),
        OwnedValue::Bytes(bytes) => format!("a text of {} bytes", bytes.len()),
        OwnedValue::Array(array) => format!("a list of {}", array.len()),
        OwnedValue::Str(text) => format!("{text:?}"),
        OwnedValue::Bool(value) => value.to_string(),
        OwnedValue::U8(value) => value.to_string(),
        OwnedValue::I8(value) => value.to_string(),
        OwnedValue::U16(value) => value.to_string(),
        OwnedValue::I16(value) => value.to_string(),
        OwnedValue::U32(value) => value.to_string(),
        OwnedValue::I32(value) => value.to_string(),
        OwnedValue::U64(value) => value.to_string(),
        OwnedValue::I64(value) => value.to_string(),
        OwnedValue::F32(value) => value.to_string(),
        OwnedValue::F64(value) => value.to_string(),
    }
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
    let writer = copy::writer(kept.clone(), copy::options_of(file), entries, file.tensors())?;
    // Dropped with all it has buffered.
    drop(GgufWriter::write_header(writer)?);
    let bytes = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(bytes)
}

/// The header with this metadata that leaves every tensor where it is; `None` if there is none.
fn fit(file: &GgufFile, mut entries: Entries) -> Result<Option<Vec<u8>>, gguf_rs_lite::Error> {
    // Version 1 has other lengths, and a file without tensors nothing that must stay.
    let Some(first) = file.tensors().iter().map(|info| info.offset).min() else { return Ok(None) };
    if file.version() == 1 {
        return Ok(None);
    }
    let old: Entries =
        file.entries().map(|(key, value)| (key.to_owned(), OwnedValue::from(value))).collect();
    // Tensors lie where a writer puts them, or they would have to be moved.
    let path = file.path().unwrap_or(Path::new(""));
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

/// Where the old header is kept while the new one is written.
fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".teff-edit");
    path.with_file_name(name)
}

/// Writes a header over the old one of the same length.
fn replace_header(path: &Path, new: &[u8]) -> Result<(), CliError> {
    let journal = journal_of(path);
    let at = CliError::at(path);
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(&at)?;
    let mut old = vec![0; new.len()];
    file.read_exact(&mut old).map_err(&at)?;
    interrupt::whole(|| {
        let mut kept = File::create(&journal).map_err(CliError::at(&journal))?;
        let whole = [&JOURNAL_MAGIC[..], &old, new, &JOURNAL_MAGIC].concat();
        kept.write_all(&whole).and_then(|()| kept.sync_all()).map_err(CliError::at(&journal))?;
        drop(kept);
        write_over(&mut file, new).map_err(&at)?;
        std::fs::remove_file(&journal).map_err(CliError::at(&journal))
    })
}

fn write_over(file: &mut File, header: &[u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header)?;
    file.sync_all()
}

/// Puts the old header back if an edit ended between.
fn recover(path: &Path) -> Result<(), CliError> {
    let journal = journal_of(path);
    let at = CliError::at(&journal);
    let Ok(kept) = File::open(&journal) else { return Ok(()) };
    let mut bytes = Vec::new();
    kept.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes).map_err(&at)?;
    let headers = bytes.strip_prefix(&JOURNAL_MAGIC).and_then(|b| b.strip_suffix(&JOURNAL_MAGIC));
    // One that is not whole was never followed by a change of the file.
    if let Some(headers) = headers.filter(|headers| headers.len().is_multiple_of(2)) {
        let (old, new) = headers.split_at(headers.len() / 2);
        let open = OpenOptions::new().read(true).write(true).open(path);
        let mut file = open.map_err(CliError::at(path))?;
        let mut now = vec![0; old.len()];
        // Another file of that name is none of ours.
        let is_between = file.read_exact(&mut now).is_ok()
            && now
                .iter()
                .zip(old.iter().zip(new))
                .all(|(now, (old, new))| now == old || now == new);
        if is_between && now != old {
            interrupt::whole(|| write_over(&mut file, old)).map_err(CliError::at(path))?;
            writeln!(
                stderr(),
                "note: {}: an edit that was not finished is undone",
                path.display()
            )?;
        }
    }
    std::fs::remove_file(&journal).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_typed() {
        let value = |text| parse_setting(text).map(|s| (s.key, s.value));
        assert_eq!(value("a=u8:7"), Ok(("a".into(), OwnedValue::U8(7))));
        assert_eq!(value("a=f32:-1e4"), Ok(("a".into(), OwnedValue::F32(-1e4))));
        assert_eq!(value("a=str:b=c:d"), Ok(("a".into(), OwnedValue::Str("b=c:d".into()))));
        assert_eq!(value("a=bool:true"), Ok(("a".into(), OwnedValue::Bool(true))));
        for (text, problem) in [
            ("a", "must be KEY=TYPE:VALUE"),
            ("=u8:1", "the key is empty"),
            ("a=u8:256", "key `a`: `256` is no u8"),
            ("a=x:1", "key `a`: type `x` is none that can be set"),
        ] {
            assert_eq!(value(text), Err(problem.into()), "{text}");
        }
    }
}
