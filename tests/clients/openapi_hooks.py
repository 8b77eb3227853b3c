"""Bends what schemathesis makes up so that more of it is answered than refused.

Of most made-up bodies one field is at fault, and the rest is never looked at. So two of three bodies
become an example of the document with one or two of the made-up fields, and answers are kept short.
"""

import json
import random

import schemathesis

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    path = context.operation.path
    content = context.operation.definition.raw["requestBody"]["content"]["application/json"]
    examples = [example["value"] for example in content["examples"].values()]
    chance = random.Random(json.dumps(body, sort_keys=True, default=repr))
    if chance.random() < 2 / 3:
        names = sorted(body)
        kept = chance.sample(names, min(len(names), chance.randint(0, 2)))
        body = chance.choice(examples) | {name: body[name] for name in kept}
    body = dict(body)
    for name in LIMITS:
        if isinstance(body.get(name), int) and body[name] > 4:
            body[name] = 4
    if isinstance(body.get("timeout"), (int, float)):
        body["timeout"] = 60
    if path.startswith("/api/"):
        if isinstance(options := body.setdefault("options", {}), dict):
            body["options"] = {"num_predict": 4} | options
    else:
        body.setdefault("max_output_tokens" if path == "/v1/responses" else "max_tokens", 4)
    return body


@schemathesis.deserializer("application/x-ndjson")
def last_line(context, response):
    """The document describes one line."""
    return json.loads(response.text.splitlines()[-1])
