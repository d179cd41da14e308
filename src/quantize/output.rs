//! Files of a plan: metadata as it was but for the keys that tell of quantization, tensors in their
//! order. Each is written under a name of its own beside its place and renamed when all of it is on
//! the disk; a write that is cancelled or fails takes its files away again.

use super::error::QuantizeError;
use super::plan::Plan;
use super::planned::Planned;
use super::rows::{self, Step};
use crate::receipt::{self, Known, Loss, Request, TensorHash, Written};
use gguf_rs_lite::{
    DataWriter, GgufWriter, OwnedValue, PartFile, SPLIT_KEYS, shard_path, split_entries,
};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE_TYPE: &str = "general.file_type";
const VERSION: &str = "general.quantization_version";
/// Version of the block formats, ggml's since 2023.
const QUANTIZATION_VERSION: u32 = 2;
const IMATRIX_FILE: &str = "quantize.imatrix.file";
const IMATRIX_DATASET: &str = "quantize.imatrix.dataset";
const IMATRIX_ENTRIES: &str = "quantize.imatrix.entries_count";
const IMATRIX_CHUNKS: &str = "quantize.imatrix.chunks_count";
/// Bytes of a string in those keys at most: `llama-quantize` cuts there.
const STRING_BYTES_MAX: usize = 127;

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 4 << 20;

/// The files that [`Plan::write`] makes for `out`, `count` in number: itself, or one for each of the
/// input's.
pub fn outputs(out: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![out.to_owned()];
    }
    let stem = match out.extension() {
        Some(extension) if extension == "gguf" => out.with_extension(""),
        _ => out.to_owned(),
    };
    (0..count).map(|no| shard_path(&stem, no, count)).collect()
}

