#!/usr/bin/env python3
"""Measures how soon a daemon that sleeps (idle_exit) answers: from the connection to the first token. Then the same for
a daemon that is awake, and a further model ([models.NAME]) that is not loaded.

    python benches/wake.py --model DIR [--phi4d target/release/phi4d] [--rounds 5] [--prompt-words 300]

Needs nothing but Python. Holds a Unix socket as systemd would, and asks when no daemon runs. In turns: the model as
it was exported, the model with weights that `phi4d prepare` made, and the same with the prompt in the prefix store.
For comparison, the same request to a daemon that is awake. Also adds up the memory of all processes that a daemon
leaves when it ends, and that it had just before. DIR is linked, not changed. The daemon of several models has the demo
model as its first one, and DIR with and without prepared weights as further ones.
"""

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import tempfile
import time

PASS = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 0</dev/null'


def resident(session: int) -> int:
    """Bytes of memory of a session's processes, those that have ended and were not waited for left out."""
    pages = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        # What follows the name: state, parent, group, session, and at 21 the resident pages.
        if int(fields[3]) == session:
            pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Sleeper:
    def __init__(self, phi4d: str, model: str, folder: str, more: list[str]):
        self.path = os.path.join(folder, "phi4d.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.command = ["sh", "-c", PASS, "sh", phi4d, "serve", "--model", model, "--listen", "off"]
        self.command += ["--log-level", "error", *more]
        self.process = None
        self.held: list[tuple[int, int]] = []

    def request(self, method: str, path: str, body: dict, until: bytes) -> bool:
        """Reads the answer as far as `until`; whether that comes."""
        data = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self.path)
            stream.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            if self.process is None:
                assert select.select([self.listener], [], [], 5)[0]
                self.process = subprocess.Popen(self.command, stdin=self.listener, start_new_session=True)
            text = b""
            while until not in text:
                if not (part := stream.recv(65536)):
                    return False
                text += part
        return True

    def ask(self, prompt: str, **more) -> float:
        """Seconds to the first token."""
        begun = time.perf_counter()
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "stream": True, "temperature": 0}
        assert self.request("POST", "/v1/chat/completions", {**body, **more}, b'finish_reason":"')
        return time.perf_counter() - begun

    def unload(self, model: str) -> float:
        """Seconds until its memory is free."""
        begun = time.perf_counter()
        self.request("POST", "/api/generate", {"model": model, "keep_alive": 0}, b"unload")
        while not self.request("GET", f"/v1/models/{model}", {}, b'"unloaded"'):
            time.sleep(0.005)
        return time.perf_counter() - begun

    def sleep(self) -> None:
        """Waits until it has ended by itself."""
        awake = resident(self.process.pid)
        assert self.process.wait(600) == 0
        self.held.append((awake, resident(self.process.pid)))
        self.process = None


def linked(model: str, folder: str) -> str:
    os.mkdir(folder)
    for name in set(os.listdir(model)) - {"prepared"}:
        os.symlink(os.path.realpath(os.path.join(model, name)), os.path.join(folder, name))
    return folder


def of_several(arguments, folder: str, folders: dict[str, str], prompt: str) -> dict[str, list[float]]:
    """Seconds to the first token of further models that have to be loaded for it, and until they are unloaded."""
    settings = os.path.join(folder, "models.toml")
    with open(settings, "w", encoding="utf-8") as file:
        file.write("kv_cache_bytes = 16777216\n")
        for name, path in folders.items():
            file.write(f'[models.{name}]\nmodel = "{path}"\nkv_cache_bytes = 536870912\n')
    sleeper = Sleeper(arguments.phi4d, arguments.first, folder, ["--config", settings, "--prefix-store", os.path.join(folder, "store")])
    times: dict[str, list[float]] = {}
    for number in range(arguments.rounds + 1):
        for name, model, beginning in (
            ("further model", "plain", f"{number} plain"),
            ("further model, prepared weights", "prepared", f"{number} prepared"),
            ("further model, prepared weights and stored prefix", "prepared", ""),
        ):
            took, unloaded = sleeper.ask(f"{beginning} {prompt}", model=model), sleeper.unload(model)
            if number > 0:
                times.setdefault(f"{name}: first token", []).append(took)
                times.setdefault(f"{name}: unloaded", []).append(unloaded)
    sleeper.process.terminate()
    assert sleeper.process.wait(600) == 0
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--model", required=True)
    parser.add_argument("--first", default="models/demo", help="the first model of several")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-words", type=int, default=300)
    arguments = parser.parse_args()
    prompt = " ".join(f"stone {number}" for number in range(arguments.prompt_words // 2))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        plain, prepared = (linked(arguments.model, os.path.join(folder, name)) for name in ("plain", "prepared"))
        cache = os.path.join(folder, "cache")
        os.mkdir(cache)
        subprocess.run([arguments.phi4d, "prepare", "--model", prepared], check=True, stdout=subprocess.DEVNULL)
        kinds = {
            "asleep": (plain, []),
            "asleep, prepared weights": (prepared, []),
            "asleep, prepared weights and stored prefix": (prepared, ["--prefix-store", os.path.join(folder, "prefixes")]),
        }
        sleepers = {}
        for number, (name, (model, more)) in enumerate(kinds.items()):
            os.mkdir(place := os.path.join(folder, str(number)))
            sleepers[name] = Sleeper(arguments.phi4d, model, place, ["--idle-exit", "0.2", *more])
        for number in range(arguments.rounds + 1):
            for name, sleeper in sleepers.items():
                took = sleeper.ask(prompt)
                # The first one fills the page cache and the prefix store.
                if number > 0:
                    times.setdefault(name, []).append(took)
                # Another prompt of the same length, which nothing is cached of.
                times.setdefault("awake", []).append(sleeper.ask(f"{number} {name} {prompt}"))
                sleeper.sleep()
        os.mkdir(place := os.path.join(folder, "several"))
        further = of_several(arguments, place, {"plain": plain, "prepared": prepared}, prompt)
    times = {f"{name}: first token": took for name, took in times.items()} | further
    for name, took in times.items():
        print(f"{name} after {statistics.median(took):.2f} s ({min(took):.2f} to {max(took):.2f})")
    for name, sleeper in sleepers.items():
        awake, asleep = map(max, zip(*sleeper.held))
        print(f"{name}: {awake / 1e6:.0f} MB of memory before it slept, {asleep / 1e6:.0f} MB asleep")


main()
