"""Requests of every route with all their fields, of which some are bent; grammars in llama.cpp's notation; and
responses that go on from one another."""

import json
import random

from client import Attack, End, post
from daemon import Place
from forms import regex, schema, size, weight
from surfaces import QUESTION, object_of

CHAT = "/v1/chat/completions"
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"p": {"type": "string"}}, "required": ["p"]}, "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"p": "a"}'}}
SAMPLING = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1,
    "logit_bias": {"65": 1, "a": -100}, "seed": 7, "stop": ["x", "yy"], "stop_token_ids": [1, 2], "ignore_eos": False, "timeout": 30, "top_n_sigma": 1.5,
    "typical_p": 0.9, "xtc_probability": 0.1, "xtc_threshold": 0.2, "dry_multiplier": 0.5, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":"], "min_tokens": 1, "bad_words": ["zzz"], "allowed_token_ids": list(range(64)), "truncate_prompt_tokens": 100,
    "truncation_side": "left", "cache_salt": "s", "include_stop_str_in_output": True, "skip_special_tokens": True, "prompt_logprobs": 2, "return_progress": True, "priority": 1,
}
IN_CHAT = {
    "messages": [{"role": "system", "content": "s"}, *QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]}],
    "max_tokens": 3, "logprobs": True, "top_logprobs": 3, "n": 2, "add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {"a": {"b": [1]}},
    "return_token_ids": True, "return_tokens_as_token_ids": True, "timings_per_token": True, "tools": [FUNCTION], "tool_choice": "auto", "parallel_tool_calls": True,
    "reasoning_effort": "low", "thinking_token_budget": 5, "reasoning_format": "auto", "include_reasoning": True, "stream": False, "stream_options": {"include_usage": True},
}
IN_RESPONSES = {
    "model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}, {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "c1", "output": "r"}, {"type": "reasoning", "summary": []}],
    "store": False, "instructions": "i", "max_output_tokens": 16, "temperature": 0.5, "top_p": 0.9, "stream": False, "text": {"format": {"type": "text"}},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}, {"type": "namespace", "name": "n", "tools": []}, {"type": "custom", "name": "c", "format": {"type": "text"}}],
    "tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {"effort": "low"}, "truncation": "auto", "include": ["reasoning.encrypted_content"], "top_logprobs": 2, "service_tier": "auto",
    "metadata": {"a": "b"}, "user": "u", "max_tool_calls": 3, "stream_options": {"include_obfuscation": False}, "safety_identifier": "s", "prompt_cache_key": "k",
}
IN_MESSAGES = {
    "model": "demo", "max_tokens": 3, "stream": False, "stop_sequences": ["x"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "metadata": {"user_id": "u"}, "service_tier": "auto",
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"p": [1]}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}]}],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"p": {"type": "array"}}}}], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"},
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}, "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
}
IN_OLLAMA = {"model": "demo", "stream": False, "format": "json", "options": {"num_predict": 3, "temperature": 0.1, "stop": ["x"], "seed": 1, "num_ctx": 10}, "think": False, "keep_alive": "5m", "logprobs": True, "truncate": True, "shift": True}
IN_LLAMA = {"n_predict": 3, "n_probs": 0, "stream": False, "response_fields": ["content", "generation_settings/n_predict"], "id_slot": 0, "n_keep": 1, "samplers": ["top_k"], "t_max_predict_ms": 9, "return_tokens": True, "cache_prompt": True}

