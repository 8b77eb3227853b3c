"""Trains the demo model on the CPU, the last part through int4 rounding, and saves a snapped checkpoint."""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

from . import data, quant
from .common import CHECKPOINT, CONTEXT, ENDOFTEXT, IM_END, SEED, SHAPE, VOCAB

STEPS = 2600
SAVE_EVERY = 200
QUANT_FROM = 0.6
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


def make_batch(step: int) -> data.Batch:
    """A function of the step alone, so that worker processes cannot change the result."""
    return data.batch(random.Random(SEED * 1_000_003 + step), step)


def batches(steps: int) -> Iterator[data.Batch]:
    with ProcessPoolExecutor(1) as pool:
        ahead = [pool.submit(make_batch, step) for step in range(min(8, steps))]
        for step in range(steps):
            if step + 8 < steps:
                ahead.append(pool.submit(make_batch, step + 8))
            yield ahead[step].result()
            ahead[step] = None  # type: ignore[call-overload]


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


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def train(steps: int) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = Phi3ForCausalLM._from_config(config(), attn_implementation="sdpa")
    tools = optimizers(model)
    peaks = [[group["lr"] for group in tool.param_groups] for tool in tools]
    began, quantised, smooth = time.monotonic(), False, 0.0
    for step, batch in enumerate(batches(steps)):
        if not quantised and step >= steps * QUANT_FROM:
            quant.start_fake_quantisation(model)
            quantised = True
        for tool, peak in zip(tools, peaks):
            for group, top in zip(tool.param_groups, peak):
                group["lr"] = top * rate(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
            tool.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0:
            print(f"{step:5d} loss {smooth:.4f} {time.monotonic() - began:6.0f} s", flush=True)
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            save(model)


def save(model: Phi3ForCausalLM) -> None:
    """Writes a copy whose weights lie on the int4 grid, so the export loses nothing more."""
    snapped = copy.deepcopy(model).eval()
    quant.snap_to_grid(snapped)
    CHECKPOINT.mkdir(parents=True, exist_ok=True)
    snapped.save_pretrained(CHECKPOINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    train(arguments.steps)


if __name__ == "__main__":
    main()
