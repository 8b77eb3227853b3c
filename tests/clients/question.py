"""What the Python clients ask, and how they report what they got."""

import json
import sys

QUESTION = "What is 12+7?"
MESSAGES = [{"role": "user", "content": QUESTION}]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA = {
    "type": "object",
    "properties": {"a": NUMBER, "b": NUMBER},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FUNCTION = {"name": "add", "description": "Adds two numbers", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
FORCED = {"type": "function", "function": {"name": "add"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}


def parsed(arguments):
    """The object in a JSON text, or the object itself."""
    return json.loads(arguments) if isinstance(arguments, str) else dict(arguments)


def report(**found):
    json.dump(found, sys.stdout)
