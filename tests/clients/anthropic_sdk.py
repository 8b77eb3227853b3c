"""Chats, whole and streamed, a forced call and a JSON answer by Anthropic's SDK; prints them as JSON.

    anthropic_sdk.py URL
"""

import sys

from anthropic import Anthropic, NotFoundError
from question import FUNCTION, MESSAGES, SCHEMA, parsed, report

client = Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
# The SDK has no argument for temperature any more; the API has.
greedy = {"temperature": 0}
asked = {"model": "demo", "messages": MESSAGES, "max_tokens": 64, "extra_body": greedy}
tool = {
    "name": FUNCTION["name"],
    "description": FUNCTION["description"],
    "input_schema": FUNCTION["parameters"],
}
choice = {"type": "tool", "name": "add", "disable_parallel_tool_use": True}
forced = asked | {"tools": [tool], "tool_choice": choice}

chat = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    streamed = "".join(stream.text_stream)
    final = stream.get_final_message()
call = client.messages.create(**forced)
with client.messages.stream(**forced) as stream:
    streamed_call = stream.get_final_message()
config = {"format": {"type": "json_schema", "schema": SCHEMA}}
form = client.messages.create(**asked | {"extra_body": greedy | {"output_config": config}})
counted = client.messages.count_tokens(model="demo", messages=MESSAGES).input_tokens
usage = chat.usage
assert counted == usage.input_tokens + usage.cache_read_input_tokens
assert final.stop_reason == chat.stop_reason, final
assert call.stop_reason == streamed_call.stop_reason == "tool_use", call
try:
    client.messages.create(**asked | {"model": "other"})
except NotFoundError as caught:
    error = caught.body["error"]["type"]

report(
    chat=chat.content[0].text,
    stream=streamed,
    call=call.content[-1].name,
    arguments=call.content[-1].input,
    streamed_arguments=streamed_call.content[-1].input,
    form=parsed(form.content[0].text),
    error=error,
)
