"""Makes models/longrope and models/golden/longrope.json: a tiny model with Phi-4-mini's two rotary caches.

Random weights (fixed seed) in single precision, exported by the onnxruntime-genai model builder. Phi-4-mini switches
from its short to its long rotary factors past 4,096 tokens, this model past 64. Needs models/requirements.txt.

The golden tokens come from ONNX Runtime alone, without any cache: each token from one run over all tokens before it,
which is what a cache that is recomputed at the switch has to equal. `kept` is what a cache that is kept across
the switch gives instead, to show that the difference can be seen.

`int8.onnx` and `int4.onnx` are the builder's graphs for quantised caches over the same weights. Their golden tokens
(`int8` and `int4`) come from past and present in memory of their own, read again at the switch.

`paged.onnx` is the builder's graph with PagedAttention over the same weights, in single precision and with its
attention in the domain of the tests' own operator, since ONNX Runtime has it for devices only. `paged.json` is its
genai_config.json. It has to give the same tokens as the plain graph.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: the library writes into HOME otherwise

import numpy as np
import onnx
import onnxruntime

MODELS = Path(__file__).resolve().parent
OUT = MODELS / "longrope"
GOLDEN = MODELS / "golden" / "longrope.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MODEL_FILES = ("model.onnx", "model.onnx.data", "genai_config.json")
LIMIT, CONTEXT, HEAD, KV_HEADS, SEED = 64, 512, 32, 2, 5
#: Other kernels round differently, so a golden output must not hang on a near tie.
LEAST_MARGIN = 0.02
#: Prompt lengths: far below the switch, at it, and past it.
LENGTHS = (1, 20, 40, 60, 63, 64, 65, 80, 200)
TOKENS = 80

#: Schemes of quantised caches, with the range that a scale maps to.
SCHEMES = {"int8": ("int8_per_tensor", 127), "int4": ("int4_per_channel", 7)}

#: Positions in a block of the paged graph. The builder wants the switch at a block's end.
BLOCK = 16
#: Where the tests register an operator of PagedAttention's contract.
TEST_DOMAIN = "phi4d.test"

Cache = dict[str, np.ndarray]


def checkpoint(folder: Path) -> None:
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(SEED)
    pairs = HEAD // 4  # half of a head is rotated, in pairs; the kernel wants a multiple of 8
    factors = {"short_factor": [1 + 0.02 * i for i in range(pairs)], "long_factor": [1.6**i for i in range(pairs)]}
    config = Phi3Config(
        vocab_size=1024, hidden_size=4 * HEAD, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=KV_HEADS, max_position_embeddings=CONTEXT, original_max_position_embeddings=LIMIT,
        rms_norm_eps=1e-5, rope_theta=10000.0, partial_rotary_factor=0.5, tie_word_embeddings=True,
        rope_scaling={"type": "longrope", **factors}, sliding_window=None, bos_token_id=1001, eos_token_id=1009,
        pad_token_id=1001,
    )
    model = Phi3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                # Spread so that the text does not settle on one token.
                weight.normal_(0, 0.4 if "embed" in name else 4 / weight.shape[1] ** 0.5)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(MODELS / "demo" / name, folder / name)


def run_builder(source: Path, output: Path, *extra: str, provider: str = "cpu", precision: str = "fp32") -> None:
    options = ["--extra_options", *extra] if extra else []
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(output),
         "-p", precision, "-e", provider, "-c", str(output / "cache"), *options],
        check=True,
    )


def export() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source, output = Path(scratch) / "checkpoint", Path(scratch) / "out"
        source.mkdir()
        checkpoint(source)
        run_builder(source, output)
        for name in MODEL_FILES:
            shutil.copy(output / name, OUT / name)
        for name in SCHEMES:
            quantised(name, source, Path(scratch) / name)
        paged(source, Path(scratch) / "paged")


def quantised(name: str, source: Path, output: Path) -> None:
    """The graph for a quantised cache, with its scales inside and the weights where the plain graph has them."""
    output.mkdir()
    scales = output / "scales.json"
    scales.write_text(json.dumps({"scales": calibrated(name)}))
    run_builder(source, output, f"kv_cache_quant_scheme={SCHEMES[name][0]}", f"kv_cache_scale_file={scales}")
    graph = onnx.load(output / "model.onnx", load_external_data=False)
    plain = onnx.load(OUT / "model.onnx", load_external_data=False)
    places = {weight.name: weight for weight in plain.graph.initializer}
    for weight in graph.graph.initializer:
        if weight.name in places:
            weight.CopyFrom(places[weight.name])
        else:
            onnx.external_data_helper.load_external_data_for_tensor(weight, str(output))
            weight.data_location = onnx.TensorProto.DEFAULT
            del weight.external_data[:]
    (OUT / f"{name}.onnx").write_bytes(graph.SerializeToString())


def paged(source: Path, output: Path) -> None:
    run_builder(source, output, "use_paged_attention=true", f"paged_block_size={BLOCK}", provider="cuda",
                precision="fp16")
    model = onnx.load(output / "model.onnx", load_external_data=False)
    graph = model.graph
    places = {weight.name: weight for weight in onnx.load(OUT / "model.onnx", load_external_data=False).graph.initializer}
    for weight in graph.initializer:
        weight.CopyFrom(places[weight.name])
    for value in (*graph.input, *graph.output, *graph.value_info):
        single(value.type.tensor_type)
    for node in graph.node:
        if node.op_type == "PagedAttention":
            node.domain = TEST_DOMAIN
    exact_tables(graph)
    model.opset_import.append(onnx.helper.make_opsetid(TEST_DOMAIN, 1))
    (OUT / "paged.onnx").write_bytes(model.SerializeToString())
    shutil.copy(output / "genai_config.json", OUT / "paged.json")


def single(tensor_type: onnx.TypeProto.Tensor) -> None:
    if tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        tensor_type.elem_type = onnx.TensorProto.FLOAT


def exact_tables(graph: onnx.GraphProto) -> None:
    """The plain graph's rotary tables in place of those that were rounded to half precision."""
    plain = onnx.load(OUT / "model.onnx", load_external_data=False).graph
    exact = {branch.name: branch for branch in branches(plain)}
    for branch in branches(graph):
        branch.CopyFrom(exact[branch.name])


