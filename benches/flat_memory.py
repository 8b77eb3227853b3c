#!/usr/bin/env python3
"""Sends many requests to a daemon of its own and prints its resident memory along the way.

    python benches/flat_memory.py [--phi4d target/release/phi4d] [--model models/demo] [--requests 10000]

Needs nothing but Python. Requests come from 8 threads over the Unix socket: chats of different
lengths, a quarter of them streamed and left half-way.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time


def ask(path: str, body: dict, leave: bool) -> None:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        stream.sendall(head.encode() + data)
        if leave:
            stream.recv(300)
            return
        while stream.recv(65536):
            pass


def resident(pid: int) -> tuple[float, int, int]:
    """Resident MiB, open descriptors, threads."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "phi4d.sock")
        command = [arguments.phi4d, "serve", "--model", arguments.model, "--listen", "off", "--socket", path]
        daemon = subprocess.Popen([*command, "--log-level", "warn"])
        while True:
            try:
                ask(path, {"messages": [{"role": "user", "content": "Hello!"}]}, False)
                break
            except OSError:
                time.sleep(0.05)
        left = arguments.requests
        lock = threading.Lock()

        def work(seed: int) -> None:
            nonlocal left
            choose = random.Random(seed)
            while True:
                with lock:
                    if left == 0:
                        return
                    left -= 1
                    done = arguments.requests - left
                    if done % (arguments.requests // 10) == 0:
                        memory, descriptors, threads = resident(daemon.pid)
                        print(f"{done:7} requests: {memory:8.1f} MiB, {descriptors} descriptors, {threads} threads", flush=True)
                text = " ".join(choose.choice(["red", "stone", "count", "7", "river"]) for _ in range(choose.randrange(1, 120)))
                leave = choose.random() < 0.25
                body = {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "stream": leave}
                ask(path, body, leave)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory, descriptors, count = resident(daemon.pid)
        print(f"at the end: {memory:.1f} MiB, {descriptors} descriptors, {count} threads")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


if __name__ == "__main__":
    main()
