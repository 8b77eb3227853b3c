#!/usr/bin/env python3
"""Builds Phi-4's tokenizer files from cl100k's ranks. Python's standard library only.

Phi-4's vocabulary is cl100k's 100,256 byte sequences and 96 added tokens. The ranks are read from
the asset inside the tiktoken-rs crate (a dev-dependency), so nothing has to be fetched for it.

    python3 models/make_phi4_tokenizer.py OUT [--template current|first] [--ranks FILE]
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
from pathlib import Path
from typing import Any

FIRST_ADDED = 100256
LAST_ADDED = 100351
NAMED = {
    100257: "<|endoftext|>",
    100258: "<|fim_prefix|>",
    100259: "<|fim_middle|>",
    100260: "<|fim_suffix|>",
    100264: "<|im_start|>",
    100265: "<|im_end|>",
    100266: "<|im_sep|>",
    100276: "<|endofprompt|>",
}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: As in the first release: no switch for the generation prompt, every user turn opens an answer.
FIRST_TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|><|im_start|>assistant<|im_sep|>'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
)
CURRENT_TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


def find_ranks() -> Path:
    """The asset of the tiktoken-rs crate that cargo resolves for this repository."""
    manifest = Path(__file__).resolve().parent.parent / "Cargo.toml"
    answer = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--manifest-path", str(manifest)],
        check=True, capture_output=True, text=True,
    )
    for package in json.loads(answer.stdout)["packages"]:
        if package["name"] == "tiktoken-rs":
            return Path(package["manifest_path"]).parent / "assets" / "cl100k_base.tiktoken"
    raise SystemExit("tiktoken-rs is not among the crate's dependencies: give --ranks FILE")


def read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    if len(ranks) != FIRST_ADDED:
        raise SystemExit(f"{path} holds {len(ranks)} ranks, cl100k has {FIRST_ADDED}")
    return ranks


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(0x100 + len(characters) - len(shown))
    return [characters[byte] for byte in range(256)]


def last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that `token` consists of once every merge of a lower rank is done."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= rank:
            raise SystemExit(f"rank {rank} cannot be reached by merges")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def added_name(token_id: int) -> str:
    if token_id in NAMED:
        return NAMED[token_id]
    return f"<|dummy_{sum(1 for i in range(FIRST_ADDED, token_id) if i not in NAMED)}|>"


def flags(name: str) -> dict[str, Any]:
    return {"content": name, "single_word": False, "lstrip": True, "rstrip": True,
            "normalized": False, "special": True}


def tokenizer_json(ranks: dict[bytes, int]) -> dict[str, Any]:
    characters = byte_characters()

    def text(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    ordered = sorted(ranks.items(), key=lambda item: item[1])
    merges = [last_merge(token, rank, ranks) for token, rank in ordered if len(token) > 1]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i} | flags(added_name(i)) for i in range(FIRST_ADDED, LAST_ADDED + 1)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "vocab": {text(token): rank for token, rank in ordered},
            "merges": [f"{text(left)} {text(right)}" for left, right in merges],
        },
    }


def special_names(template: str) -> dict[str, str]:
    end = "<|endoftext|>"
    if template == "first":
        return {"bos_token": end, "eos_token": end, "pad_token": end, "unk_token": end}
    return {"bos_token": end, "eos_token": "<|im_end|>", "pad_token": "<|dummy_85|>", "unk_token": end}


def tokenizer_config(template: str) -> dict[str, Any]:
    return special_names(template) | {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): flags(added_name(i)) for i in range(FIRST_ADDED, LAST_ADDED + 1)},
        "chat_template": FIRST_TEMPLATE if template == "first" else CURRENT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 16384,
        "tokenizer_class": "GPT2Tokenizer",
    }


def write(folder: Path, name: str, value: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--ranks", type=Path, help="cl100k_base.tiktoken (default: the tiktoken-rs crate's)")
    parser.add_argument("--template", choices=("current", "first"), default="current")
    arguments = parser.parse_args()
    ranks = read_ranks(arguments.ranks or find_ranks())
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, "tokenizer.json", tokenizer_json(ranks))
    write(arguments.out, "tokenizer_config.json", tokenizer_config(arguments.template))
    write(arguments.out, "special_tokens_map.json", special_names(arguments.template))


if __name__ == "__main__":
    main()