def branches(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [attribute.g for node in graph.node if node.op_type == "If" for attribute in node.attribute]


def calibrated(name: str) -> dict[str, list[list[float]]]:
    """Scales from what the plain graph caches for random tokens."""
    scheme, most = SCHEMES[name]
    tokens = [int(token) for token in np.random.default_rng(SEED).integers(0, 1000, CONTEXT // 2)]
    _, cache = Model().run(tokens, None, len(tokens))
    axes = (0, 2) if scheme.endswith("channel") else None
    parts = {part: [n for n in cache if n.endswith(part)] for part in ("key", "value")}
    return {f"{part[0]}_scales": [(np.abs(cache[n]).max(axis=axes) / most).flatten().tolist() for n in names]
            for part, names in parts.items()}


class Model:
    def __init__(self, name: str = "model") -> None:
        self.session = onnxruntime.InferenceSession(str(OUT / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.past = [entry.name for entry in self.session.get_inputs() if entry.name.startswith("past")]
        element = {"model": np.float32, "int8": np.int8, "int4": np.uint8}[name]
        # Two 4-bit values share a byte.
        self.empty = np.zeros((1, KV_HEADS, 0, HEAD // 2 if name == "int4" else HEAD), dtype=element)

    def run(self, tokens: list[int], cache: Cache | None, width: int) -> tuple[np.ndarray, Cache]:
        """The last position's logits, and the cache with these tokens in it. `width` counts all tokens."""
        feeds = {"input_ids": np.array([tokens], dtype=np.int64), "attention_mask": np.ones((1, width), dtype=np.int64)}
        feeds |= cache or {name: self.empty for name in self.past}
        results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        return results["logits"][0, -1], {n: results[n.replace("past_key_values", "present")] for n in self.past}

    def greedy(self, prompt: list[int], keep: bool, again: int = 0) -> tuple[list[int], float]:
        """`keep` keeps the cache from token to token, but for the `again`-th, where all tokens are read again."""
        tokens, least, cache = list(prompt), float("inf"), None
        for _ in range(TOKENS):
            if keep and cache is not None and len(tokens) != again:
                logits, cache = self.run(tokens[-1:], cache, len(tokens))
            else:
                logits, cache = self.run(tokens, None, len(tokens))
            second, best = np.partition(logits, -2)[-2:]
            least = min(least, float(best - second))
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt):], least


def case(model: Model, rng: np.random.Generator, length: int) -> dict[str, Any]:
    while True:
        prompt = [int(token) for token in rng.integers(0, 1000, length)]
        tokens, margin = model.greedy(prompt, keep=False)
        if margin < LEAST_MARGIN:
            continue
        kept, _ = model.greedy(prompt, keep=True)
        same = next((i for i, pair in enumerate(zip(tokens, kept, strict=True)) if pair[0] != pair[1]), TOKENS)
        return {"prompt_tokens": prompt, "tokens": tokens, "kept": kept, "same_if_kept": same,
                "min_margin": round(margin, 4)}


def quantised_case(model: Model, rng: np.random.Generator, length: int) -> dict[str, Any]:
    while True:
        prompt = [int(token) for token in rng.integers(0, 1000, length)]
        tokens, margin = model.greedy(prompt, keep=True, again=LIMIT + 1)
        if margin >= LEAST_MARGIN:
            return {"prompt_tokens": prompt, "tokens": tokens, "min_margin": round(margin, 4)}


def main() -> None:
    export()
    model, rng = Model(), np.random.default_rng(SEED)
    cases = [case(model, rng, length) for length in LENGTHS]
    text = ",\n".join(json.dumps(entry) for entry in cases)
    parts = [f'"switch": {LIMIT}', f'"cases": [\n{text}\n]']
    for name in SCHEMES:
        text = ",\n".join(json.dumps(quantised_case(Model(name), rng, length)) for length in (1, 20, 60, 100))
        parts.append(f'"{name}": [\n{text}\n]')
    GOLDEN.write_text("{" + ", ".join(parts) + "}\n")
    for entry in cases:
        print(len(entry["prompt_tokens"]), entry["min_margin"], entry["same_if_kept"])


if __name__ == "__main__":
    main()
