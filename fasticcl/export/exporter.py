"""Export a trained model into a file that is verified before it appears under its name."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fasticcl.engine.run.weights import WEIGHTS, Model, load_model
from fasticcl.errors import ExportFailed, UserError
from fasticcl.export.classifier import Classifier, InputType, input_signature, output_signature
from fasticcl.export.formats import ExportFormat, Forward, find_format
from fasticcl.export.model_card import MODEL_CARD, model_card
from fasticcl.files import replacing, write_file

TOLERANCE = 1e-4
BATCH_SIZES = (1, 3)
"""Batch sizes that are verified: the smallest, and one that differs from the batch used for tracing."""


@dataclass(frozen=True)
class ExportResult:
    """Paths and signature of an exported model."""

    file: Path
    card: Path
    input: str | None
    """Name, data type, shape and range of the input in one line, or None if the file holds only weights."""
    output: str | None
    """Names, data type and shape of the outputs in one line, or None if the file holds only weights."""
    difference: float
    """Largest difference from PyTorch, as defined by `difference`."""


def export(path: Path, format: str, output: Path | None, input: InputType, best: bool) -> ExportResult:
    """Export a trained model and write ``MODEL_CARD.md`` next to it.

    The file is loaded again and run on random images, and appears under its name only if the outputs
    match. An existing card is replaced, because the card describes the latest export.

    Args:
        path: a run folder, or the weights of a run.
        format: onnx, pt2 or safetensors.
        output: path of the file, or None for a file next to the weights that is named after them
            (``best`` for the best epoch).
        input: type of the input, see `Classifier`.
        best: if True, export the weights of the best epoch.

    Raises:
        UserError: if the arguments are invalid, a package is missing or a file cannot be written.
        ExportFailed: if the outputs differ from PyTorch. The file is removed.
    """
    export_format = find_format(format)
    if input != "uint8" and not export_format.has_graph:
        raise UserError(f"A {format} file holds only weights and has no input. Omit --input.")
    model = load_model(path, best=best)
    classifier = Classifier(model, input)
    output = output or model.path.with_name(f"{'best' if best else model.path.stem}.{format}")
    _check_output(output, format, model, best)
    card = output.with_name(MODEL_CARD)
    try:
        with replacing(output) as file:
            file.write(export_format.pack(classifier))
            file.flush()
            error = _verify(classifier, export_format, Path(str(file.name)))
            text = model_card(model, output.name, format, input, best)
        write_file(card, text.encode())
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror}. Choose another --output.") from None
    if not export_format.has_graph:
        return ExportResult(output, card, None, None, error)
    description = model.description
    return ExportResult(
        output, card, input_signature(description, input), output_signature(description), error
    )


def _check_output(output: Path, format: str, model: Model, best: bool) -> None:
    """Raise UserError if the name does not fit the format, or would overwrite other weights of the run."""
    if output.suffix != f".{format}":
        raise UserError(f"The name of a {format} file must end with .{format}, got {output}.")
    is_run_weights = model.run is not None and output.resolve() == (model.run / WEIGHTS).resolve()
    if is_run_weights and (best or model.path.name != WEIGHTS):
        raise UserError(f"{output} holds the weights of the last epoch of the run. Choose another --output.")


def _verify(classifier: Classifier, export_format: ExportFormat, path: Path) -> float:
    """Return the largest difference of an exported file from PyTorch.

    Raises:
        ExportFailed: if the difference exceeds `TOLERANCE`.
    """
    forward = export_format.load(path, classifier.input)
    differences = [difference(classifier, forward, classifier.random_images(n)) for n in BATCH_SIZES]
    largest = float(torch.stack(differences).max())
    if not largest <= TOLERANCE:  # also if it is NaN
        raise ExportFailed(
            f"The exported file was removed because its outputs differ from PyTorch by {largest:.1e}, more "
            f"than {TOLERANCE:.0e}. Try another --format, and report this with the versions of torch and "
            "onnxruntime."
        )
    return largest


@torch.no_grad()
def difference(expected: Forward, actual: Forward, images: torch.Tensor) -> torch.Tensor:
    """Return the largest difference between the logits and probabilities of two classifiers, a scalar.

    Differences are relative to the largest expected value if that exceeds 1, else absolute. The result is
    NaN if any output is NaN.
    """
    pairs = zip(expected(images), actual(images), strict=True)
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp(min=1) for a, b in pairs]).max()
