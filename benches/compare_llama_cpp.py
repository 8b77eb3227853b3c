#!/usr/bin/env python3
"""Compares phi4d with llama.cpp on models of the same shape, in turns, in one run.

    python benches/random_gguf.py SHAPE.gguf --preset phi4-4l
    python benches/compare_llama_cpp.py MODEL_FOLDER SHAPE.gguf --llama-cpp BUILD/bin [--rounds 3]

The folder is of the same preset, made by models/make_random.py. BUILD/bin holds llama.cpp's llama-bench and
llama-batched-bench; benches/RESULTS.md says how they were built. Each round starts each program again. llama-bench
gives decode at batch 1 and prefill, with flash attention; llama-batched-bench decode at 8 sequences of 64 tokens.
--contexts says how many tokens a sequence holds when its decode steps begin, --prompts how long prompts are, and
--cache the type of llama.cpp's KV cache (for phi4d: --settings '--kv-cache-type int8'). Prints medians over the
rounds and their ratios.
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
        command = [f"{arguments.llama_cpp}/{name}", "-m", arguments.gguf, "-t", threads, "-fa", "1"]
        command += ["-ctk", arguments.cache, "-ctv", arguments.cache, *options]
        return compare.run(arguments, command)

    tokens = str(arguments.tokens)
    result: dict[str, float] = {}
    for options in (["-p", str(prompt), "-n", "0"], ["-p", "0", "-n", tokens, "-d", str(past)]):
        for test in json.loads(program("llama-bench", "-r", "3", "-o", "json", *options)):
            milliseconds = statistics.median(test["samples_ns"]) / 1e6
            if test["n_prompt"]:
                result["prefill_ms"] = milliseconds
            else:
                result["decode_1_ms"] = milliseconds / test["n_gen"]
    if WIDTH > arguments.widest:
        return result
    context = max(2048, WIDTH * (past + arguments.tokens))
    output = program("llama-batched-bench", "-c", str(context), "-npp", str(past), "-ntg", tokens, "-npl", str(WIDTH),
                     "--output-format", "jsonl")
    for line in output.splitlines():
        if line.startswith("{"):
            test = json.loads(line)
            result["decode_8_ms"] = test["t_tg"] * 1e3 / test["tg"]
    return result


def lengths(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = compare.parser(__doc__)
    parser.add_argument("gguf", help="a model of the same shape for llama.cpp")
    parser.add_argument("--llama-cpp", required=True, metavar="DIR", help="the folder of llama.cpp's programs")
    parser.add_argument("--contexts", type=lengths, default=[PAST], metavar="N,...", help="tokens before decode steps")
    parser.add_argument("--prompts", type=lengths, default=[PROMPT], metavar="N,...", help="as many as contexts")
    parser.add_argument("--cache", default="f16", help="the type of llama.cpp's KV cache")
    arguments = parser.parse_args()
    pairs = list(zip(arguments.prompts, arguments.contexts, strict=True))
    theirs: dict[int, list[dict[str, float]]] = {past: [] for _, past in pairs}
    ours: dict[int, list[dict[str, float]]] = {past: [] for _, past in pairs}
    for number in range(arguments.rounds):
        for prompt, past in pairs:
            print(f"round {number + 1}, context {past}", file=sys.stderr)
            theirs[past].append(llama_cpp(arguments, prompt, past))
            ours[past].append(compare.phi4d(arguments, [prompt], past))
    for prompt, past in pairs:
        table = compare.Table("llama.cpp", theirs[past], ours[past])
        table.row(f"decode at {past}, batch 1, ms", "decode_1_ms", f"decode_{past}_1")
        if WIDTH <= arguments.widest:
            table.row(f"decode at {past}, batch {WIDTH}, ms", "decode_8_ms", f"decode_{past}_{WIDTH}")
        table.row(f"prefill of {prompt}, ms", "prefill_ms", f"prefill_{prompt}")


if __name__ == "__main__":
    main()
