#!/usr/bin/env python3
"""Has models answer by JSON schemas, and checks every answer by Python's jsonschema.

    scripts/check_schemas.py TEFF MODEL...

Each schema is answered greedily and with a temperature. An answer that the token limit cuts is no
document and is counted apart; every other one has to be valid. Needs the package `jsonschema`.
"""

import json
import subprocess
import sys

import jsonschema

S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def short(n=20):
    return {"type": "string", "maxLength": n}


def between(low, high):
    return {"type": "integer", "minimum": low, "maximum": high}


def obj(required=None, **properties):
    keys = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": keys,
        "additionalProperties": False,
    }


def array(items, low=0, high=3):
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


PERSON = obj(name=short(), age=between(0, 120))
SCHEMAS = [
    B, {"type": "null"}, short(8), between(-5, 5), {"const": "yes"}, {"enum": ["a", 1, None, True]},
    {"type": "number", "minimum": 0, "maximum": 1}, {"type": "integer", "multipleOf": 7, "minimum": 7,
        "maximum": 700},
    {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1}, {"type": ["string", "null"],
        "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"}, {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"}, {"type": "string", "format": "time"},
    {"type": "string", "minLength": 3, "maxLength": 6}, {"type": "string", "pattern": "^(red|green)$"},
    PERSON, obj(a=I | {"minimum": 0, "maximum": 9}), obj([], a=B, b=B), obj(["b"], a=B, b=between(1, 3)),
    obj(person=PERSON, ok=B), obj(people=array(PERSON, 1, 2)), array(B, 2, 2), array(between(0, 9)),
    array(array(B, 1, 2), 1, 2), array(obj(x=between(0, 99), y=between(0, 99)), 1, 3),
    array({"enum": ["north", "south"]}, 1, 4), {"anyOf": [short(4), between(0, 9)]},
    {"anyOf": [PERSON, obj(error=short(30))]}, {"oneOf": [obj(kind={"const": "a"}, x=B),
        obj(kind={"const": "b"}, y=between(0, 9))]},
    {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 8}]},
    {"$defs": {"n": between(1, 4)}, **obj(a={"$ref": "#/$defs/n"}, b={"$ref": "#/$defs/n"})},
    {"$defs": {"t": obj(v=between(0, 9), next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/t"}]})},
        "$ref": "#/$defs/t"},
    {"$defs": {"t": obj(v=B, kids={"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1})},
        "$ref": "#/$defs/t"},
    {"type": "array", "prefixItems": [short(5), between(0, 9), B], "items": False, "minItems": 3},
    {"type": "array", "prefixItems": [B], "items": between(0, 3), "maxItems": 4},
    {"type": "object", "additionalProperties": between(0, 9), "maxProperties": 2},
    {"type": "object", "properties": {"id": between(1, 9)}, "required": ["id"],
        "additionalProperties": B, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^k[0-9]$": B}, "additionalProperties": False,
        "maxProperties": 2},
    obj(title=short(40), year=between(1900, 2030), rating={"type": "number", "minimum": 0, "maximum": 10}),
    obj(city=short(), country={"enum": ["FR", "DE", "IT"]}, capital=B),
    obj(sentiment={"enum": ["positive", "negative", "neutral"]}, score={"type": "number", "minimum": 0,
        "maximum": 1}),
    obj(steps=array(short(40), 1, 3), answer=short(20)), obj(email={"type": "string", "format": "email",
        "maxLength": 30}),
    obj(lat={"type": "number", "minimum": -90, "maximum": 90}, lon={"type": "number", "minimum": -180,
        "maximum": 180}),
    obj(tags=array(short(8), 1, 3), meta=obj([], x=B)), obj(matrix=array(array(between(0, 9), 2, 2), 2, 2)),
    obj(name=short(), arguments=obj(query=short(30), limit=between(1, 50))),
    obj(**{"key with spaces": B, 'quo"te': B, "\u00e9": B}), obj(**{f"k{i}": B for i in range(12)}),
    obj(**{f"o{i}": obj([], a=B) for i in range(4)}),
    obj([], **{f"opt{i}": between(0, 9) for i in range(8)}), {"type": "array", "maxItems": 0},
    obj(a=obj(b=obj(c=obj(d=obj(e=B))))), {"type": "string", "const": "line\nbreak \"quoted\" \\"},
    {"anyOf": [{"type": "null"}, array(short(5), 1, 2)]}, {"enum": [[1, 2], {"a": None}, "x"]},
    obj(price={"type": "number", "minimum": 0.5, "maximum": 99.5}, currency={"enum": ["EUR", "USD"]}),
]
assert len(SCHEMAS) >= 50


def main(teff, models):
    wrong = 0
    for model in models:
        n_cut = 0
        for number, schema in enumerate(SCHEMAS):
            for sampling in (["--temp", "0"], ["--temp", "1", "--seed", str(number)]):
                command = [teff, "run", "-m", model, "-p", "Answer in JSON.", "-n", "400"]
                command += sampling + ["--json-schema", json.dumps(schema)]
                done = subprocess.run(command, capture_output=True, text=True)
                name = f"{model}, schema {number} {sampling}"
                if done.returncode != 0:
                    wrong += 1
                    print(f"{name}: {done.stderr.strip()}")
                    continue
                if "-n reached" in done.stderr:
                    n_cut += 1
                    continue
                try:
                    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
                    jsonschema.validate(json.loads(done.stdout), schema, format_checker=checker)
                except (ValueError, jsonschema.ValidationError) as error:
                    wrong += 1
                    print(f"{name}: {done.stdout.strip()}: {error}")
        print(f"{model}: {2 * len(SCHEMAS)} answers to {len(SCHEMAS)} schemas, {n_cut} cut by the limit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
