#!/usr/bin/env python3
"""Compares what two execution providers make of one model folder.

    python benches/provider_parity.py FOLDER --provider cuda [--against cpu] [--limit 0.05]

Each serves the folder in turn and is sent the same prompts as token ids: a long one, whose log-probabilities are
compared position by position, and others at once, so that decode steps are batched over rows of different lengths.
Greedy tokens have to be equal up to the first place where the likeliest two are nearer than the limit. Ends with
code 1 where the difference is larger. Standard library only.
"""

import argparse
import json
import os
import random
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path


def serve(arguments: argparse.Namespace, provider: str, port: int) -> subprocess.Popen[bytes]:
    options = arguments.options if provider == arguments.provider else ""
    command = [arguments.phi4d, "serve", "--model", arguments.folder, "--provider", provider]
    command += ["--listen", f"127.0.0.1:{port}", "--socket", "off", "--model-name", "m", "--context-tokens", "2048"]
    command += ["--log-level", "warn", "--slots", "8", "--prefix-slots", "0", "--provider-options", options,
                *shlex.split(arguments.settings)]
    return subprocess.Popen(command, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(daemon: subprocess.Popen[bytes], port: int) -> None:
    """Waits until the daemon takes requests: it listens before it is ready, and answers then."""
    while daemon.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=600) as answer:
                if answer.status == 200:
                    return
        except OSError:
            threading.Event().wait(0.2)
    raise SystemExit(f"the daemon ended with code {daemon.returncode}")


def ask(port: int, prompt: list[int], tokens: int, prompt_logprobs: bool) -> dict:
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 2,
            "return_tokens_as_token_ids": True, "ignore_eos": True}
    if prompt_logprobs:
        body["prompt_logprobs"] = 1
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.load(answer)["choices"][0]


def run(arguments: argparse.Namespace, provider: str, prompts: list[list[int]]) -> dict:
    port = free_port()
    daemon = serve(arguments, provider, port)
    try:
        ready(daemon, port)
        # The first alone, for every position's log-probability; the others together.
        answers: list[dict] = [ask(port, prompts[0], 1, True)] + [{}] * (len(prompts) - 1)

        def one(index: int) -> None:
            answers[index] = ask(port, prompts[index], arguments.tokens, False)

        threads = [threading.Thread(target=one, args=(index,)) for index in range(1, len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"prompt": read_positions(answers[0], prompts[0]), "answers": [a["logprobs"] for a in answers[1:]]}
    finally:
        daemon.terminate()
        daemon.wait()


def read_positions(choice: dict, prompt: list[int]) -> list[float]:
    """The log-probability of each token of the prompt but the first."""
    rows = choice["prompt_logprobs"][1:]
    return [row[str(token)]["logprob"] for row, token in zip(rows, prompt[1:])]


def common(ours: dict, theirs: dict, limit: float) -> tuple[int, float]:
    """Tokens that are equal up to a near tie, and the largest difference on the way. Fails without a tie."""
    worst = 0.0
    pairs = zip(ours["tokens"], theirs["tokens"], ours["token_logprobs"], theirs["token_logprobs"])
    for place, (token, other, value, their_value) in enumerate(pairs):
        if token != other:
            top = sorted(theirs["top_logprobs"][place].values())
            gap = top[-1] - top[-2]
            if gap > limit:
                raise SystemExit(f"token {place} differs, and the likeliest two are {gap:.4f} apart")
            return place, worst
        worst = max(worst, abs(value - their_value))
    return len(ours["tokens"]), worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--against", default="cpu")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--settings", default="", help="further flags of both daemons")
    parser.add_argument("--options", default="", help="options of the provider, such as graphs=true")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the first prompt")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--limit", type=float, default=0.05, help="the largest difference of a log-probability")
    arguments = parser.parse_args()
    vocabulary = json.loads((Path(arguments.folder) / "genai_config.json").read_text())["model"]["vocab_size"]
    numbers = random.Random(4)
    lengths = [arguments.prompt, 3, 17, 40, arguments.prompt // 2]
    # Below the added tokens, which a prompt may hold, but which small vocabularies have elsewhere.
    prompts = [[numbers.randrange(min(vocabulary, 900)) for _ in range(length)] for length in lengths]
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        ours, theirs = run(arguments, arguments.provider, prompts), run(arguments, arguments.against, prompts)
    differences = [abs(a - b) for a, b in zip(ours["prompt"], theirs["prompt"])]
    worst, mean = max(differences), sum(differences) / len(differences)
    print(f"prompt of {arguments.prompt}: log-probabilities differ by {mean:.5f} on average, {worst:.5f} at most")
    for answer, their_answer in zip(ours["answers"], theirs["answers"]):
        equal, largest = common(answer, their_answer, arguments.limit)
        print(f"greedy: {equal} of {len(answer['tokens'])} tokens equal before a near tie, by {largest:.5f} at most")
        worst = max(worst, largest)
    if worst > arguments.limit:
        raise SystemExit(f"the largest difference is {worst:.5f}, above {arguments.limit}")


if __name__ == "__main__":
    sys.exit(main())
