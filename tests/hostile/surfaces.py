"""Every surface that carries a form, as (path, body); the forms that were found first, and their siblings."""

import json
import random

from forms import KEYWORDS, around, choices, grammar, regex, schema

QUESTION = [{"role": "user", "content": "2+2="}]


def chat(**more) -> dict:
    return {"messages": QUESTION, "max_tokens": 8, **more}


def tool(parameters: object, strict: bool) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": strict}}


def object_of(inner: object) -> dict:
    """Parameters of a function are an object's."""
    if isinstance(inner, dict) and inner.get("type") == "object":
        return inner
    if isinstance(inner, dict):
        # References are from the root.
        root = {name: inner[name] for name in ("$defs", "definitions") if name in inner}
        rest = {name: value for name, value in inner.items() if name not in root}
        return {"type": "object", "properties": {"p": rest}, "required": ["p"], **root}
    return {"type": "object", "properties": {"p": inner}}


def schema_surfaces(schema: object) -> list[tuple[str, dict]]:
    """One request for each place that carries a schema."""
    named = {"name": "f", "schema": schema, "strict": True}
    text = json.dumps(schema)
    named_tool = {"type": "function", "function": {"name": "f"}}
    responses = {"model": "demo", "input": "2+2=", "max_output_tokens": 16}
    messages = {"model": "demo", "messages": QUESTION, "max_tokens": 8}
    ollama = {"model": "demo", "stream": False, "options": {"num_predict": 8}}
    flat = {"type": "function", "name": "f", "parameters": object_of(schema), "strict": True}
    claude = {"name": "f", "input_schema": object_of(schema)}
    return [
        ("/v1/chat/completions", chat(response_format={"type": "json_schema", "json_schema": named})),
        ("/v1/chat/completions", chat(response_format={"type": "json_object", "schema": schema})),
        ("/v1/chat/completions", chat(json_schema=schema)),
        ("/v1/chat/completions", chat(guided_json=schema)),
        ("/v1/chat/completions", chat(guided_json=text)),
        ("/v1/chat/completions", chat(structured_outputs={"json": schema})),
        ("/v1/chat/completions", chat(tools=[tool(object_of(schema), True)])),
        ("/v1/chat/completions", chat(tools=[tool(object_of(schema), False)], tool_choice="required")),
        ("/v1/chat/completions", chat(tools=[tool(object_of(schema), False)], tool_choice=named_tool)),
        ("/v1/completions", {"prompt": "a", "max_tokens": 8, "guided_json": schema}),
        ("/v1/completions", {"prompt": ["a"] * 4, "n": 16, "max_tokens": 2, "guided_json": text}),
        ("/v1/responses", {**responses, "text": {"format": {"type": "json_schema", **named}}}),
        ("/v1/responses", {**responses, "tools": [flat], "tool_choice": "required"}),
        ("/v1/messages", {**messages, "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        ("/v1/messages", {**messages, "tools": [claude], "tool_choice": {"type": "any"}}),
        ("/api/chat", {**ollama, "messages": QUESTION, "format": schema}),
        ("/api/generate", {**ollama, "prompt": "2+2=", "format": schema}),
        ("/v1/chat/completions/render", chat(guided_json=schema, tools=[tool(object_of(schema), True)])),
        ("/tokenize", chat(guided_json=schema)),
    ]


def text_surfaces(names: tuple[str, ...], value: object) -> list[tuple[str, dict]]:
    """A grammar, an expression or choices: `names` are fields, `a.b` the field b of an object a."""
    found = []
    for name in names:
        outer, _, inner = name.partition(".")
        given = {outer: {inner: value} if inner else value}
        found += [
            ("/v1/chat/completions", chat(**given)),
            ("/v1/chat/completions", chat(stream=True, **given)),
            ("/v1/completions", {"prompt": "a", "max_tokens": 8, **given}),
            ("/apply-template", chat(**given)),
        ]
    return found


IN_GRAMMAR = ("grammar", "guided_grammar", "structured_outputs.grammar")
IN_REGEX = ("guided_regex", "structured_outputs.regex")
IN_CHOICE = ("guided_choice", "structured_outputs.choice")


def followed(choose: random.Random, requests: list[tuple[str, dict]]) -> tuple[str, dict]:
    """One of them; at times with an answer that is long enough to follow the form far."""
    path, body = choose.choice(requests)
    if choose.random() < 0.05 and "max_tokens" in body and "n" not in body:
        body["max_tokens"] = 200
    return path, body


def schema_request(choose: random.Random) -> tuple[str, dict]:
    return followed(choose, schema_surfaces(schema(choose)))


def grammar_request(choose: random.Random) -> tuple[str, dict]:
    return followed(choose, text_surfaces(IN_GRAMMAR, grammar(choose)))


def regex_request(choose: random.Random) -> tuple[str, dict]:
    return followed(choose, text_surfaces(IN_REGEX, regex(choose)))


def choice_request(choose: random.Random) -> tuple[str, dict]:
    return followed(choose, text_surfaces(IN_CHOICE, choices(choose)))


# The examples that were found first, each by itself.
def plain_chain(count: int, keyword: str = "plain", copies: int = 1) -> dict:
    choose = random.Random(keyword)
    defs: dict = {f"d{count}": {"type": "string"}}
    for number in range(count):
        inner = {"$ref": f"#/$defs/d{number + 1}"}
        defs[f"d{number}"] = around(choose, keyword, inner) if copies == 1 else {keyword: [inner] * copies}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


def plain_rules(count: int, mark: str = "r", after: str = "") -> str:
    lines = [f"{mark}{number}: {mark}{number + 1}{after}" for number in range(count)]
    return "\n".join([f"start: {mark}0", *lines, f'{mark}{count}: "a"'])


LARGE_MULTIPLE = {"type": "integer", "multipleOf": 99999989}


def examples() -> list[tuple[str, str, dict]]:
    path = "/v1/chat/completions"
    return [
        ("593 references", path, chat(guided_json=plain_chain(593))),
        ("682 rules", path, chat(guided_grammar=plain_rules(682))),
        ("multipleOf 99999989", path, chat(guided_json=LARGE_MULTIPLE)),
    ]


def siblings() -> list[tuple[str, str, dict]]:
    """The same by every surface, and what chains or recurs otherwise."""
    found = [("700 references", path, body) for path, body in schema_surfaces(plain_chain(700))]
    found += [("multipleOf", path, body) for path, body in schema_surfaces(LARGE_MULTIPLE)]
    found += [("700 rules", path, body) for path, body in text_surfaces(IN_GRAMMAR, plain_rules(700))]
    names = [f"p{number}" for number in range(7000)]
    wide = {"type": "object", "properties": {name: {"const": 1} for name in names}}
    schemas = {f"700 references by {keyword}": plain_chain(700, keyword) for keyword in KEYWORDS}
    schemas |= {f"{keyword} of two, 40 deep": plain_chain(40, keyword, 2) for keyword in ("anyOf", "allOf", "oneOf")}
    schemas |= {"7,000 properties": wide, "7,000 required": {**wide, "required": names}, "20,000 objects": {"enum": [{}] * 20000}}
    schemas |= {"20,000 texts": {"enum": [f"v{number}" for number in range(20000)]}}
    found += [(name, "/v1/completions", {"prompt": "a", "max_tokens": 4, "guided_json": schema}) for name, schema in schemas.items()]
    grammars = {f"3,000 rules and {after!r}": plain_rules(3000, "r", after) for after in ("", ' | "b"', ' "c"', "+", "?")}
    grammars |= {f"3,000 terminals and {after!r}": plain_rules(3000, "T", after) for after in ("", ' | "b"', "?")}
    grammars |= {"references in a grammar": f"start: %json {json.dumps(plain_chain(700))}", "multipleOf in a grammar": f"start: %json {json.dumps(LARGE_MULTIPLE)}"}
    found += [(name, "/v1/completions", {"prompt": "a", "max_tokens": 4, "grammar": text}) for name, text in grammars.items()]
    return found
