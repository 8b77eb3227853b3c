"""Random regular expressions of ECMAScript, and texts that are likely to distinguish two readings of them."""

import random

ODD = [
    *"azAZ_09-^$.|{}[]()\\/,&~ \t\n\r\v\f\0\b\"'#:=!<>", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "é", "ß", "\u0130",
    "\u017f", "\u0300", "\u0661", "\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u2029", "\u212a", "\u3000", "中",
    "\ufeff", "\uffff", "😀", "𝟘", "\U0010ffff",
]
CLASSES = [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S"]
CATEGORIES = ["L", "Lu", "Letter", "gc=N", "General_Category=Decimal_Number", "P", "Zs", "S", "M"]
BOUNDED = [("", 1)] * 6 + [("?", 0), ("{2}", 2), ("{0,2}", 1), ("{1,2}?", 2)]
#: Not for groups: of one without an end in another, some texts take forever.
QUANTIFIERS = [*BOUNDED, ("*", 2), ("+", 1), ("{1,}", 3), ("*?", 0)]
SYNTAX = set("^$\\.*+?()[]{}|/")


def char(rng: random.Random, inside: bool) -> tuple[str, str]:
    """A character as an expression, and itself."""
    drawn = rng.choice(ODD)
    code, low = ord(drawn), ord(drawn) & 0xFFFF
    kind = rng.randrange(7)
    if kind == 0 and code < 0x100:
        return f"\\x{code:02x}", drawn
    if kind == 1 and code < 0x10000:
        return f"\\u{low:04x}", drawn
    if kind == 2:
        return f"\\u{{{code:x}}}", drawn
    if kind == 3 and code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}", drawn
    if kind == 4:
        name = rng.choice("fnrtv")
        return "\\" + name, {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}[name]
    if drawn in SYNTAX or inside and drawn == "-":
        return "\\" + drawn, drawn
    return drawn, drawn


def brackets(rng: random.Random) -> tuple[str, str]:
    out, some = "", ""
    for _ in range(rng.randrange(4)):
        kind = rng.randrange(5)
        if kind == 0:
            out += rng.choice(CLASSES)
        elif kind == 1:
            (first, low), (last, high) = sorted([char(rng, True), char(rng, True)], key=lambda one: one[1])
            out += f"{first}-{last}"
            some += low
        elif kind == 2 and rng.random() < 0.3:
            out += rf"\{rng.choice('pP')}{{{rng.choice(CATEGORIES)}}}"
        elif kind == 3 and rng.random() < 0.3:
            out += r"\b"
        else:
            text, drawn = char(rng, True)
            out += text
            some += drawn
    return f"[{rng.choice(['', '', '^'])}{out}]", rng.choice(some or "a")


def atom(rng: random.Random, depth: int) -> tuple[str, str]:
    kind = rng.randrange(12)
    if kind < 4 or depth == 0 and kind > 8:
        return char(rng, False)
    if kind < 6:
        return brackets(rng)
    if kind == 6:
        return ".", rng.choice(ODD)
    if kind == 7:
        return rng.choice(CLASSES), rng.choice(ODD)
    if kind == 8:
        return rf"\{rng.choice('pP')}{{{rng.choice(CATEGORIES)}}}", rng.choice("aÉ0١-💶 ")
    inner, text = alternatives(rng, depth - 1)
    return f"({rng.choice(['', '?:', '?:', f'?<name{rng.randrange(1_000_000)}>'])}{inner})", text


def sequence(rng: random.Random, depth: int) -> tuple[str, str]:
    out, text = "", ""
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(16)
        if kind == 0:
            out += rng.choice(["^", "$", r"\b", r"\B"])
        elif kind == 1 and depth:
            inner, _ = alternatives(rng, depth - 1)
            out += f"({rng.choice(['?=', '?!', '?<=', '?<!'])}{inner})"
        else:
            part, some = atom(rng, depth)
            quantifier, times = rng.choice(QUANTIFIERS if part[0] != "(" else BOUNDED)
            out += part + quantifier
            text += some * times
    return out, text


def alternatives(rng: random.Random, depth: int) -> tuple[str, str]:
    parts = [sequence(rng, depth) for _ in range(rng.choice([1, 1, 1, 2]))]
    return "|".join(part for part, _ in parts), rng.choice(parts)[1]


def older(rng: random.Random) -> str:
    """An expression that only those without the flag `u` are."""
    return rng.choice([r"a{,2}", "{a}", "a{1", "]", "}", r"\-", r"\_a", r"\"", "x{,}y", r"[a-\d]", r"[\w-z]", "a]{2}"])


def draw(rng: random.Random) -> tuple[str, list[str]]:
    """An expression, and texts to search."""
    pattern, text = alternatives(rng, 2)
    if rng.random() < 0.1:
        pattern += older(rng)
    if rng.random() < 0.3:
        pattern = f"^(?:{pattern})$"
    text = text[:12]
    texts = ["", text]
    for _ in range(8):
        changed = list(text if rng.random() < 0.6 else "")
        for _ in range(rng.randrange(1, 4)):
            changed.insert(rng.randint(0, len(changed)), rng.choice(ODD))
        texts.append("".join(changed))
    return pattern, texts
