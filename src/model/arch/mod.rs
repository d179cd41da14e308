//! One file per architecture: what its metadata says, as a [`ModelSpec`].

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use super::{Hparams, ModelError, ModelSpec};

type Describe = fn(&Hparams<'_>) -> Result<ModelSpec, ModelError>;

/// Every architecture that can be run: `general.architecture` and its description.
const ARCHS: &[(&str, Describe)] = &[
    ("gemma3", gemma3::spec),
    ("llama", llama::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
];

/// The names of all architectures.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARCHS.iter().map(|row| row.0)
}

/// The description of the model that the metadata is of.
pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let row = ARCHS.iter().find(|row| row.0 == h.arch());
    let (_, describe) = row.ok_or_else(|| ModelError::UnknownArchitecture(h.arch().into()))?;
    let spec = describe(h)?;
    h.finish()?;
    Ok(spec)
}
