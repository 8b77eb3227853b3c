"""Random bodies that grow when they are read, lists without end, and work for the tokenizer."""

import json
import random
import string

from forms import size, weight
from surfaces import QUESTION, chat

# The default of max_body_bytes.
LARGEST = 8 << 20
CHAT = "/v1/chat/completions"
WORDS = "red stone count 7 river mill evening 12 copy Tell me about the small and what then 2+2= a b".split()
POSTS = (
    CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/api/chat", "/api/generate",
    "/api/show", "/api/pull", "/v1/embeddings", "/api/embed", "/api/embeddings", "/v1/responses/input_tokens", "/completion", "/infill", "/tokenize", "/detokenize", "/v1/chat/completions/render", "/apply-template",
)


# --- bodies that take many times their size

def filler(choose: random.Random, count: int) -> str:
    """JSON of about `count` bytes, of one of the shapes that cost most for each byte."""
    kind = choose.randrange(11)
    if kind == 0:
        unit = choose.choice(["{}", "[]", "0", '""', "null", '{"":0}', "[0]", "[[]]", '{"a":{}}', "1e5", '[{},{}]'])
        return "[" + ",".join([unit] * max(1, count // (len(unit) + 1))) + "]"
    if kind == 1:
        return "{" + ",".join(f'"{number}":{{}}' for number in range(max(1, count // 12))) + "}"
    if kind == 2:
        return "{" + ",".join(['"a":{}'] * max(1, count // 7)) + "}"
    if kind == 3:
        # Just within, or past, what a parser without limits nests.
        depth = min(count // 2, choose.choice([100, 127, 128, 1000, 4_000_000]))
        return "[" * depth + "]" * choose.choice([depth, 0])
    if kind == 4:
        depth = min(count // 6, choose.choice([60, 126, 1000, 1_000_000]))
        return '{"a":' * depth + "0" + "}" * depth
    if kind == 5:
        return '"' + choose.choice(["\\u0000", "\\n", "\\ud83d\\ude00", "é", "a", "\\\\"]) * (count // 6) + '"'
    if kind == 6:
        return choose.choice(["1", "-", "0.", "1e"]) + "1" * count
    if kind == 7:
        nested = "[" * 100 + "]" * 100
        return "[" + ",".join([nested] * max(1, count // 201)) + "]"
    if kind == 8:
        return '{"enum":[' + ",".join(["{}"] * max(1, count // 3)) + "]}"
    if kind == 9:
        return '{"properties":{' + ",".join(f'"p{number}":{{}}' for number in range(max(1, count // 12))) + "}}"
    return '{"anyOf":[' + ",".join(['{"type":"object"}'] * max(1, count // 18)) + "]}"


# Where the filler goes; %s is the place.
PLACES = (
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"unknown":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"metadata":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"chat_template_kwargs":{"a":%s}}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"chat_template_kwargs":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"guided_json":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%s}}}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"response_format":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"tools":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"logit_bias":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"stop":%s}',
    '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"guided_choice":%s}',
    '{"messages":%s,"max_tokens":1}',
    '{"messages":[{"role":"user","content":%s}],"max_tokens":1}',
    '{"messages":[{"role":"assistant","tool_calls":%s},{"role":"user","content":"a"}],"max_tokens":1}',
    '{"prompt":%s,"max_tokens":1}',
    '{"model":"demo","input":%s,"max_output_tokens":1}',
    '{"model":"demo","input":"a","text":{"format":%s}}',
    '{"model":"demo","input":"a","tools":%s}',
    '{"model":"demo","input":"a","max_output_tokens":1,"tools":[{"type":"namespace","name":"n","tools":%s}]}',
    '{"model":"demo","input":"a","max_output_tokens":1,"tools":[{"type":"custom","name":"n","format":%s}]}',
    '{"model":"demo","input":[{"role":"user","content":"a"},{"type":"local_shell_call","call_id":"c","action":%s}],"max_output_tokens":1}',
    '{"model":"demo","max_tokens":1,"context_management":{"edits":%s},"messages":[{"role":"user","content":"a"}]}',
    '{"prompt":"a","n_predict":1,"grammar":"root ::= \\"a\\"","response_fields":%s}',
    '{"prompt":%s,"n_predict":1}',
    '{"input_prefix":"a","input_suffix":"b","n_predict":1,"input_extra":%s}',
    '{"model":"demo","max_tokens":1,"system":%s,"messages":[{"role":"user","content":"a"}]}',
    '{"model":"demo","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":%s}]}]}',
    '{"model":"demo","max_tokens":1,"messages":%s}',
    '{"model":"demo","stream":false,"messages":[{"role":"user","content":"a"}],"format":%s}',
    '{"model":"demo","stream":false,"prompt":"a","options":%s}',
    '{"model":"demo","stream":false,"prompt":"a","context":%s}',
    '{"tokens":%s}',
    '{"encoding_format":"base64","input":%s}',
    "%s",
)


def amplified(choose: random.Random, most: int = LARGEST) -> tuple[str, bytes, tuple[str, ...]]:
    count = weight(choose, most - 400)
    text = choose.choice(PLACES) % filler(choose, count)
    path = path_for(choose, text)
    data = text.encode("utf-8", "surrogatepass")
    # A filler of nothing leaves nothing to spoil.
    spoilt = choose.randrange(12) if data else None
    if spoilt == 0:
        data = data[: choose.randrange(1, len(data) + 1)]
    elif spoilt == 1:
        place = choose.randrange(len(data))
        data = data[:place] + bytes([choose.randrange(256)]) + data[place + 1 :]
    # A body past the limit is refused before it was read, and the close may overtake the answer.
    return path, data, ("none",) if len(data) > LARGEST else ()


def path_for(choose: random.Random, text: str) -> str:
    if choose.random() < 0.2:
        return choose.choice(POSTS)
    if text.startswith('{"encoding_format"'):
        return choose.choice(["/v1/embeddings", "/api/embed"])
    if text.startswith('{"tokens"'):
        return "/detokenize"
    if '"n_predict"' in text:
        return "/infill" if text.startswith('{"input_prefix"') else "/completion"
    if '"input"' in text[:40]:
        return "/v1/responses"
    if '"stream":false,"prompt"' in text[:60]:
        return "/api/generate"
    if '"stream":false' in text[:60]:
        return "/api/chat"
    if text.startswith('{"model":"demo","max_tokens"'):
        return choose.choice(["/v1/messages", "/v1/messages/count_tokens"])
    if text.startswith('{"prompt"'):
        return choose.choice(["/v1/completions", "/tokenize"])
    return choose.choice([CHAT, CHAT, "/v1/chat/completions/render", "/tokenize"])


def body_examples() -> list[tuple[str, str, bytes]]:
    enum = '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"guided_json":{"enum":[%s]}}' % ",".join(["{}"] * 2_790_000)
    ids = '{"messages":[{"role":"user","content":"a"}],"max_tokens":4,"allowed_token_ids":[%s]}' % ",".join(["1"] * 4_190_000)
    stops = '{"messages":[{"role":"user","content":"a"}],"max_tokens":4,"min_tokens":4,"stop_token_ids":[%s]}' % ",".join(["1"] * 4_190_000)
    breakers = chat(n=64, dry_multiplier=1, dry_sequence_breakers=(list(string.ascii_letters + string.digits) * 2)[:110])
    text = '{"enum":[%s]}' % ",".join(["[[]]"] * 1_600_000)
    dots = {"prompt": "a", "n_predict": 1, "grammar": "root ::= " + "." * 8_300_000}
    return [
        ("8 MiB of enum", CHAT, enum.encode()),
        ("8 MiB of enum in a text", CHAT, json.dumps(chat(guided_json=text)).encode()),
        ("8 MiB of GBNF", "/completion", json.dumps(dots).encode()),
        ("8 MiB of allowed_token_ids", CHAT, ids.encode()),
        ("8 MiB of stop_token_ids", CHAT, stops.encode()),
        ("110 breakers for each of 64", CHAT, json.dumps(breakers).encode()),
    ]


# --- lists and numbers of every field

ODD_NUMBERS = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 1e308, 0.5, -0.0, 10**40)
ODD_VALUES = (None, True, "", "a", [], {}, [[]], [None], "\u0000", "<|end|>", "\ud83d\ude00")


def ids(choose: random.Random, count: int) -> list:
    kind = choose.randrange(5)
    if kind == 0:
        return [choose.randrange(300)] * count
    if kind == 1:
        return list(range(count))
    if kind == 2:
        return [choose.choice(ODD_NUMBERS) for _ in range(min(count, 1000))]
    if kind == 3:
        return [number % 300 for number in range(count)]
    return [choose.choice([1, *ODD_VALUES]) for _ in range(min(count, 1000))]


def texts(choose: random.Random, count: int) -> list:
    kind = choose.randrange(6)
    if kind == 0:
        return [choose.choice(["a", "", " ", "\n", "word"])] * count
    if kind == 1:
        return [f"{number}" for number in range(count)]
    if kind == 2:
        return ["a" * size(choose, 100000) for _ in range(min(count, 20))]
    if kind == 3:
        return [choose.choice(["a", *ODD_VALUES]) for _ in range(min(count, 1000))]
    if kind == 4:
        # Each a token by itself, many times.
        return [string.ascii_letters[number % 52] for number in range(count)]
    return ["".join(choose.choices("abc \n:\"*é", k=3)) for _ in range(count)]


def lists(choose: random.Random) -> tuple[str, dict]:
    """One or several list fields, of up to a million members, with copies."""
    count = choose.choice([weight(choose, 1_000_000), size(choose, 2000), 110, 128, 129])
    body = chat(max_tokens=choose.randrange(1, 17), stream=choose.random() < 0.2)
    if choose.random() < 0.5:
        body["n"] = choose.choice([1, 2, 2, 4, 8, choose.choice([64, 128, 129]), choose.choice(ODD_NUMBERS)])
    for name in choose.sample(sorted(FIELDS), k=choose.choice([1, 1, 1, 2, 3])):
        body.update(FIELDS[name](choose, count))
    return CHAT, body


FIELDS = {
    "allowed_token_ids": lambda c, n: {"allowed_token_ids": ids(c, n)},
    "stop_token_ids": lambda c, n: {"stop_token_ids": ids(c, n), "min_tokens": c.choice([0, 4, 16, 10**9]), "max_tokens": 16},
    "dry_sequence_breakers": lambda c, n: {"dry_sequence_breakers": texts(c, n), "dry_multiplier": 1, "dry_penalty_last_n": c.choice([-1, 0, 10**9])},
    "bad_words": lambda c, n: {"bad_words": texts(c, n)},
    "stop": lambda c, n: {"stop": texts(c, n)},
    "logit_bias": lambda c, n: {"logit_bias": {str(key): c.choice([1, -100, 100, 1e9]) for key in range(min(n, 200000))}},
    "logit_bias of texts": lambda c, n: {"logit_bias": {text: -1 for text in map(str, texts(c, min(n, 200000)))}},
    "messages": lambda c, n: {"messages": QUESTION * min(n, 200000)},
    "roles": lambda c, n: {"messages": [{"role": c.choice(["user", "assistant", "system", "tool", "x"]), "content": "a"} for _ in range(min(n, 20000))]},
    "parts": lambda c, n: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * min(n, 200000)}]},
    "tools": lambda c, n: {"tools": [{"type": "function", "function": {"name": f"f{number}", "description": "d" * c.choice([0, 900])}} for number in range(min(n, 20000))], "tool_choice": c.choice(["auto", "required", "none"])},
    "allowed_tools": lambda c, n: {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}] * min(n, 50000)}}},
    "tool_calls": lambda c, n: {"messages": QUESTION + [{"role": "assistant", "tool_calls": [{"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for number in range(min(n, 20000))]}]},
    "numbers": lambda c, n: {c.choice(["top_k", "seed", "priority", "top_logprobs", "max_tokens", "truncate_prompt_tokens", "timeout", "thinking_token_budget", "min_tokens", "best_of", "prompt_logprobs", "dry_penalty_last_n", "temperature"]): c.choice(ODD_NUMBERS)},
    "return_progress": lambda c, n: {"return_progress": c.choice([True, True, False, None, 1, "true"]), "stream": True},
    "logprobs": lambda c, n: {"logprobs": True, "top_logprobs": 20, "prompt_logprobs": 20, "return_token_ids": True},
}


def prompts(choose: random.Random) -> tuple[str, dict]:
    """Several prompts times several answers, as texts and as ids."""
    count = choose.choice([1, 64, 128, 129, size(choose, 100000)])
    kind = choose.randrange(4)
    if kind == 0:
        prompt: object = texts(choose, count)
    elif kind == 1:
        prompt = ids(choose, count)
    elif kind == 2:
        prompt = [[1, 2, 3]] * count
    else:
        prompt = [ids(choose, size(choose, 4000)) for _ in range(min(count, 64))]
    more = {"n": choose.choice([1, 2, 64, 128, choose.choice(ODD_NUMBERS)]), "max_tokens": choose.randrange(1, 5)}
    if choose.random() < 0.3:
        more["best_of"] = choose.choice([1, 64, 128, 10**9])
    if choose.random() < 0.3:
        more |= {"echo": True, "logprobs": 5}
    return "/v1/completions", {"prompt": prompt, **more}


def list_request(choose: random.Random) -> tuple[str, dict]:
    return prompts(choose) if choose.random() < 0.25 else lists(choose)


# --- answers that hold slots and memory for as long as they are read

def long_answer(choose: random.Random) -> tuple[str, dict]:
    prompt = " ".join(choose.choices(WORDS, k=size(choose, 150_000) // 100 + 1))
    count = choose.choice([100, 400, 4000])
    stream = choose.random() < 0.7
    more = {"ignore_eos": True, "stream": stream, "priority": choose.choice([0, 0, -(2**31), 2**31 - 1])}
    if choose.random() < 0.3:
        more["n"] = choose.choice([2, 8, 64])
    message = [{"role": "user", "content": prompt}]
    return choose.choice([
        (CHAT, {**more, "messages": message, "max_tokens": count}),
        (CHAT, {**more, "messages": message, "max_tokens": count, "logprobs": True, "top_logprobs": 20}),
        ("/v1/completions", {**more, "prompt": prompt, "max_tokens": count, "prompt_logprobs": choose.choice([None, 1, 20])}),
        ("/completion", {"prompt": prompt, "n_predict": count, "stream": stream, "ignore_eos": True}),
        ("/api/generate", {"model": "demo", "prompt": prompt, "stream": stream, "options": {"num_predict": count}}),
        ("/v1/responses", {"model": "demo", "input": prompt, "stream": stream, "max_output_tokens": count}),
    ])


# --- the tokenizer

def long_text(choose: random.Random, count: int) -> str:
    kind = choose.randrange(5)
    if kind == 0:
        return "a" * count
    if kind == 1:
        return "a b" * (count // 3)
    if kind == 2:
        return " " * count
    if kind == 3:
        return "é\u0301\U0001f600" * (count // 8)
    words = " ".join(choose.choices(WORDS, k=200)) + " "
    return words * (count // len(words) + 1)


def tokenizer(choose: random.Random, most: int = 7_600_000) -> tuple[str, dict]:
    text = long_text(choose, weight(choose, most))
    message = [{"role": choose.choice(["user", "assistant", "system"]), "content": text}]
    # More tokens than the context has: a prompt that fits would be the model's work.
    past = text + " a b" * 8000
    return choose.choice([
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"content": text, "with_pieces": True}),
        ("/tokenize", {"messages": message, "return_token_strs": True}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": message}),
        ("/apply-template", {"messages": message}),
        ("/v1/chat/completions/render", {"messages": message}),
        ("/v1/completions", {"prompt": text, "max_tokens": 1, "truncate_prompt_tokens": 10}),
        ("/v1/completions", {"prompt": past, "max_tokens": 1}),
        ("/detokenize", {"tokens": [1] * min(len(text) // 2, 2_000_000)}),
        (CHAT, {"messages": [{"role": "user", "content": past}], "max_tokens": 1}),
        (CHAT, chat(stop=[text[:100000]], bad_words=[text[:100000]])),
    ])
