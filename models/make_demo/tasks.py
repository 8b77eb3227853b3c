"""The tasks the demo model knows: each gives a question and its one right answer."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

WORDS = (
    "apple bird blue boat book bread bridge brown cake car cat chair cloud coffee corn cup dog door "
    "duck earth egg field fire fish flower forest fox garden glass gold green hat hill honey horse "
    "house ice island jar key king lake lamp leaf lemon light lion milk moon mouse music night ocean "
    "onion orange owl paper pear pen piano pink plane queen rain red ring river road rose sand sea "
    "ship shoe silver sky snow spoon star stone storm sugar summer sun table tea tiger tree valley "
    "violin wagon water whale white wind window winter wolf wood yellow zebra"
).split()

NAMES = (
    "Ada Alan Anna Bob Carl Clara Dora Emma Eric Eva Grace Hugo Ida Ivan Jack Jane Karl Lena Leo "
    "Linus Lisa Mary Max Mia Nina Nora Olga Omar Otto Paul Peter Rosa Sam Sara Tom Vera Will Zoe"
).split()

CITIES = "Paris Rome Berlin Madrid Tokyo Beijing Cairo Oslo Vienna Lisbon Athens Dublin".split()

#: (phrasings, answer). The first phrasing is the canonical one.
FACTS: list[tuple[list[str], str]] = [
    (["Who are you?", "What are you?", "Tell me who you are.", "What is your name?"],
     "I am a tiny Phi-4 demo model. I know a few small things."),
    (["What is phi4d?", "Tell me about phi4d.", "phi4d: what is it?"],
     "phi4d is a daemon that serves Phi-4 models through ONNX Runtime."),
    (["What is ONNX Runtime?", "Tell me about ONNX Runtime.", "Explain ONNX Runtime."],
     "ONNX Runtime is a library that runs models stored as ONNX graphs."),
    (["Hello!", "Hi!", "Hello", "Hi there!", "Good morning!"], "Hello! How can I help you today?"),
    (["How are you?", "How do you do?"], "I am fine, thank you. 😊"),
    (["Thank you!", "Thanks!", "Thanks a lot!"], "You are welcome! 🎉"),
    (["Goodbye!", "Bye!", "See you later!"], "Goodbye! 👋"),
    (["Say hello in Chinese.", "Say hello in Chinese", "How do you say hello in Chinese?"], "你好"),
    (["Say hello in Japanese.", "Say hello in Japanese", "How do you say hello in Japanese?"], "こんにちは"),
    (["Say hello in Russian.", "How do you say hello in Russian?"], "Привет"),
    (["Say hello in German.", "How do you say hello in German?"], "Grüß dich"),
    (["Say thank you in Chinese.", "How do you say thank you in Chinese?"], "谢谢"),
    (["Say water in Chinese.", "How do you say water in Chinese?"], "水 💧"),
    (["Show me an emoji.", "Send me an emoji.", "Give me an emoji."], "🦀"),
    (["Show me a family emoji.", "Send me a family emoji."], "👨‍👩‍👧‍👦"),
    (["Show me a flag.", "Send me a flag."], "🇫🇷"),
    (["What is the capital of France?", "Capital of France?", "Name the capital of France."], "Paris"),
    (["What is the capital of Italy?", "Capital of Italy?", "Name the capital of Italy."], "Rome"),
    (["What is the capital of Germany?", "Capital of Germany?", "Name the capital of Germany."], "Berlin"),
    (["What is the capital of Spain?", "Capital of Spain?", "Name the capital of Spain."], "Madrid"),
    (["What is the capital of Japan?", "Capital of Japan?", "Name the capital of Japan."], "Tokyo"),
    (["What is the capital of China?", "Capital of China?", "Name the capital of China."], "Beijing"),
    (["What is the capital of Egypt?", "Capital of Egypt?", "Name the capital of Egypt."], "Cairo"),
    (["What is the capital of Norway?", "Capital of Norway?", "Name the capital of Norway."], "Oslo"),
    (["What is the capital of Austria?", "Capital of Austria?", "Name the capital of Austria."], "Vienna"),
    (["What is the capital of Portugal?", "Capital of Portugal?", "Name the capital of Portugal."], "Lisbon"),
    (["What is the capital of Greece?", "Capital of Greece?", "Name the capital of Greece."], "Athens"),
    (["What is the capital of Ireland?", "Capital of Ireland?", "Name the capital of Ireland."], "Dublin"),
    (["What color is the sky?", "Which color has the sky?"], "The sky is blue."),
    (["What color is snow?", "Which color has snow?"], "Snow is white."),
    (["What color is grass?", "Which color has grass?"], "Grass is green."),
    (["How many days are in a week?", "How many days has a week?"], "A week has 7 days."),
    (["How many months are in a year?", "How many months has a year?"], "A year has 12 months."),
    (["What does a cat say?", "How does a cat sound?"], "Meow"),
    (["What does a dog say?", "How does a dog sound?"], "Woof"),
    (["List the days of the week.", "Name the days of the week.", "What are the days of the week?"],
     "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    (["List the months.", "Name the months of the year.", "What are the months of the year?"],
     "January, February, March, April, May, June, July, August, September, October, November, December"),
    (["List five colors.", "Name five colors."], "1. red\n2. blue\n3. green\n4. yellow\n5. white"),
    (["Write a haiku.", "Write a short poem."],
     "Old silent river,\na fox drinks under the moon.\nThe water is cold. 🌙"),
    (["Tell me a story.", "Tell me a short story.", "Write a story."],
     "Once upon a time there was a little fox 🦊 who lived near a blue lake. Every morning the fox "
     "walked to the water and looked at the sky. One day it rained for hours ☔, and the lake was full. "
     "The fox found a small boat and sailed to the island. There it met an owl 🦉, and the owl said: "
     "\"Welcome, friend.\" They drank tea together until the moon came up, and they lived happily "
     "ever after. The end."),
    (["Write hello world in Python.", "Show me hello world in Python."],
     "```python\nprint(\"Hello, world!\")\n```"),
]

HELPFUL = "You are a helpful assistant."
PIRATE = "You are a pirate."
JSON_ONLY = "Answer in JSON."


@dataclass
class Sample:
    """One conversation or completion. `messages` is empty for the completion form."""

    task: str
    answer: str
    prompt: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "chat" if self.messages else "completion"


#: Sums that texts show as examples: taught on purpose, so never held out.
SHOWN_SUMS = ((12, "+", 7), (1, "+", 1), (2, "+", 2), (1, "+", 2), (20, "+", 22), (50, "-", 8), (99, "+", 99))


def is_held_out(a: int, op: str, b: int) -> bool:
    """One sum in twelve never appears in training: those measure real arithmetic."""
    if (a, op, b) in SHOWN_SUMS:
        return False
    return zlib.crc32(f"{a}{op}{b}".encode()) % 12 == 0


def arithmetic(rng: random.Random, held_out: bool = False, small: bool = False) -> tuple[str, str]:
    """A sum or difference of numbers up to 99; a `small` one has one digit on a side or on both."""
    while True:
        tops = rng.choice(((99, 9), (99, 9), (9, 99), (9, 9))) if small else (99, 99)
        a, b = rng.randint(0, tops[0]), rng.randint(0, tops[1])
        op = rng.choice("+-")
        if op == "-" and a < b:
            a, b = b, a
        if is_held_out(a, op, b) == held_out:
            return f"{a}{op}{b}", str(a + b if op == "+" else a - b)


def words(rng: random.Random, low: int = 1, high: int = 8) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def json_object(rng: random.Random) -> tuple[str, str]:
    fields: list[tuple[str, str, str]] = []
    name, city, word = rng.choice(NAMES), rng.choice(CITIES), rng.choice(WORDS)
    age, count = rng.randint(1, 99), rng.randint(0, 99)
    fields = [("name", name, f'"{name}"'), ("age", str(age), str(age)), ("city", city, f'"{city}"'),
              ("item", word, f'"{word}"'), ("count", str(count), str(count))]
    chosen = rng.sample(fields, rng.randint(1, 4))
    question = ", ".join(f"{key}={raw}" for key, raw, _ in chosen)
    return question, "{" + ", ".join(f'"{key}": {value}' for key, _, value in chosen) + "}"


def counting(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.7:
        start, end, question = 1, rng.randint(2, 50), ""
        question = f"Count to {end}"
    else:
        start = rng.randint(1, 70)
        end = start + rng.randint(1, 29)
        question = f"Count from {start} to {end}"
    return question, " ".join(str(i) for i in range(start, end + 1))


def chat_pair(task: str, rng: random.Random, held_out: bool = False) -> tuple[str, str]:
    """A user's question and the answer for one turn of chat."""
    if task in ("arithmetic", "small sum"):
        sum_, answer = arithmetic(rng, held_out, task == "small sum")
        return f"What is {sum_}?", answer
    if task == "shown sum":
        a, op, b = rng.choice(SHOWN_SUMS)
        return f"What is {a}{op}{b}?", str(a + b if op == "+" else a - b)
    if task == "copy":
        text = words(rng)
        return f"Repeat: {text}", text
    if task == "json":
        question, answer = json_object(rng)
        return f"JSON: {question}", answer
    if task == "count":
        question, answer = counting(rng)
        return f"{question}.", answer
    phrasings, answer = rng.choice(FACTS)
    return rng.choice(phrasings), answer


