//! GGUF files written from others, under another name until they are whole.

use super::corpus::ChunkProgress;
use super::{CliError, interrupt, space};
use gguf_rs_lite::{
    GgufFile, GgufWriter, OwnedValue, PartFile, PartFileError, TensorInfo, WriteOptions,
};
use std::io::Write;
use std::path::Path;

/// Bytes that are copied at a time; pages of the source are given back behind them.
const CHUNK_BYTES: usize = 16 << 20;

/// Metadata of a file, owned.
pub type Entries = Vec<(String, OwnedValue)>;

/// Begins a file that gets its name when it is whole; Ctrl-C removes it.
///
/// # Errors
/// The file cannot be made, or another process is writing it.
fn begin(path: &Path) -> Result<PartFile, PartFileError> {
    let part = PartFile::create(path)?;
    let at_end = part.path().to_owned();
    interrupt::done(move || {
        // What cannot be removed stays under a name that says what it is.
        let _ = std::fs::remove_file(&at_end);
        "nothing was changed".into()
    });
    Ok(part)
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
    let part = begin(path)?;
    let at = CliError::of_model::<gguf_rs_lite::Error>(path);
    let mut data = writer(part.file(), options_of(source), entries, tensors)
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
    Ok(interrupt::whole(|| part.finish())?)
}
