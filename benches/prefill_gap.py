#!/usr/bin/env python3
"""What a long prompt does to the answers that go on beside it, for several values of prefill_share.

    python benches/prefill_gap.py MODEL_FOLDER [--phi4d target/release/phi4d] [--prompt 16000] [--shares 0.5,0.2,0.8]

For each share the daemon restarts. Streams of tokens run alone first; then a request with a long prompt comes,
and their gaps between tokens are printed until its first token. A gap's limit is what the settings promise:
prefill_chunk_ms and 1 / (1 - share) of a step of decoding alone. Standard library only.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time


def ask(path: str, prompt: list[int], tokens: int) -> socket.socket:
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                       "return_token_ids": True})
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return connection


class Stream(threading.Thread):
    """Reads a stream and notes when tokens came."""

    def __init__(self, path: str, prompt: list[int], tokens: int) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.socket = ask(path, prompt, tokens)
        self.start()

    def run(self) -> None:
        with self.socket.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"data: {") and b'"token_ids":[]' not in line:
                    self.times.append(time.monotonic())

    def gaps(self, since: float, until: float) -> list[float]:
        times = [at for at in self.times if since <= at <= until]
        return [(later - at) * 1e3 for at, later in zip(times, times[1:])]


def quantiles(gaps: list[float]) -> str:
    cuts = statistics.quantiles(gaps, n=100)
    return "".join(f"{cut:9.1f}" for cut in (cuts[49], cuts[94], cuts[98], max(gaps)))


def measure(arguments: argparse.Namespace, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/phi4d.sock"
        command = [arguments.phi4d, "serve", "--model", arguments.model, "--socket", path, "--listen", "off",
                   "--prefill-share", str(share), "--prefill-chunk-ms", str(arguments.chunk_ms),
                   "--log-level", "warn", "--draft-tokens", "0", "--drain-timeout-s", "0"]
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PHI4D_REQUEST_TIMEOUT_S": "0"}
        daemon = subprocess.Popen(command, env=environment)
        try:
            while not os.path.exists(path):
                time.sleep(0.05)
            streams = [Stream(path, [20 + number] * 16, 15_000) for number in range(arguments.streams)]
            while min(len(stream.times) for stream in streams) < 20:
                time.sleep(0.05)
            began = time.monotonic()
            time.sleep(arguments.seconds)
            alone = [gap for stream in streams for gap in stream.gaps(began, time.monotonic())]
            began = time.monotonic()
            prompt = [index * 7919 % 900 for index in range(arguments.prompt)]
            asked = Stream(path, prompt, 1)
            while not asked.times and asked.is_alive():
                time.sleep(0.05)
            ended = asked.times[0] if asked.times else time.monotonic()
            beside = [gap for stream in streams for gap in stream.gaps(began, ended)]
        finally:
            daemon.terminate()
            daemon.wait()
    limit = arguments.chunk_ms + statistics.median(alone) / (1 - share)
    within = sum(gap <= limit for gap in beside) / len(beside)
    print(f"{share:5} alone  {quantiles(alone)}")
    print(f"      beside {quantiles(beside)}   limit {limit:.1f} ms: {within:.1%} within it; "
          f"{arguments.prompt} tokens read in {ended - began:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--prompt", type=int, default=16_000)
    parser.add_argument("--shares", default="0.5,0.2,0.8")
    parser.add_argument("--chunk-ms", type=int, default=250)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    print("share  gaps, ms  p50      p95      p99      most")
    for share in arguments.shares.split(","):
        measure(arguments, float(share))


if __name__ == "__main__":
    main()
