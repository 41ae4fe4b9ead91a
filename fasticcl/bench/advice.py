"""Which part of training binds, and what to change."""

from dataclasses import dataclass
from typing import Literal

from fasticcl.bench.measure import shown

Binding = Literal["loader", "step", "both"]
_HINDERED = 0.85  # of the slower part's rate; below, the two take from each other what both need
_ALIKE = 0.95  # a part that reaches this share of the other is as fast
_SHORT_SIDE = 256
_WORTH_SHRINKING = 1.2  # times the short side above which making images smaller saves decoding


@dataclass(frozen=True)
class Situation:
    """What the advice goes by; rates in images per second."""

    loader: float
    step: float
    whole: float
    gpu: bool
    workers: int
    cores: int
    short_side: int
    """Of the stored images, in pixels."""
    image_size: int
    compiled: bool
    """Or tried, and found to be slower."""
    bfloat16: bool
    batch_size: int
    hw_decoder_load: float


@dataclass(frozen=True)
class Advice:
    """What binds, and a sentence that says so with figures and what to change."""

    binds: Binding
    sentence: str


def advise(found: Situation) -> Advice:
    """Return which part binds: the slower one, or both where together they reach much less than it.

    On a CPU both need the cores, so what they reach together is expected to be less; there the slower
    part is named all the same.
    """
    slower = min(found.loader, found.step)
    figures = (
        f"the loader alone gives {shown(found.loader)} images/s, the step alone takes {shown(found.step)}, "
        f"end to end {shown(found.whole)}"
    )
    if found.gpu and found.whole < _HINDERED * slower:
        share = f"{100 * found.whole / slower:.0f} % of the slower of the two"
        return Advice("both", f"Loader and step hinder each other, {share} ({figures}): {_both(found)}.")
    if found.loader < _ALIKE * found.step:
        return Advice("loader", f"The loader binds ({figures}): {_loader(found)}.")
    shared = "" if found.gpu else "; the two share the cores"
    return Advice("step", f"The step binds ({figures}{shared}): {_step(found)}.")


def _loader(found: Situation) -> str:
    changes = []
    if found.workers < found.cores:
        changes.append(f"raise --workers to {found.cores}")
    target = max(_SHORT_SIDE, found.image_size)
    if found.short_side > _WORTH_SHRINKING * target:
        changes.append(f"convert again with --short-side {target} (now {found.short_side} pixels)")
    if found.gpu:
        changes.append(f"try other --set data.hw_decoder_load (now {found.hw_decoder_load:g})")
    return ", or ".join(changes) or "it uses every core and small images already; more cores are what is left"


def _step(found: Situation) -> str:
    if not found.gpu:
        return "use a GPU, a smaller --encoder or a smaller --image-size"
    changes = []
    if not found.compiled:
        changes.append("compile it with --set engine.compile=on")
    if not found.bfloat16:
        changes.append("compute in --set engine.precision=bfloat16")
    changes.append(f"try a larger --batch-size (now {found.batch_size})")
    return ", or ".join(changes)


def _both(found: Situation) -> str:
    more = f"change --workers (now {found.workers} of {found.cores} cores)"
    return (
        f"{more}, or --set data.hw_decoder_load (now {found.hw_decoder_load:g}), "
        f"or try a larger --batch-size (now {found.batch_size})"
    )
