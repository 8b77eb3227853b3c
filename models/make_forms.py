#!/usr/bin/env python3
"""Writes the demo model in every form of weights that exports of the model builder and of Olive have.

    python models/make_forms.py OUT [FORM...]

Each form is a folder of OUT. The demo's checkpoint lies on the grid of its int4 weights (models/README.md), so
models/demo has it whole: its weights in single precision are the graph that the model builder (onnxruntime-genai
0.18) has before its last pass, `Model.to_nbits`. That pass is done here as the builder does it, by ONNX Runtime's own
`MatMulNBitsQuantizer`, so torch is not needed.

Needs models/forms-requirements.txt. The same versions write the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    KQuantWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    RTNWeightOnlyQuantConfig,
)
from onnxruntime.quantization.quant_utils import QuantFormat

DEMO = Path(__file__).resolve().parent / "demo"
COPIED = ("config.json", "genai_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
HEAD = "/lm_head/MatMul"
EMBEDDING = "/model/embed_tokens/Gather"


@dataclass(frozen=True)
class Form:
    """The options of an export, by the names that the model builder gives them."""

    method: str = "default"
    bits: int = 4
    block: int = 32
    symmetric: bool = True
    level: int = 4
    #: Matmuls that get 8 bits: none, the head (`_last`) or llama.cpp's choice of layers too (`_mixed`).
    upgraded: str = ""
    qdq: bool = False
    operators: tuple[str, ...] = ("MatMul",)
    #: What is changed after the quantiser, where no option of the builder makes the form.
    after: Callable[[onnx.ModelProto], None] | None = field(default=None)


def floats(model: onnx.ModelProto) -> None:
    """Puts the weights of `models/demo` back into single precision: `MatMulNBits` becomes `MatMul`."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    gone = set()
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        size = {attribute.name: attribute.i for attribute in node.attribute}
        levels, scales = (numpy_helper.to_array(tensors[name]) for name in node.input[1:3])
        gone.update(node.input[1:3])
        both = np.stack([levels & 15, levels >> 4], axis=-1).reshape(*scales.shape, size["block_size"])
        weight = (both.astype(np.float32) - 8) * scales[..., None]
        weight = np.ascontiguousarray(weight.reshape(size["N"], -1)[:, : size["K"]].T)
        name = node.input[1].removesuffix("_Q4")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
        kept = [node.input[0], name]
        plain = helper.make_node("MatMul", kept, list(node.output), name=node.name.removesuffix("_Q4"))
        node.CopyFrom(plain)
    for name in gone:
        model.graph.initializer.remove(tensors[name])


def upgraded(model: onnx.ModelProto, which: str) -> list[str]:
    """Names of the matmuls that get 8 bits, as the builder's `make_matmul_mixed_precision` chooses them."""
    if not which:
        return []
    names = [HEAD]
    if which == "mixed":
        layers = sum(node.op_type == "GroupQueryAttention" for node in model.graph.node)
        for i in range(layers):
            if i < layers / 8 or i >= 7 * layers / 8 or (i - round(layers / 8)) % 3 == 2:
                names += [f"/model/layers.{i}/attn/qkv_proj/MatMul", f"/model/layers.{i}/mlp/down_proj/MatMul"]
    return names


