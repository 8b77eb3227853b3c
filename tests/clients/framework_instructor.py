"""Objects by instructor, in each of its modes for OpenAI's and Anthropic's APIs.

    framework_instructor.py URL
"""

import warnings
from collections.abc import Iterable

import instructor
from anthropic import Anthropic
from framework_question import QUESTION, SUMS, URL, Sum, print_all
from instructor import Mode
from openai import OpenAI

# Modes that have other names now.
warnings.simplefilter("ignore")
MESSAGES = [{"role": "user", "content": QUESTION}]
FENCED = '```json\n\\{"a": [1-9][0-9]?, "b": [1-9][0-9]?\\}\n```'
openai = OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)
anthropic = Anthropic(base_url=URL, api_key="none", max_retries=0)
ONE_CALL = {"parallel_tool_calls": False}
#: What the model would have to do by itself (to end after a call, to write JSON), by fields of the API's.
DEMANDED = {
    Mode.TOOLS: ONE_CALL,
    Mode.TOOLS_STRICT: ONE_CALL,
    Mode.FUNCTIONS: ONE_CALL,
    Mode.RESPONSES_TOOLS: ONE_CALL,
    Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS: ONE_CALL,
    Mode.JSON: {"response_format": {"type": "json_object", "schema": Sum.model_json_schema()}},
    Mode.MD_JSON: {"guided_regex": FENCED},
    Mode.PARALLEL_TOOLS: {"tool_choice": "required"} | ONE_CALL,
    Mode.ANTHROPIC_TOOLS: {"tool_choice": {"type": "tool", "name": "Sum", "disable_parallel_tool_use": True}},
    Mode.ANTHROPIC_JSON: {"output_config": {"format": {"type": "json_schema", "schema": Sum.model_json_schema()}}},
    Mode.ANTHROPIC_PARALLEL_TOOLS: {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
}
OPENAI = [
    Mode.TOOLS,
    Mode.TOOLS_STRICT,
    Mode.FUNCTIONS,
    Mode.PARALLEL_TOOLS,
    Mode.JSON,
    Mode.JSON_SCHEMA,
    Mode.JSON_O1,
    Mode.MD_JSON,
]
ANTHROPIC = [Mode.ANTHROPIC_TOOLS, Mode.ANTHROPIC_JSON, Mode.ANTHROPIC_PARALLEL_TOOLS]


def ask(name: str, create, mode: Mode, **more) -> None:
    extra = {"temperature": 0} | DEMANDED.get(mode, {})
    parallel = "PARALLEL" in mode.name
    model = Iterable[Sum] if parallel else Sum
    found = create(model="demo", response_model=model, max_retries=1, extra_body=extra, **more)
    SUMS[name] = (next(iter(found)) if parallel else found).model_dump()


for mode in OPENAI:
    client = instructor.from_openai(openai, mode=mode)
    ask(mode.name, client.chat.completions.create, mode, messages=MESSAGES, max_tokens=256)
    if mode in [Mode.TOOLS, Mode.JSON_SCHEMA]:
        asked = {"model": "demo", "messages": MESSAGES, "max_tokens": 256, "temperature": 0, "max_retries": 1}
        asked["extra_body"] = DEMANDED.get(mode, {})
        *_, last = client.chat.completions.create_partial(response_model=Sum, **asked)
        SUMS[mode.name + ", streamed"] = last.model_dump()
for mode in [Mode.RESPONSES_TOOLS, Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS]:
    client = instructor.from_openai(openai, mode=mode)
    ask(mode.name, client.responses.create, mode, input=QUESTION, max_output_tokens=256)
for mode in ANTHROPIC:
    client = instructor.from_anthropic(anthropic, mode=mode)
    ask(mode.name, client.messages.create, mode, messages=MESSAGES, max_tokens=256)
print_all()
