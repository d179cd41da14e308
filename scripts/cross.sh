#!/usr/bin/env bash
# Builds teff for another CPU on a Debian-like machine that has nothing but a Rust toolchain, and
# runs it there under QEMU. Installs what is missing (as root, or by sudo); silent when all is there.
#
#     scripts/cross.sh TARGET                    target/cross/TARGET/teff, stripped
#     scripts/cross.sh --static TARGET           .../teff-static, needs no library on the board
#     scripts/cross.sh --run TARGET -- ARGS      builds, then `teff ARGS` under QEMU
#     scripts/cross.sh --env TARGET              what cargo needs, as lines to `eval`
#
# TARGET is aarch64-unknown-linux-gnu, armv7-unknown-linux-gnueabihf or riscv64gc-unknown-linux-gnu.
# $QEMU_CPU chooses the CPU that QEMU plays (cortex-a53, cortex-a72, cortex-a76, max, ...).
#
# The C compiler that links comes from Debian. The standard library comes from rustup; where rustup
# is not or cannot fetch it (or with --debian), from Debian's own Rust packages, unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/teff-cross: nothing of rustup's changes and no foreign architecture is
# added to the system.
#
# By hand, where rustup works and the compiler is there (Debian: gcc-aarch64-linux-gnu):
#
#     rustup target add aarch64-unknown-linux-gnu
#     CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
#         cargo build --release --target aarch64-unknown-linux-gnu
#
# A static binary can also be had from musl, whose allocator is slower: target
# aarch64-unknown-linux-musl, with a compiler for musl (aarch64-linux-musl-gcc) as linker and as CC.
set -euo pipefail
cd "$(dirname "$0")/.."

# Of a stripped binary with default features, in bytes.
size_max=15000000
cache=${XDG_CACHE_HOME:-$HOME/.cache}/teff-cross

usage() {
    sed -n '5,8s/^# *//p' scripts/cross.sh >&2
    exit 2
}

say() { printf 'cross: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

static= action=build debian= target=
while (($#)); do
    case $1 in
    --static) static=1 ;;
    --run | --env) action=${1#--} ;;
    --debian) debian=1 ;;
    --)
        shift
        break
        ;;
    -*) usage ;;
    *)
        [[ -z $target ]] || usage
        target=$1
        ;;
    esac
    shift
done

# Debian's names: of the compiler, of the architecture, and QEMU's.
case $target in
aarch64-unknown-linux-gnu) gnu=aarch64-linux-gnu arch=arm64 qemu=aarch64 ;;
armv7-unknown-linux-gnueabihf) gnu=arm-linux-gnueabihf arch=armhf qemu=arm ;;
riscv64gc-unknown-linux-gnu) gnu=riscv64-linux-gnu arch=riscv64 qemu=riscv64 ;;
*) usage ;;
esac
has() { command -v "$1" >/dev/null; }

apt_install() {
    has apt-get || die "install these by hand, there is no apt-get here: $*"
    local as_root=(env)
    ((EUID == 0)) || as_root=(sudo)
    has "${as_root[0]}" || die "as root: apt-get install --no-install-recommends $*"
    say "installing $*"
    "${as_root[@]}" apt-get update -qq || say "apt-get update failed; the old lists must do"
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >&2
}