def quantise(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """The builder's `to_nbits`."""
    names = upgraded(model, form.upgraded)
    common = {
        "block_size": form.block, "is_symmetric": form.symmetric, "accuracy_level": form.level,
        "quant_format": QuantFormat.QDQ if form.qdq else QuantFormat.QOperator,
        "op_types_to_quantize": form.operators,
    }
    if form.method == "channel":
        # Not the builder's: Olive's option for NPUs, one scale for a whole column.
        config = DefaultWeightOnlyQuantConfig(channel_wised_quantize=True, bits=form.bits, **common)
        quantiser = MatMulNBitsQuantizer(model, **common, algo_config=config)
    elif form.method == "default":
        quantiser = MatMulNBitsQuantizer(model, bits=form.bits, nodes_to_exclude=names, **common)
    else:
        bits = {node.name: {"bits": form.bits} for node in model.graph.node if node.op_type == "MatMul"}
        bits |= {name: {"bits": 8} for name in names}
        configs = {"rtn": RTNWeightOnlyQuantConfig, "k_quant": KQuantWeightOnlyQuantConfig}
        config = configs[form.method](customized_weight_config=bits)
        quantiser = MatMulNBitsQuantizer(model, bits=form.bits, algo_config=config, **common)
    quantiser.process()
    model = quantiser.model.model
    if form.method == "default" and names:
        quantiser = MatMulNBitsQuantizer(model, bits=8, nodes_to_include=names, **common)
        quantiser.process()
        model = quantiser.model.model
    return model


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def tie(model: onnx.ModelProto) -> None:
    """The builder's tied embeddings: rows of the head's quantised weights are the table of embeddings."""
    head = next(node for node in model.graph.node if node.name.startswith(f"{HEAD}_Q"))
    size = {attribute.name: attribute.i for attribute in head.attribute}
    gather = node_of(model, EMBEDDING)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == gather.input[0])
    shape = constant(model, "/model/constants/INT64/tied", np.array([size["N"], size["K"] * size["bits"] // 8]))
    flat = "/model/embed_tokens/Reshape/output_0"
    reshape = helper.make_node("Reshape", [head.input[1], shape], [flat], name="/model/embed_tokens/Reshape")
    tied = helper.make_node(
        "GatherBlockQuantized", [flat, gather.input[1], *head.input[2:]], list(gather.output),
        name="/model/embed_tokens/GatherBlockQuantized", domain="com.microsoft", bits=size["bits"],
        block_size=size["block_size"], gather_axis=0, quantize_axis=1,
    )
    model.graph.initializer.remove(table)
    model.graph.node.remove(gather)
    model.graph.node.insert(0, tied)
    model.graph.node.insert(0, reshape)


def eight_bits(blocks: bool, symmetric: bool) -> Callable[[onnx.ModelProto], None]:
    """int8 weights as `DequantizeLinear` takes them, in blocks of 32 or by column: Olive's QDQ of 8 bits."""

    def change(model: onnx.ModelProto) -> None:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in [node for node in model.graph.node if node.op_type == "MatMul"]:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            k, n = weight.shape
            groups = weight.reshape(-1, 32 if blocks else k, n)
            least, most = np.minimum(groups.min(axis=1), 0), np.maximum(groups.max(axis=1), 0)
            if symmetric:
                scales, zeros = np.maximum(-least, most) / 127, np.zeros_like(least)
            else:
                scales = (most - least) / 255
                zeros = np.rint(-least / scales)
            levels = np.rint(groups / scales[:, None] + zeros[:, None])
            kind = np.int8 if symmetric else np.uint8
            stem, shape = node.input[1], scales.shape if blocks else (n,)
            inputs = [
                constant(model, f"{stem}_DQ_Q8", levels.astype(kind).reshape(k, n)),
                constant(model, f"{stem}_DQ_scales", scales.astype(np.float32).reshape(shape)),
            ]
            if not symmetric:
                inputs.append(constant(model, f"{stem}_DQ_zero_points", zeros.astype(kind).reshape(shape)))
            how = {"axis": 0, "block_size": 32} if blocks else {"axis": 1}
            dequantised = helper.make_node("DequantizeLinear", inputs, [f"{stem}_DQ"], name=f"{node.name}_DQ", **how)
            model.graph.initializer.remove(tensors[stem])
            node.input[1] = f"{stem}_DQ"
            model.graph.node.insert(0, dequantised)

    return change


NONE = ()
FORMS = {
    "default": Form(),
    "rtn": Form("rtn"),
    "rtn-last": Form("rtn", upgraded="last"),
    "k-quant": Form("k_quant"),
    "k-quant-last": Form("k_quant", upgraded="last"),
    "k-quant-mixed": Form("k_quant", upgraded="mixed"),
    "asymmetric": Form(symmetric=False),
    "block-16": Form(block=16),
    "block-64": Form(block=64),
    "block-128": Form(block=128),
    "block-256": Form(block=256),
    "level-0": Form(level=0),
    "level-1": Form(level=1),
    "int8": Form(bits=8),
    "int8-asymmetric": Form(bits=8, symmetric=False, block=128),
    "tied": Form("rtn", after=tie),
    "tied-asymmetric": Form("k_quant", after=tie),
    "tied-int8": Form("rtn", upgraded="last", after=tie),
    "embedding": Form(operators=("MatMul", "Gather")),
    "embedding-asymmetric": Form(symmetric=False, operators=("MatMul", "Gather")),
    "qdq": Form(qdq=True),
    "qdq-asymmetric": Form(qdq=True, symmetric=False, block=64),
    "qdq-channel": Form("channel", qdq=True),
    "qdq-channel-asymmetric": Form("channel", qdq=True, symmetric=False),
    "qdq-int8": Form(operators=NONE, after=eight_bits(blocks=True, symmetric=True)),
    "qdq-int8-asymmetric": Form(operators=NONE, after=eight_bits(blocks=True, symmetric=False)),
    "qdq-int8-channel": Form(operators=NONE, after=eight_bits(blocks=False, symmetric=True)),
    "qdq-int8-channel-asymmetric": Form(operators=NONE, after=eight_bits(blocks=False, symmetric=False)),
}


def write(folder: Path, form: Form, checkpoint: onnx.ModelProto) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.ModelProto()
    model.CopyFrom(checkpoint)
    if form.operators:
        model = quantise(model, form)
    if form.after:
        form.after(model)
    for name in COPIED:
        shutil.copy(DEMO / name, folder / name)
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).unlink(missing_ok=True)
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data",
                    size_threshold=1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write the forms' folders into")
    parser.add_argument("forms", nargs="*", metavar="FORM", help=f"all of these, if none is named: {' '.join(FORMS)}")
    arguments = parser.parse_args()
    unknown = set(arguments.forms) - set(FORMS)
    if unknown:
        parser.error(f"no such form: {' '.join(sorted(unknown))}")
    # The quantisers log every node and print how far they are. Blocks of zeros are divided by 0 and put right.
    logging.disable(logging.INFO)
    np.seterr(divide="ignore", invalid="ignore")
    checkpoint = onnx.load(DEMO / "model.onnx")
    floats(checkpoint)
    for name in arguments.forms or FORMS:
        with contextlib.redirect_stdout(io.StringIO()):
            write(arguments.out / name, FORMS[name], checkpoint)


if __name__ == "__main__":
    main()
