#!/usr/bin/env python3
"""Compares the graph of make_random.py with the model builder's for the demo's shape, node by node.

    python models/checks/check_random.py            # against models/demo
    python models/checks/check_random.py FOLDER --prune-lm-head
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

MODELS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(MODELS))
import make_random  # noqa: E402


def attribute(item: onnx.AttributeProto) -> tuple[str, Any]:
    value = onnx.helper.get_attribute_value(item)
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value).tolist()
    return item.name, round(value, 7) if isinstance(value, float) else value


def node(item: onnx.NodeProto) -> tuple[Any, ...]:
    return (item.op_type, item.domain, item.name, list(item.input), list(item.output),
            sorted(attribute(a) for a in item.attribute))


def value(item: onnx.ValueInfoProto) -> tuple[Any, ...]:
    tensor = item.type.tensor_type
    return item.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]


def initializer(item: onnx.TensorProto) -> tuple[Any, ...]:
    return item.name, item.data_type, list(item.dims), [(e.key, e.value) for e in item.external_data]


def parts(model: onnx.ModelProto) -> dict[str, list[Any]]:
    graph = model.graph
    initial = {item.name for item in graph.initializer}
    return {
        "opsets": sorted((o.domain, o.version) for o in model.opset_import),
        "ir version": [model.ir_version],
        "nodes": [node(item) for item in graph.node],
        "inputs": [value(item) for item in graph.input],
        "outputs": [value(item) for item in graph.output],
        "initializers": [initializer(item) for item in graph.initializer],
        "inner values": sorted(value(item) for item in graph.value_info if item.name not in initial),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MODELS / "demo", help="made by the model builder")
    parser.add_argument("--prune-lm-head", action="store_true")
    parser.add_argument("--for", dest="target", default="cpu")
    parser.add_argument("--accuracy-level", type=int, default=4)
    arguments = parser.parse_args()
    built = parts(onnx.load(arguments.folder / "model.onnx", load_external_data=False))
    changed = {"target": arguments.target, "accuracy_level": arguments.accuracy_level}
    graph = make_random.build(replace(make_random.PRESETS["demo"], **changed), arguments.prune_lm_head)
    made = parts(make_random.model_proto(graph, arguments.prune_lm_head))
    for name, wanted in built.items():
        for ours, theirs in zip(made[name], wanted):
            assert ours == theirs, f"{name}:\n  ours   {ours}\n  theirs {theirs}"
        assert len(made[name]) == len(wanted), f"{name}: {len(made[name])} against {len(wanted)}"
        print(f"{name}: {len(wanted)} equal, in order")


if __name__ == "__main__":
    main()
