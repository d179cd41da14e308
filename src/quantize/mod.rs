//! GGUF files of other types from GGUF files: what `teff quantize` does, as a library.
//!
//! [`imatrix`] is how much an error in each column of a weight counts, [`collect`] how that is
//! measured, [`mix`] which type each tensor gets, [`METHODS`] how the codes are found. A [`Plan`] says
//! what will be in the file; [`Plan::write`] streams it, some rows at a time, which threads share:
//! the bytes are the same for any number of them, and the memory needed is a few MiB beside the
//! importances, whatever the model's size.
//! Files appear under their names when they are whole.
//!
//! ```no_run
//! use gguf_rs_lite::GgufFile;
//! use std::path::Path;
//! use teff::quantize::{Options, Plan, imatrix::Imatrix, mix::Mix};
//!
//! let file = GgufFile::open("model-f16.gguf")?;
//! let options = Options {
//!     imatrix: Some(Imatrix::open(Path::new("model.imatrix.gguf"))?),
//!     ..Options::new(Mix::Q4_K_M)
//! };
//! let plan = Plan::new(&file, &options)?;
//! println!("{} tensors, {} bytes", plan.tensors.len(), plan.data_bytes());
//! let losses = plan.write(Path::new("model-q4_k_m.gguf"), &mut |_| true)?;
//! for (tensor, loss) in plan.tensors.iter().zip(&losses) {
//!     println!("{}: {} loses {:.1e}", tensor.info.name, tensor.ty, loss.rms_error());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod allocate;
mod at_inputs;
mod clip;
pub mod collect;
mod error;
mod feedback;
mod form;
mod grids;
pub mod hessian;
mod hqq;
pub mod imatrix;
mod method;
pub mod mix;
mod output;
mod plan;
mod planned;
mod product;
pub mod prune;
#[cfg(feature = "receipt")]
pub mod receipt;
mod refit;
mod rows;
mod share;
mod survey;
mod trial;
mod warning;
mod zeros;

pub use crate::receipt::Loss;
pub use at_inputs::{AtInputs, Factors, OutputLoss};
pub use error::QuantizeError;
pub use feedback::Feedback;
pub use form::Form;
pub use method::{METHODS, Method};
pub use output::outputs;
pub use plan::{Options, Plan};
pub use planned::{Made, Planned};
pub(crate) use refit::Kind as ScaleKind;
pub use rows::Step;
pub(crate) use rows::check_finite;
pub(crate) use share::share;
pub use survey::{Survey, Surveyed, Target};
pub use trial::Trial;
pub use warning::Warning;
pub use zeros::{KeepZeros, zeros_of};
