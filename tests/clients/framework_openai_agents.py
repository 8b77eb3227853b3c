"""An agent with a tool, and one with structured output, by the OpenAI Agents SDK, through both of its APIs.

    framework_openai_agents.py URL
"""

import asyncio
import json

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from openai import AsyncOpenAI

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)
greedy = ModelSettings(temperature=0, max_tokens=256)


async def main() -> None:
    for name, kind in [("chat", OpenAIChatCompletionsModel), ("responses", OpenAIResponsesModel)]:
        called: list[dict] = []

        @function_tool
        def add(numbers: Sum) -> str:
            """Adds two numbers."""
            called.append(numbers.model_dump())
            return str(numbers.a + numbers.b)

        model = kind(model="demo", openai_client=client)
        plain = Agent(name="plain", model=model, model_settings=greedy)
        TEXTS[name] = (await Runner.run(plain, QUESTION)).final_output
        stream = Runner.run_streamed(plain, QUESTION)
        async for _ in stream.stream_events():
            pass
        TEXTS[name + ", streamed"] = stream.final_output
        # The first turn must call the tool once; the next one, which has its result, answers as it likes.
        forced = ModelSettings(temperature=0, max_tokens=256, tool_choice="required", parallel_tool_calls=False)
        calls = Agent(name="calls", model=model, model_settings=forced, tools=[add])
        run = await Runner.run(calls, QUESTION, max_turns=2)
        outputs = [item.output for item in run.new_items if item.type == "tool_call_output_item"]
        assert outputs == [str(called[0]["a"] + called[0]["b"])] and len(called) == 1, (outputs, called)
        assert isinstance(run.final_output, str), run
        SUMS[f"{name}, tool"] = called[0]
        formed = Agent(name="formed", model=model, model_settings=greedy, output_type=Sum)
        SUMS[f"{name}, output type"] = (await Runner.run(formed, QUESTION)).final_output.model_dump()


asyncio.run(main())
print_all()
