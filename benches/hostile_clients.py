#!/usr/bin/env python3
"""Measures what other clients cost: decoding beside them, and memory and descriptors that they hold.

    python benches/hostile_clients.py [--phi4d target/release/phi4d] [--model DIR] [--connections 10000]

Needs nothing but Python. First, tokens a second of one answer alone and beside 200 requests of
health a second and 50 streams that nobody reads, in turns (A B A B ...); the ratio is that of the
medians. Then crowds of the given size, by TCP on loopback: idle, slow heads, half-closed, and
never reading; three times each, with what the daemon holds after each.
"""

import argparse
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time

LIMITS = ["--header-timeout-s", "5", "--body-timeout-s", "5", "--slow-client-timeout-s", "600"]


def request(body: dict, more: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{more}Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def chat(tokens: int, **more) -> dict:
    return {
        "messages": [{"role": "user", "content": "copy a"}], "max_tokens": tokens, "ignore_eos": True,
        "temperature": 0, **more,
    }


def connect(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    return stream


def read_all(stream: socket.socket) -> bytes:
    text = b""
    while part := stream.recv(65536):
        text += part
    return text


def held(pid: int) -> tuple[float, int]:
    """Resident MiB and open descriptors."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def start(arguments, folder: str, *more: str) -> tuple[subprocess.Popen, str, int]:
    path = os.path.join(folder, "phi4d.sock")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [arguments.phi4d, "serve", "--model", arguments.model, "--socket", path]
    command += ["--listen", f"127.0.0.1:{port}", "--log-level", "warn", *LIMITS, *more]
    daemon = subprocess.Popen(command)
    while daemon.poll() is None:
        try:
            connect(path).close()
            with connect(path) as stream:
                stream.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                if b" 200 " in read_all(stream):
                    return daemon, path, port
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the daemon did not start")


def rate(path: str, tokens: int) -> float:
    """Tokens a second of an answer, first token to last."""
    with connect(path) as stream:
        stream.sendall(request(chat(tokens, stream=True), "Connection: close\r\n"))
        first = last = None
        while part := stream.recv(65536):
            if b"data: " in part:
                last = time.perf_counter()
                first = first or last
    return tokens / max(last - first, 1e-9)


def ask_health(path: str, per_second: int, stop: threading.Event, asked: list) -> None:
    begun, count = time.perf_counter(), 0
    with connect(path) as stream:
        while not stop.is_set():
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = stream.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            count += 1
            time.sleep(max(0.0, begun + count / per_second - time.perf_counter()))
    asked.append(count / (time.perf_counter() - begun))


def disturbance(arguments) -> None:
    with tempfile.TemporaryDirectory() as quiet, tempfile.TemporaryDirectory() as busy:
        more = ["--slots", "60", "--queue", "256", "--queue-per-caller", "128", "--draft-tokens", "0"]
        daemons = [start(arguments, folder, *more) for folder in (quiet, busy)]
        alone_path, beside_path = (path for _, path, _ in daemons)
        rates, asked = {"alone": [], "beside": []}, []
        # Their answers fill the sockets, and then their sequences are parked.
        streams = [connect(beside_path) for _ in range(50)]
        for stream in streams:
            stream.sendall(request(chat(2000, stream=True, logprobs=True, top_logprobs=20)))
        wait_until_parked(beside_path)
        beside = daemons[1][0].pid
        shares = [share_of_a_core(beside, beside_path, per_second) for per_second in (0, 200)]
        print(f"of a core: {shares[0]:.1%} with 50 streams that nobody reads, {shares[1]:.1%} with health, too")
        for path in (alone_path, beside_path):
            rate(path, 16)
        for _ in range(arguments.rounds):
            rates["alone"].append(rate(alone_path, arguments.tokens))
            stop = threading.Event()
            health = threading.Thread(target=ask_health, args=(beside_path, 200, stop, asked))
            health.start()
            rates["beside"].append(rate(beside_path, arguments.tokens))
            stop.set()
            health.join()
        alone, beside = statistics.median(rates["alone"]), statistics.median(rates["beside"])
        print(f"health requests a second: {statistics.median(asked):.0f}; streams that nobody reads: 50")
        ratios = sorted(b / a for a, b in zip(rates["alone"], rates["beside"], strict=True))
        print(f"tokens/s alone {alone:.2f}, beside {beside:.2f}, beside/alone {beside / alone:.3f}")
        print(f"by round: {ratios[0]:.3f} to {ratios[-1]:.3f}, median {statistics.median(ratios):.3f}")
        for daemon, _, _ in daemons:
            daemon.kill()
            daemon.wait()


def processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of_a_core(pid: int, path: str, per_second: int) -> float:
    """What a daemon takes while nobody is answered, beside so many requests of health a second."""
    stop, asked = threading.Event(), []
    asking = threading.Thread(target=ask_health, args=(path, per_second, stop, asked))
    before, begun = processor_seconds(pid), time.monotonic()
    if per_second:
        asking.start()
    time.sleep(10)
    stop.set()
    if per_second:
        asking.join()
    return (processor_seconds(pid) - before) / (time.monotonic() - begun)


def health(path: str) -> dict:
    with connect(path) as stream:
        stream.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return json.loads(read_all(stream).split(b"\r\n\r\n", 1)[1])


def wait_until_parked(path: str) -> None:
    steps = -1
    while steps != (steps := health(path)["steps"]) or steps == 0:
        time.sleep(1)


def crowd(port: int, kind: str, count: int) -> tuple[int, int]:
    """Opens connections of a kind, and waits until the daemon has closed them all; gives how many
    got an answer and how many did not."""
    poll = select.poll()
    streams = {}
    data = {
        "idle": b"",
        "slow heads": b"GET /health HTTP/1.1\r\nHost: loc",
        "slow bodies": request(chat(10))[:-5],
        "half-closed": request(chat(500)),
        "served": b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    }[kind]
    for _ in range(count):
        stream = socket.socket()
        stream.connect(("127.0.0.1", port))
        stream.sendall(data)
        if kind == "half-closed":
            stream.shutdown(socket.SHUT_WR)
        streams[stream.fileno()] = stream
        poll.register(stream, select.POLLIN)
    answered, until = set(), time.monotonic() + 300
    left = set(streams)
    while left and time.monotonic() < until:
        for descriptor, _ in poll.poll(1000):
            try:
                part = streams[descriptor].recv(65536)
            except ConnectionResetError:
                part = b""
            if part:
                answered.add(descriptor)
            else:
                poll.unregister(descriptor)
                streams[descriptor].close()
                left.discard(descriptor)
    assert not left, f"{len(left)} connections are still open"
    return len(answered), count - len(answered)


def crowds(arguments) -> None:
    most = arguments.connections + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(most, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    with tempfile.TemporaryDirectory() as folder:
        # All of them come from one address.
        limit = ["--max-connections", str(arguments.connections), "--queue", "256", "--queue-per-caller", "128"]
        limit += ["--max-connections-per-local", str(arguments.connections)]
        daemon, path, port = start(arguments, folder, *limit)
        rate(path, 16)
        for kind in arguments.kinds.split(","):
            for _ in range(3):
                peak, stop = [held(daemon.pid)], threading.Event()
                watch = threading.Thread(target=lambda: [peak.append(held(daemon.pid)) for _ in iter(lambda: stop.wait(0.2), True)])
                watch.start()
                begun = time.monotonic()
                answered, closed = crowd(port, kind, arguments.connections)
                stop.set()
                watch.join()
                time.sleep(1)
                resident, descriptors = held(daemon.pid)
                print(
                    f"{kind:<12} {arguments.connections} in {time.monotonic() - begun:5.1f} s: {answered} answered, "
                    f"{closed} closed; at most {max(p[0] for p in peak):6.1f} MiB and {max(p[1] for p in peak)} "
                    f"descriptors; after it {resident:6.1f} MiB and {descriptors}",
                    flush=True,
                )
        daemon.terminate()
        daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--kinds", default="idle,slow heads,slow bodies,half-closed,served")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--only", choices=["disturbance", "crowds"])
    arguments = parser.parse_args()
    if arguments.only != "crowds":
        disturbance(arguments)
    if arguments.only != "disturbance":
        crowds(arguments)


main()
