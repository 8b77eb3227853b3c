"""Several models of a daemon that is awake, and of one that sleeps and is woken."""

import asyncio
import collections
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

from daemon import FORMAT, GROWTH_MIB, GROWTH_THREADS, PATIENCE, SAMPLES, Bad, Target, check, one, post

# What one daemon holds and leaves, and how much of each may come to it over the samples.
HELD = {"MiB": GROWTH_MIB, "descriptors": 8.0, "threads": GROWTH_THREADS, "mappings": 64.0, "processes": 6.0}
LEFT = {"files": 8.0, "MB of files": 8.0, "descriptors of this test": 4.0}
MODELS = ["first", "second", "third", "fourth"]
PAIR = MODELS[:2]
# Two of them fit.
MODELS_BYTES = 44_000_000
# The demo model's embeddings of text, which its data file begins with.
ROWS, ROW_BYTES = 1000, 1024
# The first is asked for structured output.
PROMPTS = ["JSON: name=Ada, age=36", "What is 12+7?", "Repeat: blue fox river", "Count to 30.", "Who are you?"]


class Sleeper:
    """A daemon of several models that is started whenever a connection waits, and ends by itself."""

    # Becomes the daemon, with the sockets that are its input and output as descriptors 3 and 4.
    PASS = 'export LISTEN_PID=$$ LISTEN_FDS=2; exec "$@" 3<&0 4<&1 0</dev/null 1>/dev/null'

    def __init__(self, phi4d: str, models: dict[str, str], folder: str):
        self.path, self.folder = os.path.join(folder, "phi4d.sock"), folder
        self.unix, self.tcp = socket.socket(socket.AF_UNIX), socket.socket()
        self.unix.bind(self.path)
        self.tcp.bind(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        for listener in (self.unix, self.tcp):
            listener.listen(1024)
        settings = os.path.join(folder, "soak.toml")
        with open(settings, "w", encoding="utf-8") as file:
            file.write("kv_cache_bytes = 16777216\nslots = 4\nprefix_slots = 4\nidle_unload = 0.3\n")
            file.write(f"models_memory_bytes = {MODELS_BYTES}\n")
            for name in MODELS[1:]:
                file.write(f'[models.{name}]\nmodel = "{models[name]}"\n')
        self.command = ["sh", "-c", self.PASS, "sh", phi4d, "serve", "--config", settings, "--model", models[MODELS[0]]]
        self.command += ["--model-name", MODELS[0], "--prefix-store", os.path.join(folder, "prefixes")]
        self.idle_exit = 3600.0
        self.log, self.errors = "", -1
        self.process, self.starts, self.samples, self.faults = None, 0, [], []
        # The most of each that the daemon has held so far.
        self.most = (0.0,) * len(HELD)

    open = Target.open

    def held(self) -> tuple:
        """As `HELD` has it."""
        folder, tree = f"/proc/{self.process.pid}", [self.process.pid]
        for process in tree:
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/children", encoding="utf-8") as children:
                    tree += children.read().split()
        with open(f"{folder}/maps", encoding="utf-8") as maps:
            return *Target.held(self), len(maps.readlines()), len(tree)

    def left(self) -> tuple:
        """As `LEFT` has it."""
        files = [os.path.join(path, name) for path, _, names in os.walk(self.folder) for name in names]
        return len(files), sum(map(os.path.getsize, files)) / 1e6, len(os.listdir("/proc/self/fd"))

    async def keep(self, over: asyncio.Event) -> None:
        """Starts it for connections, until `over` is set and it sleeps."""
        begun = time.monotonic()
        while True:
            if self.process is None:
                if over.is_set():
                    return
                if select.select([self.unix, self.tcp], [], [], 0)[0]:
                    self.starts += 1
                    # Standard error ends with the last process that has it: with the daemon, all that it started.
                    self.errors, writer = os.pipe()
                    command = [*self.command, "--idle-exit", str(self.idle_exit)]
                    self.process = subprocess.Popen(command, stdin=self.unix, stdout=self.tcp, stderr=writer)
                    os.close(writer)
                    os.set_blocking(self.errors, False)
            elif self.read_end():
                if (code := self.process.wait()) != 0:
                    self.faults.append(f"it ended with code {code}")
                self.process = None
                self.samples.append((time.monotonic() - begun, *self.most, *self.left()))
                self.most = (0.0,) * len(HELD)
            else:
                try:
                    self.most = tuple(map(max, self.most, self.held()))
                except (OSError, KeyError):
                    pass  # It is just ending.
            await asyncio.sleep(0.005)

    def read_end(self) -> bool:
        try:
            part = os.read(self.errors, 65536)
        except BlockingIOError:
            return False
        self.log += part.decode(errors="replace")
        if not part:
            os.close(self.errors)
        return not part

    async def ask(self, request: bytes) -> str:
        reader, writer = await self.open(True)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        return answer.decode()

    async def settle(self, names: list[str]) -> dict:
        """Waits until just these models are loaded and nothing is asked; the metrics of each model."""
        for model in MODELS:
            await self.ask(post("/api/generate", {"model": model, "keep_alive": -1 if model in names else 0}))
        until = time.monotonic() + PATIENCE
        while True:
            page = await self.ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            found = re.findall(r'^phi4d_(\w+)\{model="(\w+)"\} (\S+)', page, re.MULTILINE)
            values = {(name, model): float(value) for name, model, value in found}
            # One that is just being unloaded has memory still.
            loaded = [model for model in MODELS if values["model_memory_bytes", model]]
            ready = [model for model in MODELS if values["model_loaded", model]]
            if loaded == ready == names and not any(values["requests_running", model] for model in MODELS):
                return values
            if time.monotonic() > until:
                raise Bad(f"{loaded} stay loaded, and not {names}")
            await asyncio.sleep(0.05)


def copies(arguments, folder: str) -> dict[str, str]:
    """The demo model with other answers for each name, since rows of its embeddings change places. Every other one
    has prepared weights."""
    models = {}
    for number, name in enumerate(MODELS):
        models[name] = shutil.copytree(arguments.model, os.path.join(folder, name))
        with open(os.path.join(models[name], "model.onnx.data"), "r+b") as data:
            rows, first = data.read(ROWS * ROW_BYTES), number * ROW_BYTES
            data.seek(0)
            data.write(rows[first:] + rows[:first])
        if number % 2:
            subprocess.run([arguments.phi4d, "prepare", "--model", models[name]], check=True, capture_output=True)
    return models


def question(choose: random.Random, model: str, number: int) -> bytes:
    """A prompt, by any API."""
    body = {"model": model, "messages": [{"role": "user", "content": PROMPTS[number]}], "stream": choose.random() < 0.5}
    greedy = {"temperature": 0, "max_tokens": 24}
    if number == 0:
        return post("/v1/chat/completions", {**body, **greedy, "response_format": FORMAT})
    if (kind := choose.randrange(3)) < 2:
        return post(["/v1/chat/completions", "/v1/messages"][kind], {**body, **greedy})
    keep = choose.choice([{}, {"keep_alive": 0}, {"keep_alive": 0.5}, {"keep_alive": -1}])
    return post("/api/chat", {**body, **keep, "options": {"temperature": 0, "num_predict": 24}})


def said(body: bytes) -> tuple[set, str]:
    """The model's name and the text of an answer of any API, streamed or not."""
    names, texts = set(), []

    def walk(value) -> None:
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            if name == "model":
                names.add(part)
            elif name in ("content", "text") and isinstance(part, str):
                texts.append(part)
            elif isinstance(part, (dict, list)):
                walk(part)

    for line in body.decode().split("\n"):
        if (line := line.removeprefix("data: ")).startswith("{"):
            walk(json.loads(line))
    return names, "".join(texts)


async def alone(arguments, models: dict[str, str]) -> dict:
    """What each model answers to each prompt where no other is."""
    answers: dict = {}
    for model, path in models.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Target(arguments.phi4d, path, folder, ["--model-name", model])
            try:
                target.ready()
                for number in range(len(PROMPTS)):
                    note = lambda body: answers.setdefault((model, number), said(body))
                    await one(target, random.Random(number), 0, lambda choose: question(choose, model, number), note)
            finally:
                target.process.kill()
                target.process.wait()
    if len({text for _, text in answers.values()}) < len(MODELS) * len(PROMPTS) - 2:
        raise Bad(f"the models can't be told apart: {answers}")
    return answers


class Askers:
    """Clients of a sleeper at random moments, and the ends of their requests."""

    def __init__(self, target: Sleeper, answers: dict, count: int):
        self.target, self.answers = target, answers
        self.choices = [random.Random(seed) for seed in range(count)]
        self.ends: collections.Counter = collections.Counter()
        self.waits: list[float] = []

    async def until(self, end: float, pause: float) -> None:
        await asyncio.gather(*(self.asks(choose, end, pause) for choose in self.choices))

    async def asks(self, choose: random.Random, end: float, pause: float) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(choose.random() * pause)
            model, number = choose.choice(MODELS), choose.randrange(len(PROMPTS))
            asleep, begun = self.target.process is None, time.monotonic()
            make = lambda choose: question(choose, model, number)
            right = lambda body: said(body) == self.answers[model, number]
            self.ends[how := await one(self.target, choose, 0.2, make, right)] += 1
            if asleep and how == "whole":
                self.waits.append(time.monotonic() - begun)


async def awake(arguments, target: Sleeper, askers: Askers) -> list[str]:
    """Bouts of requests, between which it is measured at rest."""
    begun, rows, faults = time.monotonic(), {"": [], " and ".join(PAIR): []}, []
    while (at := time.monotonic() - begun) < arguments.seconds / 2:
        await askers.until(begun + at + max(1.0, arguments.seconds / SAMPLES), 0.3)
        for names, samples in zip(([], PAIR), rows.values()):
            values = await target.settle(names)
            samples.append((time.monotonic() - begun, *target.held(), *target.left()))
            if len(samples) % 10 == 1:
                print(f"{samples[-1][0]:7.1f} s: {samples[-1][1]:7.1f} MiB with {names or 'no model'}", flush=True)
            for model in MODELS:
                value = lambda name: values[name, model]
                if value("model_loads_total") - value("model_unloads_total") != (model in names):
                    faults.append(f"loads and unloads of {model} are miscounted: {values}")
                ended = sum(value(f"requests_{how}_total") for how in ("finished", "cancelled", "failed"))
                if ended != value("requests_accepted_total") or value("requests_failed_total"):
                    faults.append(f"requests of {model} were lost: {values}")
    values = await target.settle([])
    target.process.send_signal(signal.SIGTERM)
    while target.process:
        await asyncio.sleep(0.1)
    loads, unloads = (sum(values[f"model_{what}_total", model] for model in MODELS) for what in ("loads", "unloads"))
    logged = [len(re.findall(rf" {what} ({'|'.join(MODELS)})\b", target.log)) for what in ("loaded", "unloaded")]
    print(f"awake: {loads:.0f} loads, {unloads:.0f} unloads; {dict(askers.ends)}")
    # The first model is loaded before it serves.
    if [loads - 1, unloads] != logged or loads < len(MODELS) + 2:
        faults.append(f"{loads} loads and {unloads} unloads were counted, and {logged} logged")
    for names, samples in rows.items():
        print(f"with {names or 'no model'}:")
        faults += check(samples, HELD | LEFT)
    return faults


async def sleep_and_wake(arguments, target: Sleeper, answers: dict) -> list[str]:
    over, askers = asyncio.Event(), Askers(target, answers, arguments.clients)
    keeping = asyncio.create_task(target.keep(over))
    faults = await awake(arguments, target, askers)
    target.idle_exit = 0.1
    target.samples.clear()
    await askers.until(time.monotonic() + arguments.seconds / 2, 0.7)
    over.set()
    await asyncio.wait_for(keeping, PATIENCE)
    print("sleeping:")
    faults += target.faults + check(target.samples, HELD | LEFT)
    print(f"clients: {dict(askers.ends)} over {target.starts} starts")
    if askers.waits:
        print(f"from asleep to the whole answer: {statistics.median(askers.waits) * 1000:.0f} ms (median), {max(askers.waits) * 1000:.0f} ms at most")
    if wrong := {end: count for end, count in askers.ends.items() if end not in ("whole", "left")}:
        faults.append(f"ends that must not be: {wrong}")
    if target.starts < 4:
        faults.append("it was hardly ever asleep")
    return faults


def sleeps(arguments) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        models = copies(arguments, folder)
        target = Sleeper(arguments.phi4d, models, folder)
        try:
            faults = asyncio.run(sleep_and_wake(arguments, target, asyncio.run(alone(arguments, models))))
        finally:
            if target.process:
                target.process.kill()
                target.process.wait()
    if wrong := [line for line in target.log.splitlines() if "WARN" in line or "ERROR" in line or "panicked" in line]:
        faults.append(f"{len(wrong)} warnings: {wrong[-3:]}")
    return faults
