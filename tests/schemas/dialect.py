"""Compares the Python judge's reading of regular expressions with that of Node.js, by random ones.

usage: dialect.py NODE COUNT

Prints how many were compared as JSON; ends with 1 if a text matches by one of the two only.
"""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from unicodedata import category

from ecmascript import Untranslatable, translated
from expressions import draw

WRITTEN = [
    (".", ["\n", "\r", "\u2028", "\u2029", "\x85", "😀", "\x0b"]), ("^.$", ["😀", "\n", "a\n"]),
    ("a$", ["a", "a\n", "a\r", "a\nb"]), ("^a", ["a", "\na", "b\na"]),
    (r"\d", ["1", "٣", "²", "𝟘"]), (r"[^\D]", ["1", "٣"]), (r"\w", ["a", "é", "_", "٣", "ſ", "K"]),
    (r"[^\W]", ["é", "a"]), (r"[\W\d]", ["é", "1", "a"]), (r"[^\s\S]", ["a", ""]),
    (r"\s", ["\x1c", "\x1f", "\x85", "\xa0", "\u180e", "\u200b", "\ufeff", "\u3000", "\v"]),
    (r"\S", ["\x1c", "\x85", "\ufeff", "\u2028"]), (r"[^\S]", ["\ufeff", "a"]),
    (r"\b", ["", "é", "a", "aé", " "]), (r"\B", ["", "é", "a", "ab"]), (r"^\bé", ["é"]), (r"a\bé", ["aé"]),
    (r"[\b]", ["\b", "b"]), (r"\cJ\0", ["\n\0"]), (r"\ud83d\ude00", ["😀", "😁"]), (r"[\ud83d\ude00-\ud83d\ude02]", ["😁", "😃"]),
    ("[^a]", ["😀", "\n"]), ("[]", ["", "a"]), ("[^]", ["", "\n", "a"]), ("[[a&&~]", ["[", "&", "b"]),
    ("^(?:[^é]{1})$", ["😀", "é"]), (r"\p{L}", ["é", "1", "中"]), (r"\P{L}", ["é", "1"]), (r"[^\P{Lu}]", ["É", "é"]),
    (r"\p{gc=Nd}", ["٣", "²"]), (r"\p{LC}", ["a", "ǅ", "中", "1"]), (r"[\p{Sc}\d]", ["€", "1", "a"]),
    ("(?=.*a)b", ["ba", "b", "b\na"]), ("(?!a)b", ["b", "ab"]), ("(?<=a)b", ["ab", "b"]), ("(?<!a)b", ["ab", "b", "cb"]),
    ("(?<year>[0-9]{4})", ["2026", "20"]), ("a{,2}", ["a{,2}", "aa", ""]), ("{a}", ["{a}", "a"]), (r"\_", ["_"]),
    (r"[a-\d]", ["-", "b", "5"]), ("(?:a|ab)c$", ["abc", "ac\n"]), ("(a*)*b", ["aab", "b", "aa"]), ("I", ["i", "ı", "İ"]),
]
#: What Python or Rust take for expressions, and ECMAScript does not, by any flags.
NONE = [
    "(", "[", "a**", "a++", "a?+", "a*+", "a*??", "a{2}+", "a{2}{3}", "*", "^*", r"\b+", "(*a)", "a|+", "{2}", "(?>a)", "(?i)a",
    "(?x:a)", "(?P<n>a)", "(?P=n)", "(?#a)", "(?'n'a)", "(?<1>a)", "(?(1)a)", "(?<a>.)(?<a>.)", "[b-a]",
]
#: Those that mean something else without the flag `u`, or that Python can't be asked about, and the modifiers of
#: ECMAScript 2025, which only newer versions of Node.js know.
REFUSED = [
    "(?i:a)", "(?-s:a)", "(?s-i:a)",
    r"(a)\1", r"\k<a>", r"\u{110000}", r"\p{l}", r"\p{Greek}", r"\pL", r"\Aa", r"a\z", r"a\Z", r"\Qa\E", r"\a", r"\h", r"[\01]",
    r"\u+061", r"\p{L}\-", r"\u{61}]",
]


def main() -> None:
    node, count = sys.argv[1], int(sys.argv[2])
    rng = random.Random(0)
    cases = WRITTEN + [(pattern, []) for pattern in NONE] + [draw(rng) for _ in range(count)]
    asked = "".join(json.dumps({"pattern": pattern, "texts": texts}) + "\n" for pattern, texts in cases)
    script = Path(__file__).with_name("dialect.mjs")
    printed = subprocess.run([node, script], input=asked, capture_output=True, text=True, check=True).stdout
    seen = {"compared": 0, "matching": 0, "none": 0, "untranslatable": 0, "wrong": 0}
    for (pattern, texts), line in zip(cases, printed.splitlines(), strict=True):
        known = json.loads(line)
        if pattern in NONE and known["flags"] is not None:
            seen["wrong"] += 1
            print(f"{pattern!r} is an expression of Node.js's", file=sys.stderr)
        try:
            expression = re.compile(translated(pattern))
        except Untranslatable as fault:
            seen["none" if known["flags"] is None else "untranslatable"] += 1
            # Of those by the flag `u`, only what looks back by no fixed number of characters; of others, what
            # the flag would give another meaning.
            if (pattern, texts) in WRITTEN or known["flags"] == "u" and "look-behind" not in str(fault):
                seen["wrong"] += 1
                print(f"{pattern!r}: {fault}", file=sys.stderr)
            continue
        if known["flags"] is None:
            seen["wrong"] += 1
            print(f"{pattern!r} is no expression, but was translated", file=sys.stderr)
            continue
        for text, matches in zip(texts, known["matches"], strict=True):
            # Without the flag `u` such a character is two, for which Python has nothing.
            if known["flags"] == "" and max(map(ord, pattern + text), default=0) > 0xFFFF:
                continue
            # Versions of Unicode differ in what is assigned, so the translation lets these match.
            if re.search(r"\\p|\\P", pattern) and "Cn" in map(category, text):
                continue
            seen["compared"] += 1
            seen["matching"] += matches
            if bool(expression.search(text)) != matches:
                seen["wrong"] += 1
                print(f"{pattern!r} and {text!r}: {matches} by Node.js; {expression.pattern:.200}", file=sys.stderr)
    for pattern in REFUSED:
        try:
            translated(pattern)
        except Untranslatable:
            continue
        seen["wrong"] += 1
        print(f"{pattern!r} was translated", file=sys.stderr)
    print(json.dumps(seen))
    few = seen["compared"] < 5 * count or not count // 2 < seen["matching"] < seen["compared"]
    sys.exit(1 if seen["wrong"] or few else 0)


main()
