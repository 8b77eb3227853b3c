#!/usr/bin/env python3
"""Writes a model folder of any Phi-3/Phi-4 shape with random weights, for measuring and for tests.

The graph is the one that the onnxruntime-genai model builder (0.18) emits for Phi-4 with
`-p int4 -e cpu` (block 32, accuracy level 4), or with `--for cuda` and others the one of `-e cuda`, whose floats
are of half precision; models/checks/check_random.py compares the two. Weights are drawn and written piece by
piece, so a model larger than memory can be made.

    python models/make_random.py OUT --preset phi4-4l [--tokenizer DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MASK = "/model/attn_mask_reformat/attn_mask_subgraph"
CHUNK = 1 << 24
#: Root mean square of the levels -8..7 drawn uniformly: the scale that gives a weight unit variance.
LEVEL_RMS = math.sqrt(sum(level * level for level in range(-8, 8)) / 16)


@dataclass(frozen=True)
class Shape:
    layers: int = 4
    hidden: int = 256
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    intermediate: int = 768
    vocab: int = 1024
    context: int = 4096
    block_size: int = 32
    accuracy_level: int = 4
    zero_points: int = 0
    theta: float = 250000.0
    epsilon: float = 1e-5
    target: str = "cpu"

    @property
    def float(self) -> int:
        """The type of everything that is no integer."""
        return TensorProto.FLOAT if self.target == "cpu" else TensorProto.FLOAT16


PHI4 = Shape(layers=40, hidden=5120, heads=40, kv_heads=10, head_dim=128, intermediate=17920, vocab=100352,
             context=16384)
PRESETS = {"demo": Shape(), "phi4": PHI4, "phi4-4l": replace(PHI4, layers=4)}


@dataclass(frozen=True)
class Weight:
    """An initializer of the data file. `fill` says how its values are made, `spread` their size."""

    name: str
    dims: tuple[int, ...]
    dtype: int
    fill: str
    spread: float = 1.0

    @property
    def length(self) -> int:
        return math.prod(self.dims) * helper.tensor_dtype_to_np_dtype(self.dtype).itemsize


@dataclass
class Graph:
    """The growing graph: nodes, the tensors' shapes, and the weights in the order of the data file."""

    shape: Shape
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)
    plain: list[Weight] = field(default_factory=list)
    packed: list[Weight] = field(default_factory=list)

    def value(self, name: str, dtype: int, dims: list[int | str]) -> str:
        self.values.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def hidden(self, name: str, width: int) -> str:
        return self.value(name, self.shape.float, ["batch_size", "sequence_length", width])

    def node(self, op: str, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))

    def ms_node(self, op: str, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.node(op, name, inputs, outputs, domain="com.microsoft", **attributes)

    def constant(self, label: str, value: np.ndarray) -> str:
        name = f"/model/constants/INT64/{label}"
        tensor = onnx.numpy_helper.from_array(value, name)
        self.node("Constant", f"/model/constant_nodes/INT64/{label}", [], [name], value=tensor)
        # The builder writes a scalar's shape here for one-element vectors too.
        return self.value(name, TensorProto.INT64, [])

    def weight(self, name: str, dims: tuple[int, ...], fill: str, spread: float = 1.0) -> str:
        self.plain.append(Weight(name, dims, self.shape.float, fill, spread))
        return name

    def matmul(self, name: str, source: str, k: int, n: int, output: str | None = None) -> str:
        """MatMulNBits over blocks along K, scaled so that the output is about as large as the input."""
        stem = name.removeprefix("/").replace("/", ".") + ".MatMul.weight"
        blocks = math.ceil(k / self.shape.block_size)
        quantised = Weight(f"{stem}_Q4", (n, blocks, self.shape.block_size // 2), TensorProto.UINT8, "levels")
        spread = 1 / (LEVEL_RMS * math.sqrt(k))
        scales = Weight(f"{stem}_scales", (n, blocks), self.shape.float, "scale", spread)
        self.packed += [quantised, scales]
        inputs = [source, quantised.name, scales.name]
        if self.shape.zero_points:
            # All 8, as where there are none: what they cost can be measured, and the outputs are the same.
            zeros = Weight(f"{stem}_zero_points", (n, math.ceil(blocks / 2)), TensorProto.UINT8, "eights")
            self.packed.append(zeros)
            inputs.append(zeros.name)
        result = output or self.hidden(f"{name}/MatMul/output_0", n)
        self.ms_node("MatMulNBits", f"{name}/MatMul_Q4", inputs, [result], K=k, N=n,
                     accuracy_level=self.shape.accuracy_level, bits=4, block_size=self.shape.block_size)
        return result


def attention_lengths(graph: Graph) -> tuple[str, str]:
    """seqlens_k = sum of the mask - 1 a row, and the mask's width."""
    one = graph.constant("[1]", np.array([1], dtype=np.int64))
    total = graph.value(f"{MASK}/ReduceSum/output_0", TensorProto.INT64, ["batch_size"])
    graph.node("ReduceSum", f"{MASK}/ReduceSum", ["attention_mask", one], [total], keepdims=0)
    less = graph.value(f"{MASK}/Sub/output_0", TensorProto.INT64, ["batch_size"])
    graph.node("Sub", f"{MASK}/Sub", [total, one], [less])
    seqlens = graph.value(f"{MASK}/Sub/Cast/output_0", TensorProto.INT32, ["batch_size"])
    graph.node("Cast", f"{MASK}/Sub/Cast", [less], [seqlens], to=TensorProto.INT32)
    dims = graph.value(f"{MASK}/Shape/output_0", TensorProto.INT64, [2])
    graph.node("Shape", f"{MASK}/Shape", ["attention_mask"], [dims])
    index = graph.constant("1", np.array(1, dtype=np.int64))
    width = graph.value(f"{MASK}/Gather/output_0", TensorProto.INT64, [])
    graph.node("Gather", f"{MASK}/Gather", [dims, index], [width], axis=0)
    width32 = graph.value(f"{MASK}/Gather/Cast/output_0", TensorProto.INT32, [])
    graph.node("Cast", f"{MASK}/Gather/Cast", [width], [width32], to=TensorProto.INT32)
    return seqlens, width32


def skip_norm(graph: Graph, stem: str, residual: str, added: str, last: bool = False) -> tuple[str, str]:
    """Adds to the residual stream and normalises: (normalised, the new residual)."""
    name = f"/model/{stem}"
    weight = graph.weight(f"model.{stem.replace('/', '.')}.weight", (graph.shape.hidden,), "ones")
    normal = graph.hidden(f"{name}/output_0", graph.shape.hidden)
    outputs = [normal]
    if not last:
        outputs += ["", "", graph.hidden(f"{name}/output_3", graph.shape.hidden)]
    graph.ms_node("SkipSimplifiedLayerNormalization", f"{name}/SkipLayerNorm", [residual, added, weight],
                  outputs, epsilon=graph.shape.epsilon)
    return normal, outputs[-1]


def attention(graph: Graph, layer: int, source: str, lengths: tuple[str, str]) -> str:
    shape, name = graph.shape, f"/model/layers.{layer}/attn"
    queries = shape.heads * shape.head_dim
    qkv = graph.matmul(f"{name}/qkv_proj", source, shape.hidden, queries + 2 * shape.kv_heads * shape.head_dim)
    output = graph.hidden(f"{name}/GroupQueryAttention/output_0", queries)
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    graph.ms_node(
        "GroupQueryAttention", f"{name}/GroupQueryAttention",
        [qkv, "", "", *past, *lengths, "cos_cache", "sin_cache", "", "", ""],
        [output, f"present.{layer}.key", f"present.{layer}.value"],
        num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=1 / math.sqrt(shape.head_dim),
        local_window_size=-1, softcap=0.0, do_rotary=1, rotary_interleaved=0,
    )
    return graph.matmul(f"{name}/o_proj", output, queries, shape.hidden)


def mlp(graph: Graph, layer: int, source: str) -> str:
    shape, name = graph.shape, f"/model/layers.{layer}/mlp"
    gate = graph.matmul(f"{name}/gate_proj", source, shape.hidden, shape.intermediate)
    up = graph.matmul(f"{name}/up_proj", source, shape.hidden, shape.intermediate)
    sigmoid = graph.hidden(f"{name}/act_fn/Sigmoid/output_0", shape.intermediate)
    graph.node("Sigmoid", f"{name}/act_fn/Sigmoid", [gate], [sigmoid])
    silu = graph.hidden(f"{name}/act_fn/Mul/output_0", shape.intermediate)
    graph.node("Mul", f"{name}/act_fn/Mul", [gate, sigmoid], [silu])
    product = graph.hidden(f"{name}/Mul/output_0", shape.intermediate)
    graph.node("Mul", f"{name}/Mul", [silu, up], [product])
    return graph.matmul(f"{name}/down_proj", product, shape.intermediate, shape.hidden)


def last_position(graph: Graph, source: str) -> str:
    """The builder's prune_lm_head: logits of the last position only."""
    width = graph.shape.hidden
    index = graph.constant("-1", np.array(-1, dtype=np.int64))
    row = graph.value("/lm_head/prune/Gather/output_0", graph.shape.float, ["batch_size", width])
    graph.node("Gather", "/lm_head/prune/Gather", [source, index], [row], axis=1)
    kept = graph.value("/lm_head/prune/Unsqueeze/output_0", graph.shape.float, ["batch_size", 1, width])
    graph.node("Unsqueeze", "/lm_head/prune/Unsqueeze", [row, "/model/constants/INT64/[1]"], [kept])
    return kept


def build(shape: Shape, prune_lm_head: bool) -> Graph:
    graph = Graph(shape)
    lengths = attention_lengths(graph)
    graph.weight("model.embed_tokens.weight", (shape.vocab, shape.hidden), "normal")
    residual = graph.hidden("/model/embed_tokens/Gather/output_0", shape.hidden)
    graph.node("Gather", "/model/embed_tokens/Gather", ["model.embed_tokens.weight", "input_ids"], [residual])
    first = graph.weight("model.layers.0.input_layernorm.weight", (shape.hidden,), "ones")
    normal = graph.hidden("/model/layers.0/input_layernorm/output_0", shape.hidden)
    graph.node("SimplifiedLayerNormalization", "/model/layers.0/input_layernorm/LayerNorm", [residual, first],
               [normal], axis=-1, epsilon=shape.epsilon, stash_type=1)
    graph.weight("cos_cache", (shape.context, shape.head_dim // 2), "cos")
    graph.weight("sin_cache", (shape.context, shape.head_dim // 2), "sin")
    for layer in range(shape.layers):
        added = attention(graph, layer, normal, lengths)
        normal, residual = skip_norm(graph, f"layers.{layer}/post_attention_layernorm", residual, added)
        added = mlp(graph, layer, normal)
        last = layer + 1 == shape.layers
        stem = f"layers.{layer + 1}/" + ("final_norm_layernorm" if last else "input_layernorm")
        normal, residual = skip_norm(graph, stem, residual, added, last)
    if prune_lm_head:
        normal = last_position(graph, normal)
    graph.matmul("/lm_head", normal, shape.hidden, shape.vocab, output="logits")
    return graph


def inputs_and_outputs(shape: Shape, prune: bool) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    def cache(name: str, length: str) -> onnx.ValueInfoProto:
        dims = ["batch_size", shape.kv_heads, length, "kv_cache_dim"]
        return helper.make_tensor_value_info(name, shape.float, dims)

    def tensor(name: str, dtype: int, dims: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, dims)

    layers, parts = range(shape.layers), ("key", "value")
    inputs = [tensor("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
              tensor("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    inputs += [cache(f"past_key_values.{i}.{part}", "past_sequence_length") for part in parts for i in layers]
    positions = 1 if prune else "sequence_length"
    outputs = [tensor("logits", shape.float, ["batch_size", positions, shape.vocab])]
    outputs += [cache(f"present.{i}.{part}", "total_sequence_length") for part in parts for i in layers]
    return inputs, outputs


def external(weight: Weight, offset: int) -> onnx.TensorProto:
    tensor = TensorProto(name=weight.name, data_type=weight.dtype, dims=weight.dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "model.onnx.data"), ("offset", str(offset)), ("length", str(weight.length))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def model_proto(graph: Graph, prune: bool) -> onnx.ModelProto:
    initializers, offset = [], 0
    for weight in graph.plain + graph.packed:
        initializers.append(external(weight, offset))
        offset += weight.length
    inputs, outputs = inputs_and_outputs(graph.shape, prune)
    made = helper.make_graph(graph.nodes, "main_graph", inputs, outputs, initializers, value_info=graph.values)
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10, producer_name="phi4d make_random")


def pieces(weight: Weight, shape: Shape, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The weight's values in order and of its type, never more than CHUNK of them at once."""
    for piece in drawn(weight, shape, rng):
        yield piece.astype(helper.tensor_dtype_to_np_dtype(weight.dtype), copy=False)


def drawn(weight: Weight, shape: Shape, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The weight's values before they are rounded to its type."""
    if weight.fill in ("cos", "sin"):
        half = shape.head_dim // 2
        frequencies = shape.theta ** (-np.arange(half, dtype=np.float64) / half)
        angles = np.arange(shape.context, dtype=np.float64)[:, None] * frequencies
        yield (np.cos(angles) if weight.fill == "cos" else np.sin(angles)).astype(np.float32)
        return
    count = math.prod(weight.dims)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        if weight.fill == "levels":
            yield np.frombuffer(rng.bytes(size), dtype=np.uint8)
        elif weight.fill == "eights":
            yield np.full(size, 0x88, dtype=np.uint8)
        elif weight.fill == "normal":
            yield rng.standard_normal(size, dtype=np.float32) * np.float32(weight.spread)
        else:
            yield np.full(size, weight.spread, dtype=np.float32)


def write_data(graph: Graph, file: BinaryIO, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for weight in graph.plain + graph.packed:
        for piece in pieces(weight, graph.shape, rng):
            file.write(piece.data)


def genai_config(shape: Shape) -> dict[str, Any]:
    """As in the published folders; the special ids keep Phi-4's distance from the vocabulary's end."""
    small = shape.vocab < PHI4.vocab
    provider_options = [] if shape.target == "cpu" else [{shape.target: {}}]
    endoftext, im_end = (shape.vocab - 23, shape.vocab - 15) if small else (100257, 100265)
    return {
        "model": {
            "bos_token_id": endoftext,
            "context_length": shape.context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": provider_options},
                "filename": "model.onnx",
                "head_size": shape.head_dim,
                "hidden_size": shape.hidden,
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask",
                           "past_key_names": "past_key_values.%d.key",
                           "past_value_names": "past_key_values.%d.value"},
                "outputs": {"logits": "logits", "present_key_names": "present.%d.key",
                            "present_value_names": "present.%d.value"},
                "num_attention_heads": shape.heads,
                "num_hidden_layers": shape.layers,
                "num_key_value_heads": shape.kv_heads,
            },
            "eos_token_id": [endoftext, im_end],
            "pad_token_id": endoftext,
            "type": "phi3",
            "vocab_size": shape.vocab,
        },
        "search": {"diversity_penalty": 0.0, "do_sample": False, "early_stopping": True, "length_penalty": 1.0,
                   "max_length": shape.context, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
                   "num_return_sequences": 1, "past_present_share_buffer": True, "repetition_penalty": 1.0,
                   "temperature": 1.0, "top_k": 1, "top_p": 1.0},
    }


def write_folder(out: Path, shape: Shape, seed: int, prune: bool, tokenizer: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    graph = build(shape, prune)
    (out / "model.onnx").write_bytes(model_proto(graph, prune).SerializeToString())
    with open(out / "model.onnx.data", "wb") as file:
        write_data(graph, file, seed)
    (out / "genai_config.json").write_text(json.dumps(genai_config(shape), indent=4) + "\n")
    if tokenizer:
        for name in TOKENIZER_FILES:
            shutil.copy(tokenizer / name, out / name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="shape to start from")
    for name in ("layers", "hidden", "heads", "kv-heads", "head-dim", "intermediate", "vocab", "context", "block-size",
                 "accuracy-level", "zero-points"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--for", dest="target", choices=("cpu", "cuda", "dml", "webgpu"),
                        help="what it is exported for; all but cpu have half precision")
    parser.add_argument("--prune-lm-head", action="store_true", help="logits of the last position only")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder to copy the tokenizer files from")
    parser.add_argument("--seed", type=int, default=4)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    preset = PRESETS[arguments.preset]
    given = {name: getattr(arguments, name) for name in asdict(preset) if getattr(arguments, name, None) is not None}
    write_folder(arguments.out, replace(preset, **given), arguments.seed, arguments.prune_lm_head,
                 arguments.tokenizer)


if __name__ == "__main__":
    main()
