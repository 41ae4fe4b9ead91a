"""``MODEL_CARD.md``: what a model is, how it came about, how good it is and what it is not for."""

import json
from collections.abc import Iterable, Iterator

import numpy as np

from fasticcl.convert.layouts import digits
from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.engine.evaluate import Metrics
from fasticcl.engine.run.weights import Description, Model
from fasticcl.export import card_history
from fasticcl.export.classifier import Input, input_of, output_of
from fasticcl.export.snippets import NEEDS, snippet
from fasticcl.longtail import FEW_BELOW, MANY_ABOVE, class_groups

CARD = "MODEL_CARD.md"
PAPER = """\
@article{tiong2021improving,
  title   = {Improving Tail-Class Representation with Centroid Contrastive Learning},
  author  = {Tiong, Anthony Meng Huat and Li, Junnan and Lin, Guosheng and Li, Boyang and Xiong, Caiming
             and Hoi, Steven C. H.},
  journal = {arXiv preprint arXiv:2110.10048},
  year    = {2021}
}"""
_UNKNOWN = "not known here; ask whoever has the images"


def card(model: Model, file: str, format: str, input: Input, best: bool) -> str:
    """Return the Markdown of a card, with the front matter that model hubs read.

    Args:
        model: the model; without its run the card says that the accuracies are not known.
        file: name of the exported file.
        format: its format.
        input: what it takes.
        best: whether it has the weights of the run's best epoch.
    """
    description = model.description
    record = card_history.record_of(model)
    sections = {
        "Use": _use(description, file, format, input),
        "Data": _data(description),
        "Training": card_history.training(description, record),
        "Accuracy": card_history.accuracy(description, record, best),
        "Limits": _limits(card_history.achieved(record, best)),
        "Licence": [
            f"Of the training images: {_licence(description.dataset)}. Whether it extends to weights that "
            "were learnt from them is for you to judge; nothing is granted here."
        ],
        "Citation": ["```bibtex", PAPER, "```"],
    }
    lines = [*_front_matter(description, format), *_title(model, file)]
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
    yield from (f"- {json.dumps(value)}" for value in values)  # YAML reads JSON's strings


def _title(model: Model, file: str) -> Iterator[str]:
    description = model.description
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    yield ""
    yield f"# {description.encoder} trained on {description.dataset} with {description.method}"
    yield ""
    yield (
        f"`{file}` tells {len(description.classes):,} classes of images apart. It is a "
        f"{description.encoder} of {parameters:,} parameters (encoder and classifier; a projection head "
        "serves training alone), trained on long-tailed data with `fasticcl`, an implementation of "
        "interpolative centroid contrastive learning (ICCL, [arXiv:2110.10048](https://arxiv.org/abs/2110.10048))."
    )


def _use(description: Description, file: str, format: str, input: Input) -> Iterator[str]:
    side, short = description.image_size, description.eval_resize
    resized = (
        f"resized to a short side of {short} pixels, of which the {side} × {side} in the centre are taken"
        if short
        else f"resized as a whole to {side} × {side} pixels"
    )
    yield f"With {NEEDS[format]}, beside the file:"
    yield ""
    yield "```python"
    yield snippet(description, file, format, input).rstrip()
    yield "```"
    yield ""
    if format == "safetensors":
        yield "The file holds weights alone; `Classifier` adds normalisation and softmax. It has"
        yield ""
    yield f"- input `{input_of(description, input)}`; any number of images at a time"
    yield f"- output `{output_of(description)}`"
    yield (
        f"- images are made upright and RGB, then {resized} (bilinear, antialiased); the mean "
        f"{list(description.mean)} is taken away and the result divided by {list(description.std)} inside"
    )
    yield "- the names of the classes, in the order of the outputs, are in the metadata of the file"


def _data(description: Description) -> Iterator[str]:
    counts = np.array(description.train_counts)
    yield (
        f"`{description.dataset}`: {counts.sum():,} training images of {len(counts):,} classes; the largest "
        f"class has {counts.max():,}, the smallest {counts.min():,}, an imbalance of "
        f"{counts.max() / max(counts.min(), 1):,.1f}."
    )
    yield ""
    yield "| | training images per class | classes | training images |"
    yield "|---|---|---:|---:|"
    meaning = {
        "many": f"more than {MANY_ABOVE}",
        "medium": f"{FEW_BELOW} to {MANY_ABOVE}",
        "few": f"fewer than {FEW_BELOW}",
    }
    for name, member in class_groups(counts).items():
        yield f"| {name} | {meaning[name]} | {member.sum():,} | {counts[member].sum():,} |"


def _limits(achieved: Metrics) -> Iterator[str]:
    many, few = achieved.get("val/many"), achieved.get("val/few")
    measured = f": {few:.1f} % against {many:.1f} % on many" if None not in (many, few) else ""
    yield f"- Classes with few training images are recognised less reliably as a rule{measured}."
    yield "- Every image gets one of the known classes, also an image of none of them."
    yield "- Probabilities are the softmax of the logits; whether they are calibrated was not evaluated."
    yield (
        "- Not evaluated for images from other sources than the training images, for robustness against "
        "disturbed or adversarial images, for fairness towards groups of people, or for decisions that "
        "concern health, safety or rights."
    )


def _licence(dataset: str) -> str:
    if dataset == "demo":
        return digits.TERMS
    layout = LAYOUTS.get(dataset)
    return layout.licence if layout and layout.download else _UNKNOWN
