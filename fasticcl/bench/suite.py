"""The benchmarks of ``fasticcl bench``, and the selection of phases and run lengths."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fasticcl.bench import training
from fasticcl.bench.advice import Advice, Situation, advise
from fasticcl.bench.measure import Measurement, Timing
from fasticcl.bench.result import Result
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.data.plan import PHASES, Phase
from fasticcl.errors import UserError, nearest
from fasticcl.system.hardware import hardware
from fasticcl.system.machine import MODES

BENCHMARKS = ("plan", "loader", "step", "train", "convert", "all")
QUIET = 0.5  # load average above which other work disturbs the measurement
_CPU_SECONDS, _GPU_SECONDS = 1.5, 3.0

ShowStatus = Callable[[str], None]


def ignore_status(_: str) -> None:
    """Ignore a progress message."""


def benchmark(
    what: str,
    dataset: str | None = None,
    *,
    phase: Phase | None = None,
    repeats: int = 5,
    seconds: float | None = None,
    data: Path | None = None,
    workers: int | None = None,
    images: int | None = None,
    show_status: ShowStatus = ignore_status,
    **options: Any,
) -> Result:
    """Run a benchmark, see `fasticcl.benchmark`. ``options`` are passed on to `open_workload`.

    Raises:
        UserError: the benchmark or the phase does not exist, or the options are invalid.
    """
    _check(what, phase, repeats, seconds)
    machine = hardware()
    with tempfile.TemporaryDirectory(prefix="fasticcl-bench-") as scratch:
        folder = Path(scratch)
        if what == "convert":
            timing = Timing(repeats, seconds or _CPU_SECONDS, show_status)
            result = _conversion(folder, data, workers, images, timing)
        else:
            show_status("opening shards" if data or options.get("config") else "generating images")
            if what in ("plan", "step"):
                images = images or 1  # no image is decoded, so the minimum of one batch is enough
            workload = open_workload(folder, dataset, data=data, workers=workers, images=images, **options)
            if what not in ("plan", "loader"):
                workload = workload.in_training_mode(show_status)
            default = _CPU_SECONDS if workload.machine.gpu is None else _GPU_SECONDS
            timing = Timing(repeats, seconds or default, show_status)
            result = measure_training(what, workload, phase or "interpolative", timing, machine["cores"])
            if what == "all":
                result = result.joined(_conversion(folder, None, workers, images, timing))
    notes = list(result.notes)
    if machine["load_average"] > QUIET:
        notes.append(f"the machine was not idle: load average {machine['load_average']:.2f} at the start")
    settings = {**result.settings, "repeats": repeats, "seconds": timing.seconds}
    return replace(result, what=what, hardware=machine, settings=settings, notes=tuple(notes))


def measure_training(what: str, workload: Workload, phase: Phase, timing: Timing, cores: int) -> Result:
    """Measure plan, loader, step or end-to-end training in one phase, or ``all`` of them in every phase."""
    phases = PHASES if what == "all" else (phase,)
    measured: dict[str, Measurement] = {}
    if what in ("plan", "all"):
        tasks = {f"plan {name}": training.plan_task(workload, name) for name in phases}
        measured |= timing(tasks, dict.fromkeys(tasks, training.PLAN_WARMUP))
    if what in ("loader", "step"):
        measured |= measure_phase(workload, phase, (what,), timing)
    if what in ("plan", "loader", "step"):
        return _result(workload, measured)
    together = measure_phase(workload, phase, ("loader", "step", "train"), timing)
    measured |= together
    timing.show_status("timing the parts of a step")
    parts = training.measure_parts(workload, phase, 2 * timing.seconds)
    advice = advise(situation(workload, [rate.median for rate in together.values()], cores))
    for other in phases:
        if other != phase:
            measured |= measure_phase(workload, other, ("loader", "step"), timing)
    return _result(workload, measured, parts, advice)


def measure_phase(
    workload: Workload, phase: Phase, names: Iterable[str], timing: Timing
) -> dict[str, Measurement]:
    """Return the images per second of some of loader, step and train, in interleaved runs."""
    makers = {"loader": training.loader_task, "step": training.step_task, "train": training.training_task}
    loader, step = training.loader_warmup(workload.config), training.STEP_WARMUP
    warmup = {"loader": loader, "step": step, "train": max(loader, step)}
    tasks = {f"{name} {phase}": makers[name](workload, phase) for name in names}
    counts = {f"{name} {phase}": warmup[name] for name in names}
    return timing(tasks, counts, synchronize=workload.machine.synchronize)


def situation(workload: Workload, rates: list[float], cores: int) -> Situation:
    """Return the input of `advise`, from the rates of loader, step and end-to-end training."""
    config, machine, images = workload.config, workload.machine, workload.images()
    return Situation(
        *rates,
        gpu=machine.gpu is not None,
        workers=workload.threads,
        cores=cores,
        short_side=min(images["median_height"], images["median_width"]),
        image_size=config.data.image_size,
        compiled=machine.compiled or config.engine.compile == "auto",
        bfloat16=machine.bfloat16,
        batch_size=config.optim.batch_size,
        hw_decoder_load=config.data.hw_decoder_load,
    )


def _check(what: str, phase: str | None, repeats: int, seconds: float | None) -> None:
    if what not in BENCHMARKS:
        raise UserError(f"There is no benchmark {what!r}. {nearest(what, BENCHMARKS)}")
    if phase is not None and phase not in PHASES:
        raise UserError(f"There is no phase {phase!r}. {nearest(phase, PHASES)}")
    if repeats < 1 or (seconds is not None and seconds <= 0):
        raise UserError("--repeats must be at least 1, and --seconds must be greater than 0.")


def _conversion(*arguments: Any) -> Result:
    # Imported here because it needs simplejpeg, and the other benchmarks do not.
    from fasticcl.bench.conversion import measure_conversion

    return measure_conversion(*arguments)


def _result(
    workload: Workload,
    measured: Mapping[str, Measurement],
    parts: Mapping[str, Measurement] | None = None,
    advice: Advice | None = None,
) -> Result:
    notes = ["both images of a pair are counted, and warm-up is excluded"]
    if generated := workload.generated:
        notes.append(
            f"images: {len(generated.contents)} of {generated.width}×{generated.height} pixels, "
            f"{generated.mean_bytes / 1000:.1f} kB on average, generated by the benchmark "
            "(--data DIR measures your own)"
        )
    notes += workload.notes
    if parts:
        every = workload.config.engine.log_every
        notes.append(
            "the parts come from a second pass that waits for the device after each part, so they add up to "
            f"more than an unmodified step. A log line is written only every {every} steps"
        )
        mode = training.parts_mode(workload.machine.mode)
        if mode != workload.machine.mode:
            notes.append(
                f"the parts are measured in the mode {mode} ({MODES[mode]}), because a step of the mode "
                f"{workload.machine.mode} has no separate parts"
            )
        notes += [f"{name}: {training.PARTS[name]}" for name in ("plan", "read", "wait", "backward")]
    return Result(
        workload.settings(),
        workload.images(),
        measured,
        parts or {},
        tuple(notes),
        binds=advice.binds if advice else None,
        advice=advice.sentence if advice else None,
    )
