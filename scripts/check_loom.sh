#!/usr/bin/env bash
# The pool's barrier and hand-over in every interleaving of two workers (tests/loom), about a minute
# with its build.
set -euo pipefail
cd "$(dirname "$0")/.."

# A build folder of its own: the flag would have everything else built anew.
RUSTFLAGS="--cfg loom" cargo test --package teff-loom --release --target-dir target/loom
