//! A file of a header over zeros: what only metadata and shapes decide is known from it before any
//! weight is read. The zeros take no room where files may have holes.

use gguf_rs_lite::{Error as GgufError, GgufFile, GgufWriter};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::path::PathBuf;

/// Names that are tried: another process has as many files of the kind at most.
const NAMES_MAX: u32 = 64;
/// Bytes of padding between tensors, as far as files here have them.
const ALIGNMENT: u64 = 1 << 12;

/// A name in the folder for temporary files, which goes away with this.
#[derive(Debug)]
pub struct Place(PathBuf);

/// A file of a header over zeros in the folder for temporary files, for tensors of these bytes, which
/// `header` declares in its writer. It is there for as long as its place. Where the system lets a file
/// be read on without a name, nothing is left of it whatever becomes of this process.
///
/// # Errors
/// The header cannot be made, or the system refuses; that names the file.
pub fn outline<E: From<GgufError>>(
    header: impl FnOnce(&File) -> Result<GgufWriter<&File>, E>,
    tensor_bytes: impl Iterator<Item = u64>,
) -> Result<(GgufFile, Place), E> {
    let (place, out) = Place::create()?;
    let at = |source| GgufError::Io { path: place.0.clone(), source };
    write(&out, header(&out)?, tensor_bytes)?.map_err(at)?;
    let file = GgufFile::open(&place.0)?;
    if cfg!(unix) {
        // Again at the end, where that was not to be.
        let _ = fs::remove_file(&place.0);
    }
    Ok((file, place))
}

impl Place {
    fn create() -> Result<(Place, File), GgufError> {
        let mut number = 0;
        loop {
            let name = format!("teff-{}-{number}.outline", std::process::id());
            let path = std::env::temp_dir().join(name);
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Place(path), file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < NAMES_MAX => {
                    number += 1;
                }
                Err(source) => return Err(GgufError::Io { path, source }),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed stays where systems look for what may go.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes the header that `writer` holds, and lets zeros for so many tensors follow.
///
/// # Errors
/// Outside: the header cannot be made. Inside: the system refuses.
pub(super) fn write(
    file: &File,
    writer: GgufWriter<&File>,
    tensor_bytes: impl Iterator<Item = u64>,
) -> Result<io::Result<()>, GgufError> {
    // Dropped with all it has buffered.
    drop(writer.write_header()?);
    let data = tensor_bytes.fold(0, |sum: u64, n| sum.saturating_add(n).saturating_add(ALIGNMENT));
    let mut file = file;
    let end = file.stream_position().map(|header| header.saturating_add(data));
    Ok(end.and_then(|end| file.set_len(end)))
}

/// Takes everything away again.
pub(super) fn clear(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0)).map(drop)
}
