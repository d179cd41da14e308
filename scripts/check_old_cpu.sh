#!/usr/bin/env bash
# What runs on an x86-64 CPU without AVX, here a Nehalem of 2008 that QEMU emulates: the kernels,
# against the scalar level, and a small model through the decoder; or the program itself. An
# instruction such a CPU does not have kills what meets it. Needs QEMU (Debian: qemu-user-static); see
# scripts/require.sh for what happens without. Nothing to do on other machines than x86-64.
#
#     scripts/check_old_cpu.sh
#     scripts/check_old_cpu.sh run --model smollm2:135m --temp 0 -n 16 --prompt "Once upon a time"
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/require.sh

# Old x86-64 CPUs are no matter of other machines.
[[ $(uname -m) == x86_64 ]] || {
    echo "nothing to check: no x86-64 machine"
    exit 0
}
qemu=$(command -v qemu-x86_64-static || command -v qemu-x86_64) ||
    missing qemu "there is no qemu-x86_64 here (Debian: qemu-user-static)"
cpu=("$qemu" -cpu Nehalem)

if (($#)); then
    cargo build --release
    exec "${cpu[@]}" target/release/teff "$@"
fi

host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${host}_RUNNER=${cpu[*]}"
# Always the whole workspace, as in scripts/check.sh: one package alone has its dependencies with other
# features, and is built anew.
TEFF_EXPECTED_ISA=sse41 cargo test --workspace --features teff/gpu --test isa_matmul --test isa_float
cargo test --workspace --features teff/gpu --lib -- block:: float:: interleave::
cargo test --workspace --features teff/gpu --test it decoder::sequences
