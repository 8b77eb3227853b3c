"""Processes of hostile callers. Each draw has a generator of its own, by seed, kind and number, so it can be repeated."""

import collections
import multiprocessing
import os
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, field

from client import Attack, End
from daemon import Place
from forms import bound_sizes
from kinds import KINDS, Kind

fork = multiprocessing.get_context("fork")
# Schemas nest some hundreds deep, and Python writes them by recursion.
sys.setrecursionlimit(8000)
BY_NAME = {kind.name: kind for kind in KINDS}


def generator(seed: str, kind: str, number: int) -> random.Random:
    return random.Random(f"{seed} {kind} {number}")


class Nowhere(Place):
    """Takes what is sent, so that a draw's bytes can be had without a daemon."""

    def __init__(self, keys: dict[str, str]):
        super().__init__("", 0, keys, 0)
        self.attack = Attack(b"")

    def send(self, attack: Attack, source: str | None = None) -> End:
        self.attack = attack
        return End("none", 0)


class Hasty(Place):
    """Who leaves if there is no answer soon."""

    def __init__(self, place: Place, patience: float):
        super().__init__(place.socket_path, place.port, place.keys, place.bound)
        self.patience = patience

    def send(self, attack: Attack, source: str | None = None) -> End:
        if attack.leaves_after is not None:
            attack.lingers = min(attack.lingers, self.patience)
            return super().send(attack, source)
        allowed = attack.also
        attack.leaves_after, attack.lingers, attack.looks = 1.0, self.patience, True
        attack.also = (*allowed, "none", "cut")
        end = super().send(attack, source)
        if end.kind == "left" and end.seconds < self.patience and "none" not in allowed:
            end.kind = "none"
            end.faults.append("the connection closed without an answer")
        return end


def bytes_of(seed: str, kind: str, number: int, keys: dict[str, str]) -> bytes:
    if kind in ("connections", "responses"):
        return b""
    return BY_NAME[kind].act(Nowhere(keys), generator(seed, kind, number), 0)[1]


@dataclass
class Found:
    """What a kind's callers saw."""

    ends: collections.Counter = field(default_factory=collections.Counter)
    # Number of the draw, and what was wrong.
    faults: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    draws: int = 0

    def reached(self, kind: Kind) -> int:
        """Draws that were not turned away for what others were sent just before."""
        turned = sum(self.ends[end] for end in ("429", "503", "unconnected"))
        return self.draws - (0 if kind.name == "quotas" else turned)

    def note(self, number: int, kind: str, seconds: float, faults: list[str]) -> None:
        self.draws += 1
        self.ends[kind] += 1
        if kind != "left":
            self.slowest = max(self.slowest, (seconds, number))
        self.faults += [(number, fault) for fault in faults]


class Hostile:
    """One kind's callers in a process of its own, of lower priority: they would be other machines. Where `idle`,
    only what the daemon and the well-behaved callers leave of the processors is theirs. `largest` bounds the sizes
    that they draw."""

    def __init__(
        self, place: Place, kind: Kind, seed: str, first: int, last: int, seconds: float, leaves: float, pause: float, callers: int,
        largest: int | None = None, idle: bool = False,
    ):
        self.kind, self.seed, self.largest, self.idle, self.found = kind, seed, largest, idle, Found()
        self.numbers = fork.Value("i", first)
        self.stop = fork.Event()
        # Of each caller the draw that is under way and the one before.
        self.callers = callers
        self.marks = fork.Array("i", [-1] * (2 * callers))
        self.results = fork.Queue()
        arguments = (place, seed, last, seconds, leaves, pause)
        self.process = fork.Process(target=self.work, args=arguments, daemon=True)
        self.process.start()

    def work(self, place: Place, seed: str, last: int, seconds: float, leaves: float, pause: float) -> None:
        if self.idle:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(10)
        if self.largest:
            bound_sizes(self.largest)
        until = time.monotonic() + seconds
        arguments = (place, seed, last, until, leaves, pause)
        threads = [threading.Thread(target=self.call, args=(caller, *arguments)) for caller in range(self.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.results.put(None)

    def call(self, caller: int, place: Place, seed: str, last: int, until: float, leaves: float, pause: float) -> None:
        while time.monotonic() < until and not self.stop.is_set():
            with self.numbers.get_lock():
                number = self.numbers.value
                self.numbers.value += 1
            if number >= last:
                return
            self.marks[2 * caller + 1] = self.marks[2 * caller]
            self.marks[2 * caller] = number
            try:
                end, _ = self.kind.act(place, generator(seed, self.kind.name, number), leaves)
            except Exception as error:  # a fault of the generator's, which must not pass for a quiet run
                self.results.put((number, "generator", 0.0, [f"the generator failed: {error!r}"]))
                continue
            self.results.put((number, end.kind, end.seconds, end.faults))
            if end.kind in ("unconnected", "none"):
                # Perhaps it is gone: the marks stay until that is known.
                time.sleep(0.3)
            if pause:
                time.sleep(pause * random.random() * 2)

    def gather(self) -> bool:
        """Takes in results; whether the callers are still at it."""
        while True:
            try:
                result = self.results.get_nowait()
            except queue.Empty:
                return self.process.is_alive()
            if result is None:
                return False
            self.found.note(*result)

    def in_flight(self) -> list[int]:
        return sorted({mark for mark in self.marks if mark >= 0})

    def next_number(self) -> int:
        return self.numbers.value

    def end(self, patience: float) -> None:
        self.stop.set()
        until = time.monotonic() + patience
        while self.gather() and time.monotonic() < until:
            time.sleep(0.05)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
