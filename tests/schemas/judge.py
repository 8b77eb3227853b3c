"""Judges answers by the jsonschema package, with its checks of formats.

usage: judge.py SCHEMAS ANSWERS

SCHEMAS has a schema in each line. ANSWERS has objects with `schema` (the line's number), `end` and `text`; those
whose end is "stop" are judged. Prints what was seen as JSON; ends with 1 if an answer is not valid, or has an end
that no answer may have.
"""

import collections
import json
import re
import sys
from decimal import Decimal, getcontext

import jsonschema

# What ECMAScript's expressions mean, which JSON Schema's are, where Python's mean something else.
ECMASCRIPT = {".": r"[^\n\r\u2028\u2029]", "$": r"\Z", r"\d": "[0-9]", r"\w": "[0-9A-Za-z_]"}
# Those that docs/api.md says are enforced. Others are annotations.
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
# `multipleOf` divides exactly: the quotient of the largest number and the smallest step has some 330 digits.
getcontext().prec = 1000
ENDS = ["stop", "length", "refused"]


def checker():
    known = jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers
    checker = jsonschema.FormatChecker(())
    # A format whose package is missing would be checked by nothing.
    checker.checkers = {name: known[name] for name in FORMATS}
    return checker


def ecmascript(pattern):
    """The expression in Python's dialect. In brackets a dot is a dot, and ASCII's classes need none of their own."""
    out, inside = "", False
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        known = ECMASCRIPT.get(part, part)
        out += known.strip("[]") if inside and part[0] == "\\" else part if inside else known
        inside = part == "[" or inside and part != "]"
    return out


def with_patterns(schema):
    """The schema with its expressions in Python's dialect."""
    if isinstance(schema, list):
        return [with_patterns(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for name, value in schema.items():
        if name in ["const", "enum", "default", "examples"]:
            out[name] = value
        elif name == "pattern" and isinstance(value, str):
            out[name] = ecmascript(value)
        elif name == "patternProperties" and isinstance(value, dict):
            out[name] = {ecmascript(key): with_patterns(part) for key, part in value.items()}
        else:
            out[name] = with_patterns(value)
    return out


def main():
    def exact(text):
        return json.loads(text, parse_float=Decimal)

    with open(sys.argv[1], encoding="utf-8") as file:
        schemas = [with_patterns(exact(line)) for line in file]
    formats, ends, wrong = checker(), collections.Counter(), []
    for line in open(sys.argv[2], encoding="utf-8"):
        answer = json.loads(line)
        ends[answer["end"]] += 1
        schema = schemas[answer["schema"]]
        if answer["end"] not in ENDS:
            wrong.append((schema, answer, "ended as no answer may"))
        elif answer["end"] == "stop":
            kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
            try:
                value = exact(answer["text"])
                fault = next(kind(schema, format_checker=formats).iter_errors(value), None)
            except ValueError as error:
                fault = error
            if fault:
                wrong.append((schema, answer, str(fault).splitlines()[0]))
    for schema, answer, fault in wrong[:10]:
        print(f"{json.dumps(schema, default=float)}\n  {answer['text']!r}\n  {fault}", file=sys.stderr)
    print(json.dumps({**ends, "wrong": len(wrong)}))
    sys.exit(1 if wrong else 0)


main()
