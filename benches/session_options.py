#!/usr/bin/env python3
"""Times one ONNX model under several session options, or several exports of one shape, in turns, in one run.

    python benches/session_options.py MODEL_FOLDER [VARIANT ...]

A variant is a comma-separated list of KEY=VALUE: `folder` (another export, as a path), `threads`, `arena` (0 or 1),
`level` (graph optimisations: 0, 1, 2, 99), and else names of ONNX Runtime's session options. The first variant is
the folder as it is. Prints medians, and each variant's time over the first's: below 1 is faster.
Prefill is of the exported graph: give exports made with --prune-lm-head, as phi4d computes the last position only.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

CONTEXT = 1024
PAST = 64
WIDTHS = (1, 8)


class Variant:
    def __init__(self, folder: str, text: str) -> None:
        self.name = text or "as it is"
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        for part in filter(None, text.split(",")):
            key, value = part.split("=", 1)
            if key == "folder":
                folder = value
            elif key == "threads":
                options.intra_op_num_threads = int(value)
            elif key == "arena":
                options.enable_cpu_mem_arena = value == "1"
            elif key == "level":
                options.graph_optimization_level = ort.GraphOptimizationLevel(int(value))
            else:
                options.add_session_config_entry(key, value)
        began = time.perf_counter()
        self.session = ort.InferenceSession(str(Path(folder) / "model.onnx"), options,
                                            providers=["CPUExecutionProvider"])
        self.loaded = time.perf_counter() - began
        decoder = json.loads((Path(folder) / "genai_config.json").read_text())["model"]["decoder"]
        self.caches = {}
        for value in self.session.get_inputs():
            if value.name.startswith("past"):
                shape = (max(WIDTHS), value.shape[1], CONTEXT, decoder["head_size"])
                self.caches[value.name] = np.zeros(shape, dtype=np.float32)
        self.times: dict[str, list[float]] = {}

    def step(self, key: str, rows: int, past: int, tokens: int) -> None:
        """One run over the first rows of the KV cache, past and present in the same memory."""
        binding = self.session.io_binding()
        ids = np.random.default_rng(past).integers(0, 900, size=(rows, tokens), dtype=np.int64)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", np.ones((rows, past + tokens), dtype=np.int64))
        for name, cache in self.caches.items():
            value = ort.OrtValue.ortvalue_from_numpy(cache[:rows])
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        binding.bind_output("logits", "cpu")
        began = time.perf_counter()
        self.session.run_with_iobinding(binding)
        self.times.setdefault(key, []).append((time.perf_counter() - began) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="decode steps of each width a round")
    parser.add_argument("--prompt", type=int, default=128)
    arguments = parser.parse_args()
    variants = [Variant(arguments.model, text) for text in ["", *arguments.variants]]
    for number in range(arguments.rounds + 1):
        for variant in variants:
            for width in WIDTHS:
                for step in range(arguments.steps):
                    variant.step(f"decode {width}", width, PAST + step, 1)
            variant.step("prefill", 1, 0, arguments.prompt)
            if number == 0:
                variant.times.clear()
    base = {key: statistics.median(times) for key, times in variants[0].times.items()}
    print(f"{'loaded, s':>10}" + "".join(f"{key + ', ms':>16}{'ratio':>7}" for key in base) + "  variant")
    for variant in variants:
        medians = {key: statistics.median(times) for key, times in variant.times.items()}
        print(f"{variant.loaded:10.2f}" + "".join(f"{medians[key]:16.1f}{medians[key] / base[key]:7.3f}"
                                                  for key in base) + f"  {variant.name}")


if __name__ == "__main__":
    main()
