"""Device, sizes and scratch folder of the checks. Imports only the standard library."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """Input of every check."""

    device: str
    """``cpu`` or ``gpu``."""
    small: bool
    """If True, sizes are tiny and figures are meaningless."""
    folder: Path
    """Scratch folder, shared by all checks of a run."""

    @property
    def gpu(self) -> int | None:
        """Device number for DALI, or None on the CPU."""
        return 0 if self.device == "gpu" else None

    @property
    def patience(self) -> float:
        """Factor of all time limits, which are chosen for a GPU machine."""
        return 1.0 if self.device == "gpu" else 10.0

    def arguments(self) -> list[str]:
        """Return the command line from which `parse` restores this object."""
        return ["--device", self.device, "--folder", str(self.folder), *(["--small"] if self.small else [])]

    @classmethod
    def from_options(cls, options: Namespace) -> "Setup":
        """Return the setup of a parsed command line."""
        return cls(options.device, options.small, options.folder)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of `Setup.arguments` to a parser."""
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="use tiny sizes")
    parser.add_argument("--folder", type=Path, required=True)


def parse(arguments: Sequence[str]) -> Setup:
    """Return the setup of a command line."""
    parser = ArgumentParser()
    add_options(parser)
    return Setup.from_options(parser.parse_args(arguments))
