"""Export formats. A new format is a pair of functions in this file and an entry in FORMATS."""

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from fasticcl.engine.run.weights import load_model, pack_weights
from fasticcl.errors import UserError, nearest
from fasticcl.export.classifier import Classifier, InputType

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""A function from images to logits and probabilities."""
OUTPUTS = ("logits", "probabilities")
_BATCH = {"images": {0: torch.export.Dim("batch")}}
_MAX_ONNX_WEIGHTS = 2**31 - 2**24  # bytes. Protobuf limits a file to 2 GB, including the graph.


@dataclass(frozen=True)
class ExportFormat:
    """Functions that serialise a classifier into bytes and load it from a file."""

    pack: Callable[[Classifier], bytes]
    load: Callable[[Path, InputType], Forward]
    required_modules: tuple[str, ...] = ()
    """Modules that both functions import, from the extra ``export``."""
    has_graph: bool = True
    """True if the file contains the computation with normalisation and softmax, not only weights."""


def find_format(name: str) -> ExportFormat:
    """Return a format by name.

    Raises:
        UserError: if there is no format of this name, or a package that it requires is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"There is no format {name!r}. {nearest(name, FORMATS)}")
    for module in FORMATS[name].required_modules:
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"--format {name} needs {module}. Install it with: pip install 'fasticcl[export]'"
            ) from None
    return FORMATS[name]


def _trace(classifier: Classifier) -> torch.export.ExportedProgram:
    program = torch.export.export(classifier, (classifier.random_images(2),), dynamic_shapes=_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths on this machine
    return program


def _pack_onnx(classifier: Classifier) -> bytes:
    size = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    if size > _MAX_ONNX_WEIGHTS:
        raise UserError(f"The weights of {size:,} bytes exceed the 2 GB limit of ONNX. Use --format pt2.")
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


def _load_onnx(path: Path, _: InputType) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # By default, onnxruntime pins threads to cores that this process may not be allowed to use.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = session.run(OUTPUTS, {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(probabilities)

    return forward


def _pack_pt2(classifier: Classifier) -> bytes:
    buffer = io.BytesIO()  # torch.export.save to a path hides a full disk behind another error
    torch.export.save(_trace(classifier), buffer, extra_files=classifier.metadata)
    return buffer.getvalue()


def _load_pt2(path: Path, _: InputType) -> Forward:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _pack_safetensors(classifier: Classifier) -> bytes:
    return pack_weights(classifier.network, classifier.description)


def _load_safetensors(path: Path, input: InputType) -> Forward:
    return Classifier(load_model(path), input)


FORMATS: Mapping[str, ExportFormat] = MappingProxyType(
    {
        "onnx": ExportFormat(_pack_onnx, _load_onnx, required_modules=("onnx", "onnxscript", "onnxruntime")),
        "pt2": ExportFormat(_pack_pt2, _load_pt2),
        "safetensors": ExportFormat(_pack_safetensors, _load_safetensors, has_graph=False),
    }
)
