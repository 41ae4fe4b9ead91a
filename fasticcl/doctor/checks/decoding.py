"""Checks that each decoder reproduces the colours of the reference image."""

from fasticcl.doctor.facts import Facts, Finding
from fasticcl.doctor.reference_image import color_error

_TOLERANCE = 6  # grey levels. Decoders round differently, but the squares are uniform.
_WHOLE_IMAGES = "Train with --set data.decode_regions=false, which decodes whole images."


def dali(facts: Facts) -> Finding | None:
    """Check decoding with DALI on the CPU."""
    return _check(facts, "DALI on the CPU", "dali_decoding", ("dali",))


def dali_on_gpu(facts: Facts) -> Finding | None:
    """Check decoding with DALI on the GPU."""
    return _check(facts, "DALI on the GPU", "dali_decoding_on_gpu", ("dali",))


def dali_regions_on_gpu(facts: Facts) -> Finding | None:
    """Check decoding of regions with DALI on the GPU, unless whole images fail, too."""
    whole = facts.probes.get("dali_decoding_on_gpu")
    if whole is None or whole.values is None:
        return None
    return _check(facts, "regions with DALI on the GPU", "dali_regions_on_gpu", ("dali",))


def single_process(facts: Facts) -> Finding | None:
    """Check decoding with DALI in a process that has imported torch and torchvision."""
    return _check(facts, "all in one process", "joint_decoding", ("torch", "torchvision", "dali"))


def _check(facts: Facts, name: str, probe: str, imports: tuple[str, ...]) -> Finding | None:
    """Judge the result of a probe. Return None if it did not run or a package cannot be imported."""
    result = facts.probes.get(probe)
    if result is None or any(facts.probes[package].values is None for package in imports):
        return None
    name = f"decode: {name}"
    if result.values is None:
        advice = "If no error is listed above, open an issue and include this output."
        if probe == "dali_decoding_on_gpu":
            advice = "Fix the driver and the GPU first. Until then, train with --device cpu."
        if probe == "dali_regions_on_gpu":
            advice = _WHOLE_IMAGES
        return Finding(name, "error", f"fails: {result.error}", advice)
    error = color_error(result.values["colors"])
    if error > _TOLERANCE:
        text = f"the colours of the reference image are wrong by {error} of 256 grey levels"
        advice = "Do not train with this decoder. Reinstall its package."
        if probe == "dali_regions_on_gpu":
            advice = _WHOLE_IMAGES
        return Finding(name, "error", text, advice)
    return Finding(name, "ok", f"the colours of the reference image are within {error} of 256 grey levels")
