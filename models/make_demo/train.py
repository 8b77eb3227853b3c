"""Trains the demo model on the CPU, the last part through int4 rounding, and saves a snapped checkpoint."""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

from . import data, quant, tasks
from .common import CHECKPOINT, CONTEXT, ENDOFTEXT, IM_END, SEED, SHAPE, VOCAB, WORK

SAVE_EVERY = 100
STATE = WORK / "train_state.pt"
#: (steps, peak) for each of tasks.MIXES: the whole mix; then more of what needs many examples (copying
#: words); then the sums with one digit on a side, which uniform draws seldom hold; then counting.
PHASES = ((2600, 1.0), (1500, 0.6), (700, 0.4), (450, 0.3))
STEPS = sum(steps for steps, _ in PHASES)
#: From here on the weights are rounded to int4 in every forward pass.
QUANT_FROM = 1560
WARMUP = 60
PEAK_RATE = 2e-3
MUON_RATE = 1.5e-2


def config() -> Phi3Config:
    return Phi3Config(
        vocab_size=VOCAB,
        **SHAPE,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=CONTEXT,
        rope_theta=250000.0,
        rope_scaling=None,
        sliding_window=None,
        rms_norm_eps=1e-5,
        hidden_act="silu",
        tie_word_embeddings=False,
        bos_token_id=ENDOFTEXT,
        eos_token_id=IM_END,
        pad_token_id=VOCAB - 1,
        dtype="float32",
    )


def locate(step: int) -> tuple[int, int]:
    """The phase of a step, and its number within the phase."""
    phase = 0
    while step >= PHASES[phase][0]:
        step -= PHASES[phase][0]
        phase += 1
    return phase, step


def make_batch(step: int) -> data.Batch:
    """A function of the step alone, so that worker processes cannot change the result."""
    phase, _ = locate(step)
    return data.batch(random.Random(SEED * 1_000_003 + step), step, tasks.MIXES[phase])


def batches(first: int, steps: int) -> Iterator[tuple[int, data.Batch]]:
    with ProcessPoolExecutor(1) as pool:
        ahead = deque((step, pool.submit(make_batch, step)) for step in range(first, min(first + 8, steps)))
        while ahead:
            step, future = ahead.popleft()
            if step + 8 < steps:
                ahead.append((step + 8, pool.submit(make_batch, step + 8)))
            yield step, future.result()


def attention_mask(segments: Tensor) -> Tensor:
    """Causal, and within one segment only; True = may look."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]


def loss_of(model: Phi3ForCausalLM, batch: data.Batch) -> Tensor:
    ids = torch.from_numpy(batch.ids)
    weights = torch.from_numpy(batch.weights)[:, 1:]
    hidden = model.model(
        input_ids=ids,
        position_ids=torch.from_numpy(batch.positions),
        attention_mask=attention_mask(torch.from_numpy(batch.segments)),
        use_cache=False,
    ).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = model.lm_head(hidden[chosen])
    losses = functional.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
    kept = weights[chosen]
    return (losses * kept).sum() / kept.sum()


def optimizers(model: Phi3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    return [
        torch.optim.Muon(inner, lr=MUON_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int) -> float:
    """The share of the peak rate: a short warm-up, then a cosine down to 2%, once for each phase."""
    phase, step = locate(step)
    steps, peak = PHASES[phase]
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    progress = (step - WARMUP) / (steps - WARMUP)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Trainer:
    """Model and optimizers, and what of them an interrupted run needs to go on."""

    model: Phi3ForCausalLM
    tools: list[torch.optim.Optimizer]
    peaks: list[list[float]]
    quantised: bool = False

    def start_quantising(self) -> None:
        if not self.quantised:
            quant.start_fake_quantisation(self.model)
            self.quantised = True

    def step(self, step: int, batch: data.Batch) -> float:
        for tool, peak in zip(self.tools, self.peaks):
            for group, top in zip(tool.param_groups, peak):
                group["lr"] = top * rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for tool in self.tools:
            tool.step()
            tool.zero_grad(set_to_none=True)
        return loss.item()

    def store(self, step: int) -> None:
        torch.save({"step": step, "quantised": self.quantised, "model": self.model.state_dict(),
                    "tools": [tool.state_dict() for tool in self.tools]}, STATE)
        save(self.model)

    def restore(self) -> int:
        state = torch.load(STATE)
        if state["quantised"]:
            self.start_quantising()
        self.model.load_state_dict(state["model"])
        for tool, stored in zip(self.tools, state["tools"]):
            tool.load_state_dict(stored)
        return state["step"] + 1


def train(steps: int, resume: bool) -> None:
    torch.manual_seed(SEED)
    model = Phi3ForCausalLM._from_config(config(), attn_implementation="sdpa")
    tools = optimizers(model)
    trainer = Trainer(model, tools, [[group["lr"] for group in tool.param_groups] for tool in tools])
    first = trainer.restore() if resume and STATE.exists() else 0
    began, smooth = time.monotonic(), None
    for step, batch in batches(first, steps):
        if step >= QUANT_FROM:
            trainer.start_quantising()
        loss = trainer.step(step, batch)
        smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
        if step % 50 == 0:
            print(f"{step:5d} loss {smooth:.4f} {time.monotonic() - began:6.0f} s", flush=True)
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            trainer.store(step)


def save(model: Phi3ForCausalLM) -> None:
    """Writes a copy whose weights lie on the int4 grid, so the export loses nothing more."""
    weights = {name.replace("parametrizations.weight.original", "weight"): value
               for name, value in model.state_dict().items()}
    snapped = Phi3ForCausalLM._from_config(config()).eval()
    snapped.load_state_dict(weights)
    quant.snap_to_grid(snapped)
    CHECKPOINT.mkdir(parents=True, exist_ok=True)
    snapped.save_pretrained(CHECKPOINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2, help="1 is faster on a machine with other work")
    parser.add_argument("--resume", action="store_true", help="go on from the last stored state")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    train(arguments.steps, arguments.resume)


if __name__ == "__main__":
    main()
