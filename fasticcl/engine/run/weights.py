"""Released weights: ``model.safetensors`` with encoder, classifier and a description."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from fasticcl.config import Config, Data
from fasticcl.engine.run.checkpoint import BEST, BestEpoch
from fasticcl.engine.run.folder import CONFIG, WEIGHTS, RunFolder, nearby_runs
from fasticcl.errors import UserError
from fasticcl.method.network import Network

FORMAT = 1
_ENTRY = "fasticcl"  # a single metadata entry, because safetensors does not keep the order of several
_EXPECTED = f"Expected a run folder, or the {WEIGHTS} of a run"


class Description(BaseModel):
    """The metadata of a weights file."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    dataset: str
    method: str
    encoder: str
    classes: list[str]
    """[K] names, in the order of the logits."""
    train_counts: list[int]
    """[K] training images of each class."""
    image_size: int
    """Side of the square images, in pixels."""
    eval_resize: int
    """Short side before the centre crop, in pixels. 0: the whole image is resized to image_size."""
    mean: tuple[float, float, float]
    """Channel means, for pixels from 0 to 1."""
    std: tuple[float, float, float]
    """Channel standard deviations, for pixels from 0 to 1."""

    @classmethod
    def of(cls, config: Config, classes: list[str], train_counts: NDArray[np.integer]) -> "Description":
        """Describe the weights of a run, without paths or details of the machine."""
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
        """The preprocessing of the network, as a configuration of the evaluation loader."""
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
    """A trained network and its description."""

    network: Network
    """Encoder and classifier in evaluation mode, on the CPU, without gradients."""
    description: Description
    path: Path
    """The weights file."""
    run: Path | None
    """The run folder that contains the file, or None if it is not in a run folder."""


def pack_weights(network: Network, description: Description) -> bytes:
    """Return the content of ``model.safetensors``: encoder and classifier as contiguous tensors."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors, {_ENTRY: description.model_dump_json()})


def load_model(path: Path, *, best: bool = False) -> Model:
    """Load the network of a finished run, or of a weights file copied from one.

    Args:
        path: a run folder, or a ``model.safetensors`` in any folder.
        best: if True, load the weights of the best epoch, which was chosen on the evaluated split, instead
            of the last epoch.

    Raises:
        UserError: the file is missing, damaged or not from fasticcl, or the run is not finished.
    """
    run = path if path.is_dir() else path.parent if (path.parent / CONFIG).is_file() else None
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There are no finished weights in {path}. {_advice(path)}")
    description, weights = _read(file)
    if best:
        if run is None:
            raise UserError(f"{file} contains only the last epoch's weights. Use the run folder instead.")
        weights = BestEpoch.load(run / BEST).network
    try:
        network = Network.restore(description.encoder, weights)
        if len(network.classifier.weight) != len(description.classes):
            raise RuntimeError("the classifier has another number of classes")
    except RuntimeError:
        raise UserError(
            f"The tensors in {file} do not match the encoder {description.encoder}. {_EXPECTED}."
        ) from None
    return Model(network.eval().requires_grad_(False), description, file, run)


def _advice(path: Path) -> str:
    if not (path / CONFIG).is_file():
        return f"{_EXPECTED}.{nearby_runs(path, WEIGHTS)}"
    return RunFolder.open(path).how_to_finish


def _read(file: Path) -> tuple[Description, dict[str, torch.Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            entry = (opened.metadata() or {}).get(_ENTRY)
        weights = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors ({error}). {_EXPECTED}.") from None
    if entry is None:
        raise UserError(f"{file} has no fasticcl metadata, so fasticcl did not write it. {_EXPECTED}.")
    try:
        description = Description.model_validate_json(entry)
    except ValidationError:
        raise UserError(f"The metadata of {file} has unknown or missing fields. {_EXPECTED}.") from None
    if description.format > FORMAT:
        raise UserError(
            f"{file} was written by a newer fasticcl (format {description.format}). Update fasticcl."
        )
    return description, weights
