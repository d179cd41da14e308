//! The bytes of a file: a read-only memory map, or bytes owned by the caller's choice.
//!
//! Cost: mapping is one system call; pages come from the page cache as they are touched.
//! Limit: a file must not shrink or change while it is mapped. If another process truncates it,
//! reading the lost pages raises SIGBUS, as with every memory-mapped program; replace model
//! files by writing a new one and renaming it. [`Bytes::check`] notices a file that has shrunk, at
//! the cost of a system call, for whoever asks before reading on.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::error::Error;

pub(crate) enum Bytes {
    /// The map, and the file it is of.
    Mapped(Mmap, File),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a regular file; anything else (a directory, a pipe, a device) is refused.
    pub fn map(path: &Path) -> Result<Bytes, Error> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::io(path, source));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if metadata.len() == 0 {
            return Ok(Bytes::Owned(Vec::new()));
        }
        // SAFETY: the map is private to this process and read-only. That nobody changes the file
        // under it cannot be checked; it is the documented condition of `GgufFile::open`.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Bytes::Mapped(map, file))
    }

    /// The bytes in memory of their own, to be changed; `None` if there is not enough.
    pub fn to_mut(&mut self) -> Option<&mut [u8]> {
        if let Bytes::Mapped(map, _) = self {
            let mut owned = Vec::new();
            owned.try_reserve_exact(map.len()).ok()?;
            owned.extend_from_slice(map);
            *self = Bytes::Owned(owned);
        }
        match self {
            Bytes::Owned(bytes) => Some(bytes),
            Bytes::Mapped(..) => None,
        }
    }

    /// Bytes that the file still has, if they are fewer than those that were mapped.
    pub fn check(&self) -> Result<(), u64> {
        let Bytes::Mapped(map, file) = self else { return Ok(()) };
        match file.metadata() {
            Ok(metadata) if metadata.len() < map.len() as u64 => Err(metadata.len()),
            // A system that does not tell the length of an open file cannot be asked.
            _ => Ok(()),
        }
    }

    /// The whole map, which begins with a page of the system's; `None` for bytes that are owned.
    pub fn map_bytes(&self) -> Option<&[u8]> {
        match self {
            Bytes::Mapped(map, _) => Some(map),
            Bytes::Owned(_) => None,
        }
    }

    /// Asks the system to read the file ahead. A hint: failure changes nothing but speed.
    pub fn advise_willneed(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map, _) = self {
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Keeps the file in memory: reads it all, and never lets go of it.
    pub fn lock(&self) -> io::Result<()> {
        #[cfg(unix)]
        if let Bytes::Mapped(map, _) = self {
            return map.lock();
        }
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the system that these bytes will hardly be read again: their memory is free for
    /// others, and should they be read after all, they come from the file as before.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map, _) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is read-only and has a file, so no written page can be lost, and
            // pages that are read again hold the file's bytes.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map, _) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
