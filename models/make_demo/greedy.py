"""Two independent greedy decoders of the demo model: PyTorch on the checkpoint, ONNX Runtime on the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .common import SHAPE, STOP_IDS

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: the library writes into HOME otherwise
import onnxruntime  # noqa: E402

Logits = npt.NDArray[np.float32]
#: Given the new tokens, runs them on top of what came before and returns the last position's logits.
Step = Callable[[list[int]], Logits]


@dataclass
class Completion:
    """`tokens` leaves the stop token out; `min_margin` is the least gap between best and second logit."""

    tokens: list[int]
    finish_reason: str
    stop_token: int | None
    min_margin: float


def margin(logits: Logits) -> float:
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)


def decode(step: Step, prompt: list[int], max_tokens: int) -> Completion:
    tokens: list[int] = []
    logits, least = step(prompt), float("inf")
    while True:
        least = min(least, margin(logits))
        token = int(logits.argmax())
        if token in STOP_IDS:
            return Completion(tokens, "stop", token, least)
        tokens.append(token)
        if len(tokens) == max_tokens:
            return Completion(tokens, "length", None, least)
        logits = step([token])


class OrtModel:
    """Feeds past and present by hand; nothing of onnxruntime-genai."""

    def __init__(self, folder: Path, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(folder / "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.past_names = [i.name for i in self.session.get_inputs() if i.name.startswith("past")]

    def start(self) -> Step:
        head = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
        empty = np.zeros((1, SHAPE["num_key_value_heads"], 0, head), dtype=np.float32)
        past = {name: empty for name in self.past_names}
        length = 0

        def step(tokens: list[int]) -> Logits:
            nonlocal past, length
            length += len(tokens)
            feeds = {"input_ids": np.array([tokens], dtype=np.int64),
                     "attention_mask": np.ones((1, length), dtype=np.int64), **past}
            results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
            past = {name: results[name.replace("past_key_values", "present")] for name in self.past_names}
            return results["logits"][0, -1]

        return step


class TorchModel:
    """The checkpoint through transformers, float32."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import Phi3ForCausalLM

        torch.set_num_threads(2)
        self.torch = torch
        self.model = Phi3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def start(self) -> Step:
        cache = None

        def step(tokens: list[int]) -> Logits:
            nonlocal cache
            with self.torch.inference_mode():
                result = self.model(self.torch.tensor([tokens]), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            return result.logits[0, -1].numpy()

        return step


Model = OrtModel | TorchModel
