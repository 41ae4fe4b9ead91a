"""The process of `gpu.py` that measures. `supervisor.py` starts another one if it crashes or hangs."""

import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch

from _gpu.bench import FULL, SMALL, Bench, Row
from _gpu.cifar import cifar
from _gpu.damaged_images import corrupt
from _gpu.loader import decode
from _gpu.networks import modes, training
from _gpu.parity import graph, step
from _gpu.peers import bare, peers
from _gpu.rows import Rows, read_rows
from _gpu.supervisor import HEADER, RESTART, Task
from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.hardware import hardware

PARTS: Mapping[str, Callable[[Bench], list[Row]]] = {  # in the order of the measurement
    "resnet50": lambda bench: training(bench, "resnet50"),
    "bare": bare,
    "resnet32": lambda bench: training(bench, "resnet32"),
    "modes": modes,
    "peers": peers,
    "cifar": cifar,
    "decode": decode,
    "corrupt": corrupt,
    "graph": graph,
    "step": step,
    "resnext50": lambda bench: training(bench, "resnext50"),
}
_PR_SET_PDEATHSIG = 1


def work(task: Task) -> None:
    """Measure all rows that have no line yet."""
    if task.device == "gpu":
        if not torch.cuda.is_available():
            sys.exit("torch finds no GPU. Add --device cpu --small.")
        torch.backends.cudnn.benchmark = True  # as in training
    ctypes.CDLL(None).prctl(
        _PR_SET_PDEATHSIG, signal.SIGKILL
    )  # a killed supervisor must not leave this process behind
    keep_freed_memory()  # as in training
    if task.small:
        torch.set_num_threads(1)  # more threads do not speed up networks this small
    rows = Rows(task.file, task.budget, began=task.began)
    task = replace(task, folder=task.folder / str(os.getpid()))
    task.folder.mkdir()
    bench = open_bench(task, lambda: rows.budget - rows.elapsed)
    plan = planned(bench, task.only)
    done = {(line["part"], line["row"]) for line in read_rows(task.file)}
    if (HEADER, "") not in done:
        names = [[part, row.name, row.seconds] for part, row in plan]
        settings = {"device": task.device, "small": task.small, "whole_images": task.whole_images}
        rows.write(HEADER, "", {**settings, "hardware": hardware(), "plan": names})
    measure(plan, rows, done, device_works if task.device == "gpu" else lambda: True)


def open_bench(task: Task, seconds_left: Callable[[], float]) -> Bench:
    sizes = SMALL if task.small else FULL
    return Bench(sizes, task.device, task.folder, task.cifar, seconds_left, task.whole_images)


def planned(bench: Bench, only: Collection[str]) -> list[tuple[str, Row]]:
    """Return part and row of all rows in the order of measurement."""
    return [(part, row) for part, rows in PARTS.items() if part in only for row in rows(bench)]


def measure(
    plan: list[tuple[str, Row]], rows: Rows, done: Collection[tuple[str, str]], works: Callable[[], bool]
) -> None:
    """Measure the rows that are not done, and write a line for each.

    A row that would end after the deadline is left out, and later rows that fit are measured.

    Args:
        plan: part and row of each row. The list is emptied, which frees the models of measured rows.
        rows: receives the lines.
        done: parts and names of the rows that an earlier process measured.
        works: called after a failed row. If it returns False, the process ends with the code `RESTART`.
    """
    taken: dict[tuple[str, str], float] = {}
    while plan:
        part, row = plan.pop(0)
        if (part, row.name) in done:
            continue
        seconds = taken.get((part, row.kind), row.seconds) if row.kind else row.seconds
        if not rows.has_time(seconds):
            rows.write(part, row.name, {"left_out": f"about {seconds:.0f} s"})
            continue
        began = rows.elapsed
        try:
            figures = row.measure()
        except Exception as error:  # the other rows still run
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        taken[part, row.kind] = rows.elapsed - began
        rows.write(part, row.name, {"seconds": round(rows.elapsed - began, 1), **figures})
        print(f"{rows.elapsed:5.0f} s  {part}: {row.name}{'  FAILED' * ('failed' in figures)}", flush=True)
        if "failed" in figures and not works():
            os._exit(RESTART)  # a broken CUDA context may block an ordinary exit
        del row
        release(part_ends=not plan or plan[0][0] != part)


def device_works() -> bool:
    """Return False if an earlier CUDA error makes every later call fail."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def release(part_ends: bool) -> None:
    """Free the GPU memory of models that are no longer used, and their compiled code at the end of a part."""
    if torch.cuda.is_available():
        if part_ends:
            torch.compiler.reset()  # after eight models of a class, torch.compile would fall back to eager
        gc.collect()  # compiled modules and DALI pipelines contain reference cycles
        torch.cuda.empty_cache()


def describe_plan(task: Task) -> str:
    """Return the rows with their estimated durations and ends. Rows that do not fit the budget are marked."""
    total, lines = 0.0, []
    for part, row in planned(open_bench(task, lambda: task.budget), task.only):
        fits = total + row.seconds < task.budget
        total += row.seconds if fits else 0
        end = f"{total:5.0f} s" if fits else "left out"
        lines.append(f"{end:>8}  {row.seconds:4.0f} s  {part}: {row.name}")
    return "\n".join(lines)
