#!/usr/bin/env python3
"""What holding answers to a JSON Schema costs a token, on a model with Phi-4's vocabulary.

    python benches/structured_output.py MODEL [--phi4d target/release/phi4d] [--rounds 5]

MODEL is a random model of Phi-4's shape (models/make_random.py) with Phi-4's tokenizer
(models/make_phi4_tokenizer.py). Needs nothing but Python. Starts a daemon that guesses nothing
ahead, asks for free and for held answers in turns, and prints the medians of the gaps between
tokens; then starts one that guesses, and prints how many tokens a second a schema with long names
gives in either.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time

ITEM = {
    "type": "object",
    "properties": {
        "identifier": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,9}$"},
        "description": {"type": "string", "maxLength": 400},
        "quantity": {"type": "integer", "minimum": 0, "maximum": 9999},
        "labels": {"type": "array", "items": {"type": "string"}, "minItems": 3},
    },
    "required": ["identifier", "description", "quantity", "labels"],
    "additionalProperties": False,
}
OPEN = {"type": "array", "items": ITEM, "minItems": 500}
NAMES = {
    "type": "object",
    "properties": {f"measurement_of_the_{name}_in_milligrams": {"type": "integer", "minimum": 0, "maximum": 99}
                   for name in ["first", "second", "third", "fourth", "fifth", "sixth"]},
}
NAMES |= {"required": list(NAMES["properties"]), "additionalProperties": False}


@contextlib.contextmanager
def daemon(arguments, drafts: int):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "phi4d.sock")
        command = [arguments.phi4d, "serve", "--model", arguments.model, "--listen", "off", "--socket", path]
        command += ["--log-level", "warn", "--draft-tokens", str(drafts), "--context-tokens", "2048"]
        process = subprocess.Popen(command)
        while True:
            try:
                gaps(path, {"max_tokens": 2})
                break
            except OSError:
                time.sleep(0.1)
        yield path
        process.terminate()
        process.wait()


def gaps(path: str, more: dict) -> tuple[list[float], int]:
    """Milliseconds between the tokens of a streamed answer, and how many tokens it had."""
    body = {"prompt": "List the items:", "stream": True, "temperature": 1, "return_token_ids": True} | more
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    times, tokens = [], 0
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        stream.sendall(head.encode() + data)
        for line in stream.makefile("rb"):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise SystemExit(event)
                fresh = sum(len(choice.get("token_ids") or []) for choice in event["choices"])
                if fresh:
                    times.append(time.perf_counter())
                    tokens += fresh
            elif line.startswith(b"HTTP/1.1 4"):
                raise SystemExit(stream.makefile("rb").read())
    return [1000 * (b - a) for a, b in zip(times, times[1:])], tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    free = {"temperature": 0, "ignore_eos": True, "max_tokens": arguments.tokens}
    held = {"temperature": 0, "guided_json": OPEN, "max_tokens": arguments.tokens}
    all_free, all_held = [], []
    with daemon(arguments, 0) as path:
        gaps(path, held)
        for _ in range(arguments.rounds):
            all_free += gaps(path, free)[0]
            all_held += gaps(path, held)[0]
        before = [rate(path) for _ in range(arguments.rounds)]
    without, with_mask = statistics.median(all_free), statistics.median(all_held)
    print(f"gap between tokens: free {without:.2f} ms, held to a schema {with_mask:.2f} ms: "
          f"{100 * (with_mask / without - 1):+.1f}%")
    with daemon(arguments, 7) as path:
        after = [rate(path) for _ in range(arguments.rounds)]
    slow, fast = statistics.median(before), statistics.median(after)
    print(f"schema with long names: {slow:.1f} tokens/s without guesses, {fast:.1f} with: {fast / slow:.2f} times")


def rate(path: str) -> float:
    between, tokens = gaps(path, {"guided_json": NAMES, "max_tokens": 300})
    return 1000 * (tokens - 1) / sum(between)


if __name__ == "__main__":
    main()
