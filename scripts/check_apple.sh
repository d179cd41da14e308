#!/usr/bin/env bash
# Type checks and lints of everything for Apple's M series, on a machine that is none: CI's macOS
# job is what runs it. Nothing is linked, so no Apple compiler is needed: what crates have in C is
# left out by a stand-in for it. Needs the target's standard library, which rustup finds or fetches; see
# scripts/require.sh for what happens without.
#
#     scripts/check_apple.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/require.sh

target=aarch64-apple-darwin

if ! [[ -d $(rustc --print target-libdir --target "$target") ]]; then
    rustup target add "$target" || missing apple "no standard library for $target can be had here"
fi

if [[ $(uname) != Darwin ]]; then
    stand_in=$(mktemp -d)
    trap 'rm -rf "$stand_in"' EXIT
    cat >"$stand_in/cc" <<'CC'
#!/bin/sh
# Makes the empty file that -o names; says it is clang to who asks.
for word; do
    case $last in -o) : >"$word" ;; esac
    case $word in -E) echo clang ;; esac
    last=$word
done
CC
    printf '#!/bin/sh\nexit 0\n' >"$stand_in/ar"
    chmod +x "$stand_in/cc" "$stand_in/ar"
    export CC_aarch64_apple_darwin=$stand_in/cc AR_aarch64_apple_darwin=$stand_in/ar
    # What the C compiler would ask Apple's tools for.
    export SDKROOT=$stand_in
fi
cargo clippy --workspace --all-targets --target "$target" --locked -- -D warnings
cargo clippy --package teff --no-default-features --target "$target" --locked -- -D warnings
