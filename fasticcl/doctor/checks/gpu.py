"""Driver, GPU and its JPEG engine."""

from fasticcl.doctor.checks.software import dali_cuda, torch_cuda
from fasticcl.doctor.facts import Facts
from fasticcl.doctor.finding import Finding

# Oldest driver for each major version of CUDA, from docs.nvidia.com/deploy/cuda-compatibility: any of its
# minor versions runs on it.
_OLDEST = {11: 450, 12: 525, 13: 580}
_ON_CPU = "everything runs on the CPU"


def driver(facts: Facts) -> Finding:
    """Whether there is a driver that serves the CUDA of torch and DALI."""
    found = facts.nvidia
    version = found.driver or "of unknown version"
    if found.trouble:
        advice = "Restart the machine: driver and libraries disagree after an update."
        if "mismatch" not in found.trouble:
            advice = "Install the driver again, and restart the machine."
        return Finding("driver", "error", f"{version}, but nvidia-smi says: {found.trouble}", advice)
    if not found.driver and not found.cuda:
        if not found.on_bus:
            return Finding("driver", "ok", f"no NVIDIA GPU here; {_ON_CPU}")
        text = f"none, though the machine has {_count(found.on_bus)}; {_ON_CPU}"
        advice = f"Install NVIDIA's driver {_oldest(facts)} or newer; start a container with --gpus all."
        return Finding("driver", "warning", text, advice)
    if not found.cuda:
        text = f"{version}, but libcuda.so.1 cannot be loaded"
        advice = "Start a container with --gpus all; elsewhere install the driver's libraries."
        return Finding("driver", "error", text, advice)
    return _age(facts, version)


def _age(facts: Facts, version: str) -> Finding:
    served = facts.nvidia.cuda
    for name, needed in (("torch", torch_cuda(facts)), ("DALI", dali_cuda(facts))):
        if needed > served:
            text = f"{version} serves CUDA {served}, too old for {name}, built for CUDA {needed}"
            advice = f"Update the driver to {_OLDEST.get(needed, 'the newest')} or newer"
            other = f", or install a {name} built for CUDA {served}" if served in _OLDEST else ""
            return Finding("driver", "error", text, f"{advice}{other}.")
    return Finding("driver", "ok", f"{version}, serves CUDA {served}")


def gpu(facts: Facts) -> Finding | None:
    """Whether torch computes on the GPUs that the driver knows."""
    trial, nvidia = facts.trials.get("torch_computes"), facts.nvidia
    if trial is None or facts.trials["torch"].found is None:
        return None
    cards = ", ".join(f"{card.name}, {card.memory_mib / 1024:.0f} GiB" for card in nvidia.cards)
    if not torch_cuda(facts):
        text = f"{cards or 'a GPU'}, unused: torch is built for the CPU; {_ON_CPU}"
        advice = (
            "Install a torch for CUDA: pip uninstall -y torch torchvision && pip install torch torchvision"
        )
        return Finding("GPU", "warning", text, advice)
    if trial.found is None:
        advice = "Take a torch that was built for this GPU (pytorch.org), or train with --device cpu."
        return Finding("GPU", "error", f"{cards or 'a GPU'}: torch cannot compute: {trial.error}", advice)
    seen = trial.found["gpus"]
    if nvidia.visible is not None and len(seen) < len(nvidia.cards):
        text = f"torch sees {len(seen)} of {cards}: CUDA_VISIBLE_DEVICES is {nvidia.visible!r}"
        return Finding("GPU", "ok" if seen else "warning", text, "" if seen else "unset CUDA_VISIBLE_DEVICES")
    if not seen:
        return Finding("GPU", "error", f"{cards or 'a GPU'}, but torch sees none", "See the driver above.")
    return Finding("GPU", "ok", cards or ", ".join(seen))


def jpeg_engine(facts: Facts) -> Finding | None:
    """Whether the GPU decodes JPEGs in an engine of its own."""
    trial = facts.trials.get("jpeg_engine")
    if trial is None:
        return None
    if trial.found is None:
        advice = "Compare data.hw_decoder_load 0 and 0.65 with fasticcl bench loader."
        return Finding("JPEG engine", "warning", f"nvJPEG does not say: {trial.error}", advice)
    engines, cores = trial.found["engines"], trial.found["cores"]
    if not engines:
        return Finding("JPEG engine", "ok", "none; DALI decodes on CPU and GPU cores")
    return Finding(
        "JPEG engine", "ok", f"{engines} with {cores} cores each; data.hw_decoder_load is its share"
    )


def _oldest(facts: Facts) -> int:
    return _OLDEST.get(max(torch_cuda(facts), dali_cuda(facts)), max(_OLDEST.values()))


def _count(cards: int) -> str:
    return "an NVIDIA card" if cards == 1 else f"{cards} NVIDIA cards"
