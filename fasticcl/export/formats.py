"""The formats that a model is exported in. A new one is a pair of functions here and an entry in FORMATS."""

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from fasticcl.engine.run.weights import load_model, pack_weights
from fasticcl.errors import UserError, nearest
from fasticcl.export.classifier import Classifier, Input

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From images to logits and probabilities."""
OUTPUTS = ("logits", "probabilities")
_BATCH = {"images": {0: torch.export.Dim("batch")}}
_LARGEST_ONNX = 2**31 - 2**24  # bytes of weights in one file of protobuf's 2 GB, room left for the graph


@dataclass(frozen=True)
class Format:
    """How a classifier becomes the content of a file, and how what the file computes is had back."""

    pack: Callable[[Classifier], bytes]
    load: Callable[[Path, Input], Forward]
    needs: tuple[str, ...] = ()
    """Modules of the extra ``export`` that both take."""
    has_graph: bool = True
    """Whether the file holds the computation, with normalisation and softmax, or weights alone."""


def find(name: str) -> Format:
    """Return a format.

    Raises:
        UserError: there is none of this name, or what it takes is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"There is no format {name!r}. {nearest(name, FORMATS)}")
    for module in FORMATS[name].needs:
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"--format {name} needs {module}, which is not installed: pip install 'fasticcl[export]'"
            ) from None
    return FORMATS[name]


def _trace(classifier: Classifier) -> torch.export.ExportedProgram:
    program = torch.export.export(classifier, (classifier.random_images(2),), dynamic_shapes=_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine, for every operation
    return program


def _pack_onnx(classifier: Classifier) -> bytes:
    size = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    if size > _LARGEST_ONNX:
        raise UserError(f"An ONNX file holds 2 GB, and these weights are {size:,} bytes; use --format pt2.")
    program = torch.onnx.export(
        _trace(classifier),
        dynamo=True,
        verbose=False,
        input_names=[*_BATCH],
        output_names=OUTPUTS,
        dynamic_shapes=_BATCH,
    )
    assert program is not None, "dynamo=True returns a program"
    program.model.metadata_props.update(classifier.metadata)
    return program.model_proto.SerializeToString()


def _load_onnx(path: Path, _: Input) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Without a number it pins its threads to cores, some of which may not be ours.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = session.run(OUTPUTS, {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(probabilities)

    return forward


def _pack_pt2(classifier: Classifier) -> bytes:
    buffer = io.BytesIO()  # torch's own writing hides a full disk behind another error
    torch.export.save(_trace(classifier), buffer, extra_files=classifier.metadata)
    return buffer.getvalue()


def _load_pt2(path: Path, _: Input) -> Forward:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _pack_safetensors(classifier: Classifier) -> bytes:
    return pack_weights(classifier.network, classifier.description)


def _load_safetensors(path: Path, input: Input) -> Forward:
    return Classifier(load_model(path), input)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(_pack_onnx, _load_onnx, needs=("onnx", "onnxscript", "onnxruntime")),
        "pt2": Format(_pack_pt2, _load_pt2),
        "safetensors": Format(_pack_safetensors, _load_safetensors, has_graph=False),
    }
)
