"""What the comparisons with other programs share: starting programs, medians, the table."""

import json
import os
import shlex
import statistics
import subprocess
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

#: Tokens of a step of prefill.
CHUNK = 512


def parser(description: str) -> ArgumentParser:
    made = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("model", help="the model folder")
    made.add_argument("--phi4d", default="target/release/phi4d")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--tokens", type=int, default=24, help="of each answer")
    made.add_argument("--widest", type=int, default=8, help="the widest batch of phi4d's decode steps")
    made.add_argument("--settings", default="", metavar="FLAGS", help="further flags of phi4d, such as '--provider cuda'")
    made.add_argument("--under", default="", metavar="COMMAND",
                      help="what each program is started by, such as 'taskset -c 0,1'")
    return made


def run(arguments: Namespace, command: list[str]) -> str:
    """Runs a program under `--under`; what it printed."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(shlex.split(arguments.under) + command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def phi4d(arguments: Namespace, prompts: list[int], past: int) -> dict[str, float]:
    """One round of `phi4d bench`: bare steps and the daemon."""
    command = [arguments.phi4d, "bench", "--json", "--model", arguments.model, "--rounds", "1"]
    command += ["--prompts", ",".join(map(str, prompts)), "--tokens", str(arguments.tokens)]
    command += ["--conversation", "16", "--contexts", str(past), "--widest", str(arguments.widest)]
    context = max(4096, past + 1024, *(prompt + 1024 for prompt in prompts))
    command += ["--prefill-chunk-tokens", str(CHUNK), "--context-tokens", str(context)]
    return json.loads(run(arguments, command + shlex.split(arguments.settings)))


class Table:
    """Medians over rounds, and how many times as long the other program takes."""

    def __init__(self, name: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> None:
        self.theirs, self.ours = theirs, ours
        print(f"{'':34}{name:>12}{'phi4d bare':>12}{'daemon':>12}{name + ' / bare':>18}")

    def row(self, title: str, theirs: str, ours: str, each: int = 1) -> None:
        """`theirs` is a key of their results, `ours` a stem of ours; `each` divides both."""
        def of(results: list[dict[str, float]], key: str) -> float:
            return statistics.median(result[key] for result in results) / each

        other, bare = of(self.theirs, theirs), of(self.ours, f"{ours}_bare_ms")
        daemon = of(self.ours, f"{ours}_daemon_ms")
        print(f"{title:34}{other:12.1f}{bare:12.1f}{daemon:12.1f}{other / bare:18.2f}")
