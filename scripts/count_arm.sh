#!/usr/bin/env bash
# Instructions that aarch64 executes per generated token of a real model, at each level of kernels,
# counted by QEMU: exact and repeatable where no such CPU is at hand. It is no measure of speed,
# since a dot product is one instruction as a load is, but a change for the worse shows.
#
#     scripts/count_arm.sh [MODEL]     prints CSV, as kept in benches/record/qemu-aarch64
#
# What costs the same whatever the answer's length cancels out: the count is the difference of two
# lengths, both long enough that the weights are interleaved. One thread, so that nobody waits.
# Debian (12): qemu-user, whose emulator takes plugins as the static one does not.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-smollm2:135m}
target=aarch64-unknown-linux-gnu
levels=(scalar neon neon_dot neon_i8mm)
# Tokens of the two answers.
lengths=(24 32)

qemu=${QEMU:-$(command -v qemu-aarch64)} && "$qemu" -h | grep -q -e -plugin || {
    echo "no qemu-aarch64 that takes plugins; Debian: apt-get install qemu-user, or set QEMU" >&2
    exit 1
}
scripts/cross.sh "$target"
eval "$(scripts/cross.sh --env "$target")"
plugin=$(mktemp)
trap 'rm -f "$plugin"' EXIT
cc -O2 -Wall -shared -fPIC -o "$plugin" scripts/count_insns.c

# Runs teff with the arguments after the level; prints what it says, then the count.
counted() {
    local level=$1
    shift
    TEFF_ISA=$level "$qemu" -cpu max -plugin "$plugin" "target/cross/$target/teff" "$@" 2>&1
}

# Instructions until so many tokens are generated. A model that ends by itself gives no count.
count_of() {
    local said
    said=$(counted "$1" run -m "$model" --raw --temp 0 -t 1 -p "Once upon a time" -n "$2")
    grep -q "answer $2 tokens" <<<"$said" || {
        echo "$said" >&2
        return 1
    }
    sed -n 's/^instructions: //p' <<<"$said"
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
echo "date,cpu,model,level,version,instructions_per_token"
for level in "${levels[@]}"; do
    short=$(count_of "$level" "${lengths[0]}")
    long=$(count_of "$level" "${lengths[1]}")
    each=$(((long - short) / (lengths[1] - lengths[0])))
    echo "$(date +%F),qemu-aarch64,$model,$level,$version,$each"
done
