#!/usr/bin/env bash
# What people's clients get from `teff serve`: installs the official packages and some frameworks, in the versions of
# requirements.txt and package.json, below target/clients, and runs their sessions.
#
#     scripts/clients/check.sh [--python] [PROGRAM [MODEL]]
#
# --python leaves the clients in JavaScript out. PROGRAM is target/release/teff and MODEL smollm2:135m, if not named.
# See scripts/require.sh for what happens where packages or the model cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/require.sh

javascript=true
[[ ${1-} != --python ]] || { javascript=false; shift; }
program=$(realpath "${1-target/release/teff}") model=${2-smollm2:135m}
here=scripts/clients there=target/clients

mkdir -p "$there"
"$program" pull "$model" >/dev/null || missing models "$model cannot be had"
[[ -x $there/venv/bin/pip ]] || python3 -m venv "$there/venv" || missing clients "python3 makes no venv"
"$there/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" ||
    missing clients "pip cannot install the packages of $here/requirements.txt"
for sessions in official frameworks; do
    printf -- '-- %s\n' "$sessions"
    "$there/venv/bin/python" "$here/$sessions.py" "$program" "$model"
done

$javascript || exit 0
printf -- '-- javascript\n'
cp "$here/package.json" "$here/javascript.mjs" "$there"
npm install --prefix "$there" --silent --no-audit --no-fund
log=$there/serve.log
"$program" serve -m "$model" --port 0 --no-log 2>"$log" &
server=$!
trap 'kill $server' EXIT
until grep -q 'listening at' "$log"; do
    kill -0 $server
    sleep 0.1
done
node "$there/javascript.mjs" "$(grep -o 'http://[^ ]*' "$log" | head -1)"
