"""An independent computation of what each sampling parameter does, on the model's own logits.

usage: reference.py URL MODEL_FOLDER

Asks the daemon for answers with one parameter after another, runs the model itself by ONNX Runtime's
Python package without a KV cache, applies the parameter's definition by NumPy, and compares token by
token. Prints for each parameter how many tokens were compared, how many the parameter moved (it must
have an effect), and how many were near-ties: there the two programs' logits, which differ in their
last digits, decide for themselves.
"""

import json
import pathlib
import sys
import urllib.request

import numpy
from onnx_model import Model

URL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])

#: Logits of two ways to compute the same differ by less: activations are rounded to int8, each
#: kernel its way.
NOISE = 0.25

MODEL = Model(FOLDER)
CONFIG, ENDS, logits_of = MODEL.config, MODEL.ends, MODEL.logits_of


def post(path: str, body: dict) -> dict:
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def ask(more: dict) -> list[dict]:
    """The choices, each with the ids of prompt and answer."""
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "return_token_ids": True} | more
    return post("/v1/completions", body)["choices"]


def tokens_of(text: str) -> list[int]:
    return post("/tokenize", {"content": text})["tokens"]


PROMPT = "What is 12+7? 12+7=19. What is 3*4? 3*4=12. What is 12+7? "


# What each parameter does to the logits of one position, after `prompt` and `said`.


def bias(tokens, value):
    def change(row, prompt, said):
        row[tokens] += value

    return change


def repetition(penalty):
    def change(row, prompt, said):
        for token in set(prompt) | set(said):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty

    return change


def presence(penalty):
    def change(row, prompt, said):
        row[list(set(said))] -= penalty

    return change


def frequency(penalty):
    def change(row, prompt, said):
        for token in said:
            row[token] -= penalty

    return change


def dry(multiplier, base, allowed, breakers):
    def change(row, prompt, said):
        seen = prompt + said
        longest = {}
        for at in range(1, len(seen)):
            length = 0
            while length < at and seen[at - 1 - length] == seen[-1 - length] and seen[-1 - length] not in breakers:
                length += 1
            if length >= allowed:
                longest[seen[at]] = max(longest.get(seen[at], 0), length)
        for token, length in longest.items():
            if token not in breakers:
                row[token] -= multiplier * base ** (length - allowed)

    return change


def only(tokens):
    def change(row, prompt, said):
        kept = row[tokens].copy()
        row[:] = -numpy.inf
        row[tokens] = kept

    return change


def without(words):
    def change(row, prompt, said):
        for word in words:
            if said[len(said) - len(word) + 1:] == word[:-1] or len(word) == 1:
                row[word[-1]] = -numpy.inf

    return change


def late(least):
    def change(row, prompt, said):
        if len(said) < least:
            row[ENDS] = -numpy.inf

    return change


def nothing(row, prompt, said):
    pass


def greedy(name: str, body: dict, change, ends=None, must_move=True) -> None:
    """Each token is the one with the highest changed logit; the answer ends as it should."""
    ends = ENDS if ends is None else ends
    compared = moved = ties = 0
    for prompt_text in [PROMPT, "Hello! How are you?", "1 2 3 4 1 2 3 4 1 2 3 4 1 2", "def add(a, b):\n"]:
        choice = ask({"prompt": prompt_text} | body)[0]
        prompt, said = choice["prompt_token_ids"], choice["token_ids"]
        rows = logits_of(prompt + said)[len(prompt) - 1:]
        expected = said + ([None] if choice["finish_reason"] == "stop" else [])
        for place, token in enumerate(expected):
            row = rows[place].copy()
            plain = int(row.argmax())
            change(row, prompt, said[:place])
            best = int(row.argmax())
            right = best in ends if token is None else best == token
            compared += 1
            moved += best != plain
            if right:
                continue
            chosen = max(row[ends]) if token is None else row[token]
            if row[best] - chosen > NOISE:
                raise SystemExit(f"{name}: {prompt_text!r} at {place}: {token} ({chosen}), expected {best} ({row[best]})")
            ties += 1
    if must_move and not moved:
        raise SystemExit(f"{name}: had no effect on {compared} tokens")
    SEEN[name] = {"compared": compared, "moved": moved, "near_ties": ties}


