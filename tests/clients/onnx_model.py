"""The model itself, run by ONNX Runtime's Python package without a KV cache."""

import json
import pathlib

import numpy
import onnxruntime


class Model:
    """A model folder's graph."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.config = json.loads((folder / "genai_config.json").read_text())["model"]
        self.ends = self.config["eos_token_id"]
        self.session = onnxruntime.InferenceSession(folder / self.config["decoder"]["filename"])

    def logits_of(self, ids: list[int]) -> numpy.ndarray:
        """Logits of every position, [tokens, vocabulary]."""
        decoder = self.config["decoder"]
        feed = {
            "input_ids": numpy.array([ids], numpy.int64),
            "attention_mask": numpy.ones((1, len(ids)), numpy.int64),
        }
        empty = numpy.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), numpy.float32)
        for layer in range(decoder["num_hidden_layers"]):
            for name in ["past_key_names", "past_value_names"]:
                feed[decoder["inputs"][name] % layer] = empty
        return self.session.run(["logits"], feed)[0][0].astype(numpy.float64)
