//! Tuning: scales of quantized blocks, norms, or adapters of low rank, trained on a text.
//!
//! A [`Tuner`] runs the operations of a model's program over whole sequences in f32, and backward: families
//! need nothing of their own, and one with an operation whose gradient is not known is refused by its name.
//! Codes stay; what is trained of quantized tensors are the scales and minimums of their blocks
//! (`scales.rs`), as they will be stored. The loss is that of the next token, or the divergence from a
//! teacher's answers. [`train`](train()) makes steps of AdamW and keeps what was best on tokens that it does not
//! learn from.
//!
//! Cost: six operations for each weight and token of a step. Memory: the activations of one sequence, some
//! bytes for each number that is trained, and one tensor's values at a time.
//! Results do not depend on the number of threads.

mod activation;
mod adamw;
mod adapter;
mod attention;
mod checkpoint;
mod error;
mod linear;
mod loss;
mod machine;
mod norm;
mod output;
mod parameters;
mod pass;
mod rope;
mod scales;
mod teacher;
#[cfg(test)]
mod testing;
mod train;
mod tuner;

pub use adamw::Schedule;
pub use checkpoint::State;
pub use error::TuneError;
pub use loss::{Score, Sequence};
pub use parameters::{LoraShape, Trainable};
pub use teacher::TeacherModel;
pub use train::{Course, Event, Report, train};
pub use tuner::Tuner;