# The C compiler with its library, QEMU, and a compiler of this machine's for build scripts.
install_system() {
    local need=()
    has cc || need+=(gcc libc6-dev)
    has "$gnu-gcc" || need+=("gcc-$gnu")
    [[ -e /usr/$gnu/lib/libc.a ]] || need+=("libc6-dev-$arch-cross")
    has "qemu-$qemu-static" || has "qemu-$qemu" || need+=(qemu-user-static)
    ((${#need[@]} == 0)) || apt_install "${need[@]}"
}

# Whether the standard library is rustup's: there already, or fetched now.
has_rustup_std() {
    [[ -d $(rustc --print target-libdir --target "$target") ]] && return
    [[ ! -e $cache/$arch/complete ]] || return 1
    has rustup || return
    say "rustup target add $target"
    rustup target add "$target" >&2
}

# Debian's rustc for this machine and its standard library for the target, newest version of both.
# They are the packages that Debian keeps new enough for browsers (rustc-web).
unpack_debian_rust() {
    local prefix=$1 host state release version series llvm msrv
    [[ -e $prefix/complete ]] && return
    has dpkg || die "rustup cannot fetch $target, and this is no Debian"
    host=$(dpkg --print-architecture)
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    say "unpacking Debian's Rust for $target into $prefix"
    rm -rf "$prefix"
    mkdir -p "$prefix/bin" "$prefix/debs"

    # An apt of its own, that knows this machine's mirrors and both architectures.
    state=$prefix/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    : >"$state/status"
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sort -u | awk -v release="$release" '
            $2 ~ "^" release "(-security)?$" && $3 == "main" {
                print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $1, $2, $3
            }' >"$state/sources.list"
    cat >"$state/apt.conf" <<CONF
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "$host";
APT::Architectures { "$host"; "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    private() { APT_CONFIG=$state/apt.conf "$@"; }
    private apt-get update -qq || say "apt-get update failed; what it got must do"
    version=$(private apt-cache madison "libstd-rust-web-dev:$arch" |
        awk -F' *[|] *' '!n++ { print $2 }')
    [[ -n $version ]] || die "Debian $release has no Rust for $arch"
    msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    dpkg --compare-versions "$version" ge "$msrv" ||
        die "Debian's Rust for $arch is $version, teff needs $msrv"
    series=$(cut -d. -f1,2 <<<"$version")
    llvm=$(private apt-cache show "libstd-rust-web-$series:$host=$version" |
        grep -o 'libllvm[0-9]*' | sort -u)
    (
        cd "$prefix/debs"
        private apt-get download -qq "rustc-web:$host=$version" "$llvm:$host" \
            "libstd-rust-web-$series:$host=$version" "libstd-rust-web-dev:$host=$version" \
            "libstd-rust-web-dev:$arch=$version"
    )
    for deb in "$prefix"/debs/*.deb; do dpkg -x "$deb" "$prefix"; done
    local missing
    missing=$(private apt-cache depends "$llvm:$host" | sed -n 's/^ *Depends: //p' | sed 's/:.*//' |
        while read -r name; do dpkg -s "$name" >/dev/null 2>&1 || echo "$name"; done)
    [[ -z $missing ]] || apt_install $missing
    rm -rf "$state" "$prefix/debs" "$prefix"/usr/share/{doc,man}
    for tool in rustc rustdoc; do
        cat >"$prefix/bin/$tool" <<WRAPPER
#!/bin/sh
libraries=\$(echo "$prefix"/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=\$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec "$prefix/usr/bin/$tool" "\$@"
WRAPPER
        chmod +x "$prefix/bin/$tool"
    done
    "$prefix/bin/rustc" --version >&2
    touch "$prefix/complete"
}

# `export NAME=VALUE` for everything cargo, the crates with C and QEMU want to know.
environment() {
    local under=${target//-/_} runner
    local upper=${under^^}
    runner=$(command -v "qemu-$qemu-static" || command -v "qemu-$qemu")
    cat <<ENV
export CARGO_TARGET_${upper}_LINKER=$gnu-gcc
export CARGO_TARGET_${upper}_RUNNER=$runner
export CC_$under=$gnu-gcc AR_$under=$gnu-ar
export QEMU_LD_PREFIX=/usr/$gnu
ENV
    if [[ -n $debian ]]; then
        echo "export RUSTC=$(printf %q "$cache/$arch/bin/rustc")"
        echo "export RUSTDOC=$(printf %q "$cache/$arch/bin/rustdoc")"
    fi
}

# One binary, stripped, with what it needs of the board on standard output.
build() {
    local built=target/$target/release/teff out=target/cross/$target/teff flags=() needs size
    [[ -z $static ]] || out+=-static flags=(-C target-feature=+crt-static)
    cargo rustc --release --locked --quiet --target "$target" --bin teff -- "${flags[@]}"
    mkdir -p "$(dirname "$out")"
    "$gnu-strip" -o "$out" "$built"
    if "$gnu-readelf" -d "$out" | grep -q NEEDED; then
        [[ -z $static ]] || die "$out needs libraries although it was to be static"
        needs="glibc $("$gnu-readelf" -V "$out" | grep -o 'GLIBC_[0-9.]*' | sed 's/.*_//' |
            sort -Vu | tail -n 1) or newer"
    else
        needs="no library"
    fi
    size=$(stat -c %s "$out")
    printf '%s: %d.%d MB, needs %s\n' "$out" $((size / 1000000)) $((size / 100000 % 10)) "$needs" >&2
    ((size <= size_max)) || die "that is more than $size_max bytes"
    binary=$out
}

install_system
has cargo || die "there is no Rust toolchain here; see rustup.rs"
if [[ -n $debian ]] || ! has_rustup_std; then
    debian=1
    unpack_debian_rust "$cache/$arch"
fi
settings=$(environment)
if [[ $action == env ]]; then
    echo "$settings"
    exit
fi
eval "$settings"
build
if [[ $action == run ]]; then
    runner=CARGO_TARGET_${target//-/_}_RUNNER
    runner=${runner^^}
    exec "${!runner}" "$binary" "$@"
fi
