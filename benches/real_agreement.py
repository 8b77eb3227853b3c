#!/usr/bin/env python3
"""How many tokens of onnxruntime-genai's greedy answers phi4d chooses as well, on the same folder of a real model.

    target/real-model-bench/venv/bin/python benches/real_agreement.py [MODEL] [--phi4d target/release/phi4d]

MODEL is the folder that tests/real_model/setup makes; benches/real_model.sh makes the environment. Prompts are those of
models/golden/smollm.json. Prints, with phi4d's kernels and with ONNX Runtime's, how many tokens phi4d would choose after
the same text, and how many answers are the same when each goes on by itself. Speed does not matter here.
"""

import json
import os
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: the library writes into HOME otherwise

import onnxruntime_genai as og

from real_tasks import HERE, Daemon, Unix


def genai(folder: str, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    model = og.Model(og.Config(folder))
    answers = []
    for prompt in prompts:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        answers.append([int(token) for token in generator.get_sequence(0)][len(prompt) :])
    return answers


def complete(daemon: Daemon, body: dict) -> dict:
    client = Unix(daemon.socket)
    client.request("POST", "/v1/completions", json.dumps({"temperature": 0, **body}), {"Content-Type": "application/json"})
    response = client.getresponse()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {response.read()!r}")
    return json.loads(response.read())["choices"][0]


def chosen(daemon: Daemon, prompt: list[int], answer: list[int]) -> int:
    """How many tokens of `answer` are the likeliest after those before."""
    body = {"prompt": prompt + answer, "max_tokens": 1, "echo": True, "logprobs": 1, "return_tokens_as_token_ids": True}
    tops = complete(daemon, body)["logprobs"]["top_logprobs"][len(prompt) :]
    return sum(max(top, key=top.get) == f"token_id:{token}" for top, token in zip(tops, answer))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="target/real-model")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, at most")
    arguments: Namespace = parser.parse_args()
    golden = json.loads((HERE / "models/golden/smollm.json").read_text())
    prompts = [case["prompt_tokens"] for case in golden["greedy"]]
    answers = genai(arguments.model, prompts, arguments.tokens)
    count = sum(map(len, answers))
    print("| phi4d with | tokens chosen as well | equal answers | equal tokens before the first other one |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, own in (("its kernels", "true"), ("ONNX Runtime's", "false")):
            daemon = Daemon(arguments, folder, own, "--own-kernels", own)
            try:
                same = sum(chosen(daemon, prompt, answer) for prompt, answer in zip(prompts, answers))
                equal = first = 0
                for prompt, answer in zip(prompts, answers):
                    body = {"prompt": prompt, "max_tokens": arguments.tokens, "return_token_ids": True}
                    given = complete(daemon, body)["token_ids"]
                    # genai's answer ends with the end token, which phi4d does not return.
                    places = range(min(len(given), len(answer)))
                    until = next((place for place in places if given[place] != answer[place]), len(places))
                    equal += until == len(places) and len(answer) - len(given) in (0, 1)
                    first += until
                print(f"| {name} | {same} of {count} ({same / count:.1%}) | {equal} of {len(answers)} | {first} of {count} |", flush=True)
            finally:
                daemon.stop()


if __name__ == "__main__":
    main()
