"""Training throughput of a network, and its step in each execution mode."""

from collections.abc import Callable, Mapping
from functools import cache, partial

from _gpu.bench import BOTH, CORES, Bench, Figures, Row
from fasticcl.bench.advice import advise
from fasticcl.bench.measure import Measurement, Timing
from fasticcl.bench.suite import ignore_status, measure_phase, situation
from fasticcl.bench.training import measure_parts, training_task
from fasticcl.bench.workload import Workload
from fasticcl.data.plan import Phase
from fasticcl.engine.compile_trial import try_modes
from fasticcl.system.machine import MODES, Mode

_SECONDS = {"resnet50": (60, 15, 27), "resnet32": (30, 10, 20), "resnext50": (65, 15, 27)}
"""Estimated seconds of the first step row, which compiles, of the second, and of an end-to-end row."""

_CAPTURE_WARMUP = 6  # steps, of which the fourth is captured


def training(bench: Bench, part: str) -> list[Row]:
    """Measure the step alone, then loader, step and end-to-end training in interleaved runs, in each phase.

    An image counts once for each forward pass of the encoder, so a step has B images in warm-up (x_h) and 2·B
    in the interpolative phase (x_h and x_f). The loader decodes as many (x_h and x_t).
    """
    timing = Timing(bench.sizes.repeats, bench.sizes.seconds, ignore_status)
    opened = cache(lambda: bench.workload(*bench.sizes.networks[part]))  # compiled once for all rows
    *steps, together = _SECONDS[part]

    def alone(phase: Phase) -> Figures:
        (rate,) = measure_phase(opened(), phase, ("step",), timing).values()
        return {**to_figures({"step": rate}), "settings": opened().settings()}

    def parts() -> Figures:
        measured = measure_parts(opened(), "interpolative", bench.sizes.seconds)
        return {f"{name}, ms": each.to_dict() for name, each in measured.items()}

    rows = []
    for phase, seconds in zip(BOTH, steps, strict=True):
        rows.append(Row(f"step, {phase}", seconds, partial(alone, phase)))
        rows.append(Row(f"end to end, {phase}", together, partial(end_to_end, opened, phase, timing)))
    return [*rows, Row("parts of a step, interpolative", 6, parts)]


def end_to_end(opened: Callable[[], Workload], phase: Phase, timing: Timing) -> Figures:
    """Measure loader, step and end-to-end training in interleaved runs, and name the bottleneck."""
    workload = opened()
    rates = measure_phase(workload, phase, ("loader", "step", "train"), timing)
    loader, step, train = rates.values()
    medians = [loader.median, step.median, train.median]
    return {
        **to_figures({"loader": loader, "step": step, "end to end": train}),
        "end to end / step": ratio(train, step),
        "loader / step": ratio(loader, step),
        "advice": advise(situation(workload, medians, CORES)).sentence,
        "settings": workload.settings(),
    }


def to_figures(rates: Mapping[str, Measurement]) -> Figures:
    return {f"{name}, images/s": each.to_dict() for name, each in rates.items()}


def ratio(one: Measurement, other: Measurement) -> Figures:
    """Return the ratios of two systems, run by run."""
    pairs = zip(one.runs, other.runs, strict=True)
    return Measurement(tuple(mine / others for mine, others in pairs), "ratio").to_dict()


def modes(bench: Bench) -> list[Row]:
    """Compare a step of ResNet-32 in each mode with the eager step: its time and its loss.

    The mode ``captured`` also replaces the loader, so it is compared end to end with the default mode.
    """
    subject = bench.sizes.networks["resnet32"]

    def compare(mode: Mode) -> Figures:
        workload = bench.workload(*subject)
        pair: tuple[Mode, ...] = ("off",) if mode == "off" else ("off", mode)
        trial = try_modes(workload.config, workload.num_classes, workload.machine, pair)
        if trial.failures:
            return {"failed": "; ".join(trial.failures.values())}
        return {"eager, ms/step": trial.milliseconds["off"], "this mode, ms/step": trial.milliseconds[mode]}

    def captured() -> Figures:
        workloads = {"default": bench.workload(*subject)}
        workloads["captured"] = bench.workload(*subject, "engine.compile=captured")
        tasks = {name: training_task(workload, "interpolative") for name, workload in workloads.items()}
        timing = Timing(bench.sizes.repeats, bench.sizes.seconds, ignore_status)
        warmup = dict.fromkeys(tasks, _CAPTURE_WARMUP)
        rates = timing(tasks, warmup, workloads["default"].machine.synchronize)
        return {**to_figures(rates), "captured / default": ratio(rates["captured"], rates["default"])}

    seconds = {"on": 10}  # the rows of ResNet-32 have compiled this mode
    rows = [Row(MODES[mode], seconds.get(mode, 25), partial(compare, mode)) for mode in bench.sizes.modes]
    return [*rows, Row("captured as one CUDA graph, end to end", 25, captured)]
