"""Regular expressions of ECMAScript, which JSON Schema's are, in the dialect of Python's `re`.

`tests/schemas/dialect.py` compares them with those of Node.js.
"""

import re
import sys
import unicodedata
from functools import cache

Ranges = list[tuple[int, int]]

SPACES: Ranges = [
    (0x9, 0xD), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]
LINE_ENDS: Ranges = [(0xA, 0xA), (0xD, 0xD), (0x2028, 0x2029)]
DIGITS: Ranges = [(0x30, 0x39)]
WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
SYNTAX = "^$\\.*+?()[]{}|/"
CONTROLS = {"f": 0xC, "n": 0xA, "r": 0xD, "t": 0x9, "v": 0xB}
#: The standard's names of Unicode's general categories.
CATEGORIES = """
    L Letter LC Cased_Letter Lu Uppercase_Letter Ll Lowercase_Letter Lt Titlecase_Letter Lm Modifier_Letter
    Lo Other_Letter M Mark M Combining_Mark Mn Nonspacing_Mark Mc Spacing_Mark Me Enclosing_Mark N Number
    Nd Decimal_Number Nd digit Nl Letter_Number No Other_Number P Punctuation P punct Pc Connector_Punctuation
    Pd Dash_Punctuation Ps Open_Punctuation Pe Close_Punctuation Pi Initial_Punctuation Pf Final_Punctuation
    Po Other_Punctuation S Symbol Sm Math_Symbol Sc Currency_Symbol Sk Modifier_Symbol So Other_Symbol Z Separator
    Zs Space_Separator Zl Line_Separator Zp Paragraph_Separator C Other Cc Control Cc cntrl Cf Format Cs Surrogate
    Co Private_Use Cn Unassigned""".split()
SHORT = dict(zip(CATEGORIES[1::2], CATEGORIES[::2])) | {name: name for name in CATEGORIES[::2]}


class Untranslatable(ValueError):
    """The expression is none of ECMAScript's, or Python has nothing like it."""


def complement(ranges: Ranges) -> Ranges:
    edges = [-1, *(edge for pair in sorted(ranges) for edge in pair), sys.maxunicode + 1]
    return [(low + 1, high - 1) for low, high in zip(edges[::2], edges[1::2]) if low + 1 < high]


@cache
def category(name: str) -> tuple[tuple[int, int], ...]:
    wanted = ("Lu", "Ll", "Lt") if name == "LC" else name
    has = [unicodedata.category(chr(code)).startswith(wanted) for code in range(sys.maxunicode + 1)]
    edges = [code for code, (a, b) in enumerate(zip([False, *has], [*has, False])) if a != b]
    return tuple((low, high - 1) for low, high in zip(edges[::2], edges[1::2]))


def members(ranges: Ranges) -> str:
    """Characters inside brackets, none of which means anything else there."""
    return "".join(rf"\U{low:08x}" if low == high else rf"\U{low:08x}-\U{high:08x}" for low, high in ranges)


class Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        #: Whether it has what is read so by the flag `u` only, and what is read so without it only.
        self.is_newer = self.is_older = False
        #: Whether a character's general category matters: versions of Unicode differ in what is assigned.
        self.has_categories = False
        #: The heads of the groups around this place.
        self.groups: list[str] = []
        self.names: set[str] = set()

    def next(self) -> str:
        if self.at == len(self.pattern):
            raise Untranslatable("it ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def take(self, expression: str) -> re.Match | None:
        """What comes next, if it is of this form."""
        found = re.compile(expression).match(self.pattern, self.at)
        if found:
            self.at = found.end()
        return found

    def whole(self) -> str:
        out, may_repeat = [], False
        while self.at < len(self.pattern):
            if quantifier := self.take(r"(?:[*+?]|\{([0-9]+)(?:,([0-9]*))?\})\??"):
                if not may_repeat:
                    raise Untranslatable("nothing that could be repeated")
                out.append(quantifier[0])
                may_repeat = False
                continue
            part, may_repeat = self.atom()
            out.append(part)
        if self.is_newer and self.is_older:
            raise Untranslatable("it is neither with the flag `u` nor without it")
        text = "".join(out)
        if self.has_categories:
            # What this version of Unicode does not know is for other judges.
            text = f"(?:{text})|[{members(category('Cn'))}]"
        try:
            re.compile(text)
        except re.error as error:
            raise Untranslatable(str(error)) from error
        return text

    def atom(self) -> tuple[str, bool]:
        """The next part, and whether it may be repeated."""
        if group := self.take(r"\((?:\?(?::|=|!|<=|<!|<(?![0-9])[\w$]+>))?"):
            if group[0][-1] == ">" and group[0] in self.names:
                raise Untranslatable("two groups of one name")
            self.names.add(group[0])
            self.groups.append(group[0])
            return ("(" if group[0][-1] == ">" else group[0]), False
        match self.next():
            case ".":
                return f"[^{members(LINE_ENDS)}]", True
            case "^":
                return "^", False
            case "$":
                return r"\Z", False
            case "|":
                return "|", False
            case ")":
                if not self.groups:
                    raise Untranslatable("a bracket without its counterpart")
                return ")", self.groups.pop()[-1] not in "=!"
            case "(":
                raise Untranslatable("a group of another kind")
            case "[":
                return self.brackets(), True
            case "\\":
                if self.take("b"):
                    return r"(?a:\b)", False
                if self.take("B"):
                    # Python's own does not match in an empty text before 3.14.
                    return r"(?!(?a:\b))", False
                return f"[{members(self.escape(False))}]", True
            case char:
                self.is_older |= char in "{}]"
                return f"[{members([(ord(char), ord(char))])}]", True

    def brackets(self) -> str:
        negated = bool(self.take(r"\^"))
        ranges: Ranges = []
        while not self.take("]"):
            first = self.member()
            if not self.take(r"-(?!\])"):
                ranges += first
                continue
            last = self.member()
            if len(first) == len(last) == 1 and first[0][0] == first[0][1] and last[0][0] == last[0][1]:
                if first[0][0] > last[0][0]:
                    raise Untranslatable("a range that runs backwards")
                ranges.append((first[0][0], last[0][0]))
            else:
                self.is_older = True
                ranges += [*first, (0x2D, 0x2D), *last]
        if not ranges:
            return r"[\s\S]" if negated else "(?!)"
        return f"[{'^' * negated}{members(ranges)}]"

    def member(self) -> Ranges:
        char = self.next()
        return self.escape(True) if char == "\\" else [(ord(char), ord(char))]

    def escape(self, inside: bool) -> Ranges:
        if pair := self.take(r"u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"):
            high, low = (int(half, 16) for half in pair.groups())
            self.is_newer = True
            code = 0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00
        elif found := self.take(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]+)\}"):
            code = int(next(filter(None, found.groups())), 16)
            self.is_newer |= found[3] is not None
            if code > sys.maxunicode:
                raise Untranslatable("no character has this number")
        elif found := self.take(r"([pP])\{(?:(?:General_Category|gc)=)?(\w+)\}"):
            if found[2] not in SHORT:
                raise Untranslatable("a property that is no general category")
            self.has_categories = self.is_newer = True
            ranges = list(category(SHORT[found[2]]))
            return ranges if found[1] == "p" else complement(ranges)
        elif found := self.take("[dDwWsS]"):
            ranges = {"d": DIGITS, "w": WORD, "s": SPACES}[found[0].lower()]
            return ranges if found[0].islower() else complement(ranges)
        elif found := self.take("[fnrtv]"):
            code = CONTROLS[found[0]]
        elif found := self.take("c([a-zA-Z])"):
            code = ord(found[1]) % 32
        elif self.take("0(?![0-9])"):
            code = 0
        elif inside and self.take("b"):
            code = 8
        elif found := self.take("[^0-9a-zA-Z]"):
            code = ord(found[0])
            self.is_older |= found[0] not in SYNTAX + "-" * inside
        else:
            raise Untranslatable("an escape that means something else without the flag `u`, or a reference to a group")
        return [(code, code)]


def translated(pattern: str) -> str:
    """`pattern` for `re.search`, by the rules of the flag `u`, or by those without it where it is nothing by these."""
    return Reader(pattern).whole()
