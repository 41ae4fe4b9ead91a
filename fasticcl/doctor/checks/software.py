"""Python and packages: whether they import, are new enough and fit each other."""

import re

from fasticcl.doctor.facts import Facts, Software
from fasticcl.doctor.finding import Finding

_CPU_INDEX = " --index-url https://download.pytorch.org/whl/cpu"
_BROKEN_LIBRARY = ("cannot open shared object file", "undefined symbol", "version `")


def python(facts: Facts) -> Finding:
    """Python itself; what is too old for fasticcl does not come this far."""
    found = facts.software
    text = f"{found.python}, fasticcl {found.fasticcl}, {found.system}"
    if not found.system.startswith("Linux"):
        return Finding("Python", "error", text, "Use Linux, or WSL 2 on Windows: DALI has no other builds.")
    return Finding("Python", "ok", text)


def torch(facts: Facts) -> Finding:
    """Whether torch imports."""
    trial, installed = facts.trials["torch"], facts.software.packages.get("torch")
    if trial.found:
        build = f"for CUDA {trial.found['cuda']}" if trial.found["cuda"] else "for the CPU"
        return _aged("torch", trial.found["version"], f", built {build}", facts.software)
    install = f"pip install {_wanted('torch', facts.software)} {_wanted('torchvision', facts.software)}"
    if installed is None:
        return Finding("torch", "error", f"not installed ({trial.error})", install)
    again = f"{install.replace('install', 'install --force-reinstall', 1)}{_index(installed)}"
    advice = f"Install it again: {again}"
    if any(sign in trial.error for sign in _BROKEN_LIBRARY):
        advice += ". Before, unset LD_LIBRARY_PATH where it leads to another CUDA: torch brings its own"
    return Finding("torch", "error", f"{installed} does not import: {trial.error}", advice)


def torchvision(facts: Facts) -> Finding:
    """Whether torchvision imports and is the partner of this torch."""
    software, trial = facts.software, facts.trials["torchvision"]
    installed = software.packages.get("torchvision")
    if facts.trials["torch"].found is None:
        text = f"{installed or 'not installed'}, not tried: torch does not import"
        return Finding("torchvision", "warning", text, "Mend torch first.")
    wrong = _mismatch(facts)
    if trial.found:
        if wrong:
            return Finding(
                "torchvision", "warning", f"{trial.found['version']} imports, but {wrong}", _pair(facts)
            )
        return _aged("torchvision", trial.found["version"], "", software)
    if installed is None:
        return Finding("torchvision", "error", f"not installed ({trial.error})", _pair(facts))
    reason = f"{wrong} ({trial.error})" if wrong else trial.error
    return Finding("torchvision", "error", f"{installed} does not import: {reason}", _pair(facts))


def dali(facts: Facts) -> Finding:
    """Whether there is one DALI, and it imports."""
    software, trial = facts.software, facts.trials["dali"]
    packages = dali_packages(software)
    named = " and ".join(f"{name} {version}" for name, version in packages.items())
    install = f"pip install {_dali_wanted(software)}"
    start_over = f"pip uninstall -y {' '.join(packages)} && {install}"
    if fake := [name for name, version in packages.items() if _is_placeholder(name, version)]:
        status = "warning" if trial.found else "error"
        text = f"{named}: {' and '.join(fake)} is a placeholder on the package index, without DALI in it"
        return Finding("DALI", status, text, start_over)
    if len(packages) > 1:
        text = f"{named} lie in one folder, so that each overwrote parts of the other"
        return Finding("DALI", "error", text, start_over)
    if trial.found:
        return _aged("DALI", trial.found["version"], f", {named}" if named else "", software)
    if not packages:
        return Finding("DALI", "error", f"not installed ({trial.error})", install)
    return Finding("DALI", "error", f"{named} does not import: {trial.error}", start_over)


