"""The daemon under attack: start, counters, memory of its process tree, stop."""

import json
import os
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from client import Attack, End, exchange, head, post

START = 120
REST = 60
DRAIN = 10
# Keys of hostile callers, with their limits; `honest` is the honest caller's.
KEYS = {
    "honest": [],
    "hostile0": [],
    "hostile1": [],
    "hostile2": [],
    "one-at-once": ["--max-in-flight", "1"],
    "few-tokens": ["--tokens-per-minute", "60"],
}


class Bad(Exception):
    """The run cannot continue."""


@dataclass
class Held:
    """What the process tree holds at one moment."""

    memory: float
    descriptors: int
    threads: int
    children: int


def children_of(pid: int) -> list[int]:
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as listed:
                found += [int(word) for word in listed.read().split()]
    except OSError:
        pass
    return found


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        left += children_of(one)
    return found


def resident_mib(pid: int) -> float:
    """Memory of a process, what it shares counted by its share."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            return sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024
    except OSError:
        pass
    try:
        # What others may read of a process that is closed to them: all that it shares is counted.
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024
    except OSError:
        return 0.0


def make_keys(phi4d: str, file: str) -> dict[str, str]:
    """Makes a keys file by the program; the keys by their names."""
    keys = {}
    for name, limits in KEYS.items():
        command = [phi4d, "key", "add", name, "--api-keys-file", file, *limits]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        keys[name] = made.stdout.split()[-1]
    return keys


class Group:
    """A control group of either version that guards the machine's memory and counts the processor time of all the
    daemon's processes; without the right to make one, nothing."""

    def __init__(self, mib: int):
        self.folders: list[str] = []
        self.clock = self.events = None
        name = f"phi4d-hostile-{os.getpid()}-{time.monotonic_ns()}"
        limit = str(mib << 20)
        if new := self.made("/sys/fs/cgroup", name, "memory.max", limit):
            self.clock, self.events = os.path.join(new, "cpu.stat"), os.path.join(new, "memory.events")
        else:
            if old := self.made("/sys/fs/cgroup/memory", name, "memory.limit_in_bytes", limit):
                self.events = os.path.join(old, "memory.oom_control")
            if old := self.made("/sys/fs/cgroup/cpuacct", name, "cpuacct.usage", "0"):
                self.clock = os.path.join(old, "cpuacct.usage")

    def made(self, base: str, name: str, file: str, value: str) -> str | None:
        folder = os.path.join(base, name)
        try:
            os.mkdir(folder)
            # Only to a file that is there: beside version 1 the base is a plain file system.
            with open(os.path.join(folder, file), "r+", encoding="ascii") as opened:
                opened.write(value)
        except OSError:
            if os.path.isdir(folder):
                os.rmdir(folder)
            return None
        self.folders.append(folder)
        return folder

    def join(self) -> None:
        """Called in the child before it becomes the daemon."""
        for folder in self.folders:
            with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as procs:
                procs.write(str(os.getpid()))
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write("1000")

    def processor_seconds(self) -> float | None:
        """What its processes ran, those that have ended included."""
        try:
            with open(self.clock or "", encoding="ascii") as clock:
                words = clock.read().split()
        except OSError:
            return None
        return int(words[0]) / 1e9 if len(words) == 1 else int(words[words.index("usage_usec") + 1]) / 1e6

    def kills(self) -> int:
        """Processes that the kernel has killed for want of memory: the daemon outlives that of a constraint."""
        try:
            with open(self.events or "", encoding="ascii") as events:
                return sum(int(line.split()[1]) for line in events if line.startswith("oom_kill "))
        except OSError:
            return 0

    def remove(self) -> None:
        for _ in range(100):
            try:
                while self.folders:
                    os.rmdir(self.folders[-1])
                    self.folders.pop()
                return
            except OSError:
                time.sleep(0.1)


class Place:
    """Where a daemon is reached; small enough to be sent to another process."""

    def __init__(self, socket_path: str, port: int, keys: dict[str, str], bound: float):
        self.socket_path, self.port, self.keys, self.bound = socket_path, port, keys, bound

    def key(self, name: str) -> str | None:
        return self.keys.get(name)

    def connect(self, source: str | None, patience: float = 10.0) -> socket.socket:
        """By TCP from a loopback address, or by the Unix socket where `source` is None."""
        if source is None or not self.port:
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(patience)
            stream.connect(self.socket_path)
            return stream
        stream = socket.socket()
        stream.settimeout(patience)
        stream.bind((source, 0))
        stream.connect(("127.0.0.1", self.port))
        return stream

    def send(self, attack: Attack, source: str | None = None) -> End:
        begun = time.monotonic()
        try:
            stream = self.connect(source)
        except OSError as error:
            return End("unconnected", time.monotonic() - begun, b"", [f"could not connect: {error}"])
        with stream:
            return exchange(stream, attack, self.bound, begun)

    def health(self, source: str | None = None, bound: float = 30) -> dict:
        end = self.send(Attack(head("GET", "/health"), bound=bound), source)
        if end.kind != "200":
            raise OSError(f"/health ended with {end.kind} after {end.seconds:.1f} s")
        return json.loads(end.body)


