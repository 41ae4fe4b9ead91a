"""From options to a result: what each ``fasticcl bench`` measures, and for how long."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fasticcl.bench import loader, plan, step, train
from fasticcl.bench.advice import Advice, Situation, advise
from fasticcl.bench.measure import Measurement, Settle, Work, at_once, in_turns
from fasticcl.bench.result import Result
from fasticcl.bench.synthetic_images import make_images, write_files
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.data.plan import PHASES, Phase
from fasticcl.errors import UserError, nearest
from fasticcl.system.hardware import hardware
from fasticcl.system.resources import available_cores

KINDS = ("plan", "loader", "step", "train", "convert", "all")
QUIET = 0.5  # load average above which something else ran
_CPU_SECONDS, _GPU_SECONDS = 1.5, 3.0
_CONVERTED = 256  # images

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing of what is being measured."""


@dataclass(frozen=True)
class Timing:
    """How often and how long each work is measured."""

    repeats: int
    seconds: float
    say: Say

    def __call__(
        self, works: Mapping[str, Work], warmup: Mapping[str, int], settle: Settle = at_once
    ) -> dict[str, Measurement]:
        """Measure works in turns."""
        self.say(f"measuring {', '.join(works)}: {self.repeats} times {self.seconds:g} s each")
        return in_turns(works, repeats=self.repeats, seconds=self.seconds, warmup=warmup, settle=settle)


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
    say: Say = silent,
    **options: Any,
) -> Result:
    """Measure as `fasticcl.benchmark` describes; ``options`` are further ones of `open_workload`."""
    _check(what, phase, repeats, seconds)
    machine = hardware()
    with tempfile.TemporaryDirectory(prefix="fasticcl-bench-") as scratch:
        folder = Path(scratch)
        if what == "convert":
            timing = Timing(repeats, seconds or _CPU_SECONDS, say)
            found = measure_conversion(folder, data, workers, images, timing)
        else:
            say("opening shards" if data or options.get("config") else "making images")
            if what in ("plan", "step"):
                images = images or 1  # none is decoded; as many as a batch has are made
            workload = open_workload(folder, dataset, data=data, workers=workers, images=images, **options)
            if what not in ("plan", "loader"):
                workload = workload.in_mode_of_training(say)
            default = _CPU_SECONDS if workload.machine.gpu is None else _GPU_SECONDS
            timing = Timing(repeats, seconds or default, say)
            found = measure_training(what, workload, phase or "interpolative", timing, machine["cores"])
            if what == "all":
                found = found.joined(measure_conversion(folder, None, workers, images, timing))
    notes = list(found.notes)
    if machine["load_average"] > QUIET:
        notes.append(f"the machine was not quiet: load average {machine['load_average']:.2f} at the start")
    settings = {**found.settings, "repeats": repeats, "seconds": timing.seconds}
    return replace(found, what=what, hardware=machine, settings=settings, notes=tuple(notes))


def measure_training(what: str, workload: Workload, phase: Phase, timing: Timing, cores: int) -> Result:
    """Measure what the plan, the loader, the step and both together do; ``all`` takes every phase."""
    phases = PHASES if what == "all" else (phase,)
    measured: dict[str, Measurement] = {}
    if what in ("plan", "all"):
        works = {f"plan {each}": plan.plan_work(workload, each) for each in phases}
        measured |= timing(works, dict.fromkeys(works, plan.WARMUP))
    if what in ("loader", "step"):
        measured |= in_phase(workload, phase, (what,), timing)
    if what in ("plan", "loader", "step"):
        return _result(workload, measured)
    whole = in_phase(workload, phase, ("loader", "step", "train"), timing)
    measured |= whole
    timing.say("timing the parts of a step")
    parts = train.measure_parts(workload, phase, 2 * timing.seconds)
    advice = advise(situation(workload, [each.median for each in whole.values()], cores))
    for other in phases:
        if other != phase:
            measured |= in_phase(workload, other, ("loader", "step"), timing)
    return _result(workload, measured, parts, advice)


def in_phase(
    workload: Workload, phase: Phase, names: Iterable[str], timing: Timing
) -> dict[str, Measurement]:
    """Return images per second of some of loader, step and train, measured in turns."""
    makers = {"loader": loader.loader_work, "step": step.step_work, "train": train.train_work}
    queue = loader.warmup(workload.config)
    warmup = {"loader": queue, "step": step.WARMUP, "train": max(queue, step.WARMUP)}
    works = {f"{name} {phase}": makers[name](workload, phase) for name in names}
    counts = {f"{name} {phase}": warmup[name] for name in names}
    return timing(works, counts, settle=workload.machine.synchronize)


def measure_conversion(
    folder: Path, data: Path | None, workers: int | None, images: int | None, timing: Timing
) -> Result:
    """Measure both ways of conversion on the images of a folder, or on some that are made."""
    from fasticcl.bench import convert  # the others do without the JPEG library that it needs

    count, threads = images or _CONVERTED, workers or available_cores()
    notes = ()
    if data is None:
        timing.say("making images to convert")
        made = make_images(count, min(20, count), threads)
        data = folder / "files"
        write_files(made, data)
        notes = (
            f"conversion: {len(made.contents)} made JPEGs of {made.width}×{made.height} pixels, "
            f"{made.mean_bytes / 1000:.1f} kB, from the page cache",
        )
    source = convert.open_source(data, count)
    works = {
        f"convert {mode}": convert.convert_work(source, shrink, threads, folder / "converted")
        for mode, shrink in convert.MODES.items()
    }
    measured = timing(works, dict.fromkeys(works, convert.WARMUP))
    described = {"made": bool(notes), "count": sum(map(len, source.splits.values()))}
    return Result({"workers": threads}, described, measured, notes=notes)


def situation(workload: Workload, rates: list[float], cores: int) -> Situation:
    """Return what the advice needs, from the rates of loader, step and whole."""
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
    if what not in KINDS:
        raise UserError(f"There is no benchmark {what!r}. {nearest(what, KINDS)}")
    if phase is not None and phase not in PHASES:
        raise UserError(f"There is no phase {phase!r}. {nearest(phase, PHASES)}")
    if repeats < 1 or (seconds is not None and seconds <= 0):
        raise UserError("A benchmark takes one repeat or more of more than 0 seconds.")


def _result(
    workload: Workload,
    measured: Mapping[str, Measurement],
    parts: Mapping[str, Measurement] | None = None,
    advice: Advice | None = None,
) -> Result:
    notes = ["both images of a pair count; warm-up is left out"]
    if made := workload.made:
        notes.append(
            f"images: {len(made.contents)} of {made.width}×{made.height} pixels, "
            f"{made.mean_bytes / 1000:.1f} kB on average, made by the benchmark (--data DIR takes yours)"
        )
    notes += workload.notes
    if parts:
        every = workload.config.engine.log_every
        notes.append(
            "the parts come from a second pass that waits for the device between them, so they add up to "
            f"more than a step of the whole; a log line comes every {every} steps only"
        )
        notes += [f"{name}: {train.PARTS[name]}" for name in ("plan", "read", "wait", "backward")]
    return Result(
        workload.settings(),
        workload.images(),
        measured,
        parts or {},
        tuple(notes),
        binds=advice.binds if advice else None,
        advice=advice.sentence if advice else None,
    )
