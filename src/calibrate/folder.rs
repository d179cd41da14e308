//! Folders of finished layers: a GGUF file for each, which appears when it is whole, so that work that was
//! broken off goes on where it was.

use super::CalibrateError;
use crate::quantize::Planned;
use crate::tensor::Weight;
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue, PartFile};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Key that says what the layers are made of.
const KEY: &str = "teff.layer.key";

/// A folder of finished layers.
#[derive(Debug)]
pub struct LayerFolder {
    path: PathBuf,
    key: u64,
}

impl LayerFolder {
    /// The folder at `path`, made if it is not there, for layers of `key`: a number for all that they
    /// depend on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path, key: u64) -> Result<LayerFolder, CalibrateError> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(CalibrateError::Folder { path: path.to_owned(), error })
            }
            _ => Ok(LayerFolder { path: path.to_owned(), key }),
        }
    }

    fn file(&self, layer: usize) -> PathBuf {
        self.path.join(format!("{layer:05}.gguf"))
    }

    /// The weights of a layer, if they are there.
    ///
    /// # Errors
    /// The file is damaged or of something else.
    pub(super) fn read(
        &self,
        layer: usize,
        tensors: &[&Planned<'_>],
    ) -> Result<Option<Vec<Weight>>, CalibrateError> {
        let path = self.file(layer);
        if tensors.is_empty() || !path.exists() {
            return Ok(tensors.is_empty().then(Vec::new));
        }
        let file = Arc::new(GgufFile::open(&path)?);
        let foreign = || CalibrateError::Foreign(self.path.clone());
        if file.get(KEY).and_then(|value| value.as_u64()) != Some(self.key) {
            return Err(foreign());
        }
        let weight = |tensor: &&Planned<'_>| {
            let info = file.tensor(&tensor.info.name);
            let info = info.filter(|info| info.ty == tensor.ty && info.dims == tensor.info.dims);
            info.map(|info| Weight::mapped(&file, info)).ok_or_else(foreign)
        };
        tensors.iter().map(weight).collect::<Result<_, _>>().map(Some)
    }

    /// Keeps the weights of a layer.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn write(&self, layer: usize, weights: &[Weight]) -> Result<(), CalibrateError> {
        if weights.is_empty() {
            return Ok(());
        }
        let part = PartFile::create(&self.file(layer))?;
        let mut writer = GgufWriter::new(part.file());
        writer.add(KEY, OwnedValue::U64(self.key))?;
        for weight in weights {
            let [n, rows, cols] = [weight.n, weight.rows, weight.cols].map(|n| n as u64);
            let dims = [cols, rows, n];
            let dims = if n == 1 { &dims[..2] } else { &dims[..] };
            writer.declare(&weight.name[..], weight.ty, dims)?;
        }
        let mut data = writer.write_header()?;
        for weight in weights {
            data.write_chunk(weight.bytes())?;
        }
        data.finish()?;
        Ok(part.finish()?)
    }

    /// Takes the folder away, once nothing reads it.
    ///
    /// # Errors
    /// It holds something else, or cannot be removed.
    pub fn remove(self, n_layers: usize) -> Result<(), CalibrateError> {
        let failed = |path: &Path, error| CalibrateError::Folder { path: path.to_owned(), error };
        for path in (0..n_layers).map(|layer| self.file(layer)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&path, error));
                }
                _ => {}
            }
        }
        fs::remove_dir(&self.path).map_err(|error| failed(&self.path, error))
    }
}
