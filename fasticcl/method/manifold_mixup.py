"""Manifold mixup (Verma et al., 2019): mix the hidden states of two streams after a block of the encoder."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from fasticcl.errors import UserError, nearest
from fasticcl.method.batch_norm import set_num_streams
from fasticcl.method.encoder_blocks import named_blocks

INPUT = "input"
"""Name of the mixing point before the first block, at which the images are mixed."""


class Mixing(NamedTuple):
    """The second stream of a batch, and how it is mixed with the first one."""

    x_t: torch.Tensor
    """[B, 3, S, S] images of the second stream."""
    lam: torch.Tensor
    """[B] λ, the weight of the first stream."""
    block: str
    """Block after which the streams are mixed, or `INPUT`."""
    statistics: Literal["separate", "split", "concat"]
    """Batch statistics of both streams in the blocks before, as in ``method.bn_mode``."""


def check_blocks(encoder: nn.Module, names: Iterable[str]) -> None:
    """Check that streams can be mixed after blocks with these names.

    Raises:
        UserError: the encoder does not define its blocks or has no block with one of the names.
    """
    known = (INPUT, *named_blocks(encoder))
    for name in names:
        if name not in known:
            raise UserError(f"method.mixup_after: the encoder has no block {name!r}. {nearest(name, known)}")


def draw_block(names: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of the names. All have the same probability."""
    return names[int(rng.integers(len(names)))]


def mixed_features(encoder: nn.Module, x_h: torch.Tensor, mixing: Mixing) -> torch.Tensor:
    """Return the features [B, d_g] of two streams that are mixed after a block of the encoder.

    The blocks up to this one process both streams, and the others the mixed states.

    Args:
        encoder: an encoder with named blocks.
        x_h: [B, 3, S, S] images of the first stream.
        mixing: the second stream, λ and the block.
    """
    blocks = named_blocks(encoder)
    end = (INPUT, *blocks).index(mixing.block)
    before, after = [*blocks.values()][:end], [*blocks.values()][end:]
    if mixing.statistics == "separate" or not before:
        h, t = _apply(before, x_h), _apply(before, mixing.x_t)
    else:
        set_num_streams(encoder, 2 if mixing.statistics == "split" else 1)
        h, t = _apply(before, torch.cat([x_h, mixing.x_t])).chunk(2)
        set_num_streams(encoder, 1)
    return _apply(after, mix(h, t, mixing.lam))


def mix(h: torch.Tensor, t: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """Return λ·h + (1 - λ)·t, computed in float32, for states [B, ...] of one type and λ of [B]."""
    weight = lam.view(-1, *[1] * (h.dim() - 1))
    return (weight * h + (1 - weight) * t).to(h.dtype)


def _apply(blocks: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        x = block(x)
    return x
