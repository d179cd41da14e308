//! The header of a GGUF file written over by another of the same length.
//!
//! The old and the new header go to `FILE.teff-edit` beside the file and onto the disk first, then the
//! bytes that differ over the old ones, then that journal goes away. If the process ends between, the
//! next verb that opens the file puts the old header back ([`open`]): the file has the old metadata or
//! the new, never a mixture. The file is locked meanwhile, so that nobody undoes a living edit.

use super::{CliError, interrupt};
use gguf_rs_lite::GgufFile;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// First and last bytes of a journal.
const MAGIC: [u8; 8] = *b"TEFFEDIT";
/// Bytes of a header that is replaced, at most: the largest vocabularies take some 20 MB.
pub const HEADER_BYTES_MAX: usize = 256 << 20;
/// Bytes of a journal, at most.
const JOURNAL_BYTES_MAX: u64 = 2 * HEADER_BYTES_MAX as u64 + 2 * MAGIC.len() as u64;

/// Opens a model's file, whose header is whole again if an edit of it has died.
///
/// # Errors
/// The file is no valid GGUF, is being changed, or cannot be put right.
pub fn open(path: &Path) -> Result<GgufFile, CliError> {
    if let Ok(path) = path.canonicalize()
        && recover(&path, &mut System)?
    {
        let path = path.display();
        super::note(format_args!("note: {path}: an edit that was not finished is undone"));
    }
    if path.is_dir() {
        let hint = "a model is a GGUF file, which `teff convert` makes of a Hugging Face folder";
        return Err(CliError::failed(format!("{}: is a folder: {hint}", path.display())));
    }
    path.metadata().map_err(CliError::at(path))?;
    Ok(GgufFile::open(path)?)
}

/// Writes a header over the old one of the same length.
///
/// # Errors
/// The system refuses, or another process is changing the file. The old header stays, or is put back by
/// [`open`].
pub fn replace(path: &Path, new: &[u8]) -> Result<(), CliError> {
    interrupt::whole(|| {
        replace_on(path, new, &mut System)?;
        interrupt::done(|| "the change was made".into());
        Ok(())
    })
}

