"""How long a run still takes, from what its steps took so far."""

from collections.abc import Mapping

from fasticcl.data.plan import Phase

RELATIVE_COST: Mapping[Phase, float] = {"warmup": 1.0, "interpolative": 2.0, "rebalance": 0.5}
"""What a step of a phase costs until one was measured: passes with gradient, a frozen encoder's for half."""
_SKIPPED = 2  # first steps of a phase, in which pipelines fill and kernels are chosen or compiled


class Estimate:
    """The seconds that are left, by phase: each is counted at its own pace, evaluations with it.

    Args:
        steps: steps of the whole run by phase, in order.
        done: steps that earlier processes took.
    """

    def __init__(self, steps: Mapping[Phase, int], done: int = 0) -> None:
        self.left = dict(steps)
        for phase, count in self.left.items():
            taken = min(done, count)
            self.left[phase] -= taken
            done -= taken
        self._measured: dict[Phase, tuple[int, float]] = {}
        self._phase: Phase | None = None
        self._before, self._skip = 0.0, 0

    def step(self, phase: Phase, now: float) -> None:
        """Count a step that ended ``now`` (seconds)."""
        if phase != self._phase:
            self._phase, self._skip = phase, _SKIPPED
        elif self._skip:
            self._skip -= 1
        else:
            count, seconds = self._measured.get(phase, (0, 0.0))
            self._measured[phase] = (count + 1, seconds + now - self._before)
        self._before = now
        if self.left.get(phase):
            self.left[phase] -= 1

    def seconds(self) -> float | None:
        """Return the seconds that are left; None before anything was measured."""
        if not self._measured:
            return None
        # A phase that has not begun is expected at the pace of the last one that was measured.
        known = list(self._measured)[-1]
        count, total = self._measured[known]
        unit = total / count / RELATIVE_COST[known]
        return sum(left * self._pace(phase, unit) for phase, left in self.left.items())

    def _pace(self, phase: Phase, unit: float) -> float:
        if phase not in self._measured:
            return unit * RELATIVE_COST[phase]
        count, total = self._measured[phase]
        return total / count
