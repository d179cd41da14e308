//! One integration binary: it links once, and its parts share their helpers.

mod cache;
mod fixture_model;
mod layers;
