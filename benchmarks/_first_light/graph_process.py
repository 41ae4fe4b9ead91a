"""The process of check 8: ``python -m _first_light.graph_process EXPERIMENT FILE …``.

It writes its figures and failures to FILE after every change, so they survive a crash.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from _first_light.report import Report, describe
from _first_light.setup import Setup, parse
from _first_light.workloads import open_training, photograph_workload, square_workload, start
from fasticcl.system.machine import Mode

_TOLERANCE = 0.2  # largest difference of a loss, as a share of the spread of the losses over the steps
_CAPTURES = 20


def main(arguments: list[str]) -> int:
    experiment, file, *rest = arguments

    def write(state: Mapping[str, Any]) -> None:
        unfinished = Path(file).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(state), encoding="utf-8")
        os.replace(unfinished, file)

    report = Report(write)
    setup = parse(rest)
    try:
        start(setup)
        EXPERIMENTS[experiment](setup, report)
    except Exception as error:
        report.expect(False, describe(error))
        raise
    return 1 if report.failures else 0


def train_compiled(setup: Setup, report: Report) -> None:
    """Train in the mode cuda-graphs on photographs, while DALI decodes them."""
    train(setup, "cuda-graphs", report)


def train_captured(setup: Setup, report: Report) -> None:
    """Train in the mode captured on small images, while another loader runs DALI."""
    train(setup, "captured", report)


def train(setup: Setup, mode: Mode, report: Report) -> None:
    """Compare the losses of training in a mode with those of eager training."""
    torch.backends.cudnn.allow_tf32 = False  # so the modes differ only by float32 rounding
    small = mode == "captured"
    expected = losses(setup, "off", small)
    report.add("eager", summary(expected))
    actual = losses(setup, mode, small)
    difference = float((expected - actual).abs().nan_to_num(nan=torch.inf).max())
    report.add("compared", {"mode": mode, **summary(actual), "largest_difference": difference})
    limit = _TOLERANCE * float(expected.std())
    report.expect(difference <= limit, f"losses differ from eager by {difference:.3g}, more than {limit:.3g}")


def losses(setup: Setup, mode: Mode, small: bool) -> torch.Tensor:
    """Return the loss of every step. The weights hardly change, so each loss depends on its batch alone.

    Args:
        setup: device and sizes.
        mode: the mode.
        small: if True, train on small images and keep another pipeline of DALI running.
    """
    torch.manual_seed(0)
    size, side, steps = (4, 32, 4) if setup.small else (32, 64, 50)
    precision = "engine.precision=float32"
    photographs = photograph_workload(setup, "resnet8", size, side, precision, f"engine.compile={mode}")
    squares = square_workload(setup, "resnet8", size, precision, f"engine.compile={mode}")
    workload = squares if small else photographs
    decoded = photographs.loader().batches("interpolative") if small else None
    sums = []
    with open_training(workload, "interpolative") as (loop, batches):
        taken = loop.steps(batches)
        for _ in range(steps):
            if decoded:
                next(decoded)
            next(taken)
            sums.append(loop.stats.sums["loss"].clone())
    return torch.stack(sums).double().cpu().diff(prepend=torch.zeros(1, dtype=torch.float64))


def summary(values: torch.Tensor) -> dict[str, Any]:
    return {"steps": len(values), "mean_loss": float(values.mean()), "spread": float(values.std())}


def capture(setup: Setup, report: Report) -> None:
    """Capture graphs with torch alone while DALI decodes and frees earlier batches.

    Only copied outputs have to work. The mode cuda-graphs copies them, because shared ones may end a capture.
    """
    capture_beside(setup, "cuda-graphs", "outputs copied", report)
    try:
        capture_beside(setup, "off", "outputs shared", report)
    except RuntimeError as error:
        report.add("outputs shared", describe(error))


def capture_beside(setup: Setup, mode: Mode, name: str, report: Report) -> None:
    """Capture and replay graphs in the capture mode thread_local, beside the loader of a mode."""
    workload = photograph_workload(setup, "resnet18", 64, 224, f"engine.compile={mode}")
    batches = workload.loader().batches("interpolative")
    x = torch.full((512, 512), 1 / 512, device="cuda")
    y = x @ x  # creates the handle and the workspace of cuBLAS before the first capture
    torch.cuda.synchronize()
    right = 0
    for number in range(_CAPTURES):
        batch = next(batches)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            y = x
            del batch  # a thread of DALI frees shared outputs, during the capture
            for _ in range(20):
                y = y @ x
        graph.replay()
        right += bool(torch.allclose(y, x))
        report.add(name, {"captures": number + 1, "right_results": right})
    wrong = _CAPTURES - right
    report.expect(not wrong, f"{name}: {wrong} of {_CAPTURES} graphs computed a wrong result")


EXPERIMENTS: Mapping[str, Callable[[Setup, Report], None]] = {
    "loop": train_compiled,
    "captured": train_captured,
    "capture": capture,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
