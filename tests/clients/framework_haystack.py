"""Texts, structured output and tool calls by Haystack, through chat and responses.

    framework_haystack.py URL
"""

import json
import warnings

from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

# Of Pydantic's, about the parsed object that the SDK puts into the response.
warnings.simplefilter("ignore")
messages = [ChatMessage.from_user(QUESTION)]
add = Tool("add", "Adds two numbers.", Sum.model_json_schema(), lambda a, b: a + b)
CALLED_ONCE = {"tool_choice": "required", "parallel_tool_calls": False}
#: Each API's generator, and its names of two settings.
KINDS = {
    "chat": (OpenAIChatGenerator, "max_tokens", "response_format"),
    "responses": (OpenAIResponsesChatGenerator, "max_output_tokens", "text_format"),
}
for name, (kind, most, form) in KINDS.items():

    def ask(generation=None, **more) -> ChatMessage:
        settings = {"temperature": 0, most: 256, **(generation or {})}
        made = kind(
            api_key=Secret.from_token("none"), model="demo", api_base_url=URL + "/v1", max_retries=0,
            generation_kwargs=settings, **more,
        )  # fmt: skip
        return made.run(messages)["replies"][0]

    TEXTS[name] = ask().text
    pieces: list[str] = []
    TEXTS[name + ", streamed"] = ask(streaming_callback=lambda chunk: pieces.append(chunk.content or "")).text
    assert "".join(pieces) == TEXTS[name], pieces
    SUMS[name] = json.loads(ask({form: Sum}).text)
    SUMS[name + ", tool"] = ask(CALLED_ONCE, tools=[add]).tool_calls[0].arguments
print_all()
