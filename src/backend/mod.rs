//! Where a step is computed. A [`program::Program`] is a flat list of operations on numbered
//! buffers; a backend runs it for a batch of tokens. It knows nothing of models.

pub mod cpu;
pub mod pages;
pub mod program;
pub mod recurrent;
pub mod reference;
