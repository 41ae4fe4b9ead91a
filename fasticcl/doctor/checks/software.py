"""Checks of Python and its packages: imports, minimum versions and compatibility."""

import re

from fasticcl.doctor.facts import Facts, Finding, Software

_CPU_INDEX = " --index-url https://download.pytorch.org/whl/cpu"
_LIBRARY_ERRORS = ("cannot open shared object file", "undefined symbol", "version `")


def python(facts: Facts) -> Finding:
    """Report the version of Python and check the operating system."""
    software = facts.software
    text = f"{software.python}, fasticcl {software.fasticcl}, {software.system}"
    if not software.system.startswith("Linux"):
        advice = "Use Linux, or WSL 2 on Windows. DALI is not available for other systems."
        return Finding("Python", "error", text, advice)
    return Finding("Python", "ok", text)


def torch(facts: Facts) -> Finding:
    """Check that torch imports."""
    result, installed = facts.probes["torch"], facts.software.packages.get("torch")
    if result.values:
        build = f"for CUDA {result.values['cuda']}" if result.values["cuda"] else "for the CPU"
        return _check_age("torch", result.values["version"], f", built {build}", facts.software)
    torch, torchvision = (_requirement(name, facts.software) for name in ("torch", "torchvision"))
    if installed is None:
        text = f"not installed ({result.error})"
        return Finding("torch", "error", text, f"pip install {torch} {torchvision}")
    advice = f"Reinstall it: pip install --force-reinstall {torch} {torchvision}{_index(installed)}"
    if any(sign in result.error for sign in _LIBRARY_ERRORS):
        advice += ". First unset LD_LIBRARY_PATH if it contains another CUDA, because torch includes its own"
    return Finding("torch", "error", f"{installed} does not import: {result.error}", advice)


def torchvision(facts: Facts) -> Finding:
    """Check that torchvision imports and matches torch."""
    software, result = facts.software, facts.probes["torchvision"]
    installed = software.packages.get("torchvision")
    if facts.probes["torch"].values is None:
        text = f"{installed or 'not installed'}, not tested because torch does not import"
        return Finding("torchvision", "warning", text, "Fix torch first.")
    mismatch = _mismatch(facts)
    if result.values:
        version = result.values["version"]
        if mismatch:
            text = f"{version} imports, but {mismatch}"
            return Finding("torchvision", "warning", text, _install_pair(facts))
        return _check_age("torchvision", version, "", software)
    if installed is None:
        return Finding("torchvision", "error", f"not installed ({result.error})", _install_pair(facts))
    reason = f"{mismatch} ({result.error})" if mismatch else result.error
    return Finding("torchvision", "error", f"{installed} does not import: {reason}", _install_pair(facts))


def dali(facts: Facts) -> Finding:
    """Check that exactly one DALI is installed and that it imports."""
    software, result = facts.software, facts.probes["dali"]
    packages = dali_packages(software)
    names = " and ".join(f"{name} {version}" for name, version in packages.items())
    install = f"pip install {_dali_requirement(software)}"
    reinstall = f"pip uninstall -y {' '.join(packages)} && {install}"
    if placeholders := [name for name, version in packages.items() if _is_placeholder(name, version)]:
        status = "warning" if result.values else "error"
        text = f"{names}: {' and '.join(placeholders)} is a placeholder on PyPI that does not contain DALI"
        return Finding("DALI", status, text, reinstall)
    if len(packages) > 1:
        text = f"{names} are installed into the same folder and overwrite each other's files"
        return Finding("DALI", "error", text, reinstall)
    if result.values:
        return _check_age("DALI", result.values["version"], f", {names}" if names else "", software)
    if not packages:
        return Finding("DALI", "error", f"not installed ({result.error})", install)
    return Finding("DALI", "error", f"{names} does not import: {result.error}", reinstall)


def cuda_pairing(facts: Facts) -> Finding | None:
    """Report the CUDA versions of torch and DALI, which may differ."""
    torch, dali = torch_cuda(facts), dali_cuda(facts)
    if not dali or facts.probes["torch"].values is None:
        return None
    if torch == dali:
        text = f"torch and DALI are both built for CUDA {dali}"
    elif torch:
        text = f"torch is built for CUDA {torch}, DALI for CUDA {dali}, and each includes its own runtime"
    else:
        text = f"torch is built for the CPU, DALI for CUDA {dali}, but DALI also works without a GPU"
    return Finding("CUDA pairing", "ok", text)


