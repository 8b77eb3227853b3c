"""Paths, seed, shape and special tokens that every script of this package agrees on."""

from __future__ import annotations

import os
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent
DEMO = MODELS / "demo"
#: The same checkpoint exported for GPUs; its tokenizer files are links.
DEMO_GPU = MODELS / "demo-gpu"
GOLDEN = MODELS / "golden"
#: Checkpoint and caches: big, not in git. Moved with PHI4D_DEMO_WORK.
WORK = Path(os.environ.get("PHI4D_DEMO_WORK", MODELS / "work"))
CHECKPOINT = WORK / "checkpoint"

SEED = 4
BASE_VOCAB = 1000
CONTEXT = 4096

#: Phi-4's shape in small: 4 query heads per KV head, untied embeddings, the same rope and norm.
SHAPE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
}


def special_tokens() -> list[str]:
    """The added tokens in the order of Phi-4's ids 100256 and up, cut after 24."""
    names = ["<|dummy_0|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    names += [f"<|dummy_{i}|>" for i in (1, 2, 3)]
    names += ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]
    names += [f"<|dummy_{i}|>" for i in range(4, 13)]
    names += ["<|endofprompt|>"]
    names += [f"<|dummy_{i}|>" for i in range(13, 16)]
    return names


SPECIAL: dict[str, int] = {name: BASE_VOCAB + i for i, name in enumerate(special_tokens())}
VOCAB = BASE_VOCAB + len(SPECIAL)
ENDOFTEXT = SPECIAL["<|endoftext|>"]
IM_START = SPECIAL["<|im_start|>"]
IM_END = SPECIAL["<|im_end|>"]
IM_SEP = SPECIAL["<|im_sep|>"]
STOP_IDS = (ENDOFTEXT, IM_END)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
