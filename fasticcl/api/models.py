"""Using trained models."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fasticcl.api.training import configure
from fasticcl.errors import UserError

if TYPE_CHECKING:
    from fasticcl.export.classifier import InputType
    from fasticcl.export.exporter import ExportResult
    from fasticcl.predict.predictions import Prediction


def predict(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    topk: int = 5,
    best: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    workers: int | None = None,
) -> "Iterator[Prediction]":
    """Return an iterator over what a trained network says of pictures, in their order.

    Nothing but a few batches is kept in memory. A picture that cannot be read is a row with its error.

    Args:
        model: a run folder, or its ``model.safetensors`` wherever that is now.
        images: files; folders, searched to any depth; shards, the folder of a conversion or of one of its
            splits; tars.
        topk: classes per picture, the likeliest first; at most all there are.
        best: take the best epoch of the run, not the last.
        batch_size: pictures at a time.
        device: auto, cpu or gpu; None: auto.
        workers: threads that decode; None: one per core.

    Raises:
        UserError: no such model or path, or a folder without pictures; before anything runs.
    """
    from fasticcl.engine.run.weights import load_model
    from fasticcl.predict import predictor as room
    from fasticcl.predict.inputs import find_images
    from fasticcl.system.machine import choose_machine

    for name, value in (("topk", topk), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is at least 1, got {value}.")
    engine = configure("folder", device=device, workers=workers).engine
    paths = [images] if isinstance(images, str | Path) else images
    pictures = find_images(map(Path, paths))
    return room.predict(
        load_model(Path(model), best=best),
        pictures,
        choose_machine(engine),
        topk=topk,
        batch_size=batch_size,
        threads=engine.workers,
    )


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    output: str | Path | None = None,
    input: "InputType" = "uint8",
    best: bool = False,
) -> "ExportResult":
    """Write a trained model as a file for other programs, with ``MODEL_CARD.md`` beside it.

    Normalisation and softmax are in the graph; class names and preprocessing are in the metadata. The file
    gets its name after it has computed what PyTorch computes, to 1e-4 of the largest logit.

    Args:
        model: a run folder, or its ``model.safetensors`` wherever that is now.
        format: onnx, pt2 (`torch.export`) or safetensors (the weights alone).
        output: the file; None: beside the weights.
        input: uint8, [B, S, S, 3] from 0 to 255, or float, float32 [B, 3, S, S] from 0 to 1.
        best: take the weights of the run's best epoch, chosen on the evaluated split.

    Raises:
        UserError: bad input, in one sentence, or a missing package.
        ExportFailed: the file does not compute what PyTorch computes; nothing is left of it.
    """
    from fasticcl.export import exporter as exporting

    return exporting.export(Path(model), format, Path(output) if output else None, input, best)