def torch_cuda(facts: Facts) -> int:
    """Return the major version of CUDA that torch is built for, or 0 if there is none or it is unknown."""
    values = facts.probes["torch"].values
    return _numbers(values["cuda"])[0] if values and values["cuda"] else 0


def dali_cuda(facts: Facts) -> int:
    """Return the major version of CUDA that DALI is built for, or 0 if it is unknown."""
    matches = [re.search(r"cuda(\d\d)", name) for name in dali_packages(facts.software)]
    return max((int(match[1]) for match in matches if match), default=0)


def dali_packages(software: Software) -> dict[str, str]:
    """Return the versions of DALI packages and placeholders by name, without plugins."""
    return {
        name: version
        for name, version in software.packages.items()
        if name.startswith("nvidia-dali") and "plugin" not in name
    }


def _is_placeholder(name: str, version: str) -> bool:
    return not re.search(r"cuda\d", name) or _numbers(version)[:2] == (0, 0)


def _mismatch(facts: Facts) -> str:
    """Return the reason why torch and torchvision do not match, or an empty string if there is none."""
    software, torch = facts.software, facts.probes["torch"].values or {}
    imported = facts.probes["torchvision"].values
    torch_build = _build(torch["version"])
    vision_build = _build(imported["version"] if imported else software.packages.get("torchvision", ""))
    if not torch["cuda"] and vision_build != "cpu" and not imported:
        return f"torch {torch['version']} is built for the CPU, but this torchvision from PyPI is for CUDA"
    if torch["cuda"] and vision_build == "cpu":
        return f"torch {torch['version']} is built for CUDA {torch['cuda']}, but torchvision is for the CPU"
    if vision_build.startswith("cu") and torch_build.startswith("cu") and vision_build != torch_build:
        return f"torch {torch['version']} is built for another CUDA"
    requirement = software.torch_required_by_torchvision
    operator, required, installed = requirement[:2], _numbers(requirement[2:]), _numbers(torch["version"])
    if (operator == "==" and installed != required) or (operator == ">=" and installed < required):
        return f"it is built for torch {requirement} while torch {torch['version']} is installed"
    return ""


def _install_pair(facts: Facts) -> str:
    """Return the command that installs matching builds of torch and torchvision, for CPU or CUDA."""
    names = " ".join(_requirement(name, facts.software) for name in ("torch", "torchvision"))
    torch = facts.probes["torch"].values or {}
    index = "" if torch.get("cuda") else _CPU_INDEX
    return (
        f"Install both from the same index: pip uninstall -y torch torchvision && pip install {names}{index}"
    )


def _index(version: str) -> str:
    return _CPU_INDEX if _build(version) == "cpu" else ""


def _requirement(package: str, software: Software) -> str:
    minimum = software.minimum_versions.get(package)
    return f"'{package}>={minimum}'" if minimum else package


def _dali_requirement(software: Software) -> str:
    names = [name for name in software.minimum_versions if name.startswith("nvidia-dali")]
    return _requirement(names[0] if names else "nvidia-dali-cuda120", software)


def _check_age(name: str, version: str, details: str, software: Software) -> Finding:
    """Return an error if a working package is older than fasticcl supports, else ok."""
    minimums = software.minimum_versions
    package = next((key for key in minimums if key == name or (name == "DALI" and "dali" in key)), name)
    minimum = minimums.get(package, "")
    if minimum and _numbers(version) < _numbers(minimum):
        text = f"{version}{details}, but fasticcl needs {minimum} or newer"
        advice = f"pip install --upgrade {_requirement(package, software)}{_index(version)}"
        return Finding(name, "error", text, advice)
    return Finding(name, "ok", f"{version}{details}")


def _build(version: str) -> str:
    """Return the build label of a version, such as cpu or cu132, or an empty string."""
    return version.partition("+")[2]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
