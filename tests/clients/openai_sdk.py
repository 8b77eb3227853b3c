"""One chat, one streamed chat, one call of a function and its result, one completion and one error by
the OpenAI SDK; prints the answers as JSON.

    openai_sdk.py URL [SOCKET]
"""

import json
import os
import sys

import httpx2
from openai import NotFoundError, OpenAI

url, *socket = sys.argv[1:]
transport = httpx2.HTTPTransport(uds=socket[0]) if socket else None
client = OpenAI(
    base_url=url, api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)
)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "What is 12+7?"}]

chat = client.chat.completions.create(model=model, messages=messages, temperature=0)
stream = client.chat.completions.create(
    model=model,
    messages=messages,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
chunks = list(stream)

tools = json.loads(os.environ["TOOLS"])
asked = {"model": model, "messages": messages, "temperature": 0, "tools": tools, "tool_choice": "required"}
asked["parallel_tool_calls"] = False
called = client.chat.completions.create(**asked).choices[0]
call = called.message.tool_calls[0]
with client.chat.completions.stream(**asked) as events:
    call_events = [e.type for e in events if e.type.startswith("tool_calls")]
    call_streamed = events.get_final_completion().choices[0].message.tool_calls[0]
result = {"role": "tool", "tool_call_id": call.id, "content": "19"}
asked |= {"messages": [*messages, called.message, result], "tool_choice": "auto"}
followed = client.chat.completions.create(**asked, max_tokens=8).choices[0].message

held = {"model": model, "messages": messages, "temperature": 0, "response_format": json.loads(os.environ["FORM"])}
form = client.chat.completions.create(**held).choices[0].message.content
with client.chat.completions.stream(**held) as events:
    form_streamed = events.get_final_completion().choices[0].message.content

completion = client.completions.create(model=model, prompt="12+7=", temperature=0, max_tokens=8)
try:
    client.chat.completions.create(model="other", messages=messages)
except NotFoundError as caught:
    error = caught
else:
    sys.exit("an unknown model was not refused")

print(
    json.dumps(
        {
            "model": model,
            "chat": chat.choices[0].message.content,
            "chat_finish": chat.choices[0].finish_reason,
            "chat_tokens": chat.usage.completion_tokens,
            "stream": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
            "stream_finish": [c.choices[0].finish_reason for c in chunks if c.choices][-1],
            "stream_tokens": chunks[-1].usage.completion_tokens,
            "call": [call.function.name, call.function.arguments],
            "call_finish": called.finish_reason,
            "call_streamed": [call_streamed.function.name, call_streamed.function.arguments],
            "call_done": call_events[-1] == "tool_calls.function.arguments.done",
            "followed": followed.role,
            "form": form,
            "form_streamed": form_streamed,
            "completion": completion.choices[0].text,
            "error": type(error).__name__,
            "error_status": error.status_code,
            "error_code": error.code,
        }
    )
)
