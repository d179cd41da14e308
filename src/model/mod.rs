//! Description of a network: hyperparameters, layers, and the tensors that belong to them. Pure
//! data; nothing here computes.

mod adapter;
pub mod arch;
pub mod checkpoint;
pub mod describe;
mod error;
mod fingerprint;
mod harmless;
mod hparams;
pub mod mix_exceptions;
mod spec;
mod weights;

pub(crate) use adapter::EMBEDDING;
#[cfg(feature = "convert")]
pub(crate) use adapter::RANK_MAX;
pub use adapter::{Adapter, LowRank};
pub use error::ModelError;
pub use fingerprint::{Fnv, fingerprint, identity};
pub use hparams::Hparams;
pub(crate) use hparams::LENGTH_MAX;
pub use spec::*;
pub use weights::{Binder, UnusedPart, plain_number, unused_parts};