/// Writes of an edit to the disk, which tests cut short.
trait Disk {
    fn write(&mut self, file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self, file: &File) -> io::Result<()>;
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

struct System;

impl Disk for System {
    fn write(&mut self, file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

fn replace_on(path: &Path, new: &[u8], disk: &mut dyn Disk) -> Result<(), CliError> {
    let (journal, at) = (journal_of(path), CliError::at(path));
    let mut file = locked(path)?;
    let mut old = vec![0; new.len()];
    file.read_exact(&mut old).map_err(&at)?;
    let kept = [&MAGIC[..], &old, new, &MAGIC].concat();
    let written = File::create(&journal)
        .and_then(|mut file| disk.write(&mut file, 0, &kept).and_then(|()| disk.sync(&file)));
    if let Err(error) = written {
        // One that is not whole says nothing; what cannot be removed is removed by the next verb.
        let _ = disk.remove(&journal);
        return Err(CliError::at(&journal)(error));
    }
    if let Err(error) = write_over(&mut file, &old, new, disk) {
        // Back, as far as the disk lets it; else the journal stays for the next verb.
        if write_over(&mut file, new, &old, disk).is_ok() {
            let _ = disk.remove(&journal);
        }
        return Err(at(error));
    }
    disk.remove(&journal).map_err(CliError::at(&journal))
}

/// Writes what differs.
fn write_over(file: &mut File, old: &[u8], new: &[u8], disk: &mut dyn Disk) -> io::Result<()> {
    let differs = |(a, b): (&u8, &u8)| a != b;
    let Some(first) = old.iter().zip(new).position(differs) else { return Ok(()) };
    let last = old.iter().zip(new).rposition(differs).unwrap_or(first);
    disk.write(file, first as u64, &new[first..=last])?;
    disk.sync(file)
}

/// Where the headers are kept while the new one is written.
fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".teff-edit");
    path.with_file_name(name)
}

/// The file, which no other edit changes meanwhile.
fn locked(path: &Path) -> Result<File, CliError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(CliError::at(path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let message = format!("{}: another process is changing this file", path.display());
            Err(CliError::failed(message))
        }
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Puts the old header back if an edit ended between, and says whether it did.
fn recover(path: &Path, disk: &mut dyn Disk) -> Result<bool, CliError> {
    let journal = journal_of(path);
    if !journal.exists() {
        return Ok(false);
    }
    let unfinished = |error: CliError| {
        let (path, journal) = (path.display(), journal.display());
        CliError::failed(format!(
            "{path}: an edit of this file was not finished, and {journal} cannot be used to undo it: \
             {error}"
        ))
    };
    let mut file = locked(path).map_err(&unfinished)?;
    let at = CliError::at(&journal);
    let mut bytes = Vec::new();
    let kept = File::open(&journal).map_err(&at).map_err(&unfinished)?;
    kept.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes).map_err(&at).map_err(&unfinished)?;
    let headers = bytes.strip_prefix(&MAGIC).and_then(|bytes| bytes.strip_suffix(&MAGIC));
    let mut is_undone = false;
    // One that is not whole was never followed by a change of the file.
    if let Some(headers) = headers.filter(|headers| headers.len().is_multiple_of(2)) {
        let (old, new) = headers.split_at(headers.len() / 2);
        let mut now = vec![0; old.len()];
        let is_read = file.read_exact(&mut now).is_ok();
        // Another file of that name is none of ours.
        let of_edit = |(now, (old, new)): (&u8, (&u8, &u8))| now == old || now == new;
        if is_read && now != old && now.iter().zip(old.iter().zip(new)).all(of_edit) {
            let undone = write_over(&mut file, &now, old, disk);
            undone.map_err(CliError::at(path)).map_err(&unfinished)?;
            is_undone = true;
        }
    }
    disk.remove(&journal).map_err(at).map_err(unfinished)?;
    Ok(is_undone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf_rs_lite::{GgmlType, GgufWriter};
    use std::fs;

    /// A disk that stops for good behind so many bytes; syncing and removing count as one.
    struct Cut(usize);

    impl Cut {
        fn step(&mut self) -> io::Result<()> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }

    impl Disk for Cut {
        fn write(&mut self, file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            System.write(file, at, &bytes[..n])?;
            if n < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn sync(&mut self, _file: &File) -> io::Result<()> {
            self.step()
        }

        fn remove(&mut self, path: &Path) -> io::Result<()> {
            self.step()?;
            System.remove(path)
        }
    }

    /// A file with these texts and a tensor.
    fn model(texts: [&str; 2]) -> Vec<u8> {
        let mut writer = GgufWriter::new(Vec::new());
        writer.add("first", texts[0]).unwrap();
        writer.add("middle", "x".repeat(40)).unwrap();
        writer.add("second", texts[1]).unwrap();
        writer.declare("tensor", GgmlType::I8, &[64]).unwrap();
        let mut data = writer.write_header().unwrap();
        data.write_tensor(&[7; 64]).unwrap();
        data.finish().unwrap()
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let folder = std::env::temp_dir().join(format!("teff-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Place(folder)
        }

        fn file(&self) -> PathBuf {
            self.0.join("m.gguf")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Cut behind each byte, the file has one of the two headers once it was opened; and if that is cut
    /// too, once it was opened again.
    #[test]
    fn a_replacement_cut_anywhere_is_all_or_nothing() {
        let place = Place::new("header-cut");
        let (old, new) = (model(["old", "longer"]), model(["newer", "text"]));
        let header = &new[..new.len() - 64];
        assert_eq!(old.len(), new.len());
        let (mut seen_old, mut seen_new, mut torn) = (0, 0, 0);
        for cut in 0.. {
            let path = place.file();
            fs::write(&path, &old).unwrap();
            let replaced = replace_on(&path, header, &mut Cut(cut));
            let between = fs::read(&path).unwrap();
            torn += usize::from(between != old && between != new);
            assert!(between == old || between == new || journal_of(&path).exists(), "cut {cut}");
            // Every seventh time the way back is cut too, at another place.
            if cut % 7 == 0 {
                let _ = recover(&path, &mut Cut(cut / 7 % 90));
            }
            recover(&path, &mut System).unwrap();
            GgufFile::open(&path).unwrap();
            let after = fs::read(&path).unwrap();
            assert!(after == old || after == new, "cut {cut}");
            assert!(!journal_of(&path).exists(), "cut {cut}");
            (seen_old, seen_new) =
                (seen_old + usize::from(after == old), seen_new + usize::from(after == new));
            if replaced.is_ok() {
                assert!(after == new);
                break;
            }
        }
        assert!(seen_old > 300 && seen_new >= 1 && torn > 50, "{seen_old} {seen_new} {torn}");
    }

    #[test]
    fn a_living_edit_is_not_undone() {
        let place = Place::new("header-locked");
        let path = place.file();
        fs::write(&path, model(["old", "longer"])).unwrap();
        fs::write(journal_of(&path), "begun").unwrap();
        let held = locked(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("another process is changing this file"), "{error}");
        drop(held);
        open(&path).unwrap();
        assert!(!journal_of(&path).exists(), "it was not whole");
    }
}
