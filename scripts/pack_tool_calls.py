#!/usr/bin/env python3
"""Packs raw outputs of model families into tests/golden/tool_calls.json.xz.

    scripts/pack_tool_calls.py FOLDER

FOLDER has NAME.json for each family: `family`, `tools`, and `cases` with `raw` and the expected
`content`, `reasoning` and `tool_calls`. Files without cases are left out.
"""

import json
import lzma
import pathlib
import sys

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden"
# Read by lzma-rs, which knows no other check.
XZ = {"format": lzma.FORMAT_XZ, "check": lzma.CHECK_CRC32, "preset": 9 | lzma.PRESET_EXTREME}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    packed = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    packed = [family for family in packed if "cases" in family]
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"))
    (GOLDEN / "tool_calls.json.xz").write_bytes(lzma.compress(text.encode(), **XZ))
    print(f"{len(packed)} families, {sum(len(p['cases']) for p in packed)} cases")


if __name__ == "__main__":
    main()
