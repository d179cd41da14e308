#!/usr/bin/env bash
# Holds structured output against the JSON-Schema-Test-Suite (draft 2020-12), which the source package of
# the Python package `jsonschema` carries: prints which schemas are refused and why, which accepted
# instances cannot be written, and fails if a rejected one can.
#
#   scripts/schema_suite.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip download --quiet --no-deps --no-binary jsonschema --dest "$folder" jsonschema
tar -xzf "$folder"/jsonschema-*.tar.gz -C "$folder"
suite=$(echo "$folder"/jsonschema-*/json/tests/draft2020-12)
TEFF_SCHEMA_SUITE=$suite cargo test -p teff --test it -- --ignored --nocapture schema_suite
