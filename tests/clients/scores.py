"""Scores answers as lm-eval's `local-completions` does, and by the model's own logits.

    scores.py URL MODEL_FOLDER

lm-eval posts context and continuation as token ids with echo, log-probabilities and one token to generate. It takes the
entries from the context's end to the last but one, since the last is the generated token's; so a generated token
without an entry would shift all of them, and the wrong tokens would be scored without an error. Some of these
texts end where the model generates its stop token. Prints how many pairs were scored, how many ended so, and the
largest difference.
"""

import json
import pathlib
import sys
import urllib.request

import numpy
from onnx_model import Model

URL, MODEL = sys.argv[1], Model(pathlib.Path(sys.argv[2]))
#: Of a continuation's log-probability for each token: activations are rounded to int8, each kernel its way.
NOISE = 0.25


def post(path: str, body: dict) -> dict:
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def ids_of(question: str, answer: str | None) -> list[int]:
    """A conversation's token ids, up to the model's answer or to its end so far."""
    messages = [{"role": "user", "content": question}]
    if answer is None:
        return post("/tokenize", {"messages": messages})["tokens"]
    messages.append({"role": "assistant", "content": answer})
    return post("/tokenize", {"messages": messages, "continue_final_message": True})["tokens"]


def asked(context: list[int], continuation: list[int], more: dict) -> dict:
    body = {"prompt": context + continuation, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234} | more
    return post("/v1/completions", body)


def scored(choice: dict, start: int, end: int | None) -> tuple[float, bool]:
    """As lm-eval reads an answer: the sum, and whether each token is the likeliest."""
    logprobs = choice["logprobs"]
    entries = zip(logprobs["tokens"][start:end], logprobs["top_logprobs"][start:end])
    greedy = all(max(top, key=top.get) == token for token, top in entries)
    return sum(logprobs["token_logprobs"][start:end]), greedy


pairs = ended = 0
largest = 0.0
for question, answers in [("What is 12+7?", ["19", "18", "19."]), ("What is 3*4?", ["12", "7"]), ("Hello!", ["Hello", "x"])]:
    context = ids_of(question, None)
    for answer in answers:
        continuation = ids_of(question, answer)[len(context):]
        rows = MODEL.logits_of(context + continuation)[len(context) - 1 : -1]
        rows = rows - numpy.log(numpy.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) - rows.max(axis=1, keepdims=True)
        expected = float(sum(row[token] for row, token in zip(rows, continuation)))
        whole = asked(context, continuation, {"max_tokens": 1})
        choice = whole["choices"][0]
        entries = len(choice["logprobs"]["tokens"])
        if entries != len(context) + len(continuation) + whole["usage"]["completion_tokens"]:
            raise SystemExit(f"{question!r}, {answer!r}: {entries} entries of {whole['usage']}")
        found, greedy = scored(choice, len(context), -1)
        alone, _ = scored(asked(context, continuation, {"max_tokens": 0})["choices"][0], len(context), None)
        difference = max(abs(found - expected), abs(alone - expected)) / len(continuation)
        if difference > NOISE:
            raise SystemExit(f"{question!r}, {answer!r}: {found} and {alone}, expected {expected}")
        margin = min(numpy.sort(row)[-1] - numpy.sort(row)[-2] for row in rows)
        if greedy != all(int(row.argmax()) == token for row, token in zip(rows, continuation)) and margin > NOISE:
            raise SystemExit(f"{question!r}, {answer!r}: greedy is {greedy}")
        pairs += 1
        ended += choice["finish_reason"] == "stop"
        largest = max(largest, difference)
print(json.dumps({"pairs": pairs, "ended": ended, "largest": largest}))
