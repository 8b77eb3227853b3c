#!/usr/bin/env python3
"""What speculative decoding brings on a real model, task by task, and how fast a conversation's turns begin.

    benches/real_tasks.py [MODEL] [--phi4d target/release/phi4d] [--rounds 3] [--tokens 200]

MODEL is the folder that tests/real_model/setup makes. Prints the tables of docs/tuning.md in Markdown. Two daemons
run, one of them with --draft-tokens 0; each task is asked of both in turns, greedily, with a salt of its own, so that
nothing of it is cached. Times are medians. Needs nothing but Python.
"""

import http.client
import json
import socket
import statistics
import subprocess
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TEXTS = {case["name"]: case["text"] for case in json.loads((HERE / "models/golden/smollm.json").read_text())["perplexity"]}
TASKS = [
    ("summary of a text", f"Summarise this text in two sentences:\n\n{TEXTS['science']}"),
    ("summary of a letter", f"Summarise this letter in three points:\n\n{TEXTS['letter']}"),
    ("correction", f"Correct the spelling of this text and write it again in full:\n\n{TEXTS['prose']}"),
    ("rewriting", f"Rewrite this recipe as a numbered list:\n\n{TEXTS['recipe']}"),
    ("translation", "Translate into French: The ship left the harbour at dawn, and nobody on the quay waved."),
    ("code with a docstring", f"Add a docstring to this function and print it in full:\n\n{TEXTS['python']}"),
    ("code with a new name", f"Rename the function to `count_all` and print all of the code:\n\n{TEXTS['python']}"),
    ("explained code", f"Explain what this code does:\n\n{TEXTS['python']}"),
    ("quotation", f"Repeat the paragraph of this licence that excludes liability:\n\n{TEXTS['licence']}"),
    ("JSON", "Write a JSON list of five people, each with the fields name, age, city and email."),
    ("chat", "What should I see in Rome in two days?"),
    ("story", "Write a short story about a lighthouse keeper and a dog."),
]
TURNS = [
    "Who wrote Faust?", "When was it published?", "What is it about?", "Who is Mephistopheles?", "Name a second play by him.",
    "Which is longer?", "Was he a scientist, too?", "What did he study?", "Where did he live?", "Which museum would you visit?",
]


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=600)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Daemon:
    def __init__(self, arguments: Namespace, folder: str, name: str, *more: str) -> None:
        self.socket = f"{folder}/{name}.sock"
        command = [arguments.phi4d, "serve", "--model", arguments.model, "--socket", self.socket, "--listen", "off"]
        self.process = subprocess.Popen([*command, "--log-level", "error", *more])
        while self.process.poll() is None:
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{name}: the daemon ended with {self.process.returncode}")

    def get(self, path: str) -> dict:
        client = Unix(self.socket)
        client.request("GET", path)
        return json.loads(client.getresponse().read())

    def ask(self, messages: list[dict], salt: str, tokens: int) -> dict:
        """An answer, streamed: its text, and the times of its pieces."""
        client = Unix(self.socket)
        body = {"messages": messages, "temperature": 0, "max_tokens": tokens, "cache_salt": salt, "stream": True,
                "stream_options": {"include_usage": True}}
        begun = time.perf_counter()
        client.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = client.getresponse()
        if response.status != 200:
            raise SystemExit(f"{response.status}: {response.read()!r}")
        text, times, usage = "", [], {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    text += choice["delta"]["content"]
                    times.append(time.perf_counter())
        return {"text": text, "first_ms": (times[0] - begun) * 1e3, "decode_s": times[-1] - times[0], "usage": usage}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def speculation(arguments: Namespace, folder: str) -> None:
    on, off = Daemon(arguments, folder, "on"), Daemon(arguments, folder, "off", "--draft-tokens", "0")
    print("| task | answer, tokens | draft tokens | accepted | tokens/s without | with | ratio |\n|---|---|---|---|---|---|---|")
    try:
        for name, question in TASKS:
            speeds: dict[str, list[float]] = {"on": [], "off": []}
            before = on.get("/health")
            for number in range(arguments.rounds):
                for key, daemon in (("off", off), ("on", on)):
                    answer = daemon.ask([{"role": "user", "content": question}], f"{name} {number}", arguments.tokens)
                    count = answer["usage"]["completion_tokens"]
                    speeds[key].append((count - 1) / answer["decode_s"] if answer["decode_s"] else 0)
            health = on.get("/health")
            drafted, accepted = (health[key] - before[key] for key in ("draft_tokens", "accepted_draft_tokens"))
            without, with_drafts = (statistics.median(speeds[key]) for key in ("off", "on"))
            share = f"{accepted / drafted:.0%}" if drafted else "–"
            drafted //= arguments.rounds
            print(f"| {name} | {count} | {drafted} | {share} | {without:.1f} | {with_drafts:.1f} | {with_drafts / without:.2f} |", flush=True)
    finally:
        on.stop()
        off.stop()


def turns(arguments: Namespace, folder: str) -> None:
    """Ten turns, each with the whole conversation: what is read of each prompt, and the time until the first text."""
    daemon = Daemon(arguments, folder, "turns")
    print("\n| turn | prompt, tokens | cached | first text |\n|---|---|---|---|")
    try:
        messages = []
        for number, question in enumerate(TURNS):
            messages.append({"role": "user", "content": question})
            answer = daemon.ask(messages, "turns", 80)
            messages.append({"role": "assistant", "content": answer["text"]})
            usage = answer["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            print(f"| {number + 1} | {usage['prompt_tokens']} | {cached} | {answer['first_ms']:.0f} ms |", flush=True)
    finally:
        daemon.stop()


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="target/real-model")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer, at most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        speculation(arguments, folder)
        turns(arguments, folder)


if __name__ == "__main__":
    main()
