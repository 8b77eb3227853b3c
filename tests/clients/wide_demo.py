"""Makes a copy of the demo model whose context holds the prompts of coding agents.

    wide_demo.py DEMO OUT TOKENS

Its tokens have one or two letters, so that a prompt of 50 kB needs some 30,000 of them. Only the table of rotary
angles and the number in genai_config.json grow; the weights are the demo's.
"""

import json
import pathlib
import shutil
import sys

import numpy
import onnx
from onnx import numpy_helper

DEMO, OUT, TOKENS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
TABLES = {"cos_cache": numpy.cos, "sin_cache": numpy.sin}

shutil.rmtree(OUT, ignore_errors=True)
shutil.copytree(DEMO, OUT)
theta = json.loads((DEMO / "config.json").read_text())["rope_theta"]
model = onnx.load(DEMO / "model.onnx")
grown = 0
for tensor in model.graph.initializer:
    if tensor.name not in TABLES:
        continue
    old = numpy_helper.to_array(tensor)
    half = old.shape[1]
    frequencies = theta ** (-numpy.arange(half, dtype=numpy.float64) / half)
    angles = numpy.outer(numpy.arange(TOKENS), frequencies)
    new = TABLES[tensor.name](angles).astype(old.dtype)
    # The same table as far as it went.
    assert numpy.abs(new[: len(old)] - old).max() < 1e-3, tensor.name
    tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    grown += 1
assert grown == len(TABLES), "the graph's tables have other names"
onnx.save(model, OUT / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
path = OUT / "genai_config.json"
config = json.loads(path.read_text())
config["model"]["context_length"] = TOKENS
config["search"]["max_length"] = TOKENS
path.write_text(json.dumps(config, indent=4))
