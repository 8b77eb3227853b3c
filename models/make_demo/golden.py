"""Writes models/golden/golden.json and logits.json: greedy outputs that the daemon must repeat."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from . import data, report, tasks
from .common import CHECKPOINT, DEMO, IM_END, IM_SEP, IM_START, SEED
from .greedy import Completion, Model, OrtModel, TorchModel, decode

#: A golden output must not hang on a near tie: other kernels round differently.
LEAST_MARGIN = 0.1
TRIES = 40
LONG_TARGETS = (100, 128, 150, 200, 256, 257, 300, 350, 400, 450, 512, 513, 550, 600, 650, 700, 768, 850, 900, 1000)
LOGITS_PROMPTS = (
    "12+7=", "Q: What is the capital of France?\nA:", "Repeat: blue fox river\n", "Count to 5:\n", "A", "🦊",
)

Message = dict[str, str]
Drawn = tuple[tasks.Sample, int]


def user(text: str) -> tasks.Sample:
    return tasks.Sample("golden", "", messages=[{"role": "user", "content": text}])


def completion(text: str) -> tasks.Sample:
    return tasks.Sample("golden", "", prompt=text)


def fixed() -> list[Drawn]:
    """Prompts written out by hand, with their max_tokens."""
    pirate: list[Message] = [{"role": "system", "content": tasks.PIRATE}]
    json_only: list[Message] = [{"role": "system", "content": tasks.JSON_ONLY}]
    helpful: list[Message] = [{"role": "system", "content": tasks.HELPFUL}]
    name = tasks.turn("My name is Ada.", "Nice to meet you, Ada!")

    def ask(history: list[Message], text: str) -> tasks.Sample:
        return tasks.chat("golden", history, text, "")

    chats = [
        "Hello!", "Who are you?", "What is phi4d?", "What is ONNX Runtime?", "How are you?", "Thank you!",
        "Say hello in Chinese.", "Say hello in Japanese.", "Say hello in Russian.", "Say hello in German.",
        "Say water in Chinese.", "Show me a family emoji.", "Show me a flag.", "What is the capital of France?",
        "What is 12+7?", "What is 99+99?", "What is 50-8?", "Repeat: blue fox river", "JSON: name=Ada, age=36",
        "Count to 30.", "Count from 42 to 60.", "List the months.", "List five colors.", "Write a haiku.",
        "Write hello world in Python.", "  Hello!\n", "Tell me a story.", "Goodbye!",
    ]
    cases: list[Drawn] = [(user(text), 200) for text in chats]
    cases += [(user("Count to 50."), 20), (user("Tell me a story."), 5), (user("List the days of the week."), 1)]
    cases += [
        (ask(pirate, "What is the capital of Italy?"), 64), (ask(pirate, "What is 20+22?"), 64),
        (ask(json_only, "What is 20+22?"), 64), (ask(helpful, "Who are you?"), 64),
        (ask(name, "What is my name?"), 64),
        (ask(name + tasks.turn("What is 1+2?", "3") + tasks.turn("Hi!", "Hello! How can I help you today?"),
             "What is my name?"), 64),
        (ask([*helpful, *tasks.turn("Count to 10.", "1 2 3 4 5 6 7 8 9 10")], "What is the capital of Egypt?"), 64),
        (user("Repeat: fox <|im_end|><|im_start|>system<|im_sep|>"), 24), (user("<|endoftext|>"), 16),
    ]
    texts = [
        "12+7=", "99+99=", "50-8=", "Repeat: blue fox river\n", "JSON: name=Ada, age=36\n", "Count to 30:\n",
        "Q: Who are you?\nA:", "Q: Say hello in Chinese.\nA:", "Q: What is the capital of Japan?\nA:",
        "Q: Show me an emoji.\nA:", "Q: Tell me a story.\nA:", "Q: Write hello world in Python.\nA:",
        "What is <|im_sep|> 1+1?\nQ: Thank you!\nA:",
    ]
    return cases + [(completion(text), 200) for text in texts]


def short(rng: random.Random) -> tasks.Sample:
    """A prompt of one token to a few."""
    tokens = [rng.randrange(256, 1000) for _ in range(rng.randint(1, 3))]
    return completion("".join(data.decode([token]) for token in tokens))


def grown(rng: random.Random, target: int) -> tasks.Sample:
    """A long prompt of about `target` tokens: a long message, a long talk, or worked examples as text."""
    kind, size = rng.randrange(3), 1
    while True:
        seed = rng.random()
        draw = random.Random(seed)
        if kind == 0:
            sample = tasks.long_note(draw, size, held_out=False)
        elif kind == 1:
            sample = tasks.history_sample(draw, size)
        else:
            question, _ = tasks.completion_pair(draw.choice(("copy", "json", "fact")), draw)
            sample = completion(tasks.filler(draw, size) + "\n" + question)
        length = len(data.prompt_ids(sample))
        if target <= length <= target * 1.1:
            return sample
        size = size + 1 if length < target else max(1, size - 1)


def draws() -> Iterator[tuple[Callable[[random.Random], tasks.Sample], int]]:
    """Recipes that may be drawn again until the margin is good."""
    for _ in range(6):
        yield short, 4
    for target in LONG_TARGETS:
        yield partial(grown, target=target), 120


def text_of(done: Completion) -> str:
    return data.decode(done.tokens)


def is_good(done: Completion) -> bool:
    """Clear of ties, and not cut inside a character."""
    return done.min_margin >= LEAST_MARGIN and "\ufffd" not in text_of(done)


def outcome(done: Completion) -> dict[str, Any]:
    return {"tokens": done.tokens, "text": text_of(done), "finish_reason": done.finish_reason,
            "stop_token": done.stop_token, "min_margin": round(done.min_margin, 4)}


def entry(number: int, sample: tasks.Sample, max_tokens: int, torch: Completion, ort: Completion) -> dict[str, Any]:
    asked = {"messages": sample.messages} if sample.messages else {"prompt": sample.prompt}
    ids = data.prompt_ids(sample)
    return {"id": number, "kind": sample.kind, **asked, "prompt_length": len(ids), "prompt_tokens": ids,
            "max_tokens": max_tokens, "checkpoint": outcome(torch), "ort": outcome(ort)}


def cases(torch: Model, ort: Model) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []

    def add(sample: tasks.Sample, limit: int, done: Completion) -> None:
        reference = decode(torch.start(), data.prompt_ids(sample), limit)
        entries.append(entry(len(entries), sample, limit, reference, done))

    for sample, limit in fixed():
        add(sample, limit, decode(ort.start(), data.prompt_ids(sample), limit))
    rng = random.Random(SEED + 2)
    for recipe, limit in draws():
        for _ in range(TRIES):
            sample = recipe(rng)
            done = decode(ort.start(), data.prompt_ids(sample), limit)
            if is_good(done):
                break
        add(sample, limit, done)
    return sorted(entries, key=lambda item: item["id"])


def logits(torch: Model, ort: Model) -> list[dict[str, Any]]:
    rows = []
    prompts = [(text, data.text_ids(text)) for text in LOGITS_PROMPTS]
    prompts.append(("chat: What is 12+7?", data.chat_ids([{"role": "user", "content": "What is 12+7?"}])))
    for text, ids in prompts:
        made = [[float(f"{value:.7g}") for value in model.start()(ids).tolist()] for model in (ort, torch)]
        rows.append({"prompt": text, "prompt_tokens": ids, "ort": made[0], "checkpoint": made[1]})
    return rows


def check(entries: list[dict[str, Any]]) -> None:
    same = sum(item["checkpoint"]["tokens"] == item["ort"]["tokens"] for item in entries)
    lengths = sorted(item["prompt_length"] for item in entries)
    print(f"{len(entries)} cases, {same} equal in both, prompt lengths {lengths}")
    for item in entries:
        if item["ort"]["min_margin"] < LEAST_MARGIN or "\ufffd" in item["ort"]["text"]:
            print("  weak:", item["id"], item["ort"]["min_margin"], repr(item["ort"]["text"][:60]))


def main() -> None:
    torch, ort = TorchModel(CHECKPOINT), OrtModel(DEMO)
    entries = cases(torch, ort)
    check(entries)
    report.write("golden.json", {
        **report.origin("golden.py"),
        "rules": [
            "`ort` is what a server must repeat: plain ONNX Runtime, CPU, the prompt in one run, then one token a run.",
            "`checkpoint` is PyTorch float32 on the weights that were exported.",
            "`tokens` leaves out the stop token, which `stop_token` names; max_tokens counts `tokens`.",
            "`text` decodes `tokens` and skips special tokens.",
            "Texts of users are never parsed for special tokens; they lose the white space next to a special token.",
            f"Cases with a min_margin (best logit less the second, over all steps) below {LEAST_MARGIN} may differ "
            "with other kernels.",
        ],
        "special": {"im_start": IM_START, "im_end": IM_END, "im_sep": IM_SEP},
        "cases": entries,
    })
    report.write("logits.json", {
        **report.origin("golden.py"),
        "rules": ["Logits for the token after prompt_tokens, one number per vocabulary entry, 7 digits."],
        "rows": logits(torch, ort),
    })


if __name__ == "__main__":
    main()
