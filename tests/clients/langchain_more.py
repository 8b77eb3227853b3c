"""Structured output by each of its methods, tool calls, and turns by the id of the response before, by LangChain.

    langchain_more.py URL
"""

import json
import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

URL = sys.argv[1]
QUESTION = "What is 12+7?"


class Sum(BaseModel):
    """Two numbers to add."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


texts, sums = {}, {}
for name, more in [("chat", {}), ("responses", {"use_responses_api": True})]:
    asked = {"base_url": URL + "/v1", "api_key": "none", "model": "demo", "temperature": 0, "max_retries": 0}
    model = ChatOpenAI(**asked, max_tokens=256, **more)
    texts[name] = model.invoke(QUESTION).text
    texts[name + ", streamed"] = "".join(chunk.text for chunk in model.stream(QUESTION))
    for method in ["json_schema", "function_calling"]:
        found = model.with_structured_output(Sum, method=method, strict=True).invoke(QUESTION)
        sums[f"{name}, {method}"] = found.model_dump()
    bound = model.bind_tools([Sum], tool_choice="any", parallel_tool_calls=False)
    [call] = bound.invoke(QUESTION).tool_calls
    sums[f"{name}, bound tool"] = call["args"]
    whole = None
    for chunk in bound.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    sums[f"{name}, bound tool, streamed"] = whole.tool_calls[0]["args"]
# JSON mode leaves the names to the model.
formed = ChatOpenAI(**asked, max_tokens=256, extra_body={
    "response_format": {"type": "json_object", "schema": Sum.model_json_schema()}
})
sums["chat, json_mode"] = formed.with_structured_output(Sum, method="json_mode").invoke(QUESTION).model_dump()

# By ids, the second request has the last message only; the answer must be that of the whole conversation.
by_id = ChatOpenAI(**asked, max_tokens=256, use_responses_api=True, use_previous_response_id=True)
history = [("user", QUESTION)]
first = by_id.invoke(history)
history += [first, ("user", "And 3*4?")]
second = by_id.invoke(history)
whole = ChatOpenAI(**asked, max_tokens=256, use_responses_api=True).invoke(history)
assert second.text == whole.text and second.usage_metadata["input_tokens"] == whole.usage_metadata["input_tokens"], (
    second,
    whole,
)
json.dump({"texts": texts, "sums": sums}, sys.stdout)
