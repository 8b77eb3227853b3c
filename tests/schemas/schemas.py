"""Random JSON Schemas of every keyword that is accepted, also where each is at its limit.

usage: schemas.py FIRST LAST >SCHEMAS
"""

import json
import random
import sys

from expressions import draw

# Those that docs/api.md says are enforced. Others are annotations, which no judge checks.
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
PATTERNS = [
    "^[a-f]{2,5}$", "^x-", "[0-9]+$", "^(red|green)?$", "^\\d{3}-\\w+$", "é|ü", "^a|b$", "^\\S+$", "^\\D\\W$",
    "^[^\\s\"]{1,9}$", "^.{0,3}$", "^(?:a|bc)*$", "\\/", "^[\\w.-]+@x\\.y$", "^a+?b$", "^\\u00e9$",
]
NAMES = ["name", "a", "größe", "x y", "quote\"d", "n1", "items", "type", "$ref", "p1", "tab\t", "back\\slash", "~/%"]
# Around zero, around what a float still holds, and beyond.
INTEGERS = [0, 1, -1, 9, 10, 99, 100, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**60, 2**60 + 1, 2**63 - 1, -(2**63), 2**64, 10**19]
FRACTIONS = [0, 0.5, 0.1, -0.1, 1e-7, 0.25, 1.5, 10, 99.99, 1e15, 0.30000000000000004, -1.5, 2**53, 1e18]


def string(rng, _):
    schema = {"type": "string"}
    kind = rng.randrange(6)
    if kind == 0:
        schema["maxLength"] = rng.choice([0, 1, 5, 12, 12.0])
    elif kind == 1:
        schema["minLength"] = rng.randint(0, 4)
        schema["maxLength"] = schema["minLength"] + rng.randint(0, 6)
    elif kind == 2:
        schema["pattern"] = rng.choice(PATTERNS) if rng.random() < 0.6 else draw(rng)[0]
        if rng.random() < 0.5:
            schema["maxLength"] = 20
    elif kind == 3:
        schema["format"] = rng.choice([*FORMATS, "postcode", "iri"])
    elif kind == 4:
        schema["format"] = rng.choice(FORMATS)
        schema["pattern"] = rng.choice(["[0-9]", "^[^z]", "."])
    if rng.random() < 0.1:
        del schema["type"]
        schema |= {"type": ["string", "null"]}
    return schema


def bounds(rng, values):
    schema = {}
    low = rng.choice(values)
    if rng.random() < 0.7:
        schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.7:
        above = [value for value in values if value >= low]
        schema[rng.choice(["maximum", "exclusiveMaximum"])] = rng.choice([*above, low + 1, low + 2, low])
    return schema


def integer(rng, _):
    schema = {"type": "integer", **bounds(rng, INTEGERS if rng.random() < 0.3 else range(-120, 120))}
    if rng.random() < 0.2:
        schema["multipleOf"] = rng.choice([2, 5, 7, 1.5, 0.5])
    return schema


def number(rng, _):
    schema = {"type": "number", **bounds(rng, FRACTIONS)}
    if rng.random() < 0.15:
        schema["multipleOf"] = rng.choice([0.5, 0.01, 3])
    return schema


def literal(rng, depth=2):
    if depth and rng.random() < 0.3:
        inner = [literal(rng, depth - 1) for _ in range(rng.randint(0, 2))]
        return inner if rng.random() < 0.5 else dict(zip(NAMES, inner))
    return rng.choice([None, True, False, 0, 1, -3, 1.5, -0.25, 1e-7, 2**53, 2**53 + 1, 2**60, "", "c", "ä\n", "\\\"", "😀"])


def leaf(rng, _):
    return rng.choice([
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        {"const": literal(rng)},
        {"enum": [literal(rng) for _ in range(rng.randint(1, 4))]},
        {"type": "string", "enum": ["one", 2, "three"]},
        {"type": ["object", "array", "string"]},
    ])


def array(rng, depth):
    schema = {"type": "array", "items": schema_of(rng, depth - 1)}
    least = rng.randint(0, 2)
    schema |= {"minItems": least, "maxItems": least + rng.randint(0, 2)}
    kind = rng.randrange(6)
    if kind == 0:
        schema["prefixItems"] = [schema_of(rng, depth - 1)]
        schema["items"] = rng.choice([False, {"type": "boolean"}])
        schema["minItems"] = min(schema["minItems"], 1)
        schema["maxItems"] = max(schema["maxItems"], 1)
    elif kind == 1:
        del schema["items"]
        schema |= {"prefixItems": [schema_of(rng, depth - 1)], "unevaluatedItems": False, "minItems": 0}
    elif kind == 2:
        schema |= {"uniqueItems": rng.choice([False, True]), "minItems": 0, "maxItems": 1}
    elif kind == 3:
        schema |= {"contains": {}, "minContains": 0}
    return schema


