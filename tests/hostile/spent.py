"""Where processor time goes during an attack: the daemon's threads and constraint processes, and the callers."""

import collections
import os
import resource
import time

from daemon import Daemon

# Threads by the beginning of their name. All others are the model's, which have the name of the thread that made them.
ROLES = {"phi4d-engine": "engine", "phi4d-net": "connections", "phi4d-text": "text"}


def threads_of(pid: int) -> dict[str, tuple[float, float]]:
    """Seconds that threads ran, and waited for a processor, by role."""
    found: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/comm", encoding="utf-8", errors="replace") as comm:
                name = comm.read().strip()
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as stat:
                ran, waited, _ = map(int, stat.read().split())
            role = next((role for start, role in ROLES.items() if name.startswith(start)), "model")
            found[role][0] += ran / 1e9
            found[role][1] += waited / 1e9
    except (OSError, ValueError):
        pass
    return {role: (ran, waited) for role, (ran, waited) in found.items()}


class Spent:
    """Between its making and `report`. The callers' processes must have ended by then."""

    def __init__(self, target: Daemon):
        self.target, self.begun = target, time.monotonic()
        self.threads, self.group, self.callers = threads_of(target.pid), target.processor_seconds(), self.of_callers()

    @staticmethod
    def of_callers() -> float:
        """Of this process and those of its children that have ended. The daemon is one that has not."""
        return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    def report(self) -> str:
        seconds = time.monotonic() - self.begun
        now, group, lines = threads_of(self.target.pid), self.target.processor_seconds(), []
        for role, (ran, waited) in sorted(now.items(), key=lambda item: -item[1][0]):
            before = self.threads.get(role, (0.0, 0.0))
            lines.append((role, ran - before[0], waited - before[1]))
        own = sum(ran for _, ran, _ in lines)
        if group is not None and self.group is not None:
            lines.append(("constraint processes", max(0.0, group - self.group - own), None))
        lines.append(("hostile and well-behaved callers", self.of_callers() - self.callers, None))
        rows = [
            f"| {role} | {ran:.1f} s | {100 * ran / seconds / (os.cpu_count() or 1):.0f}% | {'' if waited is None else f'{waited:.1f} s'} |"
            for role, ran, waited in lines
        ]
        head = ["| threads or processes | ran | of all processors | waited for one |", "|---|---|---|---|"]
        return "\n".join([*head, *rows])
