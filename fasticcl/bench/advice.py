"""The bottleneck of training, and the settings that would speed it up."""

from dataclasses import dataclass
from typing import Literal

from fasticcl.bench.measure import format_figure
from fasticcl.system.resources import decoding_threads

Bottleneck = Literal["loader", "step", "both"]
_CONTENTION = 0.85  # below this share of the slower part, loader and step compete for a resource
_EQUAL = 0.95  # a loader with at least this share of the step's rate counts as equally fast
_WORTH_BFLOAT16 = 1.05  # above this multiple of the step's rate, bfloat16 is recommended
_SHORT_SIDE = 256
_WORTH_SHRINKING = 1.2  # above this multiple of the short side, smaller stored images save decoding time


@dataclass(frozen=True)
class Situation:
    """Measured rates in images per second, and the settings that the advice depends on."""

    loader: float
    step: float
    whole: float
    gpu: bool
    workers: int
    cores: int
    short_side: int
    """Median short side of the stored images, in pixels."""
    image_size: int
    compiled: bool
    """True if the step is compiled, or if ``engine.compile=auto`` found that it does not pay."""
    bfloat16: bool
    batch_size: int
    hw_decoder_load: float
    bfloat16_step: float | None = None
    """Rate of the step in bfloat16 on a CPU with instructions for it. None if it was not measured."""


@dataclass(frozen=True)
class Advice:
    """The bottleneck, and a sentence with the figures and the settings to change."""

    binds: Bottleneck
    sentence: str


def advise(situation: Situation) -> Advice:
    """Return the bottleneck: the slower part, or both if end-to-end training is much slower than either.

    On a CPU, loader and step share the cores, so end-to-end training is always slower than either. In this
    case, the result is always the slower part.
    """
    slower = min(situation.loader, situation.step)
    figures = (
        f"loader alone {format_figure(situation.loader)} images/s, "
        f"step alone {format_figure(situation.step)} images/s, "
        f"end to end {format_figure(situation.whole)} images/s"
    )
    if situation.gpu and situation.whole < _CONTENTION * slower:
        share = f"end to end reaches {100 * situation.whole / slower:.0f} % of the slower of the two"
        return Advice(
            "both", f"Loader and step slow each other down: {share} ({figures}). {_both(situation)}."
        )
    if situation.loader < _EQUAL * situation.step:
        return Advice("loader", f"The loader is the bottleneck ({figures}). {_loader(situation)}.")
    shared = "" if situation.gpu else ", with loader and step on the same cores"
    return Advice("step", f"The step is the bottleneck ({figures}{shared}). {_step(situation)}.")


def _loader(situation: Situation) -> str:
    changes = []
    threads = decoding_threads(situation.gpu, situation.cores)
    if situation.workers < threads:
        changes.append(f"raise --workers to {threads}")
    target = max(_SHORT_SIDE, situation.image_size)
    if situation.short_side > _WORTH_SHRINKING * target:
        changes.append(f"convert again with --short-side {target} (now {situation.short_side} pixels)")
    if situation.gpu:
        changes.append(f"try other values of --set data.hw_decoder_load (now {situation.hw_decoder_load:g})")
    return _sentence(changes) or "It already uses every core and small images, so it needs more cores"


def _step(situation: Situation) -> str:
    if not situation.gpu:
        remedy = "use a GPU, a smaller --encoder or a smaller --image-size"
        rate = situation.bfloat16_step
        if rate is None or rate < _WORTH_BFLOAT16 * situation.step:
            return _sentence([remedy])
        gain = f"step alone {format_figure(rate)} images/s"
        return _sentence([f"use bfloat16 with --set engine.precision=bfloat16 ({gain})", remedy])
    changes = []
    if not situation.compiled:
        changes.append("compile it with --set engine.compile=on")
    if not situation.bfloat16:
        changes.append("use bfloat16 with --set engine.precision=bfloat16")
    changes.append(f"try a larger --batch-size (now {situation.batch_size})")
    return _sentence(changes)


def _both(situation: Situation) -> str:
    return _sentence(
        [
            f"change --workers (now {situation.workers} of {situation.cores} cores)",
            f"change --set data.hw_decoder_load (now {situation.hw_decoder_load:g})",
            f"try a larger --batch-size (now {situation.batch_size})",
        ]
    )


def _sentence(changes: list[str]) -> str:
    text = ", or ".join(changes)
    return text[:1].upper() + text[1:]