def probabilities(row, temperature=1.0):
    weights = numpy.exp((row - row.max()) / temperature)
    return weights / weights.sum()


# Which tokens a filter keeps at one position; `slack` widens it by what noise may do.


def keeps_top_k(k):
    return lambda row, slack: row >= numpy.sort(row)[-k] - slack * NOISE


def keeps_top_p(share):
    def keep(row, slack):
        shares = probabilities(row)
        order = numpy.argsort(-shares, kind="stable")
        before = numpy.cumsum(shares[order]) - shares[order]
        kept = numpy.zeros(len(row), bool)
        kept[order[before < share + slack * 0.03]] = True
        return kept

    return keep


def keeps_min_p(share):
    return lambda row, slack: probabilities(row) >= share * (1 - slack * 0.2) * probabilities(row).max()


def keeps_sigma(count):
    return lambda row, slack: row >= row.max() - count * row.std() - slack * NOISE


def keeps_typical(share):
    def keep(row, slack):
        shares = probabilities(row)
        surprise = -numpy.log(numpy.maximum(shares, 1e-300))
        entropy = (shares * surprise).sum()
        distance = abs(surprise - entropy)
        order = numpy.argsort(distance, kind="stable")
        before = numpy.cumsum(shares[order]) - shares[order]
        kept = numpy.zeros(len(row), bool)
        kept[order[before <= share + slack * 0.05]] = True
        # Neighbours in the order may change places.
        return kept | (distance <= distance[kept].max() + slack * NOISE)

    return keep


def keeps_xtc(threshold):
    def keep(row, slack):
        shares = probabilities(row)
        likely = shares >= threshold * (1 + slack * 0.2)
        if likely.sum() < 2:
            return numpy.ones(len(row), bool)
        return ~likely | (shares <= shares[likely].min() * (1 + slack * 0.2))

    return keep


def drawn(name: str, body: dict, keep) -> None:
    """Each drawn token is one that the filter keeps; without the filter some are not."""
    compared = outside = 0
    for filtered in [True, False]:
        for choice in ask((body if filtered else {}) | {"temperature": 1, "n": 16, "seed": 5, "ignore_eos": True}):
            prompt, said = choice["prompt_token_ids"], choice["token_ids"]
            rows = logits_of(prompt + said)[len(prompt) - 1:]
            for place, token in enumerate(said):
                if filtered:
                    compared += 1
                    if not keep(rows[place], 1)[token]:
                        raise SystemExit(f"{name}: at {place} drew {token}, which it leaves out")
                else:
                    outside += not keep(rows[place], 1)[token]
    if not outside:
        raise SystemExit(f"{name}: had no effect on {compared} tokens")
    SEEN[name] = {"compared": compared, "moved": outside, "near_ties": 0}


def mean_logprob(choice: dict) -> float:
    prompt, said = choice["prompt_token_ids"], choice["token_ids"]
    rows = logits_of(prompt + said)[len(prompt) - 1:]
    return float(numpy.mean([numpy.log(probabilities(rows[i])[token]) for i, token in enumerate(said)]))


def check(name: str, holds: bool, shown) -> None:
    if not holds:
        raise SystemExit(f"{name}: {shown}")
    SEEN[name] = {"compared": 1, "moved": 1, "near_ties": 0}


SEEN: dict[str, dict[str, int]] = {}


