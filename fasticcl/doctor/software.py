"""What is installed, by its metadata; nothing of it is imported."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires

from fasticcl.doctor.facts import Software
from fasticcl.version import __version__

_NAMED = ("torch", "torchvision")
DALI = "nvidia-dali"


def read() -> Software:
    """Return versions of Python and packages, and what they ask of each other."""
    return Software(
        fasticcl=__version__,
        python=platform.python_version(),
        system=" ".join([platform.system(), platform.machine(), *filter(None, platform.libc_ver())]),
        packages=dict(reversed([*_packages()])),  # the first of a name is the one that is imported
        needed={name: version.removeprefix(">=") for name, version in _asks("fasticcl")},
        torch_of_torchvision=dict(_asks("torchvision")).get("torch", ""),
    )


def _packages() -> Iterator[tuple[str, str]]:
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()  # as PEP 503 has it
        if name in _NAMED or name.startswith(DALI):
            yield name, package.version


def _asks(package: str) -> Iterator[tuple[str, str]]:
    """Yield what an installed package needs, as name and the first condition on its version."""
    try:
        needs = requires(package) or []
    except PackageNotFoundError:
        return
    for need in needs:
        found = re.match(r"([\w.-]+)\s*\(?((?:==|>=)\s*[\w.+]+)?", need)
        if found and "extra ==" not in need:
            yield found[1], (found[2] or "").replace(" ", "")
