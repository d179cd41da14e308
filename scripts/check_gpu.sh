#!/usr/bin/env bash
# Lints of the feature `gpu` and the tests of layers on a GPU: on the adapter that TEFF_GPU names, or on
# Mesa's software Vulkan (Debian: mesa-vulkan-drivers, and spirv-tools for what shaders become). See scripts/require.sh for what happens without.
#
#     scripts/check_gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --package teff --all-targets --features gpu -- -D warnings
cargo test --workspace --features teff/gpu --lib --test it -- gpu:: gpu_cli:: gpu_loss:: gpu_models:: gpu_shaders:: auto:: plan:: submission::
