#!/usr/bin/env python3
"""Writes models/golden/smollm.json: what the real model's weights say in single precision, by PyTorch.

`perplexity` holds texts with their tokens and the sum of their negative log-probabilities: by PyTorch over the GGUF's
weights as they are, and by ONNX Runtime's own kernels over the folder that make_smollm.py writes. `greedy` holds chats with the tokens
of their rendered prompts and PyTorch's greedy answers. `texts` holds texts with their tokens by Hugging Face's
tokenizer. Needs models/requirements.txt.

    python models/make_smollm_golden.py --gguf FILE --folder DIR
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: the library writes into HOME otherwise

import numpy as np
import onnxruntime
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from make_smollm import Gguf, in_order

MODELS = Path(__file__).resolve().parent
OUT = MODELS / "golden" / "smollm.json"
ANSWER_TOKENS = 48

PROSE = """\
A lighthouse is a tower built to send out a bright light so that sailors can find their way at night. The first ones
were open fires on hills near the entrance of a harbour. Later, people put the fire on a platform, because a light that
stands higher can be seen from further away. For a long time the fuel was wood or coal; oil lamps took its place in the
eighteenth century, and a hundred years later came the great glass lenses that gather nearly all of the light and send
it out as a narrow beam. Each lighthouse has a pattern of its own: some flash twice every ten seconds, others shine for
three seconds and go dark for one. A captain who counts the seconds between the flashes can look the pattern up in a
book and knows which tower it is, and so where the ship is. Today most ships find their position with satellites, and
most lighthouses work without anybody living in them. People still like them, and many are kept as museums."""

LETTER = """\
Dear Maria,

Thank you for your letter and for the photographs of the new garden. The apple trees look much healthier than last
year, and I am glad that the fence keeps the rabbits out at last. We had a cold spring here. The tomatoes were planted
two weeks late, but they are growing well now, and if the weather stays dry we will have more than we can eat in August.
Peter started his new job at the hospital on Monday. He has to get up at five every morning, which he does not enjoy,
but he likes the people he works with. He asked me to tell you that the book you lent him is the best thing that he has
read in years, and that he will send it back as soon as his sister has finished it.

When are you coming to see us? The guest room is ready, and the children ask about you every day.

With love,
Anna"""

PYTHON = """\
def merge_sort(values):
    \"\"\"Return a new list with the values in ascending order.\"\"\"
    if len(values) <= 1:
        return list(values)
    middle = len(values) // 2
    left = merge_sort(values[:middle])
    right = merge_sort(values[middle:])
    result = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    result.extend(left[i:])
    result.extend(right[j:])
    return result


if __name__ == "__main__":
    numbers = [5, 2, 9, 1, 5, 6]
    print(merge_sort(numbers))
    assert merge_sort([]) == []
    assert merge_sort([3]) == [3]
"""

RECIPE = """\
Pancakes for four people

Ingredients: 250 g of flour, 2 eggs, half a litre of milk, a pinch of salt, one tablespoon of sugar, and some butter for
the pan.

1. Put the flour, the salt and the sugar into a large bowl and make a hole in the middle.
2. Break the eggs into the hole, add a little milk, and stir until there are no lumps.
3. Add the rest of the milk slowly while stirring, and let the batter rest for twenty minutes.
4. Melt a little butter in a hot pan, pour in a ladle of batter, and turn the pan so that it spreads evenly.
5. When the edges turn brown and the top is dry, turn the pancake over and bake the other side for half a minute.

