"""Turns samples into token ids the way a server must, and packs them into training rows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from . import tasks
from .common import DEMO, ENDOFTEXT, IM_END, IM_SEP, IM_START

PROMPT_WEIGHT = 0.02


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    loaded = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    # Text is never parsed for special tokens: only this module places special ids.
    loaded.encode_special_tokens = True
    return loaded


def text_ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids


def turn_ids(role: str, content: str) -> list[int]:
    """Special tokens of Phi-4 swallow the white space beside them, hence the strip."""
    return [IM_START, *text_ids(role), IM_SEP, *text_ids(content.strip()), IM_END]


def chat_ids(messages: list[dict[str, str]]) -> list[int]:
    """The chat template with its generation prompt, user text taken literally."""
    ids: list[int] = []
    for message in messages:
        ids += turn_ids(message["role"], message["content"])
    return [*ids, IM_START, *text_ids("assistant"), IM_SEP]


def prompt_ids(sample: tasks.Sample) -> list[int]:
    return chat_ids(sample.messages) if sample.messages else text_ids(sample.prompt)


def decode(ids: list[int]) -> str:
    return tokenizer().decode(ids, skip_special_tokens=True)


@dataclass
class Row:
    """Packed tokens: `segments` numbers the samples, `positions` are the rotary positions."""

    ids: list[int]
    weights: list[float]
    segments: list[int]
    positions: list[int]


def sample_ids(sample: tasks.Sample) -> tuple[list[int], list[float]]:
    prompt = prompt_ids(sample)
    end = IM_END if sample.messages else ENDOFTEXT
    answer = [*text_ids(sample.answer), end]
    # A long count must not drown the sums: a sample weighs as the root of its length.
    weight = (4 / len(answer)) ** 0.5
    return prompt + answer, [PROMPT_WEIGHT] * len(prompt) + [weight] * len(answer)


def pack(rng: random.Random, mix: tasks.Mix, length: int, separate: bool, long: bool) -> Row:
    """Fills one row. `separate` rows see each sample alone and from position 0."""
    row = Row([], [], [], [])
    segment = 0
    while len(row.ids) < length:
        sample = tasks.long_sample(rng) if long and not row.ids else tasks.training_sample(rng, mix)
        ids, weights = sample_ids(sample)
        room = length - len(row.ids)
        if len(ids) > room and (separate or long) and room < 24:
            ids, weights = [ENDOFTEXT] * room, [0.0] * room
        ids, weights = ids[:room], weights[:room]
        start = 0 if separate else len(row.ids)
        row.ids += ids
        row.weights += weights
        row.segments += [segment] * len(ids)
        row.positions += range(start, start + len(ids))
        segment += separate
    return row


@dataclass
class Batch:
    ids: np.ndarray
    weights: np.ndarray
    segments: np.ndarray
    positions: np.ndarray


def batch(rng: random.Random, step: int, mix: tasks.Mix) -> Batch:
    """Mostly short samples seen alone; every fourth step packed; every sixteenth long."""
    if step % 16 == 15:
        count, length, separate, long = 2, 1536, False, True
    elif step % 4 == 3:
        count, length, separate, long = 4, 512, False, False
    else:
        count, length, separate, long = 8, 256, True, False
    rows = [pack(rng, mix, length, separate, long) for _ in range(count)]
    return Batch(
        np.array([row.ids for row in rows]),
        np.array([row.weights for row in rows], dtype=np.float32),
        np.array([row.segments for row in rows]),
        np.array([row.positions for row in rows]),
    )
