"""``MODEL_CARD.md``: usage, data, training, accuracy, limits and licence of an exported model."""

import json
from collections.abc import Iterable, Iterator

import numpy as np

from fasticcl.convert.layouts import digits
from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.engine.evaluate import Metrics
from fasticcl.engine.run.weights import Description, Model
from fasticcl.export import card_history
from fasticcl.export.classifier import InputType, input_signature, output_signature
from fasticcl.export.snippets import REQUIREMENTS, usage_snippet
from fasticcl.longtail import FEW_BELOW, MANY_ABOVE, class_groups
from fasticcl.method.two_tails import TwoTailEncoder
from fasticcl.preset_files import MethodPreset, preset_names
from fasticcl.report.run_history import RunHistory

MODEL_CARD = "MODEL_CARD.md"
_CITATION = """\
@article{tiong2021improving,
  title   = {Improving Tail-Class Representation with Centroid Contrastive Learning},
  author  = {Tiong, Anthony Meng Huat and Li, Junnan and Lin, Guosheng and Li, Boyang and Xiong, Caiming
             and Hoi, Steven C. H.},
  journal = {arXiv preprint arXiv:2110.10048},
  year    = {2021}
}"""
_UNKNOWN_LICENCE = "unknown (ask the owner of the images)"


def model_card(model: Model, file: str, format: str, input: InputType, best: bool) -> str:
    """Return a model card in Markdown, with the front matter that model hubs read.

    Args:
        model: the model. If the records of its run are missing, the card states that accuracies are unknown.
        file: name of the exported file.
        format: format of the exported file.
        input: type of the input of the exported file.
        best: True if the file holds the weights of the best epoch.
    """
    description = model.description
    record = card_history.read_run_record(model)
    sections = {
        "Use": _use(description, file, format, input),
        "Data": _data(description),
        "Training": card_history.training_section(description, record),
        "Accuracy": card_history.accuracy_section(description, record, best),
        "Limits": _limits(card_history.exported_accuracies(record, best)),
        "Licence": [
            f"Licence of the training images: {_licence(description.dataset)}. You need to determine "
            "whether it also applies to weights trained on them. This card grants no rights."
        ],
        "Citation": _citation(description.method),
    }
    lines = [*_front_matter(description, format), *_title(model, file, record)]
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _front_matter(description: Description, format: str) -> Iterator[str]:
    yield "---"
    yield "library_name: fasticcl"
    yield "pipeline_tag: image-classification"
    yield from _yaml_list("tags", ["image-classification", "long-tailed", description.method, format])
    yield from _yaml_list("datasets", [description.dataset])
    yield from _yaml_list("metrics", ["accuracy"])
    yield "---"


def _yaml_list(key: str, values: Iterable[str]) -> Iterator[str]:
    yield f"{key}:"
    yield from (f"- {json.dumps(value)}" for value in values)  # JSON strings are valid YAML


def _title(model: Model, file: str, record: RunHistory | None) -> Iterator[str]:
    description = model.description
    has_projection = record is None or record.config.method.centroid_contrastive
    head = ", without the projection head used in training" if has_projection else ""
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    tails = "two tails and " if isinstance(model.network.encoder, TwoTailEncoder) else ""
    yield ""
    yield f"# {description.encoder} trained on {description.dataset} with {description.method}"
    yield ""
    yield (
        f"`{file}` classifies images into {len(description.classes):,} classes. It is a "
        f"{description.encoder} with {tails}{parameters:,} parameters (encoder and classifier{head}), "
        "trained on long-tailed data with `fasticcl`, an implementation "
        "of interpolative centroid contrastive learning (ICCL, [arXiv:2110.10048](https://arxiv.org/abs/2110.10048))."
    )


def _use(description: Description, file: str, format: str, input: InputType) -> Iterator[str]:
    side, short_side = description.image_size, description.eval_resize
    resized = (
        f", resized to a short side of {short_side} pixels and centre-cropped to {side} × {side} pixels"
        if short_side
        else f" and resized to {side} × {side} pixels without cropping"
    )
    yield f"Requires {REQUIREMENTS[format]}. Run the program in the folder of the file:"
    yield ""
    yield "```python"
    yield usage_snippet(description, file, format, input).rstrip()
    yield "```"
    yield ""
    if format == "safetensors":
        yield "The file holds only weights. `Classifier` adds normalisation and softmax."
        yield ""
    yield f"- input `{input_signature(description, input)}`, with any batch size"
    yield f"- output `{output_signature(description)}`"
    yield (
        "- preprocessing: images are rotated upright according to their EXIF orientation, converted to RGB"
        f"{resized} (bilinear, antialiased)"
    )
    yield (
        f"- normalisation is included: the model subtracts the mean {list(description.mean)} and divides by "
        f"the standard deviation {list(description.std)}, for pixels from 0 to 1"
    )
    yield "- the metadata of the file contains the class names in the order of the outputs"


def _data(description: Description) -> Iterator[str]:
    counts = np.array(description.train_counts)
    yield (
        f"`{description.dataset}`: {counts.sum():,} training images of {len(counts):,} classes. The largest "
        f"class has {counts.max():,} images and the smallest {counts.min():,}, an imbalance factor of "
        f"{counts.max() / max(counts.min(), 1):,.1f}."
    )
    yield ""
    yield "| | training images per class | classes | training images |"
    yield "|---|---|---:|---:|"
    criteria = {
        "many": f"more than {MANY_ABOVE}",
        "medium": f"{FEW_BELOW} to {MANY_ABOVE}",
        "few": f"fewer than {FEW_BELOW}",
    }
    for name, members in class_groups(counts).items():
        yield f"| {name} | {criteria[name]} | {members.sum():,} | {counts[members].sum():,} |"


def _limits(accuracies: Metrics) -> Iterator[str]:
    many, few = accuracies.get("val/many"), accuracies.get("val/few")
    measured = f" (few {few:.1f} %, many {many:.1f} %)" if None not in (many, few) else ""
    yield f"- Classes with few training images are usually recognised less reliably{measured}."
    yield "- Every image is assigned to one of these classes, even if it shows none of them."
    yield "- Probabilities are the softmax of the logits. Their calibration was not evaluated."
    yield (
        "- The model was not evaluated on images from sources other than that of the training images, for "
        "robustness to corrupted or adversarial images, for fairness towards groups of people, or for "
        "decisions about health, safety or rights."
    )


def _citation(method: str) -> Iterator[str]:
    """Yield the sources of the comparison methods in a name such as ``ce+lws``, and the entry of ICCL."""
    known = preset_names("method")
    names = [name for name in method.split("+") if name in known]
    sources = {name: MethodPreset.read(name).about for name in names}
    compared = [name for name in names if sources[name].group not in ("this paper", "baseline")]
    for name in compared:
        yield f"The method `{name}`: {sources[name].title} ({sources[name].citation})."
        yield ""
    if compared:
        yield "ICCL, which `fasticcl` implements:"
        yield ""
    yield "```bibtex"
    yield _CITATION
    yield "```"


def _licence(dataset: str) -> str:
    if dataset == "demo":
        return digits.TERMS
    layout = LAYOUTS.get(dataset)
    return layout.licence if layout and layout.download else _UNKNOWN_LICENCE
