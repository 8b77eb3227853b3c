"""What the frameworks ask, and how they print what they got: texts, and objects that must be two numbers.

What an open model would decide by itself (to call a tool, to write JSON) is demanded in the request, since the demo
model would not; at temperature 0 nothing is left to chance.
"""

import json
import sys

from pydantic import BaseModel, Field

URL = sys.argv[1]
QUESTION = "What is 12+7?"
TEXTS: dict[str, str] = {}
SUMS: dict[str, dict] = {}


class Sum(BaseModel):
    """Two numbers to add."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


def print_all() -> None:
    json.dump({"texts": TEXTS, "sums": SUMS}, sys.stdout)