class Daemon:
    """A daemon of our own, or one that runs already (`--attach`)."""

    def __init__(self, options, folder: str, more: tuple[str, ...] = (), log: str = "file"):
        self.options, self.folder, self.more, self.log_kind = options, folder, more, log
        self.attached = options.attach
        self.process = self.group = self.pipe = None
        if self.attached:
            keys = {}
            if options.keys:
                with open(options.keys, encoding="ascii") as file:
                    keys = json.load(file)
            self.place = Place(options.socket, options.port, keys, options.bound)
            self.pid = self.attached
            self.begun = self.start_time()
        else:
            self.start()
        self.before = self.settled()

    def start(self) -> None:
        options = self.options
        path = os.path.join(self.folder, "phi4d.sock")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.place = Place(path, port, self.keys(), options.bound)
        command = [options.phi4d, "serve", "--model", options.model, "--socket", path]
        command += ["--listen", f"127.0.0.1:{port}", "--api-keys-file", self.keys_file()]
        command += ["--kv-cache-bytes", str(options.kv_mib << 20), "--drain-timeout-s", str(DRAIN)]
        if self.log_kind == "file":
            command += ["--log-level", "warn"]
        # Beside the demo model there is one for embeddings.
        embedding = os.path.join(os.path.dirname(os.path.abspath(options.model)), "demo-embedding")
        command += ["--embedding-model", embedding] if os.path.isdir(embedding) else []
        command += self.more
        self.group = Group(options.guard_mib)
        self.log = os.path.join(self.folder, "log")
        if self.log_kind == "pipe":
            # Nobody ever reads from it.
            self.pipe, stderr = os.pipe()
        else:
            stderr = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, preexec_fn=self.group.join,
            )
        finally:
            os.close(stderr)
        self.pid = self.process.pid
        self.begun = self.start_time()
        until = time.monotonic() + START
        while True:
            if self.process.poll() is not None:
                raise Bad(f"the daemon ended with {self.process.returncode}: {self.last_words()}")
            try:
                if self.place.health()["status"] == "ok":
                    return
            except (OSError, KeyError, ValueError):
                pass
            if time.monotonic() > until:
                raise Bad("the daemon did not start")
            time.sleep(0.1)

    def keys_file(self) -> str:
        return os.path.join(self.folder, "keys")

    def keys(self) -> dict[str, str]:
        if os.path.exists(self.keys_file()):
            return self.place.keys
        return make_keys(self.options.phi4d, self.keys_file())

    def start_time(self) -> str:
        """Distinguishes a process from another that got its number."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
                return stat.read().rsplit(")", 1)[1].split()[19]
        except OSError:
            return ""

    def lives(self) -> bool:
        if self.process and self.process.poll() is not None:
            return False
        return self.start_time() == self.begun != ""

    def last_words(self) -> str:
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return " | ".join(log.read().splitlines()[-3:])[-400:]
        except (OSError, AttributeError):
            return ""

    def died(self) -> str:
        code = self.process.poll() if self.process else None
        how = "is gone" if code is None else f"got signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the daemon {how}: {self.last_words()}"

    def held(self) -> Held:
        pids = tree(self.pid)
        try:
            descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
            threads = len(os.listdir(f"/proc/{self.pid}/task"))
        except OSError:
            descriptors = threads = 0
        return Held(sum(map(resident_mib, pids)), descriptors, threads, len(pids) - 1)

    def processor_seconds(self) -> float | None:
        return self.group.processor_seconds() if self.group else None

    def settled(self) -> Held:
        """After some answers, so that what is made on first use is there."""
        for body in ({}, {"guided_json": {"type": "boolean"}}):
            asked = {"messages": [{"role": "user", "content": "2+2="}], "max_tokens": 8, **body}
            end = self.place.send(Attack(post("/v1/chat/completions", asked, self.place.key("honest")), bound=START))
            if end.kind != "200":
                raise Bad(f"the first question got {end.kind}: {end.body[:200]!r}")
        self.at_rest()
        return self.held()

    def at_rest(self) -> dict:
        until = time.monotonic() + REST
        while True:
            health = self.place.health()
            if not health["running"] and not health["waiting"]:
                return health
            if time.monotonic() > until:
                raise Bad(f"not at rest after {REST} s: {health}")
            time.sleep(0.1)

    def falls_back(self) -> list[str]:
        """Whether everything is as before the attack; what is not."""
        faults = []
        try:
            health = self.at_rest()
        except (Bad, OSError) as error:
            return [str(error)]
        ends = health["finished"] + health["cancelled"] + health["failed"]
        if health["accepted"] != ends:
            faults.append(f"counters do not add up: {health['accepted']} accepted, {ends} ended")
        if killed := self.group.kills() if self.group else 0:
            faults.append(f"{killed} processes were killed for want of memory")
        until = time.monotonic() + REST
        while True:
            now = self.held()
            # One descriptor may be that of the question itself; threads for blocking work end after ten idle
            # seconds; compiled forms that are kept have a process and a descriptor each.
            kept = self.options.kept_forms
            more = [
                f"{name} {getattr(self.before, name)} before, {getattr(now, name)} after"
                for name, slack in (("descriptors", 1 + kept), ("children", kept), ("threads", 2))
                if getattr(now, name) > getattr(self.before, name) + slack
            ]
            if not more:
                return faults
            if time.monotonic() > until:
                return faults + more
            time.sleep(0.2)

    def stop(self) -> list[str]:
        """SIGTERM; it must end by itself within the drain limit."""
        below = tree(self.pid)[1:]
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DRAIN + 5)
        except subprocess.TimeoutExpired:
            return [f"still there {time.monotonic() - begun:.0f} s after SIGTERM: {self.last_words()}"]
        faults = [] if code == 0 else [f"ended with {code} after SIGTERM: {self.last_words()}"]
        # They see the end of their sockets, which takes a moment.
        until = time.monotonic() + 3
        while (left := [pid for pid in below if resident_mib(pid) > 0]) and time.monotonic() < until:
            time.sleep(0.05)
        return faults + ([f"child processes outlive it: {left}"] if left else [])

    def again(self) -> None:
        """A new daemon in place of the dead one."""
        self.close()
        self.start()
        self.before = self.settled()

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.group.remove()
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None


def raise_descriptor_limit() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
