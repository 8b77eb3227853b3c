"""Starts the daemons and HAProxy, asks through it, kills one daemon and drains one, and counts.

    load.py FOLDER PHI4D HAPROXY.CFG
"""

import asyncio
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

CLIENTS = 16
GATE = ("192.0.2.1", 8080)
NAMES = {"one": "11", "two": "12", "three": "13"}


class Daemon:
    """One of the three."""

    def __init__(self, folder: str, program: str, name: str):
        self.name, self.place = name, NAMES[name]
        self.socket = os.path.join(folder, f"{name}.sock")
        self.log = os.path.join(folder, f"{name}.log")
        self.command = ["ip", "netns", "exec", f"d{self.place}", program, "serve", "--model", "models/demo", "--threads", "1"]
        self.command += ["--listen", f"192.0.2.{self.place}:8484", "--allow-unauthenticated-lan", "true"]
        self.command += ["--socket", self.socket, "--log-level", "warn", "--queue", "256", "--queue-per-caller", "128"]
        self.start()

    def start(self) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command, stderr=log)

    def health(self) -> dict:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self.socket)
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := stream.recv(65536):
                answer += part
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])

    async def busy(self) -> dict:
        """Waits until it is at work on something that could be lost."""
        for _ in range(3000):
            if (health := self.health())["running"] > 1:
                return health
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.name} gets nothing to do")

    async def ready(self) -> None:
        for _ in range(600):
            try:
                if self.health()["status"] == "ok":
                    return
            except (OSError, IndexError):
                pass
            assert self.process.poll() is None, open(self.log, encoding="utf-8").read()
            await asyncio.sleep(0.1)
        raise AssertionError(f"{self.name} did not start")


async def ask(body: dict, headers: str = "") -> tuple[str, str, dict | None]:
    """How it ended, who answered, and the answer if it is a whole one."""
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(*GATE)
    try:
        writer.write(f"{head}{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    lines = head.decode().lower().split("\r\n")
    served = next((line.split(": ")[1] for line in lines if line.startswith("x-served-by: ")), "")
    if status != "200":
        return f"status {status}", served, None
    if body.get("stream"):
        return "whole" if b"data: [DONE]" in rest and rest.endswith(b"0\r\n\r\n") else "cut", served, None
    length = next(int(line.split(": ")[1]) for line in lines if line.startswith("content-length: "))
    return ("whole", served, json.loads(rest)) if len(rest) == length else ("cut", served, None)


def chat(text: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 40, **more}


async def client(number: int, stop: asyncio.Event, ends: collections.Counter) -> None:
    choose = random.Random(number)
    while not stop.is_set():
        stream = choose.random() < 0.5
        text = " ".join(choose.choice(["red", "stone", "7", "river", "count"]) for _ in range(20))
        more = {"ignore_eos": True, "max_tokens": choose.randrange(20, 300)}
        end, served, _ = await ask(chat(text, stream=stream, **more))
        ends["stream" if stream else "answer", end] += 1
        ends["served by", served] += 1


async def conversations() -> None:
    """The turns of a conversation go to one daemon, which has read what came before."""
    used = set()
    for number in range(12):
        messages = [{"role": "system", "content": "You are brief."}] if number % 2 else []
        messages.append({"role": "user", "content": f"Conversation {number}: count from 3 to 12, please."})
        places, cached = set(), []
        for _ in range(3):
            end, served, answer = await ask({"messages": messages, "temperature": 0, "max_tokens": 12})
            assert end == "whole", end
            places.add(served)
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
            messages.append({"role": "user", "content": "And then?"})
        assert len(places) == 1, f"conversation {number} was spread over {places}"
        assert cached[2] > cached[1] > 0, cached
        used |= places
    assert len(used) > 1, f"all conversations went to {used}"
    keyed = [(await ask(chat(f"Question {n}"), "X-Prefix-Key: team-7\r\n"))[1] for n in range(6)]
    assert len(set(keyed)) == 1, keyed
    print(f"conversations: kept together, over {len(used)} daemons")


async def until_up(name: str, up: bool) -> None:
    """Waits until HAProxy thinks so."""
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect("/run/haproxy/admin.sock")
            stream.sendall(b"show stat\n")
            table = b""
            while part := stream.recv(65536):
                table += part
        row = next(line for line in table.decode().splitlines() if line.startswith(f"daemons,{name},"))
        if (row.split(",")[17] == "UP") == up:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"HAProxy does not see {name} {'up' if up else 'down'}")


async def main() -> None:
    folder, program, config = sys.argv[1:]
    daemons = {name: Daemon(folder, program, name) for name in NAMES}
    proxy = subprocess.Popen(["haproxy", "-f", config], stdout=subprocess.DEVNULL)
    try:
        for daemon in daemons.values():
            await daemon.ready()
        for name in NAMES:
            await until_up(name, True)
        await conversations()

        stop, ends = asyncio.Event(), collections.Counter()
        clients = [asyncio.create_task(client(number, stop, ends)) for number in range(CLIENTS)]
        await asyncio.sleep(2)
        killed, drained = daemons["two"], daemons["three"]
        running = await killed.busy()
        killed.process.kill()
        killed.process.wait()
        await until_up("two", False)
        await asyncio.sleep(1)
        killed.start()
        await killed.ready()
        await until_up("two", True)
        await asyncio.sleep(1)
        await drained.busy()
        drained.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(drained.process.wait, 60)
        drained.start()
        await drained.ready()
        await until_up("three", True)
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*clients)

        print(f"ends: {dict(ends)}; with the killed one: {running['running']} running, {running['waiting']} waiting")
        assert code == 0, f"the drained one ended with {code}"
        cut = ends.pop(("stream", "cut"), 0)
        bad = {end: count for end, count in ends.items() if end[0] in ("answer", "stream") and end[1] != "whole"}
        assert not bad, f"lost although it could be retried: {bad}"
        # What had begun to come cannot be asked for again.
        assert cut <= running["running"] + 2, f"{cut} streams were cut, {running['running']} ran with the killed daemon"
        for daemon in daemons.values():
            while (health := daemon.health())["running"] or health["waiting"]:
                await asyncio.sleep(0.1)
            print(f"{daemon.name}: " + str({name: health[name] for name in ("accepted", "finished", "cancelled", "failed")}))
            assert health["accepted"] == health["finished"] + health["cancelled"] + health["failed"]
            assert health["finished"] > 0, f"{daemon.name} got nothing after its start"
    finally:
        for process in [proxy, *(daemon.process for daemon in daemons.values())]:
            process.kill()
            process.wait()


began = time.monotonic()
asyncio.run(main())
print(f"haproxy: nothing lost that could be retried; {time.monotonic() - began:.0f} s")
