"""Asks a daemon for an answer to each schema, at a high temperature.

usage: ask.py URL SCHEMAS ANSWERS SEED...

ANSWERS is for judge.py and judge.mjs. Half of the answers are streamed; every sixth is given few tokens on purpose.
"""

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import product

URL, SCHEMAS, ANSWERS = sys.argv[1:4]
SEEDS = [int(seed) for seed in sys.argv[4:]]


def ask(asked):
    (number, schema), seed = asked
    body = {
        "messages": [{"role": "user", "content": "Answer."}],
        "temperature": 1.5,
        "seed": seed * 100_003 + number,
        "max_tokens": 1 + number % 7 if number % 6 == 5 else 600,
        "stream": (number + seed) % 2 == 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    }
    request = urllib.request.Request(
        URL + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    answer = {"schema": number, "text": ""}
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            answer["text"], answer["end"] = (streamed if body["stream"] else at_once)(response)
    except urllib.error.HTTPError as error:
        answer["end"] = "refused" if error.code == 400 else f"status {error.code}"
        answer["error"] = json.load(error)["error"]["message"]
    return answer


def at_once(response):
    choice = json.load(response)["choices"][0]
    return choice["message"]["content"] or "", choice["finish_reason"]


def streamed(response):
    text, finish = "", "no end"
    for line in response:
        line = line.decode().strip()
        if line.startswith("data: {"):
            frame = json.loads(line[6:])
            if "error" in frame:
                return text, frame["error"]["message"]
            for choice in frame["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return text, finish


def main():
    with open(SCHEMAS, encoding="utf-8") as file:
        schemas = list(enumerate(json.loads(line) for line in file))
    with ThreadPoolExecutor(8) as pool, open(ANSWERS, "w", encoding="utf-8") as out:
        for answer in pool.map(ask, product(schemas, SEEDS)):
            out.write(json.dumps(answer) + "\n")


main()
