"""The checks of `first_light.py`, in the order in which they run."""

from dataclasses import dataclass

REGIONS = "regions"
"""Part of check 2. If it fails, all later checks decode whole images."""


@dataclass(frozen=True)
class Check:
    """A check and its time limit."""

    number: int
    name: str
    target: str
    """Module and function, as in ``package.module:function``."""
    limit: float
    """Seconds after which the check is stopped."""
    least: float = 5.0
    """Seconds that must be left for the check to start."""


CHECKS = (
    Check(1, "imports", "_first_light.imports:check", 60),
    Check(2, "decoding", "_first_light.decoding:check", 30),
    Check(3, "graph", "_first_light.graph:check", 45),
    Check(4, "held outputs", "_first_light.held_outputs:check", 30),
    Check(5, "synchronisation", "_first_light.synchronisation:check", 90, least=10),
    Check(6, "loader", "_first_light.loader:check", 40, least=10),
    Check(7, "resnet50", "_first_light.step:check", 75, least=30),
    Check(8, "cuda graphs", "_first_light.cuda_graphs:check", 70, least=20),
    Check(9, "resume", "_first_light.resume:check", 60, least=20),
)
