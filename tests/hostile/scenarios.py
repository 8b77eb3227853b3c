"""Attacks that are no matter of chance. Each takes a daemon of its own and returns what was wrong."""

import concurrent.futures
import json
import random
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

from bodies import CHAT
from client import Attack, End, post
from connections import half_head, unread_answers
from daemon import Daemon
from honest import SOURCE, Callers, Times, alone, compare, table
from kinds import KINDS, examples
from surfaces import chat, siblings
from workers import Hostile

# How soon another caller is answered while one holds what it can.
SOON = 3.0
# Memory of as many connections as one address may have: 64 KiB of an answer each, and what is read ahead.
CROWD_MIB = 160


@contextmanager
def daemon(options, *more: str, log: str = "file"):
    with tempfile.TemporaryDirectory() as folder:
        target = Daemon(options, folder, more, log)
        try:
            yield target
        finally:
            target.close()


def answered(target: Daemon, what: str, within: float = SOON, source: str | None = SOURCE) -> list[str]:
    body = chat(max_tokens=4)
    end = target.place.send(Attack(post(CHAT, body, target.place.key("honest")), bound=within), source)
    return [] if end.kind == "200" and not end.faults else [f"{what}: {end.kind} after {end.seconds:.1f} s {end.body[:100]!r}"]


def hold(target: Daemon, name: str) -> list[socket.socket]:
    """As many connections of one address as can be had, up to 1,200."""
    streams: list[socket.socket] = []
    refused = 0
    while len(streams) < 1200 and refused < 3:
        try:
            # A full backlog loses a handshake's first packet; the second comes after a second.
            stream = target.place.connect("127.0.0.2", patience=1.5)
            streams.append(stream)
            if name == "idle":
                stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            elif name == "half heads":
                half_head(stream, random.Random(len(streams)), None)
            elif name.startswith("/"):
                unread_answers(stream, name, target.place.key("hostile0"), 40)
        except (ConnectionError, BrokenPipeError):
            # Closed at once by a daemon that lets an address have no more.
            continue
        except OSError:
            refused += 1
    return streams


def crowd_of_one_address(options) -> list[str]:
    """1,200 connections of one address: idle, half heads, and such as ask ahead for answers that they never read."""
    faults = []
    for name in ("idle", "half heads", "silent", "/openapi.json", "/metrics"):
        with daemon(options) as target:
            streams = hold(target, name)
            held = target.held().memory - target.before.memory
            if held > CROWD_MIB:
                faults.append(f"{len(streams)} connections ({name}) take {held:.0f} MiB")
            faults += answered(target, f"beside {len(streams)} {name} of one address")
            faults += answered(target, f"beside {len(streams)} {name}, by the Unix socket", source=None)
            for stream in streams:
                stream.close()
            faults += target.falls_back()
    return faults


def log_that_nobody_reads(options) -> list[str]:
    """Standard error is a pipe that is full. Serving does not depend on it, nor does the stop."""
    with daemon(options, "--log-level", "debug", log="pipe") as target:
        for number in range(400):
            more = answered(target, f"request {number} with a log that nobody reads", within=10)
            if more:
                return more + target.stop()
        return target.stop()


def usage(end: End) -> int:
    try:
        return json.loads(end.body)["usage"]["total_tokens"]
    except (ValueError, KeyError, TypeError):
        return 0


def quotas(options) -> list[str]:
    """What a key may have is what it gets, however it asks."""
    faults = []
    with daemon(options, "--queue", "256", "--queue-per-caller", "128") as target:
        send, key = target.place.send, target.place.key
        body = chat(max_tokens=50, ignore_eos=True)
        attack = Attack(post(CHAT, body, key("few-tokens")))
        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            ends = list(pool.map(lambda _: send(attack, "127.0.0.2"), range(60)))
        given = sum(map(usage, ends))
        one = max(map(usage, ends), default=0)
        print(f"    quotas: {given} tokens for 60 requests at once with tokens_per_minute=60")
        # A minute's tokens, and one request more where a server lets the last one run over.
        if given > 60 + one:
            faults.append(f"{given} tokens with tokens_per_minute=60")
        faults += [fault for end in ends for fault in end.faults][:3]

        end = send(Attack(post(CHAT, chat(n=64, max_tokens=2), key("one-at-once"))), "127.0.0.2")
        if end.kind == "200":
            faults.append(f"{len(json.loads(end.body)['choices'])} answers with max_in_flight=1")

    for path, body in (
        ("/tokenize", {"prompt": "a b c " * 100}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": [{"role": "user", "content": "a b c " * 100}]}),
        ("/v1/chat/completions/render", chat(messages=[{"role": "user", "content": "a b c " * 100}])),
    ):
        with daemon(options) as target:
            attack = Attack(post(path, body, target.place.key("few-tokens")))
            kinds = [target.place.send(attack, "127.0.0.2").kind for _ in range(10)]
            if "429" not in kinds:
                faults.append(f"{path} costs a key with tokens_per_minute=60 nothing")
    return faults


def beside(target: Daemon, attack: Attack, clients: int, seconds: float, first: int) -> Times:
    """What another caller's requests take while `clients` send an attack without pause."""
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            # What is sent notes when it was: each takes a copy.
            target.place.send(replace(attack), "127.0.0.2")

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(clients)]
    # Its process is forked before this one has threads.
    with Callers(target.place, first) as callers:
        for thread in threads:
            thread.start()
        time.sleep(seconds)
    done.set()
    for thread in threads:
        thread.join()
    return callers.times


