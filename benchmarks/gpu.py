"""All that has to be known of one GPU, in one command: does it compute the same as the CPU, and how fast.

    python benchmarks/gpu.py [--out DIR] [--only PART ...] [--budget 380]
    python benchmarks/gpu.py --device cpu --small      every part in miniature, where there is no GPU

The result is ``gpu.json`` and ``gpu.md`` in DIR (default: the folder that the variable OUT names, else this
one), written anew after every part. Parts that begin after the budget of seconds are left out, and named.

    graph       the images of the DALI graph on the device against those on the CPU, on the same plan
    step        losses and one training step on the device against the CPU: float32, bfloat16, compiled
    corrupt     images that the mixed decoder cannot decode, and bytes that changed since the conversion
    training    loader alone, step alone and end to end: ResNet-50, ResNeXt-50, ResNet-32, both phases
    decode      the loader over data.hw_decoder_load and threads, with the time of a batch at p50 and p99
    peers       two torch DataLoaders with Pillow, and with torchvision's decode_jpeg; an eager step with a
                Python loop over the centroids

It needs torch, torchvision, DALI, NumPy, Pillow, rich, typer, pydantic and safetensors; neither simplejpeg
nor scikit-learn: the images are made here. Where no package index can be reached, all of these have to be
brought along.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

# These stand beside this script, no package.
from _gpu_peers import AHEAD, EagerStep, two_samplers  # pyrefly: ignore[missing-import]

from fasticcl.bench.hardware import hardware
from fasticcl.bench.images import Made, make_images, write_files, write_shards
from fasticcl.bench.loader import loader_work, warmup
from fasticcl.bench.measure import Work, in_turns, shown
from fasticcl.bench.step import step_work
from fasticcl.bench.suite import Timing, in_phase, silent, situation
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.config import Data
from fasticcl.data.cores import available_cores
from fasticcl.data.loader import Batch, Loader, StreamBatch
from fasticcl.data.memory import keep_freed_memory
from fasticcl.data.plan import PHASES, Phase, Plan
from fasticcl.data.shards import Shards
from fasticcl.data.synthetic import synthetic_batch
from fasticcl.engine.machine import Machine
from fasticcl.engine.optim import set_lr
from fasticcl.engine.representation import Representation

CLASSES = {"imagenet-lt": 1000, "cifar100-lt": 100}
BOTH: tuple[Phase, ...] = ("warmup", "interpolative")
NO_JITTER = "data.color_jitter=[0, 0, 0]"
Found = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    images: int
    batch_size: int
    side: int
    networks: tuple[tuple[str, str, int], ...]
    """Preset, encoder, batch size."""
    parity: tuple[str, str, int]
    eager: str
    loads: tuple[float, ...]
    threads: tuple[int, ...]
    batches: int
    repeats: int
    seconds: float
    pause: float
    """Seconds in which what ran before fills its queues and falls idle."""


CORES = available_cores()
FULL = Sizes(
    images=2048,
    batch_size=256,
    side=224,
    networks=(
        ("imagenet-lt", "resnet50", 256),
        ("imagenet-lt", "resnext50_32x4d", 256),
        ("cifar100-lt", "resnet32", 128),
    ),
    parity=("imagenet-lt", "resnet18", 32),
    eager="resnet50",
    loads=(0.0, 0.5, 0.65, 0.8, 0.95),
    threads=tuple(sorted({max(1, CORES // 4), max(1, CORES // 2), CORES})),
    batches=64,
    repeats=3,
    seconds=1.5,
    pause=2.0,
)
SMALL = Sizes(
    images=40,
    batch_size=4,
    side=32,
    networks=(("imagenet-lt", "resnet18", 2), ("cifar100-lt", "resnet8", 4)),
    parity=("cifar100-lt", "resnet8", 4),
    eager="resnet18",
    loads=(0.65,),
    threads=(1, 2),
    batches=3,
    repeats=1,
    seconds=0.01,
    pause=0.0,
)


@dataclass(frozen=True)
class Bench:
    """What every part gets."""

    sizes: Sizes
    device: str
    """cpu or gpu."""
    folder: Path
    made: Made
    late: Callable[[], bool]

    @property
    def shards(self) -> Path:
        """The images as shards."""
        return self.folder / "shards"

    @property
    def gpu(self) -> int | None:
        """Device number for DALI."""
        return 0 if self.device == "gpu" else None

    @property
    def torch_device(self) -> torch.device:
        """The same for torch."""
        return torch.device("cuda", 0) if self.device == "gpu" else torch.device("cpu")

    def workload(self, preset: str, encoder: str, batch_size: int, *assignments: str) -> Workload:
        """Return a preset on the images that were made, with as many classes as the preset's dataset has."""
        squares = preset == "cifar100-lt"
        side = () if squares else (f"data.image_size={self.sizes.side}",)
        opened = open_workload(
            self.folder,
            preset,
            data=self.folder / "squares" if squares else self.shards,
            encoder=encoder,
            batch_size=batch_size,
            device=self.device,
            assignments=[*side, *assignments],
        )
        return replace(opened, num_classes=CLASSES[preset])


