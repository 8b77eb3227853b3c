#!/usr/bin/env python3
"""Compares phi4d with onnxruntime-genai on the same model folder, in turns, in one run.

    python benches/compare_genai.py MODEL_FOLDER [--phi4d target/release/phi4d] [--rounds 3]

Needs onnxruntime-genai and numpy (models/requirements.txt has the versions). Each round starts each
program anew: genai's Generator (prefill of a prompt, then greedy tokens at batch 1), then
`phi4d bench` (bare steps and the daemon). Prints medians over the rounds and their ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

CHILD = """
import json, sys, time
import numpy as np
import onnxruntime_genai as og

folder, prompts, tokens, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = og.Config(folder)
model = og.Model(config)
result = {}
random = np.random.default_rng(7)
for length in prompts:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length + tokens + 8, do_sample=False)
    generator = og.Generator(model, params)
    prompt = random.integers(0, 900, size=(1, length), dtype=np.int32)
    began = time.perf_counter()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    result[f"prefill_{length}_ms"] = (time.perf_counter() - began) * 1e3
    times = []
    for _ in range(tokens):
        if generator.is_done():
            break
        began = time.perf_counter()
        generator.generate_next_token()
        times.append((time.perf_counter() - began) * 1e3)
    if times:
        # The last prompt's stand: what phi4d is measured at.
        result["decode_ms"] = float(np.median(times))
    del generator
print(json.dumps(result))
"""


def run(command: list[str]) -> dict[str, float]:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--phi4d", default="target/release/phi4d")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--widest", type=int, default=8)
    arguments = parser.parse_args()
    prompts = [int(text) for text in arguments.prompts.split(",")]
    genai, phi4d = [], []
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        command = [sys.executable, "-c", CHILD, arguments.model, json.dumps(prompts), str(arguments.tokens), "0"]
        genai.append(run(command))
        command = [arguments.phi4d, "bench", "--json", "--model", arguments.model, "--rounds", "1"]
        command += ["--prompts", arguments.prompts, "--tokens", str(arguments.tokens), "--conversation", "16"]
        # Decode after as many tokens as genai's generator holds.
        command += ["--past", str(prompts[-1]), "--widest", str(arguments.widest)]
        command += ["--prefill-chunk-tokens", "512", "--context-tokens", "4096"]
        phi4d.append(run(command))

    def median(results: list[dict[str, float]], key: str) -> float:
        return statistics.median(result[key] for result in results)

    step = median(genai, "decode_ms")
    print(f"{'':34}{'genai':>12}{'phi4d bare':>12}{'daemon':>12}{'bare ratio':>12}")
    bare, daemon = median(phi4d, "decode_1_bare_ms"), median(phi4d, "decode_1_daemon_ms")
    print(f"{'decode, batch 1, ms a token':34}{step:12.1f}{bare:12.1f}{daemon:12.1f}{step / bare:12.2f}")
    for width in (2, 4, 8):
        if width > arguments.widest:
            break
        each = median(phi4d, f"decode_{width}_bare_ms") / width
        print(f"{f'decode, batch {width}, ms a token':34}{'':12}{each:12.1f}{'':12}{step / each:12.2f}")
    for length in prompts:
        key = f"prefill_{length}"
        theirs = median(genai, f"{key}_ms")
        bare, daemon = median(phi4d, f"{key}_bare_ms"), median(phi4d, f"{key}_daemon_ms")
        print(f"{f'prefill of {length}, ms':34}{theirs:12.1f}{bare:12.1f}{daemon:12.1f}{theirs / bare:12.2f}")


if __name__ == "__main__":
    main()
