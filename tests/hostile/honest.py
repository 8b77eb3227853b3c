"""Honest callers, and what they wait: alone, and beside an attack."""

import json
import math
import multiprocessing
import statistics
import threading
import time

from client import Attack, End, head, post
from daemon import Place

fork = multiprocessing.get_context("fork")
CHAT = "/v1/chat/completions"
# One of each in turn. The address is no hostile caller's.
SOURCE = "127.0.0.100"
PATIENCE = 120
WORDS = "red stone count river mill evening copy tell about the small and what then".split()


def question(text: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def short(number: int) -> tuple[str, dict]:
    return CHAT, question(f"{number % 90}+2=", max_tokens=8)


def stream(number: int) -> tuple[str, dict]:
    return CHAT, question(f"copy {number}", max_tokens=100, ignore_eos=True, stream=True)


def form(number: int) -> tuple[str, dict]:
    """A schema that was not asked before, so that compiling it is part of the time."""
    schema = {"enum": [f"red {number}", f"blue {number}"]}
    return CHAT, question("red?", max_tokens=60, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})


def prompt(number: int) -> tuple[str, dict]:
    """About 2,000 tokens of text that are not cached."""
    words = [WORDS[(number + index * index) % len(WORDS)] for index in range(900)]
    return "/v1/completions", {"prompt": " ".join(words), "max_tokens": 1, "truncate_prompt_tokens": 2000, "cache_salt": str(number)}


KINDS = {"short chat": short, "stream of 100 tokens": stream, "JSON schema": form, "prompt of 2,000 tokens": prompt}


# A prompt takes twenty times as long as the others: asked as often, it would have most of the machine.
QUICK = tuple(name for name in KINDS if KINDS[name] is not prompt)
BESIDE_DRAWS = QUICK + QUICK + tuple(KINDS)


class Times:
    """What honest callers waited, by kind, and how often they were not answered."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {name: [] for name in (*KINDS, "/health")}
        self.faults: list[str] = []

    def quantile(self, name: str, share: float) -> float:
        values = sorted(self.seconds[name])
        return values[min(len(values) - 1, math.ceil(len(values) * share) - 1)] if values else float("nan")

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name]) if self.seconds[name] else float("nan")


def fault_of(name: str, end: End) -> str | None:
    """An honest caller gets its answer."""
    if end.kind != "200":
        return f"{name}: {end.kind} after {end.seconds:.1f} s: {end.body[:120]!r}"
    if end.faults:
        return f"{name}: {'; '.join(end.faults)}"
    if name == "stream of 100 tokens" and b"[DONE]" not in end.body:
        return f"{name}: no end: {end.body[-120:]!r}"
    if name == "JSON schema":
        try:
            json.loads(json.loads(end.body)["choices"][0]["message"]["content"])
        except (ValueError, KeyError) as error:
            return f"{name}: {error}: {end.body[:120]!r}"
    return None


class Callers:
    """Asks without pause, by the Unix socket and TCP in turn, until it is stopped: in a process of its own, so that
    nothing else that this one does is part of the times. They are there when it has ended."""

    def __init__(self, place: Place, first: int, kinds: tuple[str, ...] = tuple(KINDS), pause: float = 0.02):
        self.place, self.number, self.kinds, self.pause = place, first, kinds, pause
        self.times, self.done = Times(), fork.Event()
        self.result, theirs = fork.Pipe(duplex=False)
        self.process = fork.Process(target=self.work, args=(theirs,), daemon=True)

    def __enter__(self) -> "Callers":
        self.process.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.times = self.result.recv()
        self.process.join()

    def work(self, result) -> None:
        threads = [threading.Thread(target=self.ask), threading.Thread(target=self.watch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result.send(self.times)

    def ask(self) -> None:
        while not self.done.is_set():
            self.number += 1
            name = self.kinds[self.number % len(self.kinds)]
            path, body = KINDS[name](self.number)
            source = SOURCE if self.number // len(self.kinds) % 2 else None
            self.note(name, self.place.send(Attack(post(path, body, self.place.key("honest")), bound=PATIENCE), source))
            self.done.wait(self.pause)

    def watch(self) -> None:
        """`/health`, ten times a second."""
        number = 0
        while not self.done.wait(0.1):
            number += 1
            self.note("/health", self.place.send(Attack(head("GET", "/health"), bound=PATIENCE), SOURCE if number % 2 else None))

    def note(self, name: str, end: End) -> None:
        fault = fault_of(name, end)
        if self.done.is_set() and fault:
            return
        self.times.seconds[name].append(end.seconds)
        if fault and len(self.times.faults) < 20:
            self.times.faults.append(fault)


def alone(place: Place, seconds: float) -> Times:
    with Callers(place, 0):
        # The first ones make what is made on first use.
        time.sleep(min(2.0, seconds / 4))
    with Callers(place, 100_000) as callers:
        time.sleep(seconds)
    return callers.times


def compare(before: Times, beside: Times, factor: float, grace: float) -> list[str]:
    """Breaches: medians above `factor` times the time alone, by more than `grace` seconds of scheduling."""
    faults = list(beside.faults[:5])
    for name in KINDS:
        if not beside.seconds[name] or not before.seconds[name]:
            continue
        if beside.median(name) > before.median(name) * factor + grace:
            faults.append(f"honest {name}: {beside.median(name):.3f} s beside, {before.median(name):.3f} s alone")
    return faults


def table(before: Times, beside: Times) -> str:
    lines = ["| honest caller | p50 alone | p50 beside | ratio | p99 alone | p99 beside | asked |", "|---|---|---|---|---|---|---|"]
    for name in (*KINDS, "/health"):
        if not beside.seconds[name]:
            continue
        values = (before.median(name), beside.median(name), beside.median(name) / before.median(name), before.quantile(name, 0.99), beside.quantile(name, 0.99))
        times = [f"{value * 1000:.0f} ms" for value in values]
        times[2] = f"{values[2]:.1f}"
        lines.append(f"| {name} | {' | '.join(times)} | {len(beside.seconds[name])} |")
    return "\n".join(lines)
