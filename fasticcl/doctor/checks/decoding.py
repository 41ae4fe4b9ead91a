"""Whether each decoder gives the colours of the built-in picture."""

from fasticcl.doctor.facts import Facts
from fasticcl.doctor.finding import Finding
from fasticcl.doctor.test_picture import difference

_TOLERANCE = 6  # grey levels; decoders round differently, and flat colours leave room for nothing else


def with_torch(facts: Facts) -> Finding | None:
    """Decode with torchvision on the CPU."""
    return _judged(facts, "torchvision on the CPU", "torch_decodes", ("torchvision",))


def with_dali(facts: Facts) -> Finding | None:
    """Decode with DALI on the CPU."""
    return _judged(facts, "DALI on the CPU", "dali_decodes", ("dali",))


def with_dali_on_gpu(facts: Facts) -> Finding | None:
    """Decode with DALI on the GPU."""
    return _judged(facts, "DALI on the GPU", "dali_decodes_on_gpu", ("dali",))


def together(facts: Facts) -> Finding | None:
    """Decode with torch, torchvision and DALI in one process."""
    return _judged(facts, "all in one process", "together", ("torch", "torchvision", "dali"))


def _judged(facts: Facts, name: str, step: str, needs: tuple[str, ...]) -> Finding | None:
    """Return what came of a step; None where it was not tried or what it needs does not import."""
    trial = facts.trials.get(step)
    if trial is None or any(facts.trials[each].found is None for each in needs):
        return None
    name = f"decode: {name}"
    if trial.found is None:
        advice = "If nothing above is to be mended, open an issue with this text."
        if step == "dali_decodes_on_gpu":
            advice = "Mend driver and GPU first; until then train with --device cpu."
        return Finding(name, "error", f"fails: {trial.error}", advice)
    differs = difference(trial.found["colors"])
    if differs > _TOLERANCE:
        text = f"the built-in picture comes out wrong by {differs} of 256 grey levels"
        return Finding(name, "error", text, "Do not train with it: install its package again.")
    return Finding(name, "ok", f"the built-in picture, colours within {differs} of 256 grey levels")
