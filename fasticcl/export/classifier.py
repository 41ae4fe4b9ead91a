"""A trained network with preprocessing and softmax, from 8-bit or float pixels to probabilities."""

import json
from typing import Literal, get_args

import torch
from torch import nn

from fasticcl.engine.run.weights import Description, Model
from fasticcl.errors import UserError, nearest

InputType = Literal["uint8", "float"]
"""Type of the input: 8-bit pixels as decoders return them, or float32 as torchvision's ToTensor does."""


class Classifier(nn.Module):
    """A trained network preceded by normalisation and followed by softmax.

    Args:
        model: the network and its description.
        input: ``uint8`` for [B, S, S, 3] from 0 to 255, ``float`` for float32 [B, 3, S, S] from 0 to 1.

    Raises:
        UserError: the input type does not exist.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Model, input: InputType = "uint8") -> None:
        if input not in get_args(InputType):
            raise UserError(f"There is no --input {input!r}. {nearest(input, get_args(InputType))}")
        super().__init__()
        self.network, self.description, self.input = model.network, model.description, input
        self.register_buffer("mean", torch.tensor(model.description.mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(model.description.std).reshape(3, 1, 1))
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and probabilities, each float32 [B, K]."""
        if self.input == "uint8":
            images = images.permute(0, 3, 1, 2).float() / 255
        logits = self.network((images - self.mean) / self.std).logits
        return logits, logits.softmax(dim=1)

    def random_images(self, count: int, seed: int = 0) -> torch.Tensor:
        """Return random noise with the shape, data type and range of the input."""
        side = self.description.image_size
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
        return pixels if self.input == "uint8" else pixels.permute(0, 3, 1, 2) / 255

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of an exported file: input, output, classes, preprocessing and the model description."""
        return {
            "fasticcl": self.description.model_dump_json(),
            "input": input_signature(self.description, self.input),
            "output": output_signature(self.description),
            "classes": json.dumps(self.description.classes, ensure_ascii=False),
            "preprocessing": json.dumps(preprocessing(self.description, self.input)),
        }


def input_signature(description: Description, input: InputType) -> str:
    """Return name, data type, shape, channels and range of the input in one line."""
    side = description.image_size
    if input == "uint8":
        return f"images: uint8 [batch, {side}, {side}, 3], RGB, 0 to 255"
    return f"images: float32 [batch, 3, {side}, {side}], RGB, 0 to 1"


def output_signature(description: Description) -> str:
    """Return names, data type and shape of the outputs in one line."""
    return f"logits, probabilities: float32 [batch, {len(description.classes)}]"


def preprocessing(description: Description, input: InputType) -> dict[str, object]:
    """Return the preprocessing of evaluation. Only normalisation is part of the graph."""
    side, short_side = description.image_size, description.eval_resize
    return {
        "color": "RGB",
        "resize": {"short_side": short_side} if short_side else {"height": side, "width": side},
        "interpolation": "bilinear, antialiased",
        "center_crop": side,
        "layout": "NHWC" if input == "uint8" else "NCHW",
        "range": [0, 255] if input == "uint8" else [0, 1],
        "normalization": {"in_graph": True, "mean": description.mean, "std": description.std},
    }
