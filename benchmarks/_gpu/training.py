"""Training throughput, and the execution modes: eager, compiled, and with CUDA graphs."""

from _gpu.bench import BOTH, CORES, Bench, Figures
from fasticcl.bench.advice import advise
from fasticcl.bench.measure import Timing
from fasticcl.bench.suite import ignore_status, measure_phase, situation
from fasticcl.bench.training import measure_parts
from fasticcl.engine.compile_trial import try_modes
from fasticcl.system.machine import MODES


def modes(bench: Bench) -> Figures:
    """Time the same steps in every mode, and list the modes that fail or change the loss with the reason."""
    figures: Figures = {}
    for preset, encoder, batch_size in reversed(bench.sizes.networks):  # small networks first
        if bench.out_of_time():
            figures[encoder] = {"note": "skipped: no time left"}
            continue
        workload = bench.workload(preset, encoder, batch_size)
        trial = try_modes(workload.config, workload.num_classes, workload.machine, bench.sizes.modes)
        times = {f"{MODES[mode]}, ms a step": each for mode, each in trial.milliseconds.items()}
        figures[encoder] = times | {MODES[mode]: f"failed: {why}" for mode, why in trial.failures.items()}
    return figures


def training(bench: Bench) -> Figures:
    """Measure loader, step and end-to-end training in interleaved runs, and name the bottleneck."""
    figures: Figures = {}
    timing = Timing(bench.sizes.repeats, bench.sizes.seconds, ignore_status)
    for preset, encoder, batch_size in bench.sizes.networks:
        if bench.out_of_time():
            figures[encoder] = "skipped: no time left"
            continue
        workload = bench.workload(preset, encoder, batch_size)
        for phase in BOTH:
            rates = measure_phase(workload, phase, ("loader", "step", "train"), timing)
            advice = advise(situation(workload, [each.median for each in rates.values()], CORES))
            parts = measure_parts(workload, phase, bench.sizes.seconds)
            figures[f"{encoder} {phase}"] = {
                "settings": workload.settings(),
                "images_per_second": {name.split()[0]: each.to_dict() for name, each in rates.items()},
                "parts": {name: each.to_dict() for name, each in parts.items()},
                "advice": advice.sentence,
            }
    return figures
