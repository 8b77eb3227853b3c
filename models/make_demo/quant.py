"""The model builder's int4 round-to-nearest rule, for training through it and for snapping to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BLOCK = 32


def int4_round(weight: Tensor) -> Tensor:
    """Symmetric, blocks of 32 along K: scale = the signed value of greatest size / -8, values -8..7."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows, columns // BLOCK, BLOCK)
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = extreme / -8.0
    levels = (blocks / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(-8, 7)
    return (levels * scale).reshape(rows, columns)


class FakeInt4(nn.Module):
    """Rounds in the forward pass, passes the gradient straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (int4_round(weight.detach()) - weight.detach())


def quantised_linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def start_fake_quantisation(model: nn.Module) -> None:
    for linear in quantised_linears(model):
        parametrize.register_parametrization(linear, "weight", FakeInt4())


def snap_to_grid(model: nn.Module) -> None:
    """Moves the weights of a model without fake quantisation onto the int4 grid."""
    with torch.no_grad():
        for linear in quantised_linears(model):
            linear.weight.copy_(int4_round(linear.weight))