# One request of each route with as many fields as go together.
REQUESTS = (
    (CHAT, {**IN_CHAT, **SAMPLING}),
    (CHAT, IN_CHAT),
    ("/v1/chat/completions/render", IN_CHAT),
    ("/apply-template", IN_CHAT),
    ("/tokenize", {"content": "a b", "with_pieces": True, "add_special": True, "parse_special": True}),
    ("/tokenize", {"messages": QUESTION, "tools": [FUNCTION], "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    ("/v1/completions", {**SAMPLING, "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "n": 2, "best_of": 2, "echo": True, "stream": False}),
    ("/completion", {**SAMPLING, **IN_LLAMA, "prompt": "a"}),
    ("/infill", {**IN_LLAMA, "prompt": "a", "input_prefix": "p", "input_suffix": "s", "input_extra": [{"filename": "f", "text": "t"}]}),
    ("/v1/responses", IN_RESPONSES),
    ("/v1/responses/input_tokens", IN_RESPONSES),
    ("/v1/messages", IN_MESSAGES),
    ("/v1/messages/count_tokens", IN_MESSAGES),
    ("/api/chat", {**IN_OLLAMA, "messages": [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"p": 1}}}]}, {"role": "tool", "tool_name": "f", "content": "r"}], "tools": [FUNCTION]}),
    ("/api/generate", {**IN_OLLAMA, "prompt": "a", "suffix": "b", "system": "s", "template": "", "context": [1, 2], "raw": False}),
    ("/v1/embeddings", {"model": "demo-embedding", "input": ["a b", "c"], "encoding_format": "base64", "user": "u"}),
    ("/v1/embeddings", {"input": [[1, 2, 3], [4]], "encoding_format": "float", "dimensions": 8}),
    ("/api/embed", {"model": "demo-embedding", "input": ["a b", "c"], "truncate": True, "options": {"num_ctx": 8}, "keep_alive": "5m"}),
    ("/api/embeddings", {"model": "demo-embedding", "prompt": "a b", "keep_alive": 0}),
    ("/api/show", {"model": "demo", "verbose": True}),
    ("/api/pull", {"model": "demo", "stream": False}),
)


# --- bent fields

