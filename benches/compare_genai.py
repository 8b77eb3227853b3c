#!/usr/bin/env python3
"""Compares phi4d with onnxruntime-genai on the same model folder, in turns, in one run.

    python benches/compare_genai.py MODEL_FOLDER [--phi4d target/release/phi4d] [--rounds 3]

Needs onnxruntime-genai and numpy (models/requirements.txt has the versions). Each round starts each
program anew: genai's Generator (prefill of a prompt, then greedy tokens at batch 1), then
`phi4d bench` (bare steps and the daemon). Prints medians over the rounds and their ratios.
"""

import json
import sys

import compare

CHILD = """
import json, sys, time
import numpy as np
import onnxruntime_genai as og

folder, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
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


def main() -> None:
    parser = compare.parser(__doc__)
    parser.add_argument("--prompts", default="128,512")
    arguments = parser.parse_args()
    prompts = [int(text) for text in arguments.prompts.split(",")]
    theirs, ours = [], []
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        command = [sys.executable, "-c", CHILD, arguments.model, json.dumps(prompts), str(arguments.tokens)]
        theirs.append(json.loads(compare.run(arguments, command)))
        # Decode after as many tokens as genai's generator holds.
        ours.append(compare.phi4d(arguments, prompts, prompts[-1]))
    table = compare.Table("genai", theirs, ours)
    table.row("decode, batch 1, ms a token", "decode_ms", "decode_1")
    for length in prompts:
        table.row(f"prefill of {length}, ms", f"prefill_{length}_ms", f"prefill_{length}")


if __name__ == "__main__":
    main()
