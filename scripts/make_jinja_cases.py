#!/usr/bin/env python3
"""Renders the templates of tests/golden/jinja/cases.json anew, with Python's Jinja2.

    pip install jinja2==3.1.6
    scripts/make_jinja_cases.py [--check]

The file is a list of pairs: a template, and its text, null where Python refuses. To add a case, add a
pair with any text and run this. The environment is the one in which model hubs render chat templates:
immutable sandbox, `trim_blocks`, `lstrip_blocks`, `loopcontrols`, and `tojson` without HTML escapes.
`--check` changes nothing and fails if a text differs.
"""

import json
import pathlib
import sys

import jinja2
import jinja2.sandbox

CASES = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "jinja" / "cases.json"
# What tests/it/jinja.rs renders the templates with.
INPUT = {
    "messages": [{"role": "user", "content": "Ué <b>"}, {"role": "assistant", "content": "ok"}],
    "add_generation_prompt": True,
}


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def rendered(env, template):
    try:
        return env.from_string(template).render(**INPUT)
    except Exception:  # Whatever Python raises, the template has no text.
        return None


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    env = environment()
    old = json.loads(CASES.read_text(encoding="utf-8"))
    new = [[template, rendered(env, template)] for template, _ in old]
    changed = [template for (template, text), (_, now) in zip(old, new) if text != now]
    if sys.argv[1:]:
        for template in changed:
            print(f"differs: {template}", file=sys.stderr)
        sys.exit(1 if changed else 0)
    lines = ",\n".join(" " + json.dumps(pair, ensure_ascii=False) for pair in new)
    CASES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(new)} cases, {len(changed)} changed")


if __name__ == "__main__":
    main()
