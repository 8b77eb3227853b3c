"""Asks for answers by random JSON Schemas and judges each with the jsonschema package.

usage: structured.py URL COUNT SEED

Prints a JSON object with what was seen. Half of the answers are streamed; every sixth is given too
few tokens on purpose and must say so.
"""

import json
import random
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jsonschema

URL, COUNT, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

FORMATS = ["date", "ipv4", "ipv6", "uuid", "email"]
CHECKER = jsonschema.FormatChecker(FORMATS)
PATTERNS = ["^[a-f]{2,5}$", "^x-", "[0-9]+$", "^(red|green)?$", "^\\d{3}-\\w+$", "é|ü"]
NAMES = ["name", "a", "größe", "x y", "quote\"d", "n1", "items", "type"]


def string(rng, _):
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "maxLength": rng.randint(0, 12)}
    if kind == 1:
        least = rng.randint(0, 4)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 6)}
    if kind == 2:
        return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 20}
    return {"type": "string", "format": rng.choice(FORMATS)}


def integer(rng, _):
    least = rng.randint(-1000, 1000)
    schema = {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 500)}
    if rng.random() < 0.3:
        schema = {"type": "integer", "multipleOf": rng.choice([2, 5, 7]), "minimum": 0, "maximum": 99}
    if rng.random() < 0.2:
        schema = {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 7}
    return schema


def number(rng, _):
    least = rng.choice([-1.5, 0, 0.25, 10])
    return {"type": "number", "minimum": least, "maximum": least + rng.choice([0.5, 1, 100])}


def leaf(rng, _):
    return rng.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            {"const": rng.choice([1, "c", None, {"k": [1, 2]}, 1.5])},
            {"enum": rng.sample([0, "zero", None, False, [], {"z": 0}, "ä\n"], 3)},
        ]
    )


def array(rng, depth):
    least = rng.randint(0, 2)
    schema = {"type": "array", "items": schema_of(rng, depth - 1)}
    schema |= {"minItems": least, "maxItems": least + rng.randint(0, 2)}
    if rng.random() < 0.25:
        schema["prefixItems"] = [schema_of(rng, depth - 1)]
        schema["items"] = rng.choice([False, {"type": "boolean"}])
        schema["minItems"] = min(schema["minItems"], 1)
        schema["maxItems"] = max(schema["maxItems"], 1)
    return schema


def mapping(rng, depth):
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema = {
        "type": "object",
        "properties": {name: schema_of(rng, depth - 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }
    if rng.random() < 0.15:
        schema["patternProperties"] = {"^p[0-9]$": {"type": "boolean"}}
    if rng.random() < 0.15:
        schema["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
    return schema


def union(rng, depth):
    if rng.random() < 0.4:
        return {"oneOf": [{"type": "boolean"}, string(rng, 0), integer(rng, 0)]}
    return {"anyOf": [schema_of(rng, depth - 1), schema_of(rng, depth - 1)]}


def both(rng, _):
    return {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": rng.randint(3, 30)}]}


def reference(rng, _):
    return {"$ref": rng.choice(["#/$defs/leaf", "#/$defs/tree"])}


def schema_of(rng, depth):
    simple = [string, integer, number, leaf, both, reference]
    nested = [array, mapping, mapping, union]
    return rng.choice(simple if depth <= 0 else simple + nested + nested)(rng, depth)


def whole(rng):
    schema = mapping(rng, 3) if rng.random() < 0.8 else schema_of(rng, 2)
    tree = {
        "type": "object",
        "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 9}, "next": {"$ref": "#/$defs/tree"}},
        "required": ["v"],
        "additionalProperties": False,
    }
    return schema | {"$defs": {"leaf": {"type": "boolean"}, "tree": tree}}


def ask(number):
    rng = random.Random(SEED * 100_003 + number)
    schema = whole(rng)
    cut = number % 6 == 5
    body = {
        "messages": [{"role": "user", "content": "Answer."}],
        "temperature": 1.5,
        "seed": number,
        "max_tokens": rng.randint(1, 6) if cut else 600,
        "stream": number % 2 == 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    }
    request = urllib.request.Request(
        URL + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            text, finish = (streamed if body["stream"] else at_once)(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{json.dumps(schema)}: {error.read().decode()}") from error
    if finish == "length":
        return "cut" if cut else "long"
    try:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=CHECKER)
    except (ValueError, jsonschema.ValidationError) as error:
        raise SystemExit(f"{json.dumps(schema)}: {text!r} ({finish}): {error}") from error
    return "valid"


def at_once(answer):
    choice = json.load(answer)["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def streamed(answer):
    text, finish = "", None
    for line in answer:
        line = line.decode().strip()
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return text, finish


with ThreadPoolExecutor(8) as pool:
    ends = list(pool.map(ask, range(COUNT)))
print(json.dumps({end: ends.count(end) for end in ["valid", "cut", "long"]}))
