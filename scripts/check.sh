#!/usr/bin/env bash
# Everything a change must pass, in the order that fails soonest. CI runs exactly this.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

no_gpu_by_default() {
    [[ $(uname) == Darwin ]] || ! cargo tree --package teff --edges normal --prefix none | grep '^wgpu'
}

# Crates apart from the workspace, whose lock files nothing else here reads.
locks_are_true() {
    for crate in src/teff-py tests/fuzz; do
        cargo metadata --locked --format-version 1 --manifest-path "$crate/Cargo.toml" >/dev/null
    done
}

step cargo fmt --all --check
step locks_are_true
# With the layers on a GPU; what there is without them is in the sets of features below.
step cargo clippy --workspace --all-targets --features teff/gpu -- -D warnings
step cargo clippy --package teff --no-default-features -- -D warnings
for features in cache convert hub pypi cli serve; do
    step cargo clippy --package teff --no-default-features --features "$features" -- -D warnings
done
step no_gpu_by_default
step cargo test --workspace --features teff/gpu # layers on a GPU, too: built once for all
step scripts/clients/check.sh --python target/debug/teff
step scripts/check_loom.sh
step scripts/check_old_cpu.sh
step scripts/check_arm.sh --fast
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps
printf '\nall checks passed\n'
