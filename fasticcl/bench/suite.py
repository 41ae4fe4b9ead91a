"""The benchmarks of ``fasticcl bench``, and the selection of phases and run lengths."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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
_MIN_LOADER_BATCHES = 3  # a large batch takes a CPU more than a second
_TASKS = {
    "loader": training.loader_task,
    "step": training.step_task,
    "bfloat16 step": training.bfloat16_step_task,
    "train": training.training_task,
}

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
            options |= {"data": data, "workers": workers, "images": images}
            workload = open_workload(folder, dataset, decoded=what not in ("plan", "step"), **options)
            _check_phase(workload, phase)
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
    """Measure plan, loader, step or end-to-end training in one phase, or ``all`` of them in every phase.

    Planning and loading need no network, so they are always measured with the batches of the run. Steps and
    training, and the loader that is compared with them, have the batches of `Workload.reduced`.
    """
    reduced = workload.reduced()
    if what == "plan":
        return _result(workload, workload, _measure_plans(workload, (phase,), timing))
    if what == "loader":
        return _result(workload, workload, measure_phase(workload, phase, ("loader",), timing))
    steps = ("step", "bfloat16 step") if workload.may_prefer_bfloat16 else ("step",)
    if what == "step":
        return _result(workload, reduced, measure_phase(reduced, phase, steps, timing))
    plans = _measure_plans(workload, workload.phases, timing) if what == "all" else {}
    measured = measure_phase(reduced, phase, ("loader", *steps, "train"), timing)
    loader, step, *bfloat16, train = (rate.median for rate in measured.values())
    advice = advise(situation(reduced, (loader, step, train), cores, *bfloat16))
    timing.show_status("timing the parts of a step")
    parts = training.measure_parts(reduced, phase, 2 * timing.seconds)
    parts = {name: replace(part, sizes=reduced.sizes(phase)) for name, part in parts.items()}
    if what == "all":
        measured = plans | _complete(measured, workload, reduced, phase, timing)
    return _result(workload, reduced, measured, parts, advice)


def _measure_plans(workload: Workload, phases: Iterable[Phase], timing: Timing) -> dict[str, Measurement]:
    sizes = {f"plan {phase}": workload.sizes(phase, images=False, network=False) for phase in phases}
    tasks = {f"plan {phase}": training.plan_task(workload, phase) for phase in phases}
    measured = timing(tasks, dict.fromkeys(tasks, training.PLAN_WARMUP))
    return {name: replace(rate, sizes=sizes[name]) for name, rate in measured.items()}


def _complete(
    measured: Mapping[str, Measurement], workload: Workload, reduced: Workload, phase: Phase, timing: Timing
) -> dict[str, Measurement]:
    """Return the rates of one phase with the loader of every phase and the step of the others added."""
    rates: dict[str, Measurement] = {}
    for other in workload.phases:
        if other != phase or reduced is not workload:  # otherwise it is measured already
            rates |= measure_phase(workload, other, ("loader",), timing)
        if other != phase:
            rates |= measure_phase(reduced, other, ("step",), timing)
    rates |= {f"{name}, small batch" if name in rates else name: rate for name, rate in measured.items()}
    return dict(sorted(rates.items(), key=lambda item: BENCHMARKS.index(item[0].split()[0])))


def measure_phase(
    workload: Workload, phase: Phase, names: Iterable[str], timing: Timing
) -> dict[str, Measurement]:
    """Return the images per second of some of loader, step, bfloat16 step and train, in interleaved runs."""
    tasks, warmup, sizes = {}, {}, {}
    for name in names:
        label = f"step {phase}, bfloat16" if name == "bfloat16 step" else f"{name} {phase}"
        tasks[label] = _TASKS[name](workload, phase)
        queue = training.loader_warmup(workload.config) if name in ("loader", "train") else 0
        warmup[label] = max(queue, 0 if name == "loader" else training.STEP_WARMUP)
        sizes[label] = workload.sizes(phase, network=name != "loader")
    min_batches = {f"loader {phase}": _MIN_LOADER_BATCHES}
    measured = timing(tasks, warmup, workload.machine.synchronize, min_batches)
    return {label: replace(rate, sizes=sizes[label]) for label, rate in measured.items()}


def situation(
    workload: Workload, rates: Sequence[float], cores: int, bfloat16_step: float | None = None
) -> Situation:
    """Return the input of `advise`, from the rates of loader, step and end-to-end training.

    Args:
        workload: the measured workload.
        rates: images per second of the three.
        cores: number of cores.
        bfloat16_step: images per second of the step in bfloat16, or None if it was not measured.
    """
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
        bfloat16_step=bfloat16_step,
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


def _check_phase(workload: Workload, phase: Phase | None) -> None:
    if phase is None or phase in workload.phases:
        return
    stage = workload.config.method.first_stage
    if stage == "m2m":
        raise UserError("Translation depends on the sizes of the classes. Add --data DIR to measure it.")
    raise UserError(
        f"method.first_stage={stage} has no phase {phase}. Choose one of: {', '.join(workload.phases)}."
    )


def _conversion(*arguments: Any) -> Result:
    # Imported here because it needs simplejpeg, and the other benchmarks do not.
    from fasticcl.bench.conversion import measure_conversion

    return measure_conversion(*arguments)


def _result(
    workload: Workload,
    measured_workload: Workload,
    measured: Mapping[str, Measurement],
    parts: Mapping[str, Measurement] | None = None,
    advice: Advice | None = None,
) -> Result:
    """Return the result with the settings of one workload and the notes of the one that was measured."""
    notes = ["both images of a pair are counted, and warm-up is excluded"]
    decoded = any(name.startswith(("loader", "train")) for name in measured)
    if decoded and (generated := workload.generated):
        notes.append(
            f"images: {len(generated.contents)} of {generated.width}×{generated.height} pixels, "
            f"{generated.mean_bytes / 1000:.1f} kB on average, generated by the benchmark "
            "(--data DIR measures your own)"
        )
    notes += measured_workload.notes
    if any(name.endswith(", bfloat16") for name in measured):
        notes.append(
            "bfloat16: the step with --set engine.precision=bfloat16, for which this CPU has instructions. "
            "The default on a CPU is float32"
        )
    return Result(
        workload.settings(),
        workload.images(),
        measured,
        parts or {},
        tuple(notes + (_parts_notes(workload) if parts else [])),
        binds=advice.binds if advice else None,
        advice=advice.sentence if advice else None,
    )


def _parts_notes(workload: Workload) -> list[str]:
    every = workload.config.engine.log_every
    notes = [
        "the parts come from a second pass that waits for the device after each part, so they add up to "
        f"more than an unmodified step. A log line is written only every {every} steps"
    ]
    mode = training.parts_mode(workload.machine.mode)
    if mode != workload.machine.mode:
        notes.append(
            f"the parts are measured in the mode {mode} ({MODES[mode]}), because a step of the mode "
            f"{workload.machine.mode} has no separate parts"
        )
    return notes + [f"{name}: {training.PARTS[name]}" for name in ("plan", "read", "wait", "backward")]
