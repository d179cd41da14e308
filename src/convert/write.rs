//! The result's file: a header that is tried before any weight is read, tensors, and a receipt if there is to
//! be one.

use super::outline::{self, Place};
use super::{Conversion, ConvertError, agree, keys, stream};
use crate::decoder::lower;
use crate::model::{Adapter, Hparams, arch};
use crate::receipt::{self, Known, Request, TensorHash, Written};
use crate::text::Tokenizer;
use gguf_rs_lite::{GgufFile, GgufWriter, PartFile};
use std::io::{Seek, SeekFrom, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use teff_kernels::KernelTable;

/// Hashes of files, one after the other.
fn hashes_of(
    files: &[(String, PathBuf)],
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<String>, ConvertError> {
    let hash = |(_, path): &(String, PathBuf)| match receipt::hash_of_path(path, goes_on) {
        Ok(hash) => hash.ok_or(ConvertError::Cancelled),
        Err(error) => Err(ConvertError::Io { path: path.clone(), error }),
    };
    files.iter().map(hash).collect()
}

impl Conversion {
    /// The result without its weights, checked as [`Conversion::write`] does before it writes them; it is
    /// there for as long as its place.
    ///
    /// # Errors
    /// The result would not load, or computes something else than the configuration says; or the
    /// folder for temporary files has no room for its header.
    pub fn outline(&self) -> Result<(Arc<GgufFile>, Place), ConvertError> {
        let (file, place) = outline::outline(|out| self.writer(out), self.tensor_bytes())?;
        let file = Arc::new(file);
        self.check(&file)?;
        Ok((file, place))
    }

    /// Writes the result: first under another name beside `path`, then, once it has been loaded as
    /// a model is, in one rename. `progress` is told the bytes of weights so far. Nothing is left
    /// behind if it fails or `cancel` becomes true.
    ///
    /// # Errors
    /// Those of [`Conversion::outline`], before a weight is read; then, a file cannot be read or
    /// written, or a number is not finite or too large.
    pub fn write(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(u64),
        cancel: &AtomicBool,
    ) -> Result<(), ConvertError> {
        self.write_any(path, None, progress, cancel)
    }

    /// [`Conversion::write`] with a receipt in the metadata: what `request` says by the file without its
    /// weights, hashes of the folder's configuration and weights, of each tensor of the result, and what
    /// each lost of its numbers, as the architecture has them, in its type.
    ///
    /// # Errors
    /// Those of [`Conversion::write`].
    pub fn write_with_receipt(
        &self,
        path: &Path,
        request: &dyn Fn(&GgufFile) -> Request,
        progress: &mut dyn FnMut(u64),
        cancel: &AtomicBool,
    ) -> Result<(), ConvertError> {
        self.write_any(path, Some(request), progress, cancel)
    }

    fn write_any(
        &self,
        path: &Path,
        request: Option<&dyn Fn(&GgufFile) -> Request>,
        progress: &mut dyn FnMut(u64),
        cancel: &AtomicBool,
    ) -> Result<(), ConvertError> {
        let part = PartFile::create(path)?;
        let file = part.file();
        outline::write(file, self.writer(file)?, self.tensor_bytes())
            .map_err(|error| named(&part, error))?
            .map_err(|error| part.error(error))?;
        let outline = Arc::new(GgufFile::open(part.path())?);
        self.check(&outline)?;
        let request = request.map(|request| request(&outline));
        drop(outline);
        outline::clear(file).map_err(|error| part.error(error))?;
        match &request {
            None => drop(self.write_to(&part, None, progress, cancel)?),
            Some(request) => self.write_known(&part, request, progress, cancel)?,
        }
        self.check(&Arc::new(GgufFile::open(part.path())?))?;
        Ok(part.finish()?)
    }

    /// Writes all with a receipt; a thread hashes the folder's files meanwhile.
    fn write_known(
        &self,
        part: &PartFile,
        request: &Request,
        progress: &mut dyn FnMut(u64),
        cancel: &AtomicBool,
    ) -> Result<(), ConvertError> {
        let files = self.source_files();
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let stop = AtomicBool::new(false);
        let goes_on = || !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("teff-receipt".into());
            let hashes = thread.spawn_scoped(scope, || hashes_of(&files, &goes_on));
            let hashes = hashes.map_err(|error| part.error(error))?;
            let unknown = Known::placeholder_of(&names, self.outputs.len());
            let written = self.write_to(part, Some((request, &unknown)), progress, cancel);
            stop.store(written.is_err(), Ordering::Relaxed);
            let tensors = written?;
            let hashes = hashes.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            let files: Vec<(String, String)> = names.iter().cloned().zip(hashes).collect();
            let source = receipt::hash_of_files(&files);
            let known = Known { source, files, tensors };
            // Over the header of zeros.
            let mut file = part.file();
            file.seek(SeekFrom::Start(0)).map_err(|error| part.error(error))?;
            let writer = self.writer_with(file, Some((request, &known)))?;
            drop(writer.write_header().map_err(|error| named(part, error))?);
            Ok(())
        })
    }

    /// Files of the folder that the result is made of, but for those of the vocabulary: names within the folder,
    /// and paths.
    fn source_files(&self) -> Vec<(String, PathBuf)> {
        let configs = ["config.json", "adapter_config.json"].map(|name| self.folder.join(name));
        let configs = configs.iter().filter(|path| path.exists()).map(PathBuf::as_path);
        let named = |path: &Path| {
            let name = path.strip_prefix(&self.folder).unwrap_or(path);
            // As on every system.
            let words: Vec<_> = name.iter().map(|word| word.to_string_lossy()).collect();
            (words.join("/"), path.to_owned())
        };
        configs.chain(self.tensors.paths()).map(named).collect()
    }

    /// A writer that has all metadata and knows all tensors.
    fn writer<W: Write>(&self, out: W) -> Result<GgufWriter<W>, ConvertError> {
        self.writer_with(out, None)
    }

    fn writer_with<W: Write>(
        &self,
        out: W,
        receipt: Option<(&Request, &Known)>,
    ) -> Result<GgufWriter<W>, ConvertError> {
        let mut writer = GgufWriter::new(out);
        for (key, value) in &self.keys.entries {
            writer.add(key.clone(), value.clone())?;
        }
        if let Some((request, known)) = receipt {
            let names = self.outputs.iter().map(|output| &output.name[..]);
            for (key, value) in request.metadata(names, false, known) {
                writer.add(key, value)?;
            }
        }
        for output in &self.outputs {
            writer.declare(output.name.clone(), output.ty, &output.dims())?;
        }
        Ok(writer)
    }

    /// Writes all tensors; returns what a receipt says of each, if there is to be one.
    fn write_to(
        &self,
        part: &PartFile,
        receipt: Option<(&Request, &Known)>,
        progress: &mut dyn FnMut(u64),
        cancel: &AtomicBool,
    ) -> Result<Vec<Written>, ConvertError> {
        let named = |error| named(part, error);
        let mut data = self.writer_with(part.file(), receipt)?.write_header().map_err(named)?;
        let (mut done, mut all) = (0, Vec::new());
        for output in &self.outputs {
            let mut hash = receipt.map(|_| TensorHash::default());
            let loss = stream::stream(&self.tensors, output, hash.is_some(), &mut |bytes| {
                if cancel.load(Ordering::SeqCst) {
                    return Err(ConvertError::Cancelled);
                }
                hash.iter_mut().for_each(|hash| hash.update(bytes));
                data.write_chunk(bytes).map_err(named)?;
                done += bytes.len() as u64;
                progress(done);
                Ok(())
            })?;
            let written =
                |hash: TensorHash| Written { sha256: hash.finish(), loss, has_factors: false };
            all.extend(hash.map(written));
        }
        data.finish().map_err(named)?;
        Ok(all)
    }

    /// Loads the result as it is loaded to be run: every tensor and key has a meaning, and the one that
    /// the configuration gives it.
    fn check(&self, file: &Arc<GgufFile>) -> Result<(), ConvertError> {
        let Some(config) = &self.config else {
            return Adapter::new(file.clone(), self.arch, 1.0)
                .map(drop)
                .map_err(ConvertError::Model);
        };
        let hparams = Hparams::new(file).map_err(keys::as_entry)?;
        let spec = arch::spec(&hparams).map_err(keys::as_entry)?;
        agree::with_spec(config, &spec)?;
        let n_ctx = hparams.n_ctx_train.min(512);
        lower(file, &spec, KernelTable::detect(), n_ctx).map_err(ConvertError::Model)?;
        Tokenizer::from_gguf(file).map_err(ConvertError::Text)?;
        Ok(())
    }
}

/// Names the file of an error of writing it, such as that of a full disk.
fn named(part: &PartFile, error: gguf_rs_lite::Error) -> ConvertError {
    match error {
        gguf_rs_lite::Error::Write(error) => part.error(error).into(),
        error => ConvertError::Gguf(error),
    }
}
