"""Compiled training steps of the methods with code of their own, without inductor."""

import pytest

from fasticcl.preset_files import preset_names
from tests.support.method_stages import losses_of_steps, short_config, trained_phases
from tests.support.small_runs import equal

STEPS = 3


def train(method, mode, graphs):
    """Return the losses of all steps, and for each phase the number of new graphs after each step."""
    config = short_config(method, f"engine.compile={mode}")
    losses, counts = [], []
    for stage, epochs in trained_phases(config):
        before, phase = len(graphs), []
        for step in losses_of_steps(config, stage, epochs, STEPS):
            losses.append(step)
            phase.append(len(graphs) - before)
        counts.append(phase)
    return losses, counts


@pytest.mark.parametrize(
    "method", [name for name in ("m2m", "oltr", "tde") if name in preset_names("method")]
)
def test_every_phase_is_compiled_in_its_first_step_and_matches_eager(graphs, method):
    """Values that change with the epoch do not compile it again."""
    expected, _ = train(method, "off", graphs)
    assert not graphs
    losses, counts = train(method, "step", graphs)
    assert equal(losses, expected)
    assert counts[0][0] >= 1
    for first, *_, last in counts:
        assert first == last