def places_of(value: object, path: tuple = ()) -> list[tuple]:
    """The paths to all values within a value."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places_of(item, (*path, key))
    return found


def odd(choose: random.Random) -> object:
    """A value that few fields expect."""
    kind = choose.randrange(12)
    count = weight(choose, 400_000)
    if kind == 0:
        return choose.choice([None, True, False, "", 0, -1, 1e308, -0.0, 2**63, 2**64, 10**40, 0.5, [], {}, [[]], [None], {"": ""}])
    if kind == 1:
        return choose.choice(["a", "\u0000", "<|im_end|>", "{{ x }}", "\u202e", "\U0001f600", " ", "\n"]) * count
    if kind == 2:
        return [choose.choice([0, "a", None, {}, [], {"type": "text", "text": "a"}, {"role": "user", "content": "a"}])] * count
    if kind == 3:
        return {f"k{number}": choose.choice([0, "a", None, {}, []]) for number in range(min(count, 100_000))}
    if kind in (4, 5):
        value: object = choose.choice([0, "a", {}, []])
        key = choose.choice(["a", "content", "properties", "items", "type", ""])
        for _ in range(choose.choice([20, 60, 100, 118, 130])):
            value = {key: value} if kind == 4 else [value]
        return value
    if kind == 6:
        return text_of_json(choose, count)
    if kind == 7:
        return choose.choice([schema, regex])(choose)
    if kind == 8:
        return gbnf(choose)
    if kind == 9:
        return choose.choice(["auto", "none", "required", "any", "json", "json_schema", "text", "demo", "stop", "left", "low", "max", "function", "tool_use"])
    if kind == 10:
        return choose.choice([1, 3, 2**31, 2**32 - 1, 300, 1001, 1e-300, -(2**31), 4096, 100_000_000])
    return {"type": choose.choice(["text", "image_url", "input_image", "input_file", "document", "image", "tool_use", "function", "custom"]), choose.choice(["text", "image_url", "file_data", "source", "data"]): choose.choice(["data:image/png;base64," + "A" * count, {"url": "http://localhost/x"}, {"type": "base64", "data": "A" * count}, None])}


def text_of_json(choose: random.Random, count: int) -> str:
    """JSON in a text: what reads it may make many times as much of it."""
    item = choose.choice(["{}", "[]", "[[]]", '{"":0}', "0", '"a"', '{"a":{}}'])
    before, after = choose.choice([('{"enum":[', "]}"), ('{"p":[', "]}"), ("[", "]"), (' \n{"anyOf":[', "]}"), ('{"a":' * 100, "0" + "}" * 100), ("{", "")])
    return before + ",".join([item] * max(1, count // (len(item) + 1))) + after


def bend(choose: random.Random, body: object) -> object:
    """`body` with one of its values replaced, copied, moved, or left out."""
    path = choose.choice(places_of(body))
    if not path:
        return odd(choose) if choose.random() < 0.3 else {**body, choose.choice(["grammar", "json_schema", "guided_json", "unknown", "tools", "input"]): odd(choose)}
    target = body
    for key in path[:-1]:
        target = target[key]
    kind = choose.randrange(6)
    if kind == 0:
        del target[path[-1]]
    elif kind == 1 and isinstance(target, list):
        target.extend([target[path[-1]]] * weight(choose, 20_000))
    elif kind == 2 and isinstance(target, dict):
        target[choose.choice(["", "a" * size(choose, 100_000), "type", "name", "\u0000"])] = target[path[-1]]
    elif kind == 3:
        other = choose.choice(REQUESTS)[1]
        for key in choose.choice(places_of(other)):
            other = other[key]
        target[path[-1]] = json.loads(json.dumps(other))
    else:
        target[path[-1]] = odd(choose)
    return body


def field_request(choose: random.Random) -> tuple[str, object]:
    path, body = choose.choice(REQUESTS)
    body = json.loads(json.dumps(body))
    if choose.random() < 0.2 and "stream" in body:
        body["stream"] = True
    # Fewer fields, so that what is bent is reached.
    for name in choose.sample(sorted(body), k=choose.randrange(len(body))):
        if name not in ("messages", "prompt", "input", "model", "max_tokens", "n_predict", "max_output_tokens", "options"):
            del body[name]
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        if isinstance(body, dict):
            body = bend(choose, body)
    return (choose.choice(REQUESTS)[0] if choose.random() < 0.05 else path), body


# --- grammars in llama.cpp's notation

def gbnf(choose: random.Random) -> str:
    kind = choose.randrange(9)
    count = weight(choose, 1_000_000)
    item = choose.choice(['"a"', "[a-z]", ".", "b", '("a" | b)', r"[^\x00-\x1F\u00e9]", '"\\"\\n"'])
    rest = '\nb ::= "b"\n'
    if kind == 0:
        return "root ::= " + choose.choice([".", "|", "[a]", '"a"', "b "]) * count + rest
    if kind == 1:
        rules = min(count, 100_000)
        after = choose.choice(["", ' | "b"', ' "c"', "?", "+", " r0?"])
        return "\n".join(["root ::= r0", *(f"r{number} ::= r{number + 1}{after}" for number in range(rules)), f'r{rules} ::= "a"'])
    if kind == 2:
        depth = choose.choice([10, 63, 64, 65, size(choose, 100_000)])
        return "root ::= " + "(" * depth + item + choose.choice([")", ")*", "){1,9}", ")?", "){0,65535}", " |)"]) * depth + rest
    if kind == 3:
        return f"root ::= {item}{{{choose.choice(['', '0', '3', '65535', '65536', '99999999999'])}{choose.choice(['', ',', ', 7', ',65535'])}}}" + rest
    if kind == 4:
        return choose.choice(["root ::= root", 'root ::= root "a" | "b"', 'root ::= (b*)* \nb ::= "" | c\nc ::= b*', "root ::= a\na ::= root", 'root ::= root root | "a" |', "root ::= b", "root ::=", "::= a", "root ::= ]"])
    if kind == 5:
        return "root ::= [" + choose.choice(["a", "\\x00", "\\U0010FFFF", "z-a", "a-", "^", "\\q", "\\u00"]) * min(count, 100_000) + choose.choice(["]", ""])
    if kind == 6:
        name = choose.choice(["a", "-", "_", "9"]) * count
        return f"root ::= {name}\n{name} ::= {item}" + rest
    if kind == 7:
        return "".join(choose.choices(["root ::= ", "b ::= ", '"a"', "[a-z]", "(", ")", "|", "*", "{2,3}", ".", "\n", " ", "# c\n", "b", "\\", '"', "::=", "é"], k=min(count, 4000)))
    return "root ::= " + " | ".join(f'"{"a" * number}" b' for number in range(1, min(count, 400) + 1)) + rest


def llama_request(choose: random.Random) -> tuple[str, dict]:
    """`/completion` and `/infill` with a form, and the same forms by other routes."""
    form = choose.choice([
        lambda: {"grammar": gbnf(choose)},
        lambda: {"grammar": gbnf(choose)},
        lambda: {"json_schema": schema(choose)},
        lambda: {"json_schema": text_of_json(choose, weight(choose, 2_000_000))},
        lambda: {"guided_json": text_of_json(choose, weight(choose, 2_000_000))},
        lambda: {"json_schema": object_of(schema(choose)), "grammar": choose.choice(["", "root ::= \"a\""])},
    ])()
    body = {**form, "n_predict": choose.choice([0, 1, 4, 8, -1, -2]), "seed": 1}
    if body["n_predict"] < 0:
        body["stop"] = ["a", "e", "o", " "]
    kind = choose.randrange(4)
    if kind == 0:
        return "/infill", {**body, "input_prefix": "a", "input_suffix": "b", "input_extra": [{"text": "t" * size(choose, 1000)}] * size(choose, 130)}
    if kind == 1:
        return CHAT, {**form, "messages": QUESTION, "max_tokens": 4}
    return "/completion", {**body, "prompt": choose.choice(["a", [1, 2, 3], [], ""]), "stream": choose.random() < 0.3}


# --- embeddings

def embedding_request(choose: random.Random) -> tuple[str, dict]:
    """Many texts, long ones, odd ones, and token ids; more of them than a request may have."""
    count = choose.choice([1, 2, size(choose, 2048), 2048, 2049])
    kind = choose.randrange(6)
    length = weight(choose, 7_000_000 // count)
    if kind == 0:
        given: object = [choose.choice(["a", "", " ", "a b ", "\u4e00", "e\u0301", "\u0000", "[SEP]", "##a"]) * choose.choice([1, 20, length]) for _ in range(count)]
    elif kind == 1:
        given = choose.choice(["a b ", "a", "\u0301", "\u4e00", "<s>"]) * min(length, 1_000_000)
    elif kind == 2:
        given = [[choose.choice([0, 1, 7, 2**31, -1]) if choose.random() < 0.01 else 1] * choose.choice([1, 48, 49, min(length, 2000)]) for _ in range(count)]
    elif kind == 3:
        given = [choose.randrange(40) for _ in range(min(length, 300_000))]
    elif kind == 4:
        given = ["a"] * (count - 1) + [odd(choose)]
    else:
        given = odd(choose)
    if choose.random() < 0.5:
        return "/v1/embeddings", {"input": given, "encoding_format": choose.choice(["float", "base64"])}
    return "/api/embed", {"model": "demo-embedding", "input": given, "truncate": choose.random() < 0.7, "keep_alive": choose.choice([0, "1s", -1, "9" * size(choose, 1000)])}


# --- responses that are kept

def stored(place: Place, choose: random.Random, leaves: float, key: str | None, source: str | None) -> tuple[End, bytes]:
    """A chain of responses; some of it is read, cancelled and deleted meanwhile. The end is the last exchange's."""
    ids: list[str] = [choose.choice(["resp_0", "resp_" + "a" * size(choose, 10_000), "", "..", "%00"])]
    end, data = End("none", 0.0), b""
    for step in range(choose.choice([1, 2, 3, 6])):
        body: dict = {"model": "demo", "input": "a" * weight(choose, 300_000), "max_output_tokens": 16, "store": choose.random() < 0.9}
        if choose.random() < 0.5:
            body["metadata"] = {f"k{number}": "v" * size(choose, 2000) for number in range(size(choose, 80))}
        if step and choose.random() < 0.8:
            body["previous_response_id"] = choose.choice(ids)
        if choose.random() < 0.2:
            body["input"] = [{"type": "item_reference", "id": choose.choice(ids)}] * size(choose, 5000)
        if choose.random() < 0.2:
            body["stream"] = True
        data = post(choose.choice(["/v1/responses"] * 5 + ["/v1/responses/input_tokens"]), body, key)
        end = merged(end, place.send(left_early(choose, data, leaves), source))
        try:
            ids.append(json.loads(end.body)["id"])
        except (ValueError, KeyError, TypeError):
            pass
        if choose.random() < 0.5:
            name = "".join(letter for letter in choose.choice(ids) if letter.isalnum() or letter in "_%.")
            end = merged(end, place.send(Attack(asked(choose, name, key)), source))
    return end, data


def asked(choose: random.Random, name: str, key: str | None) -> bytes:
    method, path = choose.choice([("GET", ""), ("GET", "/input_items"), ("GET", "/input_items?limit=1000000&after=x"), ("DELETE", ""), ("POST", "/cancel"), ("GET", "?stream=true"), ("PUT", "")])
    lines = [f"{method} /v1/responses/{name}{path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Length: 0"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def left_early(choose: random.Random, data: bytes, leaves: float) -> Attack:
    attack = Attack(data)
    if choose.random() < leaves:
        attack.leaves_after, attack.lingers = choose.choice([choose.random(), 1.0]), choose.random() * 0.5
    return attack


def merged(before: End, end: End) -> End:
    """The later end, with what was wrong before, too."""
    end.seconds = max(before.seconds, end.seconds)
    end.faults = before.faults + end.faults
    return end
