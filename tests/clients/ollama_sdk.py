"""Chats, whole and streamed, tools and a JSON answer by Ollama's package; prints them as JSON.

    ollama_sdk.py URL
"""

import sys

from ollama import Client, ResponseError
from question import MESSAGES, QUESTION, SCHEMA, TOOLS, parsed, report

client = Client(host=sys.argv[1])
model = client.list().models[0].model
asked = {"model": model, "messages": MESSAGES, "options": {"temperature": 0, "num_predict": 64}}

chat = client.chat(**asked)
streamed = "".join(part.message.content for part in client.chat(**asked, stream=True))
generated = client.generate(model=model, prompt=QUESTION, options=asked["options"])
# Ollama's API can't force a call; the tools are read, and the conversation with a result goes on.
call = {"function": {"name": "add", "arguments": {"a": 12, "b": 7}}}
history = [
    *MESSAGES,
    {"role": "assistant", "content": "", "tool_calls": [call]},
    {"role": "tool", "content": "19", "tool_name": "add"},
]
after = client.chat(**asked | {"messages": history, "tools": TOOLS})
form = client.chat(**asked, format=SCHEMA)
assert chat.done_reason and chat.eval_count and chat.total_duration
assert client.show(model).details.format == "onnx"
assert client.ps().models[0].model == model
try:
    client.chat(model="other", messages=MESSAGES)
except ResponseError as caught:
    error = caught.status_code

report(
    chat=chat.message.content,
    stream=streamed,
    generated=generated.response,
    after=after.done,
    form=parsed(form.message.content),
    error=error,
)
