//! The `teff` program.
fn main() {}
