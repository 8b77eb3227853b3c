#!/usr/bin/env python3
"""Runs a model folder in plain ONNX Runtime: a short prefill, some decode steps, sane activations.

    python models/checks/run_random.py FOLDER [--prompt 32] [--steps 16] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    model = json.loads((arguments.folder / "genai_config.json").read_text())["model"]
    decoder = model["decoder"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    path = str(arguments.folder / "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), dtype=np.float32)
    past = {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}
    tokens = np.random.default_rng(4).integers(0, model["vocab_size"], (1, arguments.prompt))
    length, seconds, chosen = 0, [], []
    for _ in range(arguments.steps + 1):
        length += tokens.shape[1]
        feeds = {"input_ids": tokens, "attention_mask": np.ones((1, length), dtype=np.int64), **past}
        began = time.perf_counter()
        results = dict(zip(names, session.run(None, feeds)))
        seconds.append(time.perf_counter() - began)
        logits = results["logits"][0, -1]
        assert np.isfinite(logits).all(), "logits are not finite"
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        chosen.append(int(logits.argmax()))
        tokens = np.array([[chosen[-1]]])
    decode_ms = 1000 * statistics.median(seconds[1:])
    print(f"prefill {arguments.prompt / seconds[0]:.1f} tokens/s, decode {decode_ms:.1f} ms")
    print(f"logits {results['logits'].shape}, spread {logits.std():.2f}, tokens {chosen[:8]}")


if __name__ == "__main__":
    main()
