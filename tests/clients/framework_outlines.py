"""Texts and structured output by Outlines, through the APIs of OpenAI, vLLM, Ollama and Anthropic.

    framework_outlines.py URL
"""

from typing import Literal

import anthropic
import ollama
import openai
import outlines
from framework_question import QUESTION, SUMS, TEXTS, URL, Sum, print_all
from outlines.types import CFG, Regex

client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)
vllm = outlines.from_vllm(client, "demo")
models = {
    "openai": (outlines.from_openai(client, "demo"), {"temperature": 0, "max_tokens": 256}),
    "vllm": (vllm, {"temperature": 0, "max_tokens": 256}),
    "ollama": (outlines.from_ollama(ollama.Client(URL), "demo"), {"options": {"temperature": 0, "num_predict": 256}}),
}
for name, (model, settings) in models.items():
    TEXTS[name] = model(QUESTION, **settings)
    TEXTS[name + ", streamed"] = "".join(model.stream(QUESTION, **settings))
    SUMS[name] = Sum.model_validate_json(model(QUESTION, Sum, **settings)).model_dump()
claude = outlines.from_anthropic(anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0), "demo")
TEXTS["anthropic"] = claude(QUESTION, max_tokens=256, extra_body={"temperature": 0})
for form, expected in [
    (Regex("[0-4]{2}"), [f"{a}{b}" for a in range(5) for b in range(5)]),
    (Literal["left", "right"], ["left", "right"]),
    (CFG('start: "a" | "b"'), ["a", "b"]),
]:
    answer = vllm(QUESTION, form, max_tokens=8)
    assert answer in expected, (form, answer)
print_all()