Serve them warm with lemon and sugar, with jam, or with fresh berries and cream."""

SCIENCE = """\
Water boils when its molecules have enough energy to escape from the liquid against the pressure of the air above it. At
sea level this happens at 100 degrees Celsius. On a high mountain the air is thinner and presses less, so water boils at
a lower temperature: at about 90 degrees on a mountain of three thousand metres. That is why it takes longer to cook
potatoes there, although the water is boiling. A pressure cooker does the opposite. Its lid is closed tightly, the steam
cannot leave, the pressure rises to about twice that of the air, and the water boils at 120 degrees. Food is done in a
third of the time. Salt raises the boiling point as well, but only by about half a degree for each spoon in a litre, so
it is added for the taste and not to save time."""

#: Texts whose tokens are not plain words: other scripts, emoji, digits, white space, control tokens spelt out.
ODD = ["", " ", "\n\n\n", "\t\tx", "1234567890", "3.14159", "naïve café", "Grüße aus Köln", "你好，世界", "Привет, мир",
       "👩‍👩‍👧‍👦 and 🦊", "a" * 50, "foo_bar(baz[3]);", "don't can't I'm", "  leading and trailing  ", "e\u0301", "\u200b\ufeff",
       "https://example.org/a?b=c&d=%20"]

CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write one sentence about the sea."}],
    [{"role": "user", "content": "List three fruits."}],
    [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Who wrote Hamlet?"}],
    [{"role": "user", "content": "Explain in two sentences why the sky is blue."}],
    [{"role": "user", "content": "Write a Python function that adds two numbers."}],
    [{"role": "user", "content": "Translate to French: Good morning, my friend."}],
    [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Nice to meet you, Ada!"},
     {"role": "user", "content": "What is my name?"}],
    [{"role": "user", "content": f"Summarise this text in one sentence:\n\n{PROSE}"}],
    [{"role": "user", "content": f"What temperature does the text name for the pressure cooker?\n\n{SCIENCE}"}],
    [{"role": "user", "content": f"Who has a new job?\n\n{LETTER}"}],
    [{"role": "user", "content": "Give me a short poem about winter."}],
]


def checkpoint(gguf: Gguf) -> LlamaForCausalLM:
    shape = gguf.shape()
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context, rms_norm_eps=shape.epsilon, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
    )
    state = {"model.embed_tokens.weight": gguf.tensor("token_embd.weight"),
             "lm_head.weight": gguf.tensor("token_embd.weight"), "model.norm.weight": gguf.tensor("output_norm.weight")}
    for layer in range(shape.layers):
        source, to = f"blk.{layer}.", f"model.layers.{layer}."
        state[to + "self_attn.q_proj.weight"] = in_order(gguf.tensor(source + "attn_q.weight"), shape.heads)
        state[to + "self_attn.k_proj.weight"] = in_order(gguf.tensor(source + "attn_k.weight"), shape.kv_heads)
        for name, part in (("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
                           ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
                           ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
            state[f"{to}{name}.weight"] = gguf.tensor(f"{source}{part}.weight")
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()})
    return model.eval()


def loss(logits: np.ndarray, ids: list[int]) -> float:
    """The sum of the negative log-probabilities of all tokens but the first."""
    logits = logits.astype(np.float64)[:-1]
    logits -= logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(axis=-1))
    return float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum())


def export_logits(session: onnxruntime.InferenceSession, ids: list[int]) -> np.ndarray:
    feeds: dict[str, np.ndarray] = {"input_ids": np.array([ids], dtype=np.int64),
                                    "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}
    for given in session.get_inputs():
        if given.name.startswith("past"):
            feeds[given.name] = np.zeros((1, given.shape[1], 0, 64), dtype=np.float32)
    (logits,) = session.run(["logits"], feeds)
    return logits[0]


def greedy(model: LlamaForCausalLM, ids: list[int], ends: set[int]) -> tuple[list[int], list[float]]:
    """The answer's tokens, and how far each is ahead of the next best, in log-probability."""
    tokens: list[int] = []
    margins: list[float] = []
    past, given = None, torch.tensor([ids])
    with torch.no_grad():
        while len(tokens) < ANSWER_TOKENS:
            out = model(given, past_key_values=past, use_cache=True)
            past = out.past_key_values
            best = torch.topk(torch.log_softmax(out.logits[0, -1].double(), -1), 2)
            token = int(best.indices[0])
            tokens.append(token)
            margins.append(round(float(best.values[0] - best.values[1]), 4))
            if token in ends:
                break
            given = torch.tensor([[token]])
    return tokens, margins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="what make_smollm.py wrote")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(arguments.folder / "tokenizer.json"))
    settings = json.loads((arguments.folder / "tokenizer_config.json").read_text())
    tokenizer.chat_template = settings["chat_template"]
    gguf = Gguf(arguments.gguf)
    model = checkpoint(gguf)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(arguments.folder / "model.onnx"), options,
                                           providers=["CPUExecutionProvider"])
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    perplexity: list[dict[str, Any]] = []
    for name, text in (("prose", PROSE), ("letter", LETTER), ("python", PYTHON), ("recipe", RECIPE),
                       ("science", SCIENCE), ("licence", (MODELS.parent / "LICENSE").read_text())):
        ids = encode(text)
        with torch.no_grad():
            exact = loss(model(torch.tensor([ids])).logits[0].numpy(), ids)
        perplexity.append({"name": name, "text": text, "tokens": ids, "loss_fp32": round(exact, 4),
                           "loss_int4": round(loss(export_logits(session, ids), ids), 4)})
    answers = []
    ends = {gguf.field("tokenizer.ggml.eos_token_id")}
    for messages in CHATS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = encode(rendered)
        tokens, margins = greedy(model, ids, ends)
        answers.append({"messages": messages, "prompt_tokens": ids, "tokens": tokens, "margins": margins,
                        "text": tokenizer.decode(tokens, skip_special_tokens=True)})
    texts = [{"text": text, "tokens": encode(text)} for text in ODD]
    made = {"made_by": "models/make_smollm_golden.py", "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__, "perplexity": perplexity, "greedy": answers, "texts": texts}
    OUT.write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")
    for key in ("loss_fp32", "loss_int4"):
        count = sum(len(entry["tokens"]) - 1 for entry in perplexity)
        print(key, np.exp(sum(entry[key] for entry in perplexity) / count))
    for answer in answers:
        print(repr(answer["text"][:100]), min(answer["margins"]))


if __name__ == "__main__":
    main()
