//! GGUF files written from others, under another name until they are whole.

use super::corpus::ChunkProgress;
use super::{CliError, interrupt, space};
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue, PartFile, TensorInfo, WriteOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are copied at a time; pages of the source are given back behind them.
const CHUNK_BYTES: usize = 16 << 20;

/// Metadata of a file, owned.
pub type Entries = Vec<(String, OwnedValue)>;

/// Options by which a file is written as another was.
pub fn options_of(file: &GgufFile) -> WriteOptions {
    WriteOptions { version: file.version(), byte_order: file.data_order() }
}

/// A writer that has the metadata and knows the tensors.
///
/// # Errors
/// They are over the format's limits.
pub fn writer<W: Write>(
    out: W,
    options: WriteOptions,
    entries: &Entries,
    tensors: &[TensorInfo],
) -> Result<GgufWriter<W>, gguf_rs_lite::Error> {
    let mut writer = GgufWriter::with_options(out, options)?;
    for (key, value) in entries {
        writer.add(&key[..], value.clone())?;
    }
    for info in tensors {
        writer.declare(&info.name[..], info.ty, &info.dims)?;
    }
    Ok(writer)
}

/// Writes a file with this metadata and some tensors of another file.
///
/// # Errors
/// The file cannot be written, or the other was cut meanwhile.
pub fn write(
    source: &GgufFile,
    entries: &Entries,
    tensors: &[TensorInfo],
    path: &Path,
) -> Result<(), CliError> {
    space::check(path, tensors.iter().map(|info| info.bytes).sum())?;
    let mut copies = Copies::begin(tensors.len());
    copies.add(source, entries, tensors, path)?;
    copies.finish()
}

/// Files that get their names when all of them are whole; Ctrl-C and errors remove them.
pub struct Copies {
    parts: Vec<PartFile>,
    /// Names that they have until then.
    names: Arc<Mutex<Vec<PathBuf>>>,
    progress: ChunkProgress,
    /// Tensors that are written.
    done: usize,
}

impl Copies {
    /// Begins without a file; in all there will be so many tensors.
    pub fn begin(n_tensors: usize) -> Copies {
        let names: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
        let at_end = names.clone();
        interrupt::done(move || {
            let names = at_end.lock().unwrap_or_else(PoisonError::into_inner);
            // What cannot be removed stays under a name that says what it is.
            names.iter().for_each(|name| drop(std::fs::remove_file(name)));
            // Locked to the end, so that no further file begins.
            std::mem::forget(names);
            "nothing was changed".into()
        });
        let progress = ChunkProgress::new(n_tensors, "tensors");
        Copies { parts: Vec::new(), names, progress, done: 0 }
    }

    /// Writes a file with this metadata and some tensors of another file.
    ///
    /// # Errors
    /// The file cannot be written, or the other was cut meanwhile.
    pub fn add(
        &mut self,
        source: &GgufFile,
        entries: &Entries,
        tensors: &[TensorInfo],
        path: &Path,
    ) -> Result<(), CliError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let part = PartFile::create(path)?;
        names.push(part.path().to_owned());
        drop(names);
        let at = |error| match error {
            gguf_rs_lite::Error::Write(error) => part.error(error).into(),
            error => CliError::of_model(path)(error),
        };
        let mut data = writer(part.file(), options_of(source), entries, tensors)
            .and_then(GgufWriter::write_header)
            .map_err(at)?;
        for info in tensors {
            let bytes = source.data(info);
            for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
                source.check_uncut()?;
                data.write_chunk(chunk).map_err(at)?;
                let start = number * CHUNK_BYTES;
                source.release(info, start..start + chunk.len());
            }
            self.done += 1;
            self.progress.show(self.done, "");
        }
        data.finish().map_err(at)?;
        self.parts.push(part);
        Ok(())
    }

    /// Gives the files their names.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(self) -> Result<(), CliError> {
        let Copies { parts, progress, .. } = self;
        drop(progress);
        for part in &parts {
            // Here, as it may take long: what follows is not interrupted.
            part.file().sync_all().map_err(|error| part.error(error))?;
        }
        interrupt::whole(|| {
            // Some may have their names, and some not.
            interrupt::done(String::new);
            PartFile::finish_all(parts)?;
            interrupt::done(|| "all was written".into());
            Ok(())
        })
    }
}
