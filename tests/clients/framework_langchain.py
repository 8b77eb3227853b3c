"""Texts, structured output and tool calls by LangChain's packages for Anthropic and Ollama.

    framework_langchain.py URL
"""

from typing import Literal

from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama
from pydantic import BaseModel


class Listed(BaseModel):
    """For Anthropic it drops bounds of numbers from schemas, but not their values."""

    a: Literal[11, 12]
    b: Literal[7, 8]


anthropic = ChatAnthropic(model="demo", base_url=URL, api_key="none", temperature=0, max_tokens=256, max_retries=0)
ollama = ChatOllama(model="demo", base_url=URL, temperature=0, num_predict=256)
for name, model, form in [("anthropic", anthropic, Listed), ("ollama", ollama, Sum)]:
    TEXTS[name] = model.invoke(QUESTION).text
    TEXTS[name + ", streamed"] = "".join(part.text for part in model.stream(QUESTION))
    SUMS[name] = model.with_structured_output(form, method="json_schema").invoke(QUESTION).model_dump()
SUMS["anthropic, tool"] = anthropic.with_structured_output(Sum).invoke(QUESTION).model_dump()
bound = anthropic.bind_tools([Sum], tool_choice="Sum", parallel_tool_calls=False)
SUMS["anthropic, bound"] = bound.invoke(QUESTION).tool_calls[0]["args"]
print_all()
