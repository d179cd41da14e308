//! A model: its file, what that describes, and what is added to it.

use super::EngineError;
use crate::model::{Adapter, Hparams, ModelSpec, arch};
use crate::tensor::Weight;
use crate::tensor::memory;
use crate::text::Tokenizer;
use gguf_rs_lite::GgufFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file and its description, and the adapters that change it.
pub struct Model {
    pub(super) file: Arc<GgufFile>,
    pub(super) spec: ModelSpec,
    pub(super) path: PathBuf,
    /// Weights in place of the file's tensors of their names.
    pub(super) replaced: Vec<Weight>,
    pub(super) adapters: Vec<Adapter>,
    /// Of the adapters.
    pub(super) adapter_paths: Vec<PathBuf>,
}

impl Model {
    /// Opens a GGUF file and reads what its metadata describes. Tensors are bound by
    /// [`Engine::new`](super::Engine::new). Those of a big-endian file are turned around, which takes as much memory as
    /// the file has bytes.
    ///
    /// # Errors
    /// [`EngineError::File`] if the file cannot be read, is no GGUF file, or is to be turned around
    /// and the memory for that is refused. [`EngineError::Model`] if its architecture is unknown, or
    /// a key of it is missing, unknown or has a value that cannot be.
    pub fn open(path: &Path) -> Result<Model, EngineError> {
        let mut file = GgufFile::open(path).map_err(EngineError::File)?;
        memory::ask(|| file.make_little_endian()).map_err(EngineError::File)?;
        Model::from_file(Arc::new(file), path)
    }

    /// The model of a file that is open already; `path` is for messages. Its tensors must be
    /// little-endian: [`GgufFile::make_little_endian`].
    ///
    /// # Errors
    /// [`EngineError::Model`] if the architecture is unknown, or a key of it is missing, unknown or
    /// has a value that cannot be.
    pub fn from_file(file: Arc<GgufFile>, path: &Path) -> Result<Model, EngineError> {
        let named = |error| EngineError::Model { path: path.to_path_buf(), error };
        let h = Hparams::new(&file).map_err(named)?;
        let spec = arch::spec(&h).map_err(named)?;
        let (adapters, adapter_paths) = (Vec::new(), Vec::new());
        let replaced = Vec::new();
        Ok(Model { spec, path: path.to_path_buf(), file, replaced, adapters, adapter_paths })
    }

    /// Gives engines that are made from now on these weights in place of the file's tensors of their
    /// names, and the file's own in place of those that were given before.
    pub fn replace_weights(&mut self, weights: Vec<Weight>) {
        self.replaced = weights;
    }

    /// Adds a LoRA adapter, times `scale`; `path` is for messages. Its tensors are bound by
    /// [`Engine::new`](super::Engine::new).
    ///
    /// # Errors
    /// The file is no adapter, or one for another architecture.
    pub fn add_adapter(
        &mut self,
        mut file: GgufFile,
        path: &Path,
        scale: f32,
    ) -> Result<(), EngineError> {
        memory::ask(|| file.make_little_endian()).map_err(EngineError::File)?;
        let path = path.to_path_buf();
        let architecture = self.file.get("general.architecture").and_then(|value| value.as_str());
        match Adapter::new(Arc::new(file), architecture.unwrap_or_default(), scale) {
            Ok(adapter) => self.adapters.push(adapter),
            Err(error) => return Err(EngineError::Model { path, error }),
        }
        self.adapter_paths.push(path);
        Ok(())
    }

    /// Switches to embedding mode: engines made from now on give embeddings of texts in place of
    /// logits.
    pub fn output_embeddings(&mut self) {
        self.spec.head.logits = false;
    }

    /// The file.
    pub fn file(&self) -> &Arc<GgufFile> {
        &self.file
    }

    /// The description.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's vocabulary.
    ///
    /// # Errors
    /// [`EngineError::Text`] if the file has no vocabulary, or one that cannot be used.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        Tokenizer::from_gguf(&self.file)
            .map_err(|error| EngineError::Text { path: self.path.clone(), error })
    }
}
