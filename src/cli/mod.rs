//! The command line: one file per verb. The only room that prints.

pub mod list;
pub mod progress;
pub mod pull;
pub mod rm;
