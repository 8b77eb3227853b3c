"""Writes models/golden/accuracy.json: exact-match accuracy of the checkpoint and of the export."""

from __future__ import annotations

import random
from typing import Any

from . import data, report, tasks
from .common import CHECKPOINT, DEMO, SEED
from .greedy import Model, OrtModel, TorchModel, decode

MAX_TOKENS = 192
#: Samples per task in the chat form and in the completion form.
COUNTS = {"arithmetic": (60, 60), "copy": (30, 20), "json": (30, 20), "count": (15, 10), "fact": (0, 20)}


def evaluation_set() -> list[tasks.Sample]:
    """Sums are held out of training; the rest are fresh draws, which training may have met."""
    rng = random.Random(SEED + 1)
    samples = []
    for task, (chats, completions) in COUNTS.items():
        for _ in range(chats):
            samples.append(tasks.chat(task, [], *tasks.chat_pair(task, rng, held_out=True)))
        for _ in range(completions):
            prompt, answer = tasks.completion_pair(task, rng, held_out=True)
            samples.append(tasks.Sample(task, answer, prompt=prompt))
    samples += [tasks.chat("fact", [], phrasings[0], answer) for phrasings, answer in tasks.FACTS]
    samples += [tasks.remembered_name(rng) for _ in range(10)]
    samples += [tasks.history_sample(rng, rng.randint(1, 6), held_out=True) for _ in range(10)]
    samples += [tasks.system_sample(rng, held_out=True) for _ in range(20)]
    samples += [tasks.long_note(rng, rng.randint(5, 60), held_out=True) for _ in range(10)]
    return samples


def answers(model: Model, samples: list[tasks.Sample]) -> list[str]:
    return [data.decode(decode(model.start(), data.prompt_ids(s), MAX_TOKENS).tokens) for s in samples]


def summary(samples: list[tasks.Sample], outputs: list[str]) -> dict[str, Any]:
    groups: dict[str, list[bool]] = {}
    for sample, output in zip(samples, outputs):
        groups.setdefault(f"{sample.task}/{sample.kind}", []).append(output == sample.answer)
    flat = [right for group in groups.values() for right in group]
    per_task = {name: {"right": sum(group), "of": len(group)} for name, group in groups.items()}
    return {"right": sum(flat), "of": len(flat), "percent": round(100 * sum(flat) / len(flat), 2), "tasks": per_task}


def entry(sample: tasks.Sample, torch_text: str, ort_text: str) -> dict[str, Any]:
    asked = {"messages": sample.messages} if sample.messages else {"prompt": sample.prompt}
    return {"task": sample.task, "kind": sample.kind, **asked, "expected": sample.answer,
            "checkpoint": torch_text, "ort": ort_text}


def main() -> None:
    samples = evaluation_set()
    torch_texts = answers(TorchModel(CHECKPOINT), samples)
    ort_texts = answers(OrtModel(DEMO), samples)
    results = {"checkpoint": summary(samples, torch_texts), "ort": summary(samples, ort_texts)}
    report.write("accuracy.json", {
        **report.origin("accuracy.py"),
        "rule": f"greedy, max_tokens {MAX_TOKENS}, output text equal to expected byte for byte",
        "max_tokens": MAX_TOKENS,
        "results": results,
        "cases": [entry(s, a, b) for s, a, b in zip(samples, torch_texts, ort_texts)],
    })
    for name, result in results.items():
        print(name, result["right"], "of", result["of"], f"{result['percent']} %", result["tasks"])
    for sample, a, b in zip(samples, torch_texts, ort_texts):
        if a != sample.answer or a != b:
            print("  miss:", sample.task, repr((sample.prompt or sample.messages[-1]["content"])[-60:]),
                  "->", repr(a[:80]), repr(b[:80]), "want", repr(sample.answer[:80]))


if __name__ == "__main__":
    main()
