//! Folders of finished layers: a GGUF file for each, which appears when it is whole, so that work that was
//! broken off goes on where it was.

use super::CalibrateError;
use crate::quantize::{Loss, Made, OutputLoss, Planned};
use crate::tensor::Weight;
use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue, PartFile, TensorInfo, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Key that says what the layers are made of.
const KEY: &str = "teff.layer.key";

/// Beginning of the keys that say what each tensor lost.
const LOSSES: &str = "teff.layer.losses.";

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

    /// Finished tensors of a layer, if they are there: made of these tensors, and of others that a method changes
    /// besides.
    ///
    /// # Errors
    /// The file is damaged or of something else.
    pub(super) fn read(
        &self,
        layer: usize,
        tensors: &[&Planned<'_>],
    ) -> Result<Option<Vec<Made>>, CalibrateError> {
        let path = self.file(layer);
        if tensors.is_empty() || !path.exists() {
            return Ok(tensors.is_empty().then(Vec::new));
        }
        let file = Arc::new(GgufFile::open(&path)?);
        let foreign = || CalibrateError::Foreign(self.path.clone());
        if file.get(KEY).and_then(|value| value.as_u64()) != Some(self.key) {
            return Err(foreign());
        }
        let is_there = |tensor: &&Planned<'_>| {
            let info = file.tensor(&tensor.info.name);
            info.is_some_and(|info| info.ty == tensor.ty && info.dims == tensor.info.dims)
        };
        if !tensors.iter().all(is_there) {
            return Err(foreign());
        }
        let made = |info: &TensorInfo| {
            made_of(Weight::mapped(&file, info), file.get(&format!("{LOSSES}{}", info.name))?)
        };
        let made: Option<Vec<Made>> = file.tensors().iter().map(made).collect();
        made.map(Some).ok_or_else(foreign)
    }

    /// Keeps what was made of a layer.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, layer: usize, all: &[Made]) -> Result<(), CalibrateError> {
        if all.is_empty() {
            return Ok(());
        }
        let part = PartFile::create(&self.file(layer))?;
        let mut writer = GgufWriter::new(part.file());
        writer.add(KEY, OwnedValue::U64(self.key))?;
        for made in all {
            let (loss, outputs) = (made.loss, made.outputs);
            let losses = [
                loss.elements as f64,
                loss.error2,
                loss.weight2,
                loss.written2,
                f64::from(u8::from(made.has_factors)),
                outputs.before,
                outputs.after,
                outputs.size,
                made.unseen as f64,
            ];
            writer.add(format!("{LOSSES}{}", made.weight.name), losses.to_vec())?;
        }
        for Made { weight, .. } in all {
            let [n, rows, cols] = [weight.n, weight.rows, weight.cols].map(|n| n as u64);
            let dims = match (n, rows) {
                (1, 1) => vec![cols],
                (1, _) => vec![cols, rows],
                _ => vec![cols, rows, n],
            };
            writer.declare(&weight.name[..], weight.ty, &dims)?;
        }
        let mut data = writer.write_header()?;
        for Made { weight, .. } in all {
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

/// A tensor with what a file's value says that it lost.
fn made_of(weight: Weight, value: Value<'_>) -> Option<Made> {
    let number = |value: Value<'_>| if let Value::F64(x) = value { Some(x) } else { None };
    let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(number).collect();
    let [elements, error2, weight2, written2, factors, before, after, size, unseen] =
        numbers?.try_into().ok()?;
    let loss = Loss { elements: elements as u64, error2, weight2, written2 };
    let (has_factors, unseen) = (factors != 0.0, unseen as usize);
    Some(Made { weight, loss, has_factors, outputs: OutputLoss { before, after, size }, unseen })
}