def main() -> None:
    greedy("temperature 0", {}, nothing, must_move=False)
    likely = [int(token) for token in numpy.argsort(-logits_of(tokens_of(PROMPT))[-1])[:40]]
    greedy("logit_bias by id", {"logit_bias": {str(t): -30 for t in likely[:3]}}, bias(likely[:3], -30))
    dot = sorted(set(tokens_of(".")))
    greedy("logit_bias by text", {"logit_bias": {".": 12}}, bias(dot, 12))
    greedy("repetition_penalty", {"repetition_penalty": 1.8}, repetition(1.8))
    greedy("presence_penalty", {"presence_penalty": 2, "ignore_eos": True}, presence(2), ends=[])
    greedy("frequency_penalty", {"frequency_penalty": 1.5, "ignore_eos": True}, frequency(1.5), ends=[])
    fields = {"dry_multiplier": 4, "dry_base": 2, "dry_allowed_length": 1, "dry_sequence_breakers": ["="]}
    spelt = [token for token in range(CONFIG["vocab_size"]) if "=" in post("/detokenize", {"tokens": [token]})["content"]]
    greedy("dry", fields | {"ignore_eos": True}, dry(4, 2, 1, set(spelt)), ends=[])
    greedy("allowed_token_ids", {"allowed_token_ids": likely[5:]}, only(likely[5:]))
    words = [tokens_of(text) for text in ["19", " 19", "12", " 12"]]
    greedy("bad_words", {"bad_words": ["19", "12"]}, without(words))
    greedy("min_tokens", {"min_tokens": 20}, late(20))
    greedy("ignore_eos", {"ignore_eos": True}, nothing, ends=[], must_move=False)
    plain = ask({})[0]["token_ids"]
    greedy("stop_token_ids", {"stop_token_ids": [plain[1]]}, nothing, ends=ENDS + [plain[1]], must_move=False)
    check("stop_token_ids ends", ask({"stop_token_ids": [plain[1]]})[0]["token_ids"] == plain[:1], plain)
    check("max_tokens", len(ask({"max_tokens": 3, "ignore_eos": True})[0]["token_ids"]) == 3, "not 3 tokens")
    check("ignore_eos goes on", len(ask({"ignore_eos": True})[0]["token_ids"]) == 24, "ended early")

    drawn("top_k", {"top_k": 2}, keeps_top_k(2))
    drawn("top_p", {"top_p": 0.5}, keeps_top_p(0.5))
    drawn("min_p", {"min_p": 0.3}, keeps_min_p(0.3))
    drawn("top_n_sigma", {"top_n_sigma": 1}, keeps_sigma(1))
    drawn("typical_p", {"typical_p": 0.3}, keeps_typical(0.3))
    drawn("xtc", {"xtc_probability": 1, "xtc_threshold": 0.05}, keeps_xtc(0.05))

    hot = {"temperature": 1.2, "ignore_eos": True}
    first, again, other = (ask(hot | {"seed": seed})[0]["token_ids"] for seed in [1, 1, 2])
    check("seed", first == again and first != other, (first, again, other))
    copies = [choice["token_ids"] for choice in ask(hot | {"seed": 1, "n": 3})]
    check("n", copies[0] == first and copies[1] == other and len(copies) == 3, copies)
    cold = [mean_logprob(choice) for choice in ask({"temperature": 0.4, "ignore_eos": True, "seed": 1, "n": 8})]
    warm = [mean_logprob(choice) for choice in ask({"temperature": 1.8, "ignore_eos": True, "seed": 1, "n": 8})]
    check("temperature", numpy.mean(cold) > numpy.mean(warm) + 0.3, (cold, warm))
    made = ask(hot | {"seed": 3, "n": 4})
    best = ask(hot | {"seed": 3, "n": 1, "best_of": 4})[0]["token_ids"]
    scores = [mean_logprob(choice) for choice in made]
    near = [choice["token_ids"] for choice, score in zip(made, scores) if score > max(scores) - NOISE / 2]
    check("best_of", best in near, (best, scores))
    print(json.dumps(SEEN))


main()
