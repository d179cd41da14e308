#!/usr/bin/env python3
"""Packs published chat templates and their cases into tests/golden/chat_templates.json.xz.

    scripts/pack_templates.py FOLDER

FOLDER has NAME.jinja, a template, and NAME.json, a list of cases: an `input` (what the template sees)
and either the `expected` text, as Python's Jinja2 renders it, or an `error`. Only the templates that
tests/golden/NOTICE.md lists with a licence are packed.
"""

import json
import lzma
import pathlib
import re
import sys

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden"
# Read by lzma-rs, which knows no other check.
XZ = {"format": lzma.FORMAT_XZ, "check": lzma.CHECK_CRC32, "preset": 9 | lzma.PRESET_EXTREME}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    notice = (GOLDEN / "NOTICE.md").read_text(encoding="utf-8")
    section = notice.split("## chat_templates", 1)[1].split("\n## ", 1)[0]
    names = re.findall(r"^\| (\S+) \| (?:MIT|Apache-2\.0) \|$", section, re.MULTILINE)
    packed = {}
    for name in names:
        template = (folder / f"{name}.jinja").read_text(encoding="utf-8")
        cases = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        packed[name] = {"template": template, "cases": cases}
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"))
    (GOLDEN / "chat_templates.json.xz").write_bytes(lzma.compress(text.encode(), **XZ))
    print(f"{len(packed)} templates, {sum(len(p['cases']) for p in packed.values())} cases")


if __name__ == "__main__":
    main()
