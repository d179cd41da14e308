//! One integration binary: it links once, and its parts share their helpers.

#[cfg(feature = "cli")]
mod cache;
mod tokenizers;
