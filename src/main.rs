//! The `teff` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    teff::cli::main()
}
