"""Released weights (``model.safetensors``) with what is needed to use them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from fasticcl.config import Config, Data
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.engine.run.names import runs_nearby
from fasticcl.errors import UserError
from fasticcl.method.network import Network

WEIGHTS = "model.safetensors"
FORMAT = 1
_ENTRY = "fasticcl"  # one entry, since safetensors keeps several in no order


class Description(BaseModel):
    """What a file of weights says of itself."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    dataset: str
    method: str
    encoder: str
    classes: list[str]
    """[K] names, in the order of the logits."""
    train_counts: list[int]
    """[K] training images per class."""
    image_size: int
    """Side of the square images, in pixels."""
    eval_resize: int
    """Short side before the centre crop; 0: the whole image, resized to image_size."""
    mean: tuple[float, float, float]
    """Channel means on the scale from 0 to 1."""
    std: tuple[float, float, float]
    """Channel standard deviations on the same scale."""

    @classmethod
    def of(cls, config: Config, classes: list[str], train_counts: NDArray[np.integer]) -> "Description":
        """Describe the weights of a run; neither paths nor the machine are mentioned."""
        data = config.data
        return cls(
            dataset=data.dataset,
            method=config.method.name,
            encoder=config.method.encoder,
            classes=classes,
            train_counts=train_counts.tolist(),
            image_size=data.image_size,
            eval_resize=data.eval_resize,
            mean=data.mean,
            std=data.std,
        )

    @property
    def data(self) -> Data:
        """How images are prepared for the network, as the loader of an evaluation takes it."""
        return Data(
            dataset=self.dataset,
            dir=Path(),
            image_size=self.image_size,
            eval_resize=self.eval_resize,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True)
class Model:
    """A trained network with all that is needed to use it."""

    network: Network
    """Encoder and classifier in evaluation mode, on the CPU, without gradients."""
    description: Description
    path: Path
    """The file of the weights."""
    run: Path | None
    """The run folder that it lies in; None: the file is alone."""


def pack_weights(network: Network, description: Description) -> bytes:
    """Return the content of ``model.safetensors``: encoder and classifier in plain contiguous tensors."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors, {_ENTRY: description.model_dump_json()})


def load_model(path: Path, *, best: bool = False) -> Model:
    """Return the network of a finished run, or of a file of weights that was taken from one.

    Args:
        path: a run folder, or its ``model.safetensors`` wherever that is now.
        best: take the weights of the run's best epoch, chosen on the evaluated split, not those of the last.

    Raises:
        UserError: no such file, a damaged or foreign one, or a run that is not finished.
    """
    run = path if path.is_dir() else path.parent if (path.parent / "config.toml").is_file() else None
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There are no finished weights in {path}; {_what_to_do(path)}")
    description, weights = _read(file)
    if best:
        if run is None:
            raise UserError(f"{file} has the weights of the last epoch alone; give the run folder instead.")
        weights = load_checkpoint(run / "best.pt")["network"]
    network = Network(description.encoder, len(description.classes))
    kept = {name: value for name, value in weights.items() if not name.startswith("projection.")}
    try:
        network.load_state_dict(kept)
    except RuntimeError:
        raise UserError(
            f"The tensors in {file} are not those of a {description.encoder}; {_WANTED}."
        ) from None
    return Model(network.eval().requires_grad_(False), description, file, run)


def _what_to_do(path: Path) -> str:
    from fasticcl.engine.run.folder import Run  # which writes what is read here

    if not (path / "config.toml").is_file():
        return f"{_WANTED}.{runs_nearby(path, WEIGHTS)}"
    return Run.open(path).way_on


_WANTED = f"give a run folder, or the {WEIGHTS} of a run"


def _read(file: Path) -> tuple[Description, dict[str, torch.Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            entry = (opened.metadata() or {}).get(_ENTRY)
        weights = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors ({error}); {_WANTED}.") from None
    if entry is None:
        raise UserError(f"{file} does not say what it holds, so fasticcl did not write it; {_WANTED}.")
    try:
        description = Description.model_validate_json(entry)
    except ValidationError:
        raise UserError(
            f"{file} describes itself in a way that this fasticcl does not know; {_WANTED}."
        ) from None
    if description.format > FORMAT:
        raise UserError(
            f"{file} was written by a newer fasticcl (format {description.format}); update this one."
        )
    return description, weights
