#!/usr/bin/env python3
"""Compares phi4d with llama.cpp on models of the same shape, in turns, in one run.

    python benches/random_gguf.py SHAPE.gguf --preset phi4-4l
    python benches/compare_llama_cpp.py MODEL_FOLDER SHAPE.gguf --llama-cpp BUILD/bin [--rounds 3]

The folder is of the same preset, made by models/make_random.py. BUILD/bin holds llama.cpp's llama-bench and
llama-batched-bench; benches/RESULTS.md tells how they were built. Each round starts each program anew. llama-bench
gives decode at batch 1 and prefill, llama-batched-bench decode at 8 sequences; all sequences hold 64 tokens when
their decode steps begin. Prints medians over the rounds and their ratios.
"""

import json
import os
import statistics
import sys
from argparse import Namespace

import compare

PAST = 64
PROMPT = 512
WIDTH = 8


def llama_cpp(arguments: Namespace, prompt: int = PROMPT, past: int = PAST) -> dict[str, float]:
    """One round of llama.cpp: prefill of `prompt` tokens, decode steps after `past` tokens."""
    threads = str(len(os.sched_getaffinity(0)))

    def program(name: str, *options: str) -> str:
        command = [f"{arguments.llama_cpp}/{name}", "-m", arguments.gguf, "-t", threads, *options]
        return compare.run(arguments, command)

    tokens = str(arguments.tokens)
    result = {}
    for options in (["-p", str(prompt), "-n", "0"], ["-p", "0", "-n", tokens, "-d", str(past)]):
        for test in json.loads(program("llama-bench", "-r", "3", "-o", "json", *options)):
            milliseconds = statistics.median(test["samples_ns"]) / 1e6
            if test["n_prompt"]:
                result["prefill_ms"] = milliseconds
            else:
                result["decode_1_ms"] = milliseconds / test["n_gen"]
    context = max(2048, WIDTH * (past + arguments.tokens))
    output = program("llama-batched-bench", "-c", str(context), "-npp", str(past), "-ntg", tokens, "-npl", str(WIDTH),
                     "--output-format", "jsonl")
    for line in output.splitlines():
        if line.startswith("{"):
            test = json.loads(line)
            result["decode_8_ms"] = test["t_tg"] * 1e3 / test["tg"]
    return result


def main() -> None:
    parser = compare.parser(__doc__)
    parser.add_argument("gguf", help="a model of the same shape for llama.cpp")
    parser.add_argument("--llama-cpp", required=True, metavar="DIR", help="the folder of llama.cpp's programs")
    arguments = parser.parse_args()
    theirs, ours = [], []
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        theirs.append(llama_cpp(arguments))
        ours.append(compare.phi4d(arguments, [PROMPT], PAST))
    table = compare.Table("llama.cpp", theirs, ours)
    table.row("decode, batch 1, ms a token", "decode_1_ms", f"decode_{PAST}_1")
    table.row(f"decode, batch {WIDTH}, ms a step", "decode_8_ms", f"decode_{PAST}_{WIDTH}")
    table.row(f"prefill of {PROMPT}, ms", "prefill_ms", f"prefill_{PROMPT}")


if __name__ == "__main__":
    main()
