//! One integration binary: it links once, and its parts share their helpers.

#[cfg(feature = "cli")]
mod cache;
mod fixture_model;
mod layers;
mod tokenizers;