def tokenizer_workers(options) -> list[str]:
    """Six clients that tokenize 7.6 MB without pause; another's long prompt has its turn."""
    with daemon(options) as target:
        before = alone(target.place, 4)
        data = post("/tokenize", {"prompt": "a b " * 1_900_000}, target.place.key("hostile0"))
        times = beside(target, Attack(data, leaves_after=1.0, lingers=10), 6, 8, 200_000)
        return compare(before, times, options.factor, options.grace) + target.falls_back()


def slots_and_memory(options) -> list[str]:
    """One caller's long answers have all slots, and long prompts the memory; another's requests do not wait for their ends."""
    faults = []
    ask = {"stream": True, "max_tokens": 4000, "ignore_eos": True, "priority": -(2**31)}
    for name, words in (("slots", 1), ("memory", 1500)):
        with daemon(options) as target:
            before = alone(target.place, 2)
            data = post(CHAT, {**ask, "messages": [{"role": "user", "content": "a b " * words}]}, target.place.key("hostile0"))
            times = beside(target, Attack(data, leaves_after=1.0, lingers=4), 16, 5, 400_000)
            print(f"    {name}:\n{table(before, times)}")
            wrong = compare(before, times, options.factor, options.grace) + target.falls_back()
            faults += [f"{name}: {fault}" for fault in wrong]
    return faults


def found_examples(options) -> list[str]:
    """The inputs that were found first, each on a daemon of its own, several at once; clients that leave, and a stop."""
    faults = []
    with daemon(options) as target:
        inputs, before = examples(target.place), alone(target.place, 4)
    for number, (_, name, _) in enumerate(inputs):
        with daemon(options) as target:
            data = examples(target.place)[number][2]
            peak = 0.0
            with Callers(target.place, 300_000) as callers, concurrent.futures.ThreadPoolExecutor(4) as pool:
                jobs = [pool.submit(target.place.send, Attack(data), None) for _ in range(3)]
                jobs.append(pool.submit(target.place.send, Attack(data, leaves_after=1.0, lingers=0.5), None))
                while not all(job.done() for job in jobs):
                    peak = max(peak, target.held().memory)
                    time.sleep(0.1)
                ends = [job.result() for job in jobs]
                # At least a round of honest questions.
                time.sleep(1)
            seen = ", ".join(f"{end.kind} {end.seconds:.1f} s" for end in ends)
            print(f"    {name}: {seen}; {peak:.0f} MiB", flush=True)
            if not target.lives():
                faults.append(f"{name}: {target.died()}")
                continue
            faults += [f"{name}: {fault}" for end in ends for fault in end.faults]
            faults += [f"{name}: {fault}" for fault in compare(before, callers.times, options.factor, options.grace)]
            if peak > target.before.memory + options.more_mib:
                faults.append(f"{name}: {peak:.0f} MiB")
            faults += [f"{name}: {fault}" for fault in target.falls_back() + target.stop()]
    return faults


def siblings_of_examples(options) -> list[str]:
    """Inputs near the examples, one after another: the daemon lives after each, and is at rest in the end."""
    faults = []
    with daemon(options) as target:
        peak = 0.0
        for name, path, body in siblings():
            fields = " ".join(sorted(set(body) - {"model", "messages", "prompt", "input", "max_tokens", "max_output_tokens", "stream", "options"}))
            path = f"{path} {fields}"
            end = target.place.send(Attack(post(path.split()[0], body, target.place.key("hostile0"))))
            if end.kind in ("none", "unconnected"):
                # An abort takes a moment.
                time.sleep(0.5)
            faults += [f"{name} at {path}: {fault}" for fault in end.faults]
            if not target.lives():
                faults.append(f"{name} at {path}: {target.died()}")
                target.again()
                continue
            held = target.held().memory
            if held > max(peak, target.before.memory + options.more_mib):
                faults.append(f"{name} at {path}: {held:.0f} MiB")
            peak = max(peak, held)
        print(f"    siblings: {len(siblings())} inputs, {peak:.0f} MiB at most")
        return faults + target.falls_back() + target.stop()


def stop_in_the_middle(options) -> list[str]:
    """SIGTERM while callers of every kind are at it."""
    with daemon(options) as target:
        kinds = [kind for kind in KINDS if kind.name not in options.skip]
        crowd = [Hostile(target.place, kind, f"{options.seed} stop", 0, 1 << 30, 60, 0.2, 0.0, kind.callers) for kind in kinds]
        until = time.monotonic() + 3
        while time.monotonic() < until and target.lives():
            time.sleep(0.05)
        if target.lives():
            faults = target.stop()
        else:
            flying = {hostile.kind.name: hostile.in_flight() for hostile in crowd}
            faults = [f"before the stop {target.died()}; under way: {flying}"]
        for hostile in crowd:
            hostile.end(5)
        return faults


SCENARIOS = {
    "examples": found_examples,
    "siblings": siblings_of_examples,
    "crowd of one address": crowd_of_one_address,
    "log that nobody reads": log_that_nobody_reads,
    "key limits": quotas,
    "tokenizer workers": tokenizer_workers,
    "slots and memory": slots_and_memory,
    "stop in the middle": stop_in_the_middle,
}
