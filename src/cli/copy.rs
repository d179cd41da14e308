//! GGUF files written from others, under another name until they are whole.

use super::corpus::ChunkProgress;
use super::{CliError, interrupt, space};
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue, TensorInfo, WriteOptions};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that are copied at a time; pages of the source are given back behind them.
const CHUNK_BYTES: usize = 16 << 20;

/// Metadata of a file, owned.
pub type Entries = Vec<(String, OwnedValue)>;

/// A file that is being written: `PATH.part`, which becomes `PATH` when it is whole, and is removed if
/// it never is.
pub struct PartFile {
    path: PathBuf,
    part: PathBuf,
    is_whole: bool,
}

impl PartFile {
    /// Begins a file; Ctrl-C removes it again.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<(PartFile, File), CliError> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = File::create(&part).map_err(CliError::at(&part))?;
        let at_end = part.clone();
        interrupt::done(move || {
            // What cannot be removed stays under a name that says what it is.
            let _ = std::fs::remove_file(&at_end);
            "nothing was changed".into()
        });
        Ok((PartFile { path: path.to_path_buf(), part, is_whole: false }, file))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(mut self, file: &File) -> Result<(), CliError> {
        file.sync_all().map_err(CliError::at(&self.part))?;
        interrupt::whole(|| std::fs::rename(&self.part, &self.path))
            .map_err(CliError::at(&self.path))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_whole {
            // A destructor has nobody to tell.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

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
    let (part, file) = PartFile::create(path)?;
    let at = CliError::of_model::<gguf_rs_lite::Error>(path);
    let mut data = writer(&file, options_of(source), entries, tensors)
        .and_then(GgufWriter::write_header)
        .map_err(&at)?;
    let mut progress = ChunkProgress::new(tensors.len(), "tensors");
    for (done, info) in tensors.iter().enumerate() {
        let bytes = source.data(info);
        for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            source.check_uncut()?;
            data.write_chunk(chunk).map_err(&at)?;
            let start = number * CHUNK_BYTES;
            source.release(info, start..start + chunk.len());
        }
        progress.show(done + 1, "");
    }
    data.finish().map_err(&at)?;
    drop(progress);
    part.finish(&file)
}
