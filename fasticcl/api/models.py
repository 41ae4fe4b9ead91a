"""Prediction with trained models, and their export."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fasticcl.errors import UserError
from fasticcl.options import DeviceName, Option, WorkerThreads, documented
from fasticcl.resolve import configure

if TYPE_CHECKING:
    from fasticcl.export.exporter import ExportResult
    from fasticcl.predict.predictions import Prediction

TrainedModel = Annotated[
    str | Path, Option("Folder of a finished run, or its model.safetensors.", metavar="MODEL")
]
Best = Annotated[
    bool,
    Option("Use the weights of the best epoch, chosen on the evaluated split, instead of the last epoch."),
]


@documented
def predict(
    model: TrainedModel,
    images: Annotated[
        str | Path | Sequence[str | Path],
        Option("Image files, folders with images at any depth, shards or tar files.", metavar="IMAGES"),
    ],
    *,
    topk: Annotated[int, Option("Number of top classes per image.", min=1)] = 5,
    best: Best = False,
    batch_size: Annotated[int, Option("Images per batch.", min=1)] = 64,
    device: DeviceName = None,
    workers: WorkerThreads = None,
) -> "Iterator[Prediction]":
    """Classify images and return an iterator over the predictions, in the order of the images.

    Only a few batches are in memory at a time. An unreadable image gives a prediction with an error.

    Raises:
        UserError: the model or a path does not exist, or there are no images. It is raised before the first
            prediction.
    """
    from fasticcl.engine.run.weights import load_model
    from fasticcl.predict import predictor
    from fasticcl.predict.inputs import find_images
    from fasticcl.system.machine import choose_machine

    for name, value in (("topk", topk), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}.")
    engine = configure("folder", device=device, workers=workers).engine
    paths = [images] if isinstance(images, str | Path) else images
    files = find_images(map(Path, paths))
    return predictor.predict(
        load_model(Path(model), best=best),
        files,
        choose_machine(engine),
        topk=topk,
        batch_size=batch_size,
        threads=engine.workers,
    )


@documented
def export(
    model: TrainedModel,
    *,
    format: Annotated[
        str, Option("File format: onnx, pt2 (torch.export) or safetensors (weights only).", metavar="FORMAT")
    ] = "onnx",
    output: Annotated[
        str | Path | None, Option("File to write. None: next to the weights.", metavar="FILE")
    ] = None,
    input: Annotated[
        Literal["uint8", "float"],
        Option(
            "Type of the input. uint8: [B, S, S, 3] from 0 to 255. float: float32 [B, 3, S, S] from 0 to 1."
        ),
    ] = "uint8",
    best: Best = False,
) -> "ExportResult":
    """Export a trained model for other programs, and write ``MODEL_CARD.md`` next to it.

    The graph includes normalisation and softmax. The metadata contains class names and preprocessing. The
    file is kept only if its outputs differ from those of PyTorch by at most 1e-4, relative to the largest
    logit if it exceeds 1.

    Raises:
        UserError: invalid input, or a missing package.
        ExportFailed: the outputs do not match those of PyTorch. No file is kept.
    """
    from fasticcl.export import exporter

    return exporter.export(Path(model), format, Path(output) if output else None, input, best)
