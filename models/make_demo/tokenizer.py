"""Trains the demo tokenizer: byte-level BPE with Phi-4's added tokens and single digits."""

from __future__ import annotations

import json
import random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import tasks
from .common import BASE_VOCAB, CHAT_TEMPLATE, CONTEXT, DEMO, SEED, SPECIAL

#: cl100k's pattern, but every digit alone, so that sums of one and two digits look alike.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> list[str]:
    """ASCII text only: other scripts and emoji must stay several tokens a character."""
    rng = random.Random(SEED)
    texts: list[str] = ["system", "user", "assistant"] * 10_000
    for _ in range(20_000):
        sample = tasks.training_sample(rng)
        texts.append(sample.prompt + sample.answer)
        texts += [message["content"] for message in sample.messages]
    return ["".join(c for c in text if c.isascii()) for text in texts]


def added_token(name: str, token_id: int | None) -> dict[str, Any]:
    """Phi-4's flags: an added token strips the white space on both sides."""
    entry: dict[str, Any] = {} if token_id is None else {"id": token_id}
    return entry | {"content": name, "single_word": False, "lstrip": True, "rstrip": True,
                    "normalized": False, "special": True}


def train() -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    whole: dict[str, Any] = json.loads(tokenizer.to_str())
    vocab = whole["model"]["vocab"]
    if len(vocab) != BASE_VOCAB:
        raise SystemExit(f"the corpus gave {len(vocab)} tokens, wanted {BASE_VOCAB}")
    whole["added_tokens"] = [added_token(name, token_id) for name, token_id in SPECIAL.items()]
    return whole


def write_json(name: str, value: Any) -> None:
    DEMO.mkdir(parents=True, exist_ok=True)
    (DEMO / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    write_json("tokenizer.json", train())
    write_json("tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): added_token(name, None) for name, i in SPECIAL.items()},
        "bos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": CONTEXT,
        "pad_token": "<|dummy_15|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    })
    write_json("special_tokens_map.json", {
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
        "pad_token": "<|dummy_15|>", "unk_token": "<|endoftext|>",
    })


if __name__ == "__main__":
    main()
