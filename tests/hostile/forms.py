"""Random forms around those that once ended or froze the daemon: schemas, expressions, grammars, choices."""

import json
import random
import string

NUMBERS = (
    99999989, 1e-7, 1e-300, 1e300, 3, 0.1, 7919, 2**31 - 1, 2**53 - 111, 10**30 + 57, 999999999989, 1.0000001, 0.333333333,
)
FORMATS = (
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "regex", "unknown",
    "iri", "json-pointer",
)


# What bounds every size that is drawn; None is each generator's own bound.
largest: int | None = None


def bound_sizes(most: int | None) -> None:
    """Bounds what is drawn from here on, in processes that are forked later too."""
    global largest
    largest = most


def size(choose: random.Random, most: int) -> int:
    """As often between 1 and 10 as between a tenth of the most and the most."""
    return max(1, int(min(most, largest or most) ** choose.random()))


def weight(choose: random.Random, most: int) -> int:
    """For what costs the daemon time with every byte: seldom the most there can be, else as `size`, mostly of
    far less. So a second holds as many of the largest as of equal shares, and many more of all others."""
    if choose.random() < 0.03:
        return min(most, largest or most)
    return size(choose, most if choose.random() < 0.2 else max(1, most // 64))


# --- JSON Schema

def ref(choose: random.Random, name: str, home: str) -> dict:
    schema = {"$ref": f"#/{home}/{name}"}
    if choose.random() < 0.2:
        # A key beside the reference.
        schema[choose.choice(["description", "minLength", "type", "title"])] = choose.choice(["string", 3, "a"])
    return schema


def ref_chain(choose: random.Random) -> dict:
    """References one after another, in different keywords, open or closed to a cycle."""
    count = choose.choice([593, size(choose, 6000)])
    home = choose.choice(["$defs", "definitions"])
    through = choose.choice([*KEYWORDS, "mixed"])
    closed = choose.random() < 0.3
    defs = {}
    for number in range(count):
        following = ref(choose, f"d{(number + 1) % count if closed else number + 1}", home)
        defs[f"d{number}"] = around(choose, through, following)
    defs[f"d{count}"] = leaf(choose)
    return {home: defs, **ref(choose, "d0", home)}


KEYWORDS = ("plain", "anyOf", "allOf", "items", "properties", "oneOf", "prefixItems", "additionalProperties")


def around(choose: random.Random, keyword: str, inner: dict) -> dict:
    if keyword == "mixed":
        keyword = choose.choice(KEYWORDS)
    if keyword == "plain":
        return inner
    if keyword in ("anyOf", "allOf", "oneOf"):
        return {keyword: [inner] + ([{"type": "null"}] if choose.random() < 0.3 and keyword != "allOf" else [])}
    if keyword == "items":
        return {"type": "array", "items": inner, **({"minItems": 1} if choose.random() < 0.3 else {})}
    if keyword == "prefixItems":
        return {"type": "array", "prefixItems": [inner], "items": False}
    if keyword == "additionalProperties":
        return {"type": "object", "additionalProperties": inner}
    return {"type": "object", "properties": {"p": inner}, "required": ["p"][: choose.randrange(2)]}


def ref_tree(choose: random.Random) -> dict:
    """Each definition refers to the next several times: 2 to the power of the depth when followed."""
    depth, fan = choose.randrange(2, 60), choose.randrange(2, 4)
    keyword = choose.choice(["anyOf", "allOf", "oneOf", "prefixItems", "properties"])
    defs = {f"d{depth}": leaf(choose)}
    for number in range(depth):
        inner = [ref(choose, f"d{number + 1}", "$defs") for _ in range(fan)]
        if keyword == "properties":
            names = [f"p{index}" for index in range(fan)]
            defs[f"d{number}"] = {"type": "object", "properties": dict(zip(names, inner)), "required": names}
        else:
            defs[f"d{number}"] = {keyword: inner}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


def self_reference(choose: random.Random) -> dict:
    place = choose.choice(["#", "#/", "#/properties/p", "#/anyOf/0", "#/$defs/a", "#a", "http://localhost/x", "#/%24defs/a", "#/$defs/a/items"])
    inner = around(choose, "mixed", {"$ref": place})
    return choose.choice([inner, {**inner, "$defs": {"a": {"$ref": place}}}, {"$ref": place, "$defs": {"a": inner}}])


def nest(choose: random.Random) -> dict:
    schema = leaf(choose)
    keyword = choose.choice(["anyOf", "allOf", "items", "properties", "mixed", "not", "patternProperties"])
    for _ in range(choose.choice([30, 60, 120, size(choose, 900)])):
        if keyword == "not":
            schema = {"not": schema}
        elif keyword == "patternProperties":
            schema = {"type": "object", "patternProperties": {"^a": schema}}
        else:
            schema = around(choose, keyword, schema)
    return schema


def wide(choose: random.Random) -> dict:
    count = size(choose, 60000)
    kind = choose.randrange(8)
    if kind == 0:
        names = [f"p{number}" for number in range(count)]
        return {"type": "object", "properties": {name: leaf(choose) for name in names}, "required": names if choose.random() < 0.5 else []}
    if kind == 1:
        return {"enum": [f"v{number}" * choose.choice([1, 1, 9]) for number in range(count)]}
    if kind == 2:
        return {"enum": [choose.choice([{}, [], 0, "", None, True, number, {"a": {}}]) for number in range(count)]}
    if kind == 3:
        return {choose.choice(["anyOf", "oneOf", "allOf"]): [leaf(choose) for _ in range(min(count, 8000))]}
    if kind == 4:
        return {"type": "array", "prefixItems": [leaf(choose) for _ in range(count)]}
    if kind == 5:
        return {"type": "object", "patternProperties": {f"^p{number}.*": leaf(choose) for number in range(min(count, 3000))}}
    if kind == 6:
        return {"type": "object", "properties": {"p" * size(choose, 1 << 20): {}}, "required": ["q" * size(choose, 1 << 18)]}
    # A product of alternatives.
    return {"allOf": [{"anyOf": [{"properties": {f"p{a}": {"const": b}}} for b in range(4)]} for a in range(min(count, 40))]}


def number_schema(choose: random.Random) -> dict:
    schema: dict = {"type": choose.choice(["integer", "number"])}
    if choose.random() < 0.7:
        schema["multipleOf"] = choose.choice([*NUMBERS, choose.randrange(1, 10**9), choose.random()])
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if choose.random() < 0.3:
            schema[name] = choose.choice([*NUMBERS, -1e308, 1e308, 0, -(10**300), 10**300, choose.randrange(-(10**18), 10**18)])
    return schema


def array_schema(choose: random.Random) -> dict:
    schema = {"type": "array", "items": leaf(choose)}
    for name in ("minItems", "maxItems"):
        if choose.random() < 0.7:
            schema[name] = choose.choice([0, 1, size(choose, 10**9), 2**31, 2**63, 2**64, -1])
    return schema


def string_schema(choose: random.Random) -> dict:
    schema: dict = {"type": "string"}
    for name in ("minLength", "maxLength"):
        if choose.random() < 0.5:
            schema[name] = choose.choice([0, 1, size(choose, 10**9), 2**31, 2**63, 2**64, -1])
    if choose.random() < 0.5:
        schema["pattern"] = regex(choose)
    if choose.random() < 0.4:
        schema["format"] = choose.choice(FORMATS)
    return schema


def leaf(choose: random.Random) -> dict:
    return choose.choice([
        {}, {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"const": 1}, {"enum": ["a", "b"]},
        {"type": "string", "maxLength": 3}, {"type": "null"}, True,
    ])


def composed(choose: random.Random, depth: int = 4) -> dict:
    """A little of everything."""
    if depth == 0 or choose.random() < 0.2:
        return choose.choice([number_schema, array_schema, string_schema, leaf, self_reference])(choose)
    inner = composed(choose, depth - 1)
    if choose.random() < 0.3:
        inner = {"anyOf": [inner, composed(choose, depth - 1)]}
    return around(choose, "mixed", inner)


def conditional(choose: random.Random) -> dict:
    """Keywords that are accepted where they ask nothing, and those that close what is left over."""
    count = size(choose, 3000)
    parts = [around(choose, "properties", leaf(choose)) for _ in range(count)]
    quiet = choose.choice([
        {"not": False}, {"if": leaf(choose)}, {"then": leaf(choose)}, {"dependentSchemas": {}}, {"minContains": 0, "contains": leaf(choose)},
        {"propertyNames": {"type": "string"}}, {"unevaluatedItems": False}, {"uniqueItems": True, "maxItems": 1},
    ])
    group = {choose.choice(["anyOf", "oneOf", "allOf"]): parts, "unevaluatedProperties": choose.choice([True, False])}
    names = {f"p{number}" * choose.choice([1, 1, 50]): leaf(choose) for number in range(size(choose, 4000))}
    return choose.choice([group, group | {"properties": names}, group | {"required": list(names)}]) | quiet


def alternatives(choose: random.Random) -> dict:
    """Alternatives that must be compared with one another to see whether a value fits two of them."""
    count = size(choose, 5000)
    kind = choose.randrange(5)
    if kind == 0:
        return {"oneOf": [{"const": number} for number in range(count)]}
    if kind == 1:
        return {"oneOf": [{"enum": list(range(number, number + 900))} for number in range(0, min(count, 100))]}
    if kind == 2:
        both = {"anyOf": [{"$ref": "#/$defs/a"}] * min(count, 1000)}
        return {"oneOf": [{"$ref": "#/$defs/a"}] * min(count, 1000), "$defs": {"a": both}}
    if kind == 3:
        names = [f"p{number}" for number in range(min(count, 900))]
        one = {"type": "object", "properties": {name: {"const": 1} for name in names}, "required": names}
        return {"oneOf": [one] * choose.choice([2, 30])}
    tagged = [{"type": "object", "properties": {"t": {"const": f"t{number}"}}, "required": ["t"]} for number in range(count)]
    return {"oneOf": tagged, choose.choice(["properties", "x"]): {"t": True}}


def literals(choose: random.Random) -> dict:
    """Numbers and texts that can't be generated exactly, and expressions of ECMAScript."""
    number = choose.choice([2**53 + 1, 2**63, 2**64, 10**19, -(2**63), 1e300, 5e-324, -0.0, 1e17, 2**53])
    bound = choose.choice(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minProperties"])
    pattern = choose.choice([r"\u{1F600}", r"[^]", "[]", r"\cA", "(?<n>a)", "[[&&]]", "{", "a{,3}", r"\p{L}", "(?", "(?:", "[\\", r"[\x00-\uFFFF]" * 50])
    return choose.choice([
        {"const": number}, {"enum": [number, "\x01"]}, {bound: number}, {"pattern": pattern}, {"patternProperties": {pattern: True, ".": True}},
        {"type": "integer", bound: number, "maximum": number + 1 if abs(number) < 1e300 else 0}, {"$ref": "#/%24defs/a~1b%2", "$defs": {"a/b%": True}},
    ])


SCHEMAS = (conditional, alternatives, literals, ref_chain, ref_tree, self_reference, nest, wide, number_schema, array_schema, string_schema, composed)


def schema(choose: random.Random) -> object:
    return choose.choice(SCHEMAS)(choose)


# --- regular expressions

def regex(choose: random.Random) -> str:
    kind = choose.randrange(12)
    count = size(choose, 100000)
    atom = choose.choice(["a", ".", "[a-z]", r"\w", r"\p{L}", "(a|b)", "(ab|cd|e)", r"[^\x00-\x7f]", r"\d", "(?i:straße)", r"[\s\S]"])
    if kind == 0:
        return f"{atom}{{{choose.randrange(3)},{count}}}"
    if kind == 1:
        # Counts of counts: the product is what it takes.
        text = atom
        for _ in range(choose.randrange(2, 8)):
            text = f"({text}){choose.choice(['{1,%d}' % size(choose, 1000), '*', '+', '{%d}' % size(choose, 300), '?'])}"
        return text
    if kind == 2:
        return "|".join("".join(choose.choices(string.ascii_lowercase, k=6)) for _ in range(min(count, 30000)))
    if kind == 3:
        # As many states as 2 to the power of the count.
        return f"(a|b)*a(a|b){{{size(choose, 5000)}}}"
    if kind == 4:
        depth = size(choose, 60000)
        return "(" * depth + "a" + ")" * depth
    if kind == 5:
        return "(a*)*" * size(choose, 2000) + "b"
    if kind == 6:
        return "x" * size(choose, 2_000_000)
    if kind == 7:
        return "".join(choose.choices(["(", ")", "*", "{9}", "|", "a", ".", "[", "]", "^", "$", "\\", "?", "(?:", "{,9}"], k=size(choose, 400)))
    if kind == 8:
        return choose.choice([r"(?=a)b", r"(a)\1", r"(?<n>a)\k<n>", r"\b\B", "^a$", r"(?m)^$", r"\u{10FFFF}+", r"[\p{L}&&\p{Lu}]{40}"])
    if kind == 9:
        return "(" + "|".join(f".*{choose.choice('abcdef')}.{{{choose.randrange(60)}}}" for _ in range(choose.randrange(1, 40))) + ")"
    if kind == 10:
        depth = size(choose, 3000)
        return "(a|" * depth + "b" + ")*" * depth
    return "".join(f"({letter}?)" for letter in choose.choices(string.ascii_lowercase, k=size(choose, 5000)))


# --- Lark grammars

def quoted(text: str) -> str:
    return json.dumps(text)


def grammar(choose: random.Random) -> str:
    return choose.choice(GRAMMARS)(choose)


def rule_chain(choose: random.Random) -> str:
    count = choose.choice([682, size(choose, 20000)])
    closed = choose.random() < 0.2
    before, after = choose.choice([("", ""), ("", ' | "b"'), ("", ' "c"'), ("", " ?"), ("", "+"), ("", " r0?"), ("((((", "))))"), ('"x"? [', "]{0,3}")])
    lines = [f"r{number}: {before}r{(number + 1) % count if closed else number + 1}{after}" for number in range(count)]
    if choose.random() < 0.3:
        choose.shuffle(lines)
    return "\n".join(["start: r0", *lines, f'r{count}: "a"'])


def terminal_chain(choose: random.Random) -> str:
    count = size(choose, 20000)
    extra = choose.choice(["", ' | "b"', ' "c"', "?", "*", " /x+/"])
    lines = [f"T{number}: T{number + 1}{extra}" for number in range(count)]
    return "\n".join(["start: T0", *lines, f'T{count}: "a"'])


def rule_nest(choose: random.Random) -> str:
    depth = size(choose, 30000)
    opening, closing = choose.choice([("(", ")"), ("[", "]"), ('("b" ', ")"), ("(", ")*"), ("(", ")?"), ('("b" | ', ")")])
    name = choose.choice(["start: ", "start: T\nT: "])
    return name + opening * depth + '"a"' + closing * depth


def ambiguous(choose: random.Random) -> str:
    return choose.choice([
        'start: s\ns: s s | "a"',
        'start: s\ns: s s s | s s | "a" |',
        'start: a a a a a a a a\na: b b b b b b b b\nb: c c c c c c c c |\nc: "x" | c c |',
        'start: s\ns: "a" s "b" | s s |',
        "start: " + " ".join(["e"] * size(choose, 3000)) + '\ne: "a"? "b"? |',
        "start: s\ns: " + " | ".join(f'"{"a" * number}" s' for number in range(1, size(choose, 400) + 1)) + ' | "b"',
        "start: " + " ".join(["(e | f)"] * size(choose, 2000)) + '\ne: "a"+\nf: "a"*',
    ])


def huge_terminal(choose: random.Random) -> str:
    kind = choose.randrange(6)
    if kind == 0:
        return f'start: {quoted("x" * size(choose, 4_000_000))}'
    if kind == 1:
        return f"start: /{regex(choose).replace('/', '.')}/"
    if kind == 2:
        low = choose.randrange(3)
        return f'start: "a"{{{low},{size(choose, 10**9)}}}'
    if kind == 3:
        return "start: " + " | ".join(quoted(f"w{number}") for number in range(size(choose, 60000)))
    if kind == 4:
        inner = '("a" | "b")'
        for _ in range(choose.randrange(1, 7)):
            inner = f"({inner}){{1,{size(choose, 2000)}}}"
        return f"start: {inner}"
    return "start: T\nT: " + " ".join("/[a-z]+/" for _ in range(size(choose, 5000)))


def extended(choose: random.Random) -> str:
    """What llguidance adds to Lark."""
    kind = choose.randrange(8)
    if kind == 0:
        return f"start: %json {json.dumps(schema(choose))}"
    if kind == 1:
        parts = [f"/.*{letter}.*/" for letter in choose.choices(string.ascii_lowercase, k=size(choose, 60))]
        return "start: T\nT: " + " & ".join(parts)
    if kind == 2:
        depth = size(choose, 3000)
        return "start: T\nT: " + "~(" * depth + f"/{regex(choose).replace('/', '.')}/" + ")" * depth
    if kind == 3:
        words = " ".join(f"w{number}" for number in range(size(choose, 40000)))
        return "start: T\nT: %regex " + json.dumps({choose.choice(["substring_words", "substring_chars"]): words})
    if kind == 4:
        return "%ignore " + " ".join(["/ /"] * size(choose, 300)) + f"\nstart: {' '.join(['A'] * size(choose, 900))}\nA: /a+/"
    if kind == 5:
        chunks = [f"line {number}\n" for number in range(size(choose, 20000))]
        return "start: T\nT: %regex " + json.dumps({"substring_chunks": chunks})
    if kind == 6:
        return f'start[{choose.choice(["max_tokens=1000000000", "lazy", "suffix=/a*/", "temperature=1e300", "capture", "stop=/(a|b)*a(a|b){900}/"])}]: /.*/'
    return "start: " + " ".join(f"%json {json.dumps(number_schema(choose))}" for _ in range(size(choose, 60)))


GRAMMARS = (rule_chain, terminal_chain, rule_nest, ambiguous, huge_terminal, extended)


def choices(choose: random.Random) -> list:
    count = choose.choice([1, 1024, 1025, size(choose, 100000)])
    kind = choose.randrange(5)
    if kind == 0:
        return ["x" * size(choose, 6000) for _ in range(min(count, 1024))]
    if kind == 1:
        return ["a" * number for number in range(1, min(count, 1100) + 1)]
    if kind == 2:
        return ["same"] * count
    if kind == 3:
        return choose.choice([[""], [], ["<|end|>"], ["y" * 3_000_000], ["\x00"], ["\U0010ffff" * 900], [1], "a"])
    return ["".join(choose.choices(string.printable, k=choose.randrange(1, 40))) for _ in range(min(count, 20000))]
