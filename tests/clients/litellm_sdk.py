"""Chats, whole and streamed, a forced call and a JSON answer by LiteLLM; prints them as JSON.

    litellm_sdk.py URL
"""

import sys

import litellm
from question import FORCED, FORMAT, MESSAGES, TOOLS, parsed, report

# What it says about faults would be mixed with the results.
litellm.suppress_debug_info = True
asked = {
    "model": "openai/demo",
    "api_base": sys.argv[1] + "/v1",
    "api_key": "none",
    "messages": MESSAGES,
    "temperature": 0,
    "max_tokens": 64,
    "num_retries": 0,
}
forced = {"tools": TOOLS, "tool_choice": FORCED, "parallel_tool_calls": False}


def whole(**more):
    return litellm.completion(**asked, **more).choices[0].message


def streamed(**more):
    return [part.choices[0].delta for part in litellm.completion(**asked, **more, stream=True)]


call = whole(**forced).tool_calls[0].function
pieces = [delta.tool_calls[0].function for delta in streamed(**forced) if delta.tool_calls]
try:
    litellm.completion(**asked | {"model": "openai/other"})
except litellm.NotFoundError as caught:
    error = caught.status_code

report(
    chat=whole().content,
    stream="".join(delta.content or "" for delta in streamed()),
    call=call.name,
    arguments=parsed(call.arguments),
    streamed_arguments=parsed("".join(piece.arguments or "" for piece in pieces)),
    form=parsed(whole(response_format=FORMAT).content),
    error=error,
)
