#!/usr/bin/env bash
# The tests as aarch64 programs on the CPUs of a Raspberry Pi 3, 4 and 5 and on one that has
# everything, all played by QEMU: each must choose its level of kernels, none may meet an
# instruction it does not have, and all must return the scalar level's bits. Then a real model must
# write the same text there as here.
#
#     scripts/check_arm.sh           everything; fetches two models
#     scripts/check_arm.sh --fast    the kernels and small models
#
# scripts/cross.sh --env aarch64-unknown-linux-gnu installs the toolchain; see scripts/require.sh for what
# --fast does where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/require.sh

target=aarch64-unknown-linux-gnu
# What QEMU plays, and the level of kernels it is to choose.
cpus=(
    "cortex-a53 neon"
    "cortex-a72 neon"
    "cortex-a76 neon_dot"
    "max neon_i8mm"
)

fast=
case ${1:-} in
--fast) fast=1 ;;
'') ;;
*)
    sed -n '7,8s/^# *//p' scripts/check_arm.sh >&2
    exit 2
    ;;
esac

if [[ -n $fast ]]; then
    install="scripts/cross.sh --env $target installs it"
    command -v aarch64-linux-gnu-gcc >/dev/null ||
        missing cross "there is no aarch64-linux-gnu-gcc here; $install"
    command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null ||
        missing qemu "there is no qemu-aarch64 here; $install"
fi
settings=$(scripts/cross.sh --env "$target") || {
    [[ -n $fast ]] || exit 1
    missing cross "no standard library for $target can be had here"
}
# Only cargo's calls below see these: the program for this machine is built without.
on_arm() (
    eval "$settings"
    "$@"
)

# Runs the command on each CPU, with its level in TEFF_EXPECTED_ISA.
on_each_cpu() {
    local row cpu level
    for row in "${cpus[@]}"; do
        read -r cpu level <<<"$row"
        printf '\n-- %s, to be %s: %s\n' "$cpu" "$level" "$*"
        QEMU_CPU=$cpu TEFF_EXPECTED_ISA=$level on_arm "$@"
    done
}

if [[ -n $fast ]]; then
    # Always both packages, so that both are built once.
    tests=(cargo test --quiet --target "$target" --no-default-features
        --package teff-kernels --package teff)
    on_each_cpu "${tests[@]}" --test isa_matmul levels_and_types
    # Each level once; the levels share their float operations and the decoder.
    cpus=("${cpus[0]}" "${cpus[@]:2}")
    on_each_cpu "${tests[@]}" --test isa_matmul
    cpus=("${cpus[0]}")
    on_each_cpu "${tests[@]}" --test isa_float
    on_each_cpu "${tests[@]}" --test it decoder::sequences
    exit
fi

cargo build --release --locked
for model in smollm2:135m gemma3:270m; do
    target/release/teff pull "$model" >/dev/null
done
tests=(cargo test --release --quiet --target "$target" --workspace --exclude xtask)

# What every CPU shows for itself: the scalar level's bits, the reference's logits of the networks
# that most models are, two real models beside exact arithmetic, then a text. In all that is half an
# hour of one core's time.
networks=(gemma3_dense llama_dense llama_moe qwen2_dense qwen3_dense)
on_each_cpu "${tests[@]}" --test isa_matmul --test isa_float
on_each_cpu "${tests[@]}" --test it -- "${networks[@]/#/goldens::archs::}" real_models::

# The first tokens decide: from one that differs on, everything does.
tell() { "$@" run -m smollm2:135m --temp 0 -n 48 -p "Explain why the sky is blue." 2>/dev/null; }
expected=$(tell target/release/teff)
says_the_same() {
    local said
    said=$(tell "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER" "target/$target/release/teff")
    [[ $said == "$expected" ]] || {
        diff <(echo "$expected") <(echo "$said")
        return 1
    }
    echo "the same text as here"
}
on_each_cpu says_the_same

# All the rest, which is the same above the kernels, on the first. Left out is what takes an emulator
# long and the CPU has no part in: downloads and locks, rules of the source, mutations of headers,
# megabytes of text.
not_here=(cache:: layers:: hostile_models::a_flipped_byte tokenizer::pre::tests::long_runs)
cpus=("${cpus[0]}")
on_each_cpu "${tests[@]}" -- "${not_here[@]/#/--skip=}"
printf '\nall of ARM passed\n'
