"""All kinds of attack by name. An act is one exchange, or one crowd for a moment."""

import random
from dataclasses import dataclass
from typing import Callable

import bodies
import connections
import shapes
import surfaces
from client import Attack, End, post
from daemon import Place

Act = Callable[[Place, random.Random, float], tuple[End, bytes]]
HOSTILE_KEYS = ("hostile0", "hostile1", "hostile2", "one-at-once")


@dataclass
class Kind:
    """`share` weighs its part of the time in `draws`, where `alone` callers are at it at once; in `mixed` it is
    `callers`, each with about `pause` between two; in `many` it is `hasty`. `answers`: most draws get one."""

    name: str
    act: Act
    share: float = 1.0
    callers: int = 4
    alone: int = 4
    pause: float = 0.05
    hasty: int = 8
    answers: bool = True


def send(place: Place, choose: random.Random, leaves: float, path: str, body: object) -> tuple[End, bytes]:
    """By TCP from one of some addresses with a hostile key, or by the Unix socket. Some leave early."""
    data = post(path, body, place.key(choose.choice(HOSTILE_KEYS)))
    attack = Attack(data)
    if len(data) > bodies.LARGEST:
        attack.also = ("none",)
    if choose.random() < leaves:
        attack.leaves_after = choose.choice([choose.random(), 1.0, 1.0])
        attack.lingers = choose.random() * 0.5
    source = connections.source_of(choose) if choose.random() < 0.7 else None
    return place.send(attack, source), data


def requests(make: Callable[[random.Random], tuple[str, object]]) -> Act:
    return lambda place, choose, leaves: send(place, choose, leaves, *make(choose))


def amplified(place: Place, choose: random.Random, leaves: float) -> tuple[End, bytes]:
    path, data, _ = bodies.amplified(choose)
    return send(place, choose, leaves, path, data)


def held(place: Place, choose: random.Random, _leaves: float) -> tuple[End, bytes]:
    """A long answer, read for a moment. By one caller: of several each has a share, which the others lose."""
    path, body = bodies.long_answer(choose)
    data = post(path, body, place.key("hostile0"))
    attack = Attack(data, leaves_after=1.0, lingers=choose.random(), looks=True, also=("cut",))
    return place.send(attack, connections.source_of(choose)), data


def framed(place: Place, choose: random.Random, _leaves: float) -> tuple[End, bytes]:
    attack = connections.framing(choose, place.key("hostile0"))
    return place.send(attack, connections.source_of(choose)), attack.data


def crowd(place: Place, choose: random.Random, _leaves: float) -> tuple[End, bytes]:
    return connections.connection(place, choose, connections.source_of(choose), place.key("hostile0"))


def quota(place: Place, choose: random.Random, _leaves: float) -> tuple[End, bytes]:
    attack = connections.quota(choose, place)
    return place.send(attack, connections.source_of(choose)), attack.data


def kept(place: Place, choose: random.Random, leaves: float) -> tuple[End, bytes]:
    key, source = place.key(choose.choice(HOSTILE_KEYS)), connections.source_of(choose)
    return shapes.stored(place, choose, leaves, key, source)


KINDS = [
    Kind("schemas", requests(surfaces.schema_request), share=2),
    Kind("grammars", requests(surfaces.grammar_request), share=1.5),
    Kind("expressions", requests(surfaces.regex_request), share=1.5),
    Kind("choices", requests(surfaces.choice_request)),
    Kind("bodies", amplified, share=1.5, pause=0.2),
    Kind("lists", requests(bodies.list_request), share=1.5),
    Kind("fields", requests(shapes.field_request), callers=1),
    Kind("llama", requests(shapes.llama_request), callers=1),
    Kind("embeddings", requests(shapes.embedding_request), callers=1),
    Kind("responses", kept, callers=1),
    Kind("answers", held, callers=1, alone=12, hasty=24, answers=False),
    Kind("tokenizer", requests(bodies.tokenizer), pause=0.2),
    Kind("connections", crowd, callers=8, alone=12, pause=0.2, hasty=24, answers=False),
    Kind("framing", framed, callers=6, alone=6, hasty=24, answers=False),
    Kind("quotas", quota, share=0.5, alone=8),
]


def examples(place: Place) -> list[tuple[str, str, bytes]]:
    """Kind, name and bytes of the inputs that were found first."""
    key = place.key("hostile0")
    found = [("schemas" if "rule" not in name else "grammars", name, post(path, body, key)) for name, path, body in surfaces.examples()]
    for name, path, data in bodies.body_examples():
        found.append(("bodies" if "enum" in name else "lists", name, post(path, data, key)))
    return found