impl Plan<'_> {
    /// Bytes of all files together: metadata, data and the padding between.
    ///
    /// # Errors
    /// The metadata is over the format's limits.
    pub fn file_bytes(&self) -> Result<u64, QuantizeError> {
        Ok(self.header_bytes()? + self.padded_bytes())
    }

    /// The same of a file with other types, but for what its tensors take more: with a receipt, which a
    /// copy has none of.
    pub(super) fn file_bytes_max(&self) -> Result<u64, QuantizeError> {
        Ok(self.header_bytes_max()? + self.padded_bytes())
    }

    fn padded_bytes(&self) -> u64 {
        let alignment = u64::from(self.file.alignment());
        self.tensors.iter().map(|tensor| tensor.bytes.next_multiple_of(alignment)).sum()
    }

    /// Bytes of what comes before the tensors' data.
    fn header_bytes(&self) -> Result<u64, QuantizeError> {
        self.header_bytes_with(self.receipt())
    }

    /// The same for any types: with a receipt, which a copy has none of.
    pub(super) fn header_bytes_max(&self) -> Result<u64, QuantizeError> {
        self.header_bytes_with(self.options.receipt.as_ref())
    }

    fn header_bytes_with(&self, receipt: Option<&Request>) -> Result<u64, QuantizeError> {
        let mut bytes = 0;
        for shard in 0..self.shards() {
            let mut header = Count(0);
            drop(self.writer(shard, &mut header, (receipt, &self.unknown()))?.write_header()?);
            bytes += header.0;
        }
        Ok(bytes)
    }

    fn shards(&self) -> usize {
        if self.options.keep_split { self.file.shard_count() } else { 1 }
    }

    /// Writes the file or files, and tells of each slab of rows; `step` returns whether to go on.
    /// Returns what each tensor lost.
    ///
    /// # Errors
    /// The output is the input, being written by another process, or cannot be written; weights are
    /// not finite or too large for their type; the input was cut; or `step` said to stop. Nothing
    /// of the output is left then.
    pub fn write(
        &self,
        out: &Path,
        step: &mut dyn FnMut(Step<'_>) -> bool,
    ) -> Result<Vec<Loss>, QuantizeError> {
        self.check_ready()?;
        let paths = outputs(out, self.shards());
        if let Some(path) = paths.iter().find(|path| self.file.is_at(path)) {
            return Err(QuantizeError::SameFile(path.clone()));
        }
        if self.receipt().is_none() {
            let all = self.write_parts(&paths, step)?;
            PartFile::finish_all(all.parts)?;
            return Ok(all.losses);
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("teff-receipt".into());
            let goes_on = || !stop.load(Ordering::Relaxed);
            let source = thread
                .spawn_scoped(scope, move || receipt::hash_of_file(self.file, &goes_on))
                .map_err(QuantizeError::Threads)?;
            let all = self.write_parts(&paths, step);
            stop.store(all.is_err(), Ordering::Relaxed);
            let all = all?;
            let source = source.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            let tensors = self.tensors.iter().zip(all.losses.iter().zip(all.hashes));
            let written = tensors.map(|(tensor, (loss, sha256))| Written {
                sha256,
                loss: *loss,
                has_factors: tensor.has_factors(),
            });
            let (source, files) = (source.unwrap_or_default(), Vec::new());
            let known = Known { source, files, tensors: written.collect() };
            // Over the header of zeros.
            let first = &all.parts[0];
            let mut file = first.file();
            file.seek(SeekFrom::Start(0)).map_err(|error| first.error(error))?;
            let writer = self.writer(0, file, (self.receipt(), &known))?;
            drop(writer.write_header().map_err(|error| write_error(first, error))?);
            PartFile::finish_all(all.parts)?;
            Ok(all.losses)
        })
    }

    /// What a receipt is to say; a file that is copied keeps the one that it has.
    fn receipt(&self) -> Option<&Request> {
        self.options.receipt.as_ref().filter(|_| !self.is_copy())
    }

    fn is_copy(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.is_copied() && tensor.ready.is_none())
    }

    /// What stands in the first header for what will be known.
    fn unknown(&self) -> Known {
        Known::placeholder(self.tensors.len())
    }

    fn write_parts(
        &self,
        paths: &[PathBuf],
        step: &mut dyn FnMut(Step<'_>) -> bool,
    ) -> Result<All, QuantizeError> {
        let n = self.tensors.len();
        let mut all = All {
            parts: Vec::new(),
            losses: vec![Loss::default(); n],
            hashes: vec![String::new(); n],
        };
        let total = self.tensors.iter().filter(|t| !t.is_copied()).map(elements).sum();
        let mut progress = Progress { done: 0, total, step };
        for (shard, path) in paths.iter().enumerate() {
            let part = PartFile::create(path)?;
            self.write_shard(shard, &part, &mut progress, &mut all)?;
            all.parts.push(part);
        }
        Ok(all)
    }

    fn write_shard(
        &self,
        shard: usize,
        part: &PartFile,
        progress: &mut Progress<'_>,
        all: &mut All,
    ) -> Result<(), QuantizeError> {
        let writer = self.writer(shard, part.file(), (self.receipt(), &self.unknown()))?;
        let mut data = writer.write_header().map_err(|error| write_error(part, error))?;
        let quantized =
            self.tensors_of(shard).map(|(_, tensor)| tensor).filter(|tensor| !tensor.is_copied());
        rows::quantize(self.file, quantized, self.options, |rows| {
            for (number, tensor) in self.tensors_of(shard) {
                let mut hash = self.receipt().map(|_| TensorHash::default());
                let mut seen = |bytes: &[u8]| hash.iter_mut().for_each(|hash| hash.update(bytes));
                if tensor.is_copied() {
                    self.file.check_uncut()?;
                    self.copy(tensor, &mut data, part, &mut seen)?;
                    all.losses[number] =
                        tensor.ready.as_ref().map_or_else(Loss::default, |r| r.loss);
                    progress.tell(tensor, number, tensor.info.rows(), Loss::default())?;
                } else {
                    all.losses[number] = rows.tensor(&mut |bytes, rows, loss| {
                        seen(bytes);
                        data.write_chunk(bytes).map_err(|error| write_error(part, error))?;
                        progress.tell(tensor, number, rows, loss)
                    })?;
                }
                all.hashes[number] = hash.map_or_else(String::new, TensorHash::finish);
                progress.finished(tensor);
            }
            Ok(())
        })?;
        data.finish().map_err(|error| write_error(part, error))?;
        Ok(())
    }

    /// The tensors of a shard, with their numbers in the plan.
    fn tensors_of(&self, shard: usize) -> impl Iterator<Item = (usize, &Planned<'_>)> {
        let numbered = self.tensors.iter().enumerate();
        numbered.filter(move |(_, t)| self.shards() == 1 || t.info.shard == shard)
    }

    /// A writer that has a shard's metadata and knows its tensors.
    fn writer<W: Write>(
        &self,
        shard: usize,
        out: W,
        receipt: (Option<&Request>, &Known),
    ) -> Result<GgufWriter<W>, QuantizeError> {
        let mut writer = GgufWriter::new(out);
        self.add_metadata(&mut writer, shard, receipt)?;
        for (_, tensor) in self.tensors_of(shard) {
            writer.declare(&tensor.info.name[..], tensor.ty, &tensor.info.dims)?;
        }
        Ok(writer)
    }

    /// Copies a tensor, once its numbers are known to be some, or writes what stands for it.
    fn copy(
        &self,
        tensor: &Planned<'_>,
        data: &mut DataWriter<&File>,
        part: &PartFile,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<(), QuantizeError> {
        if let Some(ready) = &tensor.ready {
            seen(ready.weight.bytes());
            let written = data.write_chunk(ready.weight.bytes());
            return written.map_err(|error| write_error(part, error));
        }
        let bytes = self.file.data(tensor.info);
        let is_float = tensor.info.ty.block_len() == 1;
        let kernels = self.options.kernels.types(tensor.info.ty).filter(|_| is_float);
        let row_bytes = bytes.len() / tensor.info.rows() as usize;
        if let Some(kernels) = kernels {
            let mut x = vec![0.0; tensor.info.cols() as usize];
            for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                kernels.dequantize(bytes, &mut x);
                rows::check_finite(&tensor.info.name, row as u64, &x)?;
            }
        }
        for (i, chunk) in bytes.chunks(COPY_BYTES).enumerate() {
            seen(chunk);
            data.write_chunk(chunk).map_err(|error| write_error(part, error))?;
            let start = i * COPY_BYTES;
            self.file.release(tensor.info, start..start + chunk.len());
        }
        Ok(())
    }

    /// The metadata of a shard: all of it in the first.
    fn add_metadata<W: Write>(
        &self,
        writer: &mut GgufWriter<W>,
        shard: usize,
        (request, known): (Option<&Request>, &Known),
    ) -> Result<(), QuantizeError> {
        let mut own = self.own_keys();
        if shard == 0 {
            for (key, value) in self.file.entries() {
                // A receipt of the input says nothing of an output that is another.
                let is_copy = request.is_none() && self.is_copy();
                let is_old = !is_copy && key.starts_with(receipt::PREFIX);
                if SPLIT_KEYS.contains(&key) || is_old {
                    continue;
                }
                let replaced = own.iter().position(|(own, _)| *own == key);
                match replaced.map(|at| own.remove(at)) {
                    Some((_, value)) => writer.add(key, value)?,
                    None => writer.add(key, value)?,
                }
            }
            for (key, value) in own {
                writer.add(key, value)?;
            }
            let names = self.tensors.iter().map(|tensor| &tensor.info.name[..]);
            if let Some(request) = request {
                for (key, value) in request.metadata(names, self.method().folds, known) {
                    writer.add(key, value)?;
                }
            }
        }
        if self.shards() > 1 {
            let (no, count) = (shard as u16, self.shards() as u16);
            for (key, value) in split_entries(no, count, self.tensors.len() as i32) {
                writer.add(key, value)?;
            }
        }
        Ok(())
    }

    /// Keys that tell of quantization, as `llama-quantize` writes them.
    fn own_keys(&self) -> Vec<(&'static str, OwnedValue)> {
        let mut keys = vec![(VERSION, OwnedValue::U32(QUANTIZATION_VERSION))];
        keys.extend(self.file_type.map(|number| (FILE_TYPE, OwnedValue::U32(number))));
        let is_used = self.tensors.iter().any(|tensor| tensor.has_importances());
        let used = self.options.imatrix.as_ref().filter(|_| is_used);
        if let Some(imatrix) = used {
            let text = |text: &str| {
                let end = text.floor_char_boundary(STRING_BYTES_MAX);
                OwnedValue::from(&text[..end])
            };
            keys.push((IMATRIX_FILE, text(&self.options.imatrix_name)));
            keys.extend(imatrix.datasets.first().map(|name| (IMATRIX_DATASET, text(name))));
            let entries = imatrix.weights().len() as u32;
            keys.push((IMATRIX_ENTRIES, OwnedValue::U32(entries)));
            let chunks = Some(imatrix.chunk_count).filter(|&n| n > 0);
            keys.extend(chunks.map(|n| (IMATRIX_CHUNKS, OwnedValue::U32(n))));
        }
        keys
    }
}

