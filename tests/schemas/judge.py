"""Judges answers by the jsonschema package, with its checks of formats.

usage: judge.py SCHEMAS ANSWERS

SCHEMAS has a schema in each line. ANSWERS has objects with `schema` (the line's number), `end` and `text`; those
whose end is "stop" are judged, except where an expression matters that Python has nothing like: these are counted as
skipped. Prints what was seen as JSON; ends with 1 if an answer is not valid, or has an end that no answer may have.
"""

import collections
import json
import re
import sys
from decimal import Decimal, getcontext

import jsonschema
from ecmascript import Untranslatable, translated

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


def readable(pattern):
    """The expression in Python's dialect. One that Python has nothing like fails where it is used."""
    try:
        return translated(pattern)
    except Untranslatable:
        return "("


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
            out[name] = readable(value)
        elif name == "patternProperties" and isinstance(value, dict):
            out[name] = {readable(key): with_patterns(part) for key, part in value.items()}
        elif name in ["properties", "$defs", "definitions"] and isinstance(value, dict):
            # Names here are nobody's keywords.
            out[name] = {key: with_patterns(part) for key, part in value.items()}
        else:
            out[name] = with_patterns(value)
    return out


def main():
    def exact(text):
        return json.loads(text, parse_float=Decimal)

    with open(sys.argv[1], encoding="utf-8") as file:
        schemas = [exact(line) for line in file]
    formats, ends, wrong, skipped = checker(), collections.Counter(), [], 0
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
                fault = next(kind(with_patterns(schema), format_checker=formats).iter_errors(value), None)
            except re.error:
                skipped += 1
                continue
            except ValueError as error:
                fault = error
            if fault:
                wrong.append((schema, answer, str(fault).splitlines()[0]))
    for schema, answer, fault in wrong[:10]:
        print(f"{json.dumps(schema, default=float)}\n  {answer['text']!r}\n  {fault}", file=sys.stderr)
    print(json.dumps({**ends, "skipped": skipped, "wrong": len(wrong)}))
    sys.exit(1 if wrong else 0)


main()
