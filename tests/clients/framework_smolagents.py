"""Texts, structured output and a tool's call by smolagents.

    framework_smolagents.py URL
"""

import json

from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from smolagents import OpenAIModel, tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a + b


model = OpenAIModel("demo", api_base=URL + "/v1", api_key="none", temperature=0, max_tokens=256)
messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
form = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": Sum.model_json_schema()}}
TEXTS["chat"] = model.generate(messages).content
TEXTS["chat, streamed"] = "".join(part.content or "" for part in model.generate_stream(messages))
SUMS["chat"] = json.loads(model.generate(messages, response_format=form).content)
# It demands a call by itself.
[call] = model.generate(messages, tools_to_call_from=[add], parallel_tool_calls=False).tool_calls
numbers = json.loads(call.function.arguments)
assert call.function.name == "add" and numbers.keys() == {"a", "b"}, call
assert all(isinstance(number, int) for number in numbers.values()), numbers
print_all()
