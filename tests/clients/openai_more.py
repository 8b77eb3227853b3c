"""Forced calls, JSON answers and responses by the OpenAI SDK; prints them as JSON.

    openai_more.py URL
"""

import sys

from openai import BadRequestError, OpenAI
from question import FORCED, FORMAT, FUNCTION, MESSAGES, QUESTION, SCHEMA, TOOLS, parsed, report

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
asked = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 64}
forced = {"tools": TOOLS, "tool_choice": FORCED, "parallel_tool_calls": False}
call = client.chat.completions.create(**asked, **forced).choices[0].message.tool_calls[0].function
chunks = client.chat.completions.create(**asked, **forced, stream=True)
pieces = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
form = client.chat.completions.create(**asked, response_format=FORMAT)

asked = {"model": "demo", "input": QUESTION, "temperature": 0, "max_output_tokens": 64}
function = {"type": "function", **FUNCTION}
choice = {"type": "function", "name": "add"}
forced = {"tools": [function], "tool_choice": choice, "parallel_tool_calls": False}
response = client.responses.create(**asked)
with client.responses.stream(**asked) as stream:
    streamed = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    final = stream.get_final_response()
response_call = client.responses.create(**asked, **forced).output[-1]
text = {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True}}
response_form = client.responses.create(**asked, text=text)
assert final.output_text == streamed and final.status == response.status, final
try:
    client.responses.create(**asked, previous_response_id="resp_1")
except BadRequestError as caught:
    error = caught.param

report(
    chat=response.output_text,
    stream=streamed,
    call=call.name,
    arguments=parsed(call.arguments),
    streamed_arguments=parsed("".join(piece.function.arguments or "" for piece in pieces)),
    form=parsed(form.choices[0].message.content),
    response_call=response_call.name,
    response_arguments=parsed(response_call.arguments),
    response_form=parsed(response_form.output_text),
    error=error,
)
