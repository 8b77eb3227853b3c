"""Exports the checkpoint with the onnxruntime-genai model builder into models/demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .common import CHECKPOINT, CONTEXT, DEMO, DEMO_GPU, ENDOFTEXT, STOP_IDS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MODEL_FILES = ("model.onnx", "model.onnx.data", "genai_config.json")
#: Positions in a block of the paged cache: the least that the operator takes, so that short prompts have several.
BLOCK = 16


def run_builder(
    checkpoint: Path, output: Path, cache: Path, provider: str = "cpu", accuracy: int = 4, *extra: str
) -> None:
    """The command that makes the published cpu-int4-rtn-block-32-acc-level-4 exports, and those for GPUs."""
    subprocess.run(
        [
            sys.executable, "-m", "onnxruntime_genai.models.builder",
            "-i", str(checkpoint), "-o", str(output), "-p", "int4", "-e", provider, "-c", str(cache),
            "--extra_options", "block_size=32", f"accuracy_level={accuracy}", *extra,
        ],
        check=True,
    )


def published_settings(path: Path) -> None:
    """What the published Phi-4 folders say where the builder would say otherwise."""
    config = json.loads(path.read_text())
    model = config["model"]
    model["bos_token_id"] = ENDOFTEXT
    model["eos_token_id"] = list(STOP_IDS)
    model["pad_token_id"] = ENDOFTEXT
    model["context_length"] = CONTEXT
    config["search"]["max_length"] = CONTEXT
    config["search"]["top_k"] = 1
    path.write_text(json.dumps(config, indent=4) + "\n")


def published_config(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of Phi-4's own config.json in place of newer ones of the library."""
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    return config | {"rope_theta": rope["rope_theta"], "rope_scaling": None, "attention_bias": False}


def main() -> None:
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, CHECKPOINT / name)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out"
        run_builder(CHECKPOINT, output, Path(scratch) / "cache")
        published_settings(output / "genai_config.json")
        for name in MODEL_FILES:
            shutil.copy(output / name, DEMO / name)
    # Half precision, with keys and values of half precision too. Activations stay in it, as tests want
    # to hold one provider's logits to another's.
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out"
        run_builder(CHECKPOINT, output, Path(scratch) / "cache", "webgpu", 1)
        published_settings(output / "genai_config.json")
        for name in MODEL_FILES:
            shutil.copy(output / name, DEMO_GPU / name)
    # The same with a paged cache, over the same file of weights.
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out"
        extra = ("use_paged_attention=true", f"paged_block_size={BLOCK}")
        run_builder(CHECKPOINT, output, Path(scratch) / "cache", "webgpu", 1, *extra)
        if (output / "model.onnx.data").read_bytes() != (DEMO_GPU / "model.onnx.data").read_bytes():
            sys.exit("the paged export has other weights")
        published_settings(output / "genai_config.json")
        shutil.copy(output / "model.onnx", DEMO_GPU / "paged.onnx")
        shutil.copy(output / "genai_config.json", DEMO_GPU / "paged.json")
    config = published_config(json.loads((CHECKPOINT / "config.json").read_text()))
    (DEMO / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    total = sum(path.stat().st_size for path in DEMO.iterdir())
    print(f"{DEMO}: {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
