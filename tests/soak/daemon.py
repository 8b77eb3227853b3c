"""A daemon, a client of it, and what it may not grow by."""

import asyncio
import http.client
import io
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import time
import types

SAMPLES = 120
GROWTH_MIB = 8.0
GROWTH_THREADS = 2.0
GROWTH_DESCRIPTORS = 16.0
PATIENCE = 120
FORM = {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["name", "count"], "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "form", "schema": FORM}}


class Bad(Exception):
    """What must not be."""


class Target:
    """The daemon."""

    def __init__(self, phi4d: str, model: str, folder: str, more: list[str]):
        self.path = os.path.join(folder, "phi4d.sock")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [phi4d, "serve", "--model", model, "--socket", self.path]
        command += ["--listen", f"127.0.0.1:{self.port}", "--log-level", "warn", *more]
        self.log = os.path.join(folder, "log")
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stderr=log)

    async def open(self, unix: bool):
        if unix:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection("127.0.0.1", self.port)

    def health(self) -> dict:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(PATIENCE)
            stream.connect(self.path)
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := stream.recv(65536):
                answer += part
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])

    def ready(self) -> None:
        for _ in range(1200):
            if self.process.poll() is not None:
                raise Bad(f"the daemon ended: {open(self.log, encoding='utf-8').read()}")
            try:
                if (self.health())["status"] == "ok":
                    return
            except (OSError, IndexError):
                pass
            time.sleep(0.1)
        raise Bad("the daemon did not start")

    def at_rest(self) -> dict:
        until = time.monotonic() + PATIENCE
        while (health := self.health())["running"] or health["waiting"]:
            if time.monotonic() > until:
                raise Bad(f"it does not come to rest: {health}")
            time.sleep(0.1)
        return health

    def held(self) -> tuple[float, float, float]:
        """Resident MiB, descriptors, threads."""
        folder = f"/proc/{self.process.pid}"
        with open(f"{folder}/status", encoding="utf-8") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["VmRSS"].split()[0]) / 1024, len(os.listdir(f"{folder}/fd")), int(fields["Threads"])


def post(path: str, body: dict) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def read_end(reader: asyncio.StreamReader, right=None) -> str:
    """Reads to the end; what kind of end it is. `right` judges the body."""
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    response = http.client.HTTPResponse(types.SimpleNamespace(makefile=lambda _: io.BytesIO(answer)))
    try:
        response.begin()
        body = response.read()
    except http.client.HTTPException:
        return "cut"
    if response.status in (429, 503):
        return "refused"
    if response.status != 200:
        return f"status {response.status}"
    is_stream = response.headers.get_content_type() == "text/event-stream"
    if is_stream and b"[DONE]" not in body and b"message_stop" not in body:
        return "error"
    return "whole" if right is None or right(body) else "wrong"


async def one(target: Target, choose: random.Random, leaves: float, make, right=None) -> str:
    """One request of a client's, which may leave before the end."""
    reader, writer = await target.open(choose.random() < 0.5)
    try:
        request = make(choose)
        if choose.random() >= leaves:
            writer.write(request)
            return await read_end(reader, right)
        manner = choose.randrange(6)
        if manner == 0:
            # Before all has been sent.
            writer.write(request[: choose.randrange(len(request))])
            return "left"
        writer.write(request)
        if manner == 1:
            writer.write_eof()
            await asyncio.wait_for(reader.read(), PATIENCE)
        elif manner == 2:
            await asyncio.sleep(choose.random() * 3)
        elif manner == 3:
            # Reads slowly, a few bytes at a time, and not to the end.
            for _ in range(choose.randrange(30)):
                if not await asyncio.wait_for(reader.read(64), PATIENCE):
                    break
                await asyncio.sleep(0.05)
        else:
            await asyncio.wait_for(reader.read(choose.randrange(1, 2000)), PATIENCE)
            if manner == 4:
                # A reset instead of an orderly end.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return "left"
    except (ConnectionError, BrokenPipeError):
        return "reset"
    finally:
        writer.close()


def growth(samples: list, column: int) -> float:
    """By the fitted line, from the end of the warm-up to the last sample."""
    kept = samples[len(samples) // 3 :]
    times, values = [row[0] for row in kept], [row[column] for row in kept]
    return statistics.linear_regression(times, values).slope * (times[-1] - times[0])


def check(samples: list, limits: dict[str, float]) -> list[str]:
    """Of samples that begin with the time, and go on with what `limits` names."""
    faults = []
    for column, (name, most) in enumerate(limits.items(), 1):
        grown = growth(samples, column)
        values = [row[column] for row in samples[len(samples) // 3 :]]
        print(f"{name}: {min(values):.1f} to {max(values):.1f}, fitted growth {grown:+.2f} of {most:.1f} allowed")
        if grown > most:
            faults.append(f"{name} grow by {grown:.2f}")
    return faults