/// What was written, in files that do not have their names yet.
struct All {
    parts: Vec<PartFile>,
    /// What each tensor lost.
    losses: Vec<Loss>,
    /// Hashes of tensors, if there is to be a receipt.
    hashes: Vec<String>,
}

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn elements(tensor: &Planned<'_>) -> u64 {
    tensor.info.dims.iter().product()
}

/// What is done, and whom to tell.
struct Progress<'a> {
    /// Elements of tensors that are finished.
    done: u64,
    total: u64,
    step: &'a mut dyn FnMut(Step<'_>) -> bool,
}

impl Progress<'_> {
    fn tell(
        &mut self,
        tensor: &Planned<'_>,
        number: usize,
        rows: u64,
        loss: Loss,
    ) -> Result<(), QuantizeError> {
        let of_this = if tensor.is_copied() { 0 } else { rows * tensor.info.cols() };
        let (done, total) = (self.done + of_this, self.total);
        let goes_on = (self.step)(Step { tensor, number, rows, loss, done, total });
        if goes_on { Ok(()) } else { Err(QuantizeError::Cancelled) }
    }

    fn finished(&mut self, tensor: &Planned<'_>) {
        self.done += if tensor.is_copied() { 0 } else { elements(tensor) };
    }
}

/// The error of a write to a file.
fn write_error(part: &PartFile, error: gguf_rs_lite::Error) -> QuantizeError {
    match error {
        gguf_rs_lite::Error::Write(error) => part.error(error).into(),
        error => QuantizeError::Gguf(error),
    }
}
