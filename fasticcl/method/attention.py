"""Modulated attention before the pooling of an encoder (OLTR, Liu et al., 2019)."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method.encoder_blocks import named_blocks

IMAGE_SIZE = 224
"""Side of the images for which attention is defined, in pixels."""
_SIDE = 7
_STATE = "encoder.attention."


class ModulatedAttention(nn.Module):
    """Self-attention between positions, added to the maps with a weight for each position.

    With maps x of C channels at P positions, the context is softmax(θ(x)ᵀφ(x))·g(x), where θ, φ and g are
    convolutions of 1×1 with C/2 channels, and the result is x + softmax(W_s·x + b_s)⊙mask(context), where the
    second softmax is over the positions. All weights of ``mask`` start at 0, so the result starts as x. The
    computation is in float32.

    Args:
        channels: C.
        positions: P, because W_s has a weight for each channel and position.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.mask = nn.Conv2d(inner, channels, 1, bias=False)
        self.spatial = nn.Linear(channels * positions, positions)
        for convolution in (self.theta, self.phi, self.g):
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(self.mask.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps of the shape and type of ``maps`` [B, C, H, W]."""
        # The scalar products are not scaled, so bfloat16 would round the exponents to whole numbers.
        with torch.autocast(maps.device.type, enabled=False):
            x = maps.float()
            theta, phi, g = (project(x).flatten(2) for project in (self.theta, self.phi, self.g))
            attention = (theta.transpose(1, 2) @ phi).softmax(dim=2)
            context = (g @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
            spatial = self.spatial(x.flatten(1)).softmax(dim=1).unflatten(1, (1, *x.shape[2:]))
            return (x + spatial * self.mask(context)).to(maps.dtype)


class AttentionEncoder(nn.Module):
    """An encoder with attention between its last stage and its pooling.

    Args:
        encoder: an encoder that defines its blocks. They are shared.
        attention: maps its last maps to maps of the same shape.
    """

    def __init__(self, encoder: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.encoder, self.attention = encoder, attention
        # A dict does not register them as submodules, which would duplicate the weights in the state dict.
        self._blocks = {**named_blocks(encoder)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features [B, d_g] of images [B, 3, H, W]."""
        x = images
        for name, block in self._blocks.items():
            x = block(self.attention(x) if name == "pool" else x)
        return x


def add_attention(encoder: nn.Module, image_size: int = IMAGE_SIZE) -> AttentionEncoder:
    """Return an encoder with attention, with new weights on the CPU.

    Args:
        encoder: the encoder, which is shared.
        image_size: side of the images in pixels.

    Raises:
        UserError: the encoder does not define its blocks.
    """
    channels, height, width = last_maps(encoder, image_size)
    return AttentionEncoder(encoder, ModulatedAttention(channels, height * width))


def check_attention(encoder: nn.Module) -> None:
    """Check that the last maps of an encoder have 7×7 positions for images of 224 pixels.

    Raises:
        UserError: they have another size, or the encoder does not define its blocks.
    """
    _, height, width = last_maps(encoder, IMAGE_SIZE)
    if (height, width) != (_SIDE, _SIDE):
        raise UserError(
            f"rebalance.attention requires an encoder with 7×7 positions for images of {IMAGE_SIZE} pixels, "
            f"but this one has {height}×{width}. Choose another method.encoder, or set "
            "rebalance.attention=false."
        )


def last_maps(encoder: nn.Module, image_size: int) -> torch.Size:
    """Return the channels, height and width of the maps that an encoder pools."""
    # On the device "meta", a copy computes only shapes.
    blocks = {**named_blocks(copy.deepcopy(encoder).eval().to("meta"))}
    blocks.pop("pool")
    x = torch.empty(1, 3, image_size, image_size, device="meta")
    for block in blocks.values():
        x = block(x)
    return x.shape[1:]


def restore_attention(encoder: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return an encoder with attention if the state dict of a network has one, or else the encoder.

    Args:
        encoder: the encoder without attention.
        state: state dict of the network.
    """
    mask, spatial = state.get(f"{_STATE}mask.weight"), state.get(f"{_STATE}spatial.weight")
    if mask is None or spatial is None:
        return encoder
    return AttentionEncoder(encoder, ModulatedAttention(len(mask), len(spatial)))
