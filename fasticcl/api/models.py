"""Using trained models."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasticcl.models.classifier import Input
    from fasticcl.models.export import Exported


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    output: str | Path | None = None,
    input: "Input" = "uint8",
    best: bool = False,
) -> "Exported":
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
    from fasticcl.models import export as exporting

    return exporting.export(Path(model), format, Path(output) if output else None, input, best)