def mapping(rng, depth):
    names = rng.sample(NAMES, rng.randint(0, 4))
    schema = {"type": "object", "properties": {name: schema_of(rng, depth - 1) for name in names}}
    schema["required"] = rng.sample(names, rng.randint(0, len(names)))
    if rng.random() < 0.4:
        schema["additionalProperties"] = rng.choice([False, True, {"type": "integer", "minimum": 0, "maximum": 9}])
    if rng.random() < 0.2:
        patterns = rng.choice([["^p[0-9]$"], ["^a", "^b"], ["^."], ["1"], ["^[a-z]+$"], ["z$", "^[^z]*$"], ["^(a|n)"], [draw(rng)[0]]])
        schema["patternProperties"] = {pattern: schema_of(rng, depth - 1) for pattern in patterns}
    if rng.random() < 0.1:
        schema["unevaluatedProperties"] = rng.choice([False, True])
    if rng.random() < 0.1:
        schema |= {"minProperties": len(schema["required"]) + rng.randint(0, 1)}
    if rng.random() < 0.1:
        schema |= {"maxProperties": rng.randint(1, 4)}
    if rng.random() < 0.1:
        schema["propertyNames"] = rng.choice([{"type": "string"}, {}, True])
    return schema


def parts(rng, depth):
    """One object by several schemas."""
    schema = {"allOf": [mapping(rng, depth - 1), rng.choice([mapping(rng, depth - 1), {"$ref": "#/$defs/tree"}])]}
    if rng.random() < 0.4:
        schema |= mapping(rng, depth - 1)
    if rng.random() < 0.3:
        schema["anyOf"] = [mapping(rng, depth - 1), mapping(rng, depth - 1)]
    return schema


def union(rng, depth):
    kind = rng.randrange(5)
    if kind == 0:
        return {"oneOf": [{"type": "boolean"}, string(rng, 0), integer(rng, 0)]}
    if kind == 1:
        return {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}, {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}]}
    if kind == 2:
        def one(kind):
            schema = {"type": "object", "properties": {"kind": {"const": kind}, "v": schema_of(rng, depth - 1)}, "required": ["kind"]}
            return schema
        return {"oneOf": [one("cat"), one("dog")], "discriminator": {"propertyName": "kind"}}
    return {rng.choice(["anyOf", "anyOf", "oneOf"]): [schema_of(rng, depth - 1), schema_of(rng, depth - 1)]}


def both(rng, _):
    return rng.choice([
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": rng.randint(3, 30)}]},
        {"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"exclusiveMaximum": rng.choice([0.5, 1, 1e-9])}]},
        {"allOf": [{"type": "string", "format": "date"}, {"pattern": "^2"}]},
    ])


def harmless(rng, depth):
    """Keywords that ask nothing."""
    return schema_of(rng, depth - 1) | rng.choice([
        {"not": False}, {"dependentSchemas": {}}, {"dependentRequired": {"a": []}}, {"minContains": 0}, {"then": False},
        {"if": True}, {"if": {}, "then": {}, "else": True}, {"contentSchema": {"type": "null"}}, {"title": "t"},
        {"default": 1, "examples": [2], "deprecated": True, "$comment": "c"}, {"unknown": {"type": "null"}},
    ])


def reference(rng, _):
    name = rng.choice(["leaf", "tree", "a~1b", "m~0n", "with%20space", "%C3%A9", "old"])
    schema = {"$ref": f"#/$defs/{name}"}
    if rng.random() < 0.2:
        schema |= rng.choice([{"description": "d"}, {"type": ["object", "boolean"]}, {"title": "t"}])
    return schema


def schema_of(rng, depth):
    simple = [string, integer, number, leaf, both, reference]
    nested = [array, mapping, mapping, union, parts, harmless]
    return rng.choice(simple if depth <= 0 else simple + nested + nested)(rng, depth)


def whole(seed):
    """The schema of a seed."""
    rng = random.Random(seed)
    schema = mapping(rng, 3) if rng.random() < 0.6 else schema_of(rng, 3)
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    tree = {
        "type": "object",
        "properties": {"v": digit, "next": {"$ref": "#/$defs/tree"}},
        "required": ["v"],
        "additionalProperties": False,
    }
    definitions = {
        "leaf": {"type": "boolean"}, "tree": tree, "a/b": digit, "m~n": {"const": "m"}, "with space": string(rng, 0),
        "é": integer(rng, 0), "old": {"type": "object", "properties": {"o": {"$ref": "#/$defs/leaf"}}},
    }
    return schema | {"$defs": definitions}


if __name__ == "__main__":
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps(whole(seed)))
