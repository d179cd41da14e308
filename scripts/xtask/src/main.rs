//! Chores of the repository that are easier in Rust than in shell.
fn main() {}
