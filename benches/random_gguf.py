#!/usr/bin/env python3
"""Writes a GGUF file of a Phi-4 shape with random Q4_0 weights and no vocabulary, for llama.cpp's benchmarks.

    python benches/random_gguf.py OUT.gguf --preset phi4-4l

All products are Q4_0, the one with the vocabulary too (llama.cpp's own conversion gives that one 6 bits), as
models/make_random.py has them all in 4 bits. Needs the gguf package and what make_random.py needs.
"""

import argparse
import math
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from make_random import LEVEL_RMS, PRESETS, Shape

BLOCK = 32
Q4_0 = gguf.GGMLQuantizationType.Q4_0


def blocks(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """Random Q4_0 blocks, each a half-precision scale and 32 levels."""
    made = np.frombuffer(random.bytes(rows * columns // BLOCK * 18), dtype=np.uint8)
    made = made.reshape(rows, columns // BLOCK, 18).copy()
    made[:, :, :2] = np.array([1 / (LEVEL_RMS * math.sqrt(columns))], dtype=np.float16).view(np.uint8)
    return made.reshape(rows, columns // BLOCK * 18)


def describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_rope_scaling_orig_ctx_len(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.theta)
    writer.add_sliding_window(0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(shape.vocab)


def write(path: Path, shape: Shape, seed: int) -> None:
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "phi3", use_temp_file=True)
    describe(writer, shape)

    def product(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", blocks(rows, columns, random), raw_dtype=Q4_0)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.hidden, dtype=np.float32))

    queries, cached = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    product("token_embd", shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        norm(f"blk.{layer}.attn_norm")
        product(f"blk.{layer}.attn_qkv", queries + 2 * cached, shape.hidden)
        product(f"blk.{layer}.attn_output", shape.hidden, queries)
        norm(f"blk.{layer}.ffn_norm")
        product(f"blk.{layer}.ffn_up", 2 * shape.intermediate, shape.hidden)
        product(f"blk.{layer}.ffn_down", shape.hidden, shape.intermediate)
    norm("output_norm")
    product("output", shape.vocab, shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="phi4-4l")
    parser.add_argument("--seed", type=int, default=4)
    arguments = parser.parse_args()
    write(arguments.out, PRESETS[arguments.preset], arguments.seed)


if __name__ == "__main__":
    main()
