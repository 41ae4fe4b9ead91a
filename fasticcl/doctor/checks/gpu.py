"""Checks of the NVIDIA driver, the GPUs and the hardware JPEG decoder."""

from fasticcl.doctor.checks.software import dali_cuda, torch_cuda
from fasticcl.doctor.facts import Facts, Finding

# Oldest driver for each major version of CUDA, which also supports all its minor versions
# (docs.nvidia.com/deploy/cuda-compatibility).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_ON_CPU = "everything runs on the CPU"


def driver(facts: Facts) -> Finding:
    """Check that the driver supports the CUDA versions of torch and DALI."""
    nvidia = facts.nvidia
    version = nvidia.driver or "unknown version"
    if nvidia.smi_error:
        advice = "Reinstall the driver, then restart the machine."
        if "mismatch" in nvidia.smi_error:
            advice = "Restart the machine, because an update has replaced the libraries of the loaded driver."
        return Finding("driver", "error", f"{version}, but nvidia-smi fails: {nvidia.smi_error}", advice)
    if not nvidia.driver and not nvidia.cuda:
        if not nvidia.pci_devices:
            return Finding("driver", "ok", f"no NVIDIA GPU, {_ON_CPU}")
        text = f"not installed, although the machine has {_count(nvidia.pci_devices)}, so {_ON_CPU}"
        advice = (
            f"Install NVIDIA driver {_oldest_driver(facts)} or newer. In a container, start it with "
            "--gpus all."
        )
        return Finding("driver", "warning", text, advice)
    if not nvidia.cuda:
        text = f"{version}, but libcuda.so.1 cannot be loaded"
        advice = "Start the container with --gpus all, or install the libraries of the driver."
        return Finding("driver", "error", text, advice)
    return _driver_age(facts, version)


def _driver_age(facts: Facts, version: str) -> Finding:
    supported = facts.nvidia.cuda
    for name, required in (("torch", torch_cuda(facts)), ("DALI", dali_cuda(facts))):
        if required > supported:
            text = f"{version} supports CUDA {supported}, but {name} is built for CUDA {required}"
            advice = f"Update the driver to {_OLDEST_DRIVER.get(required, 'the newest')} or newer"
            if supported in _OLDEST_DRIVER:
                advice += f", or install a {name} built for CUDA {supported}"
            return Finding("driver", "error", text, f"{advice}.")
    return Finding("driver", "ok", f"{version}, supports CUDA {supported}")


def gpu(facts: Facts) -> Finding | None:
    """Check that torch computes on the GPUs that the driver reports."""
    result, nvidia = facts.probes.get("torch_on_gpu"), facts.nvidia
    if result is None or facts.probes["torch"].values is None:
        return None
    gpus = ", ".join(f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" for gpu in nvidia.gpus)
    if not torch_cuda(facts):
        text = f"{gpus or 'a GPU'}, not used because torch is built for the CPU"
        advice = "Install torch for CUDA: pip uninstall -y torch torchvision && pip install torch torchvision"
        return Finding("GPU", "warning", text, advice)
    if result.values is None:
        advice = "Install a torch that supports this GPU (pytorch.org), or train with --device cpu."
        return Finding("GPU", "error", f"{gpus or 'a GPU'}: torch cannot compute: {result.error}", advice)
    seen = result.values["gpus"]
    if nvidia.visible_devices is not None and len(seen) < len(nvidia.gpus):
        text = f"torch sees {len(seen)} of {gpus}: CUDA_VISIBLE_DEVICES is {nvidia.visible_devices!r}"
        return Finding("GPU", "ok" if seen else "warning", text, "" if seen else "unset CUDA_VISIBLE_DEVICES")
    if not seen:
        return Finding("GPU", "error", f"{gpus or 'a GPU'}, but torch sees none", "Check the driver above.")
    return Finding("GPU", "ok", gpus or ", ".join(seen))


def jpeg_engine(facts: Facts) -> Finding | None:
    """Report the hardware JPEG decoder of the GPU."""
    result = facts.probes.get("jpeg_engine")
    if result is None:
        return None
    if result.values is None:
        advice = "Compare data.hw_decoder_load 0 and 0.65 with fasticcl bench loader."
        return Finding("JPEG engine", "warning", f"nvJPEG cannot be queried: {result.error}", advice)
    engines, cores = result.values["engines"], result.values["cores"]
    if not engines:
        text = "none, DALI decodes on CPU and GPU cores (a container needs the driver capability video)"
        return Finding("JPEG engine", "ok", text)
    text = f"{engines} with {cores} cores each (data.hw_decoder_load sets its share of the images)"
    return Finding("JPEG engine", "ok", text)


def _oldest_driver(facts: Facts) -> int:
    newest_cuda = max(torch_cuda(facts), dali_cuda(facts))
    return _OLDEST_DRIVER.get(newest_cuda, max(_OLDEST_DRIVER.values()))


def _count(gpus: int) -> str:
    return "an NVIDIA GPU" if gpus == 1 else f"{gpus} NVIDIA GPUs"