def pairing(facts: Facts) -> Finding | None:
    """The CUDA of torch and that of DALI, which need not be one."""
    torch, dali = torch_cuda(facts), dali_cuda(facts)
    if not dali or facts.trials["torch"].found is None:
        return None
    if torch == dali:
        text = f"torch and DALI are both built for CUDA {dali}"
    elif torch:
        text = f"torch is built for CUDA {torch}, DALI for CUDA {dali}; each brings its own runtime"
    else:
        text = f"torch is built for the CPU, DALI for CUDA {dali}; DALI works without a GPU"
    return Finding("CUDA pairing", "ok", text)


def torch_cuda(facts: Facts) -> int:
    """Return the major version of CUDA that torch is built for; 0: none, or not known."""
    found = facts.trials["torch"].found
    return _numbers(found["cuda"])[0] if found and found["cuda"] else 0


def dali_cuda(facts: Facts) -> int:
    """Return the major version of CUDA that DALI is built for; 0: not known."""
    found = [re.search(r"cuda(\d\d)", name) for name in dali_packages(facts.software)]
    return max((int(each[1]) for each in found if each), default=0)


def dali_packages(software: Software) -> dict[str, str]:
    """Return the packages that are DALI, or pretend to be, with their versions."""
    return {
        name: version
        for name, version in software.packages.items()
        if name.startswith("nvidia-dali") and "plugin" not in name
    }


def _is_placeholder(name: str, version: str) -> bool:
    return not re.search(r"cuda\d", name) or _numbers(version)[:2] == (0, 0)


def _mismatch(facts: Facts) -> str:
    """Return why torch and torchvision are no pair; empty where nothing speaks against it."""
    software, torch = facts.software, facts.trials["torch"].found or {}
    imported = facts.trials["torchvision"].found
    label = _label(torch["version"])
    partner = _label(imported["version"] if imported else software.packages.get("torchvision", ""))
    if not torch["cuda"] and partner != "cpu" and not imported:
        return f"torch {torch['version']} is built for the CPU, and this torchvision, the index's, for CUDA"
    if torch["cuda"] and partner == "cpu":
        return f"torch {torch['version']} is built for CUDA {torch['cuda']}, and this torchvision for the CPU"
    if partner.startswith("cu") and label.startswith("cu") and partner != label:
        return f"torch {torch['version']} is built for another CUDA"
    sign, wanted = software.torch_of_torchvision[:2], software.torch_of_torchvision[2:]
    found = _numbers(torch["version"])
    if (sign == "==" and found != _numbers(wanted)) or (sign == ">=" and found < _numbers(wanted)):
        return f"it was built for torch {sign}{wanted}, and here is {torch['version']}"
    return ""


def _pair(facts: Facts) -> str:
    """Return the command that installs torch and torchvision as a pair, for what torch is built for."""
    names = " ".join(_wanted(name, facts.software) for name in ("torch", "torchvision"))
    torch = facts.trials["torch"].found or {}
    index = "" if torch.get("cuda") else _CPU_INDEX
    return f"Install both from one place: pip uninstall -y torch torchvision && pip install {names}{index}"


def _index(version: str) -> str:
    return _CPU_INDEX if _label(version) == "cpu" else ""


def _wanted(package: str, software: Software) -> str:
    oldest = software.needed.get(package)
    return f"'{package}>={oldest}'" if oldest else package


def _dali_wanted(software: Software) -> str:
    names = [name for name in software.needed if name.startswith("nvidia-dali")]
    return _wanted(names[0] if names else "nvidia-dali-cuda120", software)


def _aged(name: str, version: str, more: str, software: Software) -> Finding:
    """Return that a package works, unless it is older than fasticcl needs."""
    key = next((key for key in software.needed if key == name or (name == "DALI" and "dali" in key)), name)
    oldest = software.needed.get(key, "")
    if oldest and _numbers(version) < _numbers(oldest):
        text = f"{version}{more}; fasticcl needs {oldest} or newer"
        return Finding(
            name, "error", text, f"pip install --upgrade {_wanted(key, software)}{_index(version)}"
        )
    return Finding(name, "ok", f"{version}{more}")


def _label(version: str) -> str:
    """Return what a version says of its build: cpu, cu132, or nothing."""
    return version.partition("+")[2]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