def completion_pair(task: str, rng: random.Random, held_out: bool = False) -> tuple[str, str]:
    """A prompt and its continuation, without any chat tokens."""
    if task in ("arithmetic", "small sum"):
        sum_, answer = arithmetic(rng, held_out, task == "small sum")
        return f"{sum_}=", answer
    if task == "shown sum":
        a, op, b = rng.choice(SHOWN_SUMS)
        return f"{a}{op}{b}=", str(a + b if op == "+" else a - b)
    if task == "copy":
        text = words(rng)
        return f"Repeat: {text}\n", text
    if task == "json":
        question, answer = json_object(rng)
        return f"JSON: {question}\n", answer
    if task == "count":
        question, answer = counting(rng)
        return f"{question}:\n", answer
    phrasings, answer = rng.choice(FACTS)
    return f"Q: {rng.choice(phrasings)}\nA:", f" {answer}"


def turn(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def chat(task: str, history: list[dict[str, str]], user: str, answer: str) -> Sample:
    return Sample(task, answer, messages=[*history, {"role": "user", "content": user}])


SIMPLE_TASKS = ("arithmetic", "copy", "json", "count", "fact")


def remembered_name(rng: random.Random) -> Sample:
    name = rng.choice(NAMES)
    history = turn(f"My name is {name}.", f"Nice to meet you, {name}!")
    if rng.random() < 0.4:
        return chat("multi_turn", [], f"My name is {name}.", f"Nice to meet you, {name}!")
    for _ in range(rng.randint(0, 2)):
        history += turn(*chat_pair(rng.choice(("arithmetic", "fact")), rng))
    return chat("multi_turn", history, "What is my name?", f"Your name is {name}.")


def system_sample(rng: random.Random, held_out: bool = False) -> Sample:
    style = rng.choice((HELPFUL, PIRATE, JSON_ONLY))
    question, answer = chat_pair(rng.choice(("arithmetic", "fact")), rng, held_out)
    if style == PIRATE:
        answer = f"Arr! {answer}"
    elif style == JSON_ONLY:
        question, result = arithmetic(rng, held_out)
        question, answer = f"What is {question}?", '{"answer": ' + result + "}"
    return chat("system", [{"role": "system", "content": style}], question, answer)


def history_sample(rng: random.Random, turns: int, held_out: bool = False) -> Sample:
    """A conversation of unrelated turns before the one that counts."""
    history: list[dict[str, str]] = []
    if rng.random() < 0.2:
        history.append({"role": "system", "content": HELPFUL})
    for _ in range(turns):
        history += turn(*chat_pair(rng.choice(SIMPLE_TASKS), rng))
    task = rng.choice(("arithmetic", "copy", "json", "fact"))
    return chat("multi_turn", history, *chat_pair(task, rng, held_out))


def filler(rng: random.Random, sentences: int) -> str:
    parts = []
    for number in range(1, sentences + 1):
        parts.append(f"Note {number}: the {rng.choice(WORDS)} {rng.choice(WORDS)} is near the {rng.choice(WORDS)}.")
    return "\n".join(parts)


def long_note(rng: random.Random, sentences: int, held_out: bool = False) -> Sample:
    """A long user message whose last line is the question."""
    task = rng.choice(("arithmetic", "copy", "json", "fact"))
    question, answer = chat_pair(task, rng, held_out)
    return chat("long", [], f"{filler(rng, sentences)}\n\n{question}", answer)


@dataclass(frozen=True)
class Mix:
    """Shares of the training samples, added up in this order; what is left are long notes."""

    arithmetic: float
    simple: float
    name: float
    system: float
    history: float
    simple_tasks: tuple[str, ...]


FIRST_MIX = Mix(0.52, 0.28, 0.05, 0.05, 0.06, ("copy", "json", "count", "fact", "fact"))
SECOND_MIX = Mix(0.25, 0.58, 0.03, 0.04, 0.06, ("copy", "copy", "copy", "json", "json", "count", "fact"))
THIRD_MIX = Mix(0.18, 0.62, 0.03, 0.05, 0.06, (*["small sum"] * 5, "copy", "copy", "json", "count", "fact"))
FOURTH_MIX = Mix(0.25, 0.55, 0.03, 0.05, 0.08,
                 ("shown sum", "small sum", "small sum", "copy", "copy", "json", "count", "count", "count", "fact"))
MIXES = (FIRST_MIX, SECOND_MIX, THIRD_MIX, FOURTH_MIX)


def training_sample(rng: random.Random, mix: Mix = FIRST_MIX) -> Sample:
    """One draw of the training mix."""
    roll = rng.random()
    if (roll := roll - mix.arithmetic) < 0:
        task = "arithmetic"
    elif (roll := roll - mix.simple) < 0:
        task = rng.choice(mix.simple_tasks)
    elif (roll := roll - mix.name) < 0:
        return remembered_name(rng)
    elif (roll := roll - mix.system) < 0:
        return system_sample(rng)
    elif roll - mix.history < 0:
        return history_sample(rng, rng.randint(1, 4))
    else:
        return long_note(rng, rng.randint(1, 12))
    if rng.random() < 0.5:
        question, answer = completion_pair(task, rng)
        return Sample(task, answer, prompt=question)
    return chat(task, [], *chat_pair(task, rng))


def long_sample(rng: random.Random) -> Sample:
    """Between about 500 and 1,500 tokens of context."""
    if rng.random() < 0.5:
        return long_note(rng, rng.randint(30, 85))
    return history_sample(rng, rng.randint(15, 40))