def main() -> None:
    options = parse()
    deadline = time.monotonic() + options.budget
    if options.device == "gpu" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; add --device cpu --small")
    keep_freed_memory()  # as in training
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = SMALL if options.small else FULL
    if options.small:
        torch.set_num_threads(1)  # networks so small gain nothing from more

    result: Found = {"benchmark": "gpu", "device": options.device, "small": options.small}
    result |= {"hardware": hardware(), "seconds": {}, "left_out": [], "failed": {}}
    with tempfile.TemporaryDirectory(prefix="fasticcl-gpu-") as folder:
        bench = prepare(sizes, options.device, Path(folder), lambda: time.monotonic() > deadline)
        for name, part in PARTS.items():
            if name not in options.only:
                continue
            if bench.late():
                result["left_out"].append(name)
                continue
            started = time.monotonic()
            try:
                result[name] = part(bench)
            except Exception as error:  # the other parts are worth having all the same
                traceback.print_exc()
                result["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            result["seconds"][name] = round(time.monotonic() - started, 1)
            write(result, options.out)
            print(f"{name}: {result['seconds'][name]} s", flush=True)
    write(result, options.out)
    print(markdown(result))
    sys.exit(1 if result["failed"] else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All that has to be known of one GPU.")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="sizes of a test")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--budget", type=float, default=380, help="seconds (default %(default)s)")
    return parser.parse_args()


def prepare(sizes: Sizes, device: str, folder: Path, late: Callable[[], bool]) -> Bench:
    classes = min(20, sizes.images // 10)
    made = make_images(sizes.images, classes, CORES)
    write_shards(made, folder / "shards")
    write_shards(make_images(sizes.images, classes, CORES, width=32, height=32, png=True), folder / "squares")
    return Bench(sizes, device, folder, made, late)


def graph(bench: Bench) -> Found:
    """Compare images, on the scale of 0 to 255, and everything else to the bit."""
    shards = Shards(bench.shards, "train")
    base = Data(dataset="folder", dir=bench.shards, image_size=bench.sizes.side, eval_resize=0)
    kinds = {
        "plain": base,
        "jitter": base.model_copy(update={"color_jitter": (0.4, 0.4, 0.4)}),
        "pad": base.model_copy(update={"crop": "pad"}),
    }
    found: Found = {}
    for kind, data in kinds.items():
        plan = Plan(shards.index, shards.counts, data, batch_size=min(32, bench.sizes.batch_size), seed=0)
        for phase in PHASES:
            one, two = (next(Loader(shards, plan, gpu=gpu).batches(phase)) for gpu in (None, bench.gpu))
            found[f"{kind} {phase}"] = difference(one, two, data)
    return found


def difference(one: Batch | StreamBatch, two: Batch | StreamBatch, data: Data) -> Found:
    std = torch.tensor(data.std)[:, None, None] * 255
    levels, same = [], True
    for name, value in vars(one).items():
        other = getattr(two, name).cpu()
        if value.ndim == 4:
            levels.append(((value - other) * std).abs().flatten())
        else:
            same = same and torch.equal(value, other)
    every = torch.cat(levels)
    return {"mean_levels": float(every.mean()), "max_levels": float(every.max()), "rest_equal": same}


def step(bench: Bench) -> Found:
    """Take one step of each phase from the same weights on the same images; compare losses and weights."""
    workload = bench.workload(*bench.sizes.parity, "engine.precision=float32", "engine.compile=off")
    cpu, device = torch.device("cpu"), bench.torch_device
    machines = {
        "float32": Machine(device, bfloat16=False, mode="off"),
        "bfloat16": Machine(device, bfloat16=True, mode="off"),
        "compiled": Machine(device, bfloat16=True, mode="on"),
    }
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    found: Found = {}
    try:
        for phase in BOTH:
            loader = replace(workload, machine=Machine(cpu, bfloat16=False, mode="off")).loader()
            batch = next(loader.batches(phase))
            torch.manual_seed(0)
            reference = Representation(workload.config, workload.num_classes, Machine(cpu, False, "off"))
            begun = {name: value.clone() for name, value in reference.network.state_dict().items()}
            expected = one_step(reference, batch)
            for name, machine in machines.items():
                if machine.compiled and (bench.gpu is None or phase == "warmup"):
                    continue  # it takes long, minutes for a CPU
                stage = Representation(workload.config, workload.num_classes, machine)
                stage.network.load_state_dict(begun)
                found[f"{name} {phase}"] = compare_steps(expected, one_step(stage, moved(batch, device)))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    return found


def moved(batch: Batch | StreamBatch, device: torch.device) -> Batch | StreamBatch:
    return type(batch)(**{name: value.to(device) for name, value in vars(batch).items()})


def one_step(stage: Representation, batch: Batch | StreamBatch) -> dict[str, torch.Tensor]:
    """Return the losses of a step and, as one vector each, the gradient and the centroids after it."""
    stage.train_mode()
    set_lr(stage.optimizer, 0.1)
    losses = stage.losses(batch)
    losses["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in stage.network.parameters() if p.grad is not None])
    stage.optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in stage.network.parameters()])
    vectors = {"gradient": gradient, "weights": weights, "centroids": stage.bank.centroids.flatten()}
    return {name: value.detach().cpu().double() for name, value in {**losses, **vectors}.items()}


def compare_steps(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> Found:
    """Return the distance of each quantity from the CPU's, relative to the size of the latter."""
    relative = {}
    for name, value in expected.items():
        relative[name] = float((found[name] - value).norm() / value.norm().clamp(min=1e-12))
    return relative


def corrupt(bench: Bench) -> Found:
    """Cut some images short, flip a byte of another on the disk, and run over an epoch of the loader."""
    contents = [*bench.made.contents]
    cut, rotten = [1, 3, 8], 5  # all of the largest class, where others are left to stand in for them
    for row in cut:
        contents[row] = contents[row][: len(contents[row]) // 3]
    folder = bench.folder / "corrupt"
    write_shards(replace(bench.made, contents=contents), folder)
    shards = Shards(folder, "train")
    damage(folder, shards, rotten)
    data = Data(dataset="folder", dir=folder, image_size=bench.sizes.side, eval_resize=0)
    plan = Plan(shards.index, shards.counts, data, batch_size=bench.sizes.batch_size, seed=0)
    loader = Loader(shards, plan, gpu=bench.gpu)
    warnings: list[str] = []
    loader.bad.warn = warnings.append
    batches, took, right = loader.batches("warmup"), [], True
    for number in range(loader.steps):
        began = time.perf_counter()
        batch = next(batches)
        assert isinstance(batch, StreamBatch)
        right = right and batch.y.cpu().tolist() == plan.batch("warmup", 0, number).streams[0].labels.tolist()
        right = right and bool(batch.x.isfinite().all())
        took.append(time.perf_counter() - began)
    return {
        "planted": sorted([*cut, rotten]),
        "found": loader.bad.rows,
        "named": len(warnings),
        "batches": len(took),
        "labels_as_planned": right,
        "batch_ms_median": 1000 * float(np.median(took)),
        "batch_ms_max": 1000 * max(took),
    }


def damage(folder: Path, shards: Shards, row: int) -> None:
    found = shards.index[row]
    with open(folder / "train" / f"shard-{int(found['shard']):06d}.tar", "r+b") as file:
        file.seek(int(found["offset"]) + int(found["size"]) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def training(bench: Bench) -> Found:
    """Measure loader, step and both together, in turns, and say which binds."""
    from fasticcl.bench.advice import advise
    from fasticcl.bench.train import measure_parts

    found: Found = {}
    timing = Timing(bench.sizes.repeats, bench.sizes.seconds, silent)
    for preset, encoder, batch_size in bench.sizes.networks:
        if bench.late():
            found[encoder] = "left out: no time"
            continue
        workload = bench.workload(preset, encoder, batch_size)
        for phase in BOTH:
            rates = in_phase(workload, phase, ("loader", "step", "train"), timing)
            advice = advise(situation(workload, [each.median for each in rates.values()], CORES))
            parts = measure_parts(workload, phase, bench.sizes.seconds)
            found[f"{encoder} {phase}"] = {
                "settings": workload.settings(),
                "images_per_second": {name.split()[0]: each.to_dict() for name, each in rates.items()},
                "parts": {name: each.to_dict() for name, each in parts.items()},
                "advice": advice.sentence,
            }
    return found


def decode(bench: Bench) -> Found:
    """Time every batch of the loader alone, over the share of the JPEG hardware and the threads."""
    found: Found = {}
    loads = bench.sizes.loads if bench.gpu is not None else bench.sizes.loads[:1]
    preset, encoder, _ = bench.sizes.networks[0]
    for load in loads:
        for threads in bench.sizes.threads:
            settings = (f"data.hw_decoder_load={load}", f"engine.workers={threads}", NO_JITTER)
            workload = bench.workload(preset, encoder, bench.sizes.batch_size, *settings)
            milliseconds = batch_times(workload, bench.sizes.batches)
            found[f"load {load:g}, {threads} threads"] = {
                "images_per_second": 1000 * bench.sizes.batch_size / float(np.mean(milliseconds)),
                "batch_ms_p50": float(np.percentile(milliseconds, 50)),
                "batch_ms_p99": float(np.percentile(milliseconds, 99)),
            }
    return found


def batch_times(workload: Workload, count: int) -> list[float]:
    batches, taken = workload.loader().batches("warmup"), []
    for _ in range(warmup(workload.config) + count):
        began = time.perf_counter()
        next(batches)
        workload.machine.settle()
        taken.append(1000 * (time.perf_counter() - began))
    return taken[-count:]


def peers(bench: Bench) -> Found:
    """Measure ours and the peers in turns: what gives batches, and what takes them."""
    sizes, device = bench.sizes, bench.torch_device
    write_files(bench.made, bench.folder / "files")
    workers = 0 if sizes is SMALL else max(1, CORES // 2)  # of each of two DataLoaders
    common = (bench.folder / "files/train", sizes.batch_size, workers, sizes.side, device)
    sources = {
        "pillow": two_samplers(*common, encoded=False),
        "decode_jpeg": two_samplers(*common, encoded=True),
    }
    workload = bench.workload("imagenet-lt", sizes.eager, sizes.batch_size, NO_JITTER)
    loaders: dict[str, Work] = {"ours": loader_work(workload, "interpolative")}
    loaders |= {name: forever(source) for name, source in sources.items()}
    queue = {"ours": warmup(workload.config)} | dict.fromkeys(sources, AHEAD * workers + 2)
    batch = synthetic_batch("interpolative", sizes.batch_size, sizes.side, workload.num_classes, device)
    assert isinstance(batch, Batch)
    eager = EagerStep(sizes.eager, workload.num_classes, device)
    steps: dict[str, Work] = {"ours": step_work(workload, "interpolative"), "eager": repeated(eager, batch)}
    found: Found = {}
    for title, works, before in (("loader", loaders, queue), ("step", steps, dict.fromkeys(steps, 2))):
        rates = in_turns(
            {name: after_pause(work, sizes.pause) for name, work in works.items()},
            repeats=sizes.repeats,
            seconds=sizes.seconds,
            warmup=before,
            settle=workload.machine.settle,
        )
        found[title] = {name: each.to_dict() for name, each in rates.items()}
        for name in [name for name in rates if name != "ours"]:
            pairs = zip(rates["ours"].runs, rates[name].runs, strict=True)
            found[title][f"ours / {name}"] = [ours / other for ours, other in pairs]
    return found


def forever(source: Iterator[Batch]) -> Work:
    """Return the work of going on with an iterator: its workers are started once."""

    def start() -> Iterator[int]:
        for batch in source:
            yield batch.images

    return start


def repeated(step: EagerStep, batch: Batch) -> Work:
    def start() -> Iterator[int]:
        while True:
            step(batch)
            yield batch.images

    return start


def after_pause(work: Work, seconds: float) -> Work:
    def start() -> Iterator[int]:
        time.sleep(seconds)
        yield from work()

    return start


PARTS: Mapping[str, Callable[[Bench], Found]] = {
    "graph": graph,
    "step": step,
    "corrupt": corrupt,
    "training": training,
    "decode": decode,
    "peers": peers,
}


def write(result: Found, folder: Path) -> None:
    (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(result), encoding="utf-8")


def markdown(result: Found) -> str:
    lines = ["# fasticcl on one device", "", ", ".join(f"{k} {v}" for k, v in result["hardware"].items())]
    for name in PARTS:
        if name in result:
            lines += ["", f"## {name}", "", *table(rows_of(name, result[name]))]
    lines += ["", *(f"Failed: {name}: {reason}" for name, reason in result["failed"].items())]
    if result["left_out"]:
        lines += ["", f"Left out, no time: {', '.join(result['left_out'])}."]
    return "\n".join(lines) + "\n"


def rows_of(name: str, found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a part's table: a title and its columns."""
    if name == "corrupt":
        yield "epoch", found
    elif name == "training":
        for title, each in found.items():
            if isinstance(each, str):
                yield title, {"note": each}
            else:
                rates = {f"{kind}, images/s": spread(one) for kind, one in each["images_per_second"].items()}
                yield title, rates | {"note": each["advice"]}
    elif name == "peers":
        for title, each in found.items():
            yield (
                title,
                {
                    kind: spread(one) if isinstance(one, dict) else "–".join(f"{x:.2f}" for x in sorted(one))
                    for kind, one in each.items()
                },
            )
    else:
        yield from found.items()


def spread(found: Mapping[str, Any]) -> str:
    median, least, most = (shown(found[key]) for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def table(rows: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield Markdown; a row with other columns than the one before begins another table."""
    columns: list[str] | None = None
    for title, values in rows:
        if list(values) != columns:
            if columns is not None:
                yield ""
            columns = list(values)
            yield f"| | {' | '.join(columns)} |"
            yield f"|---|{'---:|' * len(columns)}"
        yield f"| {title} | {' | '.join(map(cell, values.values()))} |"


def cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
