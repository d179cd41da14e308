#!/usr/bin/env bash
# Installs the Python package into an environment of its own by `pip install .`, as a user would, then runs
# its tests on the tiny model of tests/golden and its three examples on a real one.
#
#     scripts/check_python.sh [MODEL]
#
# MODEL is a GGUF file of a model that chats; without one, that of `teff pull smollm2:135m`. PYTHON names the
# interpreter (default python3), CARGO_TARGET_DIR where Rust builds (default: a folder that is gone at the
# end). Built without optimization, as tests are, unless RELEASE=1. It needs Rust, pip and its index.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/require.sh

model=${1:-${TEFF_CACHE:-$HOME/.cache/teff}/models/SmolLM2-135M-Instruct.Q4_1.gguf}
[[ -f $model ]] || missing models "there is no $model (teff pull smollm2:135m)"
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$folder/target}
((${RELEASE:-0})) || export MATURIN_PEP517_ARGS="--profile dev"

"$python" -m venv "$folder/venv"
inside=$folder/venv/bin/python
"$inside" -m pip install --quiet --disable-pip-version-check ./src/teff-py
TEFF_MODEL=$PWD/tests/golden/faults/tiny.gguf "$inside" -m unittest discover --start-directory src/teff-py/tests

shows() {
    local said
    said=$("$inside" "src/teff-py/examples/$1" "$model")
    printf '%s:\n%s\n' "$1" "$said"
    grep -qE "$2" <<<"$said" || {
        echo "$1 does not say $2" >&2
        exit 1
    }
}
shows generate.py "'completion_tokens': 32"
shows chat.py "^\{'city': '.*', 'warm': (True|False)\}"
shows chat.py '^calls weather with \{"city": "(Paris|Oslo)"\}'
shows embed.py '^-?[01]\.[0-9]+ a winter evening'

# The types are those of the package: names of the stub that the package lacks, and the other way around.
"$inside" - <<'PYTHON'
import ast
import inspect
import pathlib

import teff

stub = ast.parse((pathlib.Path(teff.__file__).parent / "_teff.pyi").read_text())
for node in stub.body:
    if isinstance(node, ast.ClassDef) and node.name in ("Model", "Answer", "Event"):
        told = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
        told |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        real = {name for name in vars(getattr(teff, node.name)) if not name.startswith("__")}
        told = {name for name in told if not name.startswith("__")}
        assert told == real, f"{node.name}: {told ^ real}"
print("all checks passed")
PYTHON
