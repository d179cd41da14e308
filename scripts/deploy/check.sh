#!/usr/bin/env bash
# Whether the files of this folder are what their readers take: systemd's own verifier (and its count of what the
# service is exposed to), and the schemas of Kubernetes' objects (kubernetes-validate from pip, in target/deploy).
# The dashboard is a test of its own (tests/it/serve/dashboard.rs).
#
#     scripts/deploy/check.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=target/deploy
mkdir -p "$folder"

if command -v systemd-analyze >/dev/null; then
    # The program need not be installed here for its unit to be right.
    sed 's#^ExecStart=/usr/local/bin/teff#ExecStart=/bin/true#' scripts/deploy/teff.service >"$folder/teff.service"
    systemd-analyze verify "$folder/teff.service"
    systemd-analyze security --offline=true --threshold=20 --no-pager "$folder/teff.service" | tail -n 1
else
    echo 'there is no systemd-analyze (Debian: systemd), which checks the unit' >&2
    exit 1
fi

if [[ ! -x $folder/venv/bin/kubernetes-validate ]]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet kubernetes-validate
fi
"$folder/venv/bin/kubernetes-validate" --strict scripts/deploy/kubernetes.yaml
