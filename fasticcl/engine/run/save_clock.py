"""When a checkpoint is due."""

import time


class SaveClock:
    """Counts steps, or minutes, since the last checkpoint.

    Args:
        every: ``engine.save_every``: steps (``500``) or minutes (``15m``).
    """

    def __init__(self, every: str) -> None:
        self._minutes = every.endswith("m")
        self._every = int(every.removesuffix("m"))
        self.restart()

    def restart(self) -> None:
        """Start to count anew: a checkpoint was written."""
        self._steps, self._began = 0, time.monotonic()

    def due(self) -> bool:
        """Count a step and return whether a checkpoint is due after it; then it counts anew.

        Among several ranks the checkpoint comes a step later, which must not ask for another.
        """
        self._steps += 1
        passed = (time.monotonic() - self._began) // 60 if self._minutes else self._steps
        if passed < self._every:
            return False
        self.restart()
        return True
