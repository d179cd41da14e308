#!/usr/bin/env bash
# What runs on an x86-64 CPU without AVX, here a Nehalem of 2008 that QEMU emulates: the kernels,
# against the scalar level, and a small model through the decoder; or the program itself. An
# instruction such a CPU does not have kills what meets it. Skipped where there is no QEMU (Debian:
# qemu-user-static).
#
#     scripts/check_old_cpu.sh
#     scripts/check_old_cpu.sh run --model smollm2:135m --temp 0 -n 16 --prompt "Once upon a time"
set -euo pipefail
cd "$(dirname "$0")/.."

[[ $(uname -m) == x86_64 ]] || {
    echo "skipped: not an x86-64 machine"
    exit 0
}
qemu=$(command -v qemu-x86_64-static || command -v qemu-x86_64) || {
    echo "skipped: no qemu-x86_64 here"
    exit 0
}
cpu=("$qemu" -cpu Nehalem)

if (($#)); then
    cargo build --release
    exec "${cpu[@]}" target/release/teff "$@"
fi

host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${host}_RUNNER=${cpu[*]}"
TEFF_EXPECTED_ISA=sse41 cargo test --package teff-kernels --lib --test isa_matmul --test isa_float
cargo test --package teff --test it decoder::sequences
