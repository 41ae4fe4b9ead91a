"""A trained model as a file for other programs, checked before it gets its name."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fasticcl.engine.run.weights import WEIGHTS, Model, load_model
from fasticcl.errors import ExportFailed, UserError
from fasticcl.export.classifier import Classifier, Input, input_of, output_of
from fasticcl.export.formats import Format, Forward, find
from fasticcl.export.model_card import CARD, card
from fasticcl.files import replacing, write_file

TOLERANCE = 1e-4
BATCHES = (1, 3)
"""Sizes of the batches that are compared: the smallest, and one that the graph was not traced with."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and its card."""

    file: Path
    card: Path
    input: str | None
    """Name, type, shape and range of the input in one line; None: the file holds weights alone."""
    output: str | None
    """Names, type and shape of the outputs in one line; None likewise."""
    difference: float
    """Largest difference from PyTorch, as `difference` measures it."""


def export(path: Path, format: str, output: Path | None, input: Input, best: bool) -> Exported:
    """Write a trained model in a format, and ``MODEL_CARD.md`` beside it.

    The file is read back and run on random images; only then it gets its name. A card that is there is
    replaced: it is about the file that was exported last.

    Args:
        path: a run folder, or the weights of one.
        format: onnx, pt2 or safetensors.
        output: the file; None: beside the weights and called as they are, or ``best``.
        input: what the file takes, see `Classifier`.
        best: take the weights of the run's best epoch.

    Raises:
        UserError: bad input, a missing package, or a file that cannot be written.
        ExportFailed: the file does not compute what PyTorch computes; nothing is left of it.
    """
    chosen = find(format)
    if input != "uint8" and not chosen.has_graph:
        raise UserError(f"A {format} file holds weights alone and has no input; leave out --input.")
    model = load_model(path, best=best)
    classifier = Classifier(model, input)
    output = output or model.path.with_name(f"{'best' if best else model.path.stem}.{format}")
    _check_name(output, format, model, best)
    written = output.with_name(CARD)
    try:
        with replacing(output) as file:
            file.write(chosen.pack(classifier))
            file.flush()
            found = _checked(classifier, chosen, Path(str(file.name)))
            text = card(model, output.name, format, input, best)
        write_file(written, text.encode())
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror}; choose another --output.") from None
    if not chosen.has_graph:
        return Exported(output, written, None, None, found)
    return Exported(output, written, input_of(model.description, input), output_of(model.description), found)


def _check_name(output: Path, format: str, model: Model, best: bool) -> None:
    """Raise UserError where the name is that of another format, or of weights that would be lost."""
    if output.suffix != f".{format}":
        raise UserError(f"{output} is to be a {format} file; end its name with .{format}.")
    is_run_weights = model.run is not None and output.resolve() == (model.run / WEIGHTS).resolve()
    if is_run_weights and (best or model.path.name != WEIGHTS):
        raise UserError(f"{output} holds the weights of the run's last epoch; choose another --output.")


def _checked(classifier: Classifier, format: Format, path: Path) -> float:
    """Return how far a file is from PyTorch.

    Raises:
        ExportFailed: too far.
    """
    forward = format.load(path, classifier.input)
    found = float(
        torch.stack([difference(classifier, forward, classifier.random_images(n)) for n in BATCHES]).max()
    )
    if not found <= TOLERANCE:
        raise ExportFailed(
            f"What was written differs from PyTorch by {found:.1e}, more than {TOLERANCE:.0e}, and is "
            "removed; try another --format, and report this with the versions of torch and onnxruntime."
        )
    return found


@torch.no_grad()
def difference(expected: Forward, found: Forward, images: torch.Tensor) -> torch.Tensor:
    """Return the largest difference between two classifiers' logits and probabilities, a scalar.

    Logits differ by a share of the largest of them where that is above 1. NaN, if anything is NaN.
    """
    pairs = zip(expected(images), found(images), strict=True)
    return torch.stack(
        [(one - other).abs().max() / one.abs().max().clamp(min=1) for one, other in pairs]
    ).max()
