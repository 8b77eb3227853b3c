#!/usr/bin/env python3
"""Compares phi4d with onnxruntime-genai on the same model folder, in turns, in one run.

    python benches/compare_genai.py MODEL_FOLDER [--phi4d target/release/phi4d] [--rounds 3]

Needs onnxruntime-genai and numpy (models/requirements.txt has the versions). Each round starts each
program again: genai's Generator (prefill of a prompt, then greedy tokens at batch 1), then
`phi4d bench` (bare steps and the daemon). Prints medians over the rounds and their ratios. With --batches, several
equal sequences at once, too.
"""

import json
import sys
from argparse import Namespace

import compare

CHILD = """
import json, sys, time
import numpy as np
import onnxruntime_genai as og

folder, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
batches = json.loads(sys.argv[4])
config = og.Config(folder)
model = og.Model(config)
result = {}
random = np.random.default_rng(7)


def decode(name, generator):
    times = []
    for _ in range(tokens):
        if generator.is_done():
            break
        began = time.perf_counter()
        generator.generate_next_token()
        times.append((time.perf_counter() - began) * 1e3)
    if times:
        result[name] = float(np.median(times))


for length in prompts:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length + tokens + 8, do_sample=False)
    generator = og.Generator(model, params)
    prompt = random.integers(0, 900, size=(1, length), dtype=np.int32)
    began = time.perf_counter()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    result[f"prefill_{length}_ms"] = (time.perf_counter() - began) * 1e3
    # The last prompt's stands: what phi4d is measured at.
    decode("decode_ms", generator)
    del generator
for batch in batches:
    params = og.GeneratorParams(model)
    length = prompts[-1]
    params.set_search_options(max_length=length + tokens + 8, do_sample=False, batch_size=batch)
    generator = og.Generator(model, params)
    generator.append_tokens(np.tile(random.integers(0, 900, size=(1, length), dtype=np.int32), (batch, 1)))
    generator.generate_next_token()
    decode(f"decode_{batch}_ms", generator)
    del generator
print(json.dumps(result))
"""


def genai(arguments: Namespace, prompts: list[int], batches: list[int]) -> dict[str, float]:
    """One round of onnxruntime-genai."""
    command = [sys.executable, "-c", CHILD, arguments.model, json.dumps(prompts), str(arguments.tokens)]
    return json.loads(compare.run(arguments, [*command, json.dumps(batches)]))


def main() -> None:
    parser = compare.parser(__doc__)
    parser.add_argument("--prompts", default="128,512")
    parser.add_argument("--batches", default="", help="widths of decode steps to compare, of 2, 4 and 8")
    arguments = parser.parse_args()
    batches = [int(text) for text in arguments.batches.split(",") if text]
    prompts = [int(text) for text in arguments.prompts.split(",")]
    theirs, ours = [], []
    for number in range(arguments.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        theirs.append(genai(arguments, prompts, batches))
        # Decode after as many tokens as genai's generator holds.
        ours.append(compare.phi4d(arguments, prompts, prompts[-1]))
    table = compare.Table("genai", theirs, ours)
    past = prompts[-1]
    table.row(f"decode behind {past}, batch 1, ms a token", "decode_ms", f"decode_{past}_1")
    for batch in batches:
        table.row(f"decode behind {past}, batch {batch}, ms a step", f"decode_{batch}_ms", f"decode_{past}_{batch}")
    for length in prompts:
        table.row(f"prefill of {length}, ms", f"prefill_{length}_ms", f"prefill_{length}")


if __name__ == "__main__":
    main()
