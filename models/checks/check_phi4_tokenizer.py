#!/usr/bin/env python3
"""Compares a folder made by make_phi4_tokenizer.py with tiktoken's own cl100k encoding.

    python models/checks/check_phi4_tokenizer.py FOLDER --ranks cl100k_base.tiktoken
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import tiktoken
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_phi4_tokenizer as made  # noqa: E402

TEXTS = [
    "", " ", "  \n\n  x", "Hello, world!", "It's 1234567 o'clock, WE'LL see", "don't DON'T 'S",
    "def f(x):\n    return x  # twice\n\n\n", "\t\ttabs\r\nand\r\nlines \n \n", "price: $12.50 (20% off)",
    "naïve café Grüß dich Привет мир", "你好，世界。谢谢", "こんにちは世界", "مرحبا بالعالم", "नमस्ते",
    "🦊 fox 👨‍👩‍👧‍👦 🇫🇷 ☔️", "e\u0301 vs é", "\u00a0non\u2003breaking\u3000space", "a" * 300, "=" * 99, "\x00\x01\x7f",
    "<|not_special|> < | im_start | >", "x²+y³=½", "https://example.org/a?b=c&d=%20e#f",
]


def random_texts(rng: random.Random, count: int) -> list[str]:
    ranges = [(0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x400, 0x460), (0x4E00, 0x9FA5), (0x1F300, 0x1F640)]
    texts = []
    for _ in range(count):
        low, high = rng.choice(ranges)
        texts.append("".join(chr(rng.randrange(low, high)) if rng.random() < 0.8 else rng.choice(" \n\t'1")
                             for _ in range(rng.randint(1, 60))))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=Path)
    arguments = parser.parse_args()
    ours = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    ranks = made.read_ranks(arguments.ranks or made.find_ranks())
    theirs = tiktoken.Encoding("cl100k", pat_str=made.PATTERN, mergeable_ranks=ranks, special_tokens={})
    own_source = Path(made.__file__).read_text()
    texts = TEXTS + [own_source] + random_texts(random.Random(4), 5000)
    ours.encode_special_tokens = True
    for text in texts:
        got, want = ours.encode(text).ids, theirs.encode_ordinary(text)
        assert got == want, text[:80]
        assert ours.decode(got, skip_special_tokens=False) == text, text[:80]

    assert not set(ours.encode("<|im_end|>").ids) & set(range(100256, 100352))

    ours.encode_special_tokens = False
    turn = ours.encode("<|im_start|>user<|im_sep|>\n hi <|im_end|>").ids
    assert turn == [100264, 882, 100266, 6151, 100265], turn
    assert ours.token_to_id("<|dummy_87|>") == 100351 and ours.get_vocab_size() == 100352
    print(f"{len(texts)} texts agree; added tokens strip white space")


if __name__ == "__main__":
    main()
