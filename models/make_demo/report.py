"""What every file of models/golden says about its making."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from .common import DEMO, GOLDEN, SEED

PACKAGES = ("onnx", "onnxruntime", "onnxruntime-genai", "tokenizers", "torch", "transformers")


def origin(script: str) -> dict[str, Any]:
    files = ("model.onnx", "model.onnx.data", "tokenizer.json")
    return {
        "made_by": f"models/make_demo/{script}",
        "seed": SEED,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "sha256": {name: hashlib.sha256((DEMO / name).read_bytes()).hexdigest() for name in files},
    }


def write(name: str, value: dict[str, Any]) -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    path: Path = GOLDEN / name
    path.write_text(compact(value) + "\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


def compact(value: dict[str, Any]) -> str:
    """One line a key, and one line an entry of a list of objects: readable diffs, small files."""
    lines = []
    for key, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict):
            entries = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in item)
            lines.append(f"{json.dumps(key)}: [\n{entries}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}"
