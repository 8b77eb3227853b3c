"""Texts, structured output and a tool call by Pydantic AI, through each API that it speaks.

    framework_pydantic_ai.py URL
"""

import asyncio
from typing import Literal

from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Listed(BaseModel):
    """For Anthropic it drops bounds of numbers from schemas, but not their values."""

    a: Literal[11, 12]
    b: Literal[7, 8]


openai = OpenAIProvider(base_url=URL + "/v1", api_key="none")
anthropic = AnthropicProvider(base_url=URL, api_key="none")
models = {
    "chat": OpenAIChatModel("demo", provider=openai),
    "responses": OpenAIResponsesModel("demo", provider=openai),
    # It knows by the name which models have structured output.
    "anthropic": AnthropicModel("claude-sonnet-4-5", provider=anthropic),
}
settings = {"temperature": 0, "max_tokens": 256, "parallel_tool_calls": False}


async def main() -> None:
    for name, model in models.items():
        plain = Agent(model, model_settings=settings)
        TEXTS[name] = (await plain.run(QUESTION)).output
        async with plain.run_stream(QUESTION) as stream:
            TEXTS[name + ", streamed"] = await stream.get_output()
        for kind, output in [("tool", ToolOutput(Sum)), ("native", NativeOutput(Listed))]:
            agent = Agent(model, output_type=output, model_settings=settings, retries=0)
            SUMS[f"{name}, {kind}"] = (await agent.run(QUESTION)).output.model_dump()


asyncio.run(main())
print_all()
