"""Training pairs per second of fasticcl's engine and of a plain implementation of the paper.

    python benchmarks/step.py [--only NAME ...] [--repeats 5] [--lock FILE] [--json FILE]

    resnet32    ResNet-32, images of 32×32, batches of 128 pairs, 100 classes, settings of CIFAR100-LT
    resnet50    ResNet-50, images of 224×224, batches of 16 pairs, 1,000 classes, settings of ImageNet-LT

Both use the same synthetic batches, the same initial weights and float32. Before timing, the losses of the
first steps are compared. Only the implementations differ.

    ours        `Representation` and the step of the training loop: channels_last, equation 1 for the whole
                batch in closed form, one matrix product for all similarities, losses that are read later
    plain       NCHW, equation 1 as a Python loop over the batch, similarities class by class, ``.item()`` of
                every loss in every step
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fasticcl  # noqa: F401  before torch, because it sets the wait policy of OpenMP threads

# isort: split
import torch
from _runs import alternating, busy_cores, format_spread, hardware, locked, ratios, summarize, write_result
from torch.nn import functional as F

from fasticcl.config import Config
from fasticcl.data.batch import Batch
from fasticcl.engine.epoch_stats import EpochStats
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

CASES = {  # preset, encoder, side, pairs in a batch, classes, steps of a measurement
    "resnet32": ("cifar100-lt", "resnet32", 32, 128, 100, 6),
    "resnet50": ("imagenet-lt", "resnet50", 224, 16, 1000, 2),
}
BATCHES = 4  # used in rotation
COMPARED = 2  # steps whose losses must agree. They also serve as warm-up.
LOAD_SECONDS = 0.5  # before a round, the load by other processes is measured for this time

Step = Callable[[Batch], torch.Tensor]
"""Updates the weights on a batch and returns the loss."""


def main() -> None:
    options = _parse()
    cases = {}
    for name in options.only:
        cases[name] = _case(name, options)
        _show(name, cases[name])
    result = {"benchmark": "step", "machine": hardware(), "threads": torch.get_num_threads(), "cases": cases}
    write_result(result, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Training pairs per second of fasticcl and of a plain implementation."
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs (default %(default)s)")
    parser.add_argument(
        "--lock", type=Path, help="file to lock during each round, shared with other benchmarks"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def _case(name: str, options: argparse.Namespace) -> dict[str, Any]:
    preset, encoder, side, size, classes, steps = CASES[name]
    batches = synthetic(size, side, classes)
    ours, plain = pair_of_steps(preset, encoder, classes)
    for batch in batches[:COMPARED]:
        torch.testing.assert_close(ours(batch), plain(batch), rtol=1e-3, atol=0)
    both = {"ours": ours, "plain": plain}
    rates: dict[str, list[float]] = {which: [] for which in both}
    cpu_rates: dict[str, list[float]] = {which: [] for which in both}
    busy: list[float] = []
    for repeat in range(options.repeats):
        with locked(options.lock):
            busy.append(busy_cores(LOAD_SECONDS))
            for which in alternating(list(both), repeat):
                seconds, cpu_seconds = _seconds_per_step(both[which], batches, steps)
                rates[which].append(size / seconds)
                cpu_rates[which].append(size / cpu_seconds)
    return {
        "encoder": encoder,
        "side": side,
        "batch_size": size,
        "classes": classes,
        "steps": steps,
        "pairs_per_second": {which: summarize(values) for which, values in rates.items()},
        "pairs_per_cpu_second": {which: summarize(values) for which, values in cpu_rates.items()},
        "ours_divided_by_plain": {
            "pairs_per_second": summarize(ratios(rates["ours"], rates["plain"])),
            "pairs_per_cpu_second": summarize(ratios(cpu_rates["ours"], cpu_rates["plain"])),
        },
        "busy_cores_before": summarize(busy),
    }


def synthetic(size: int, side: int, classes: int) -> list[Batch]:
    """Return batches of noise: x_h and x_f [B, 3, S, S] float32, channels_last, as from the loader."""
    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(BATCHES):
        x_h, x_f = (
            torch.randn(size, 3, side, side, generator=draw).to(memory_format=torch.channels_last)
            for _ in range(2)
        )
        y_h, y_t = torch.randint(classes, (2, size), generator=draw)
        batches.append(Batch(x_h, y_h, x_f, y_t, torch.rand(1, generator=draw).expand(size)))
    return batches


def pair_of_steps(preset: str, encoder: str, classes: int) -> tuple[Step, Step]:
    """Return both implementations of a step, on the CPU and with the same initial weights."""
    settings = [f"method.encoder={encoder}", "engine.device=cpu", "engine.precision=float32"]
    config = resolve(preset, assignments=settings)
    torch.manual_seed(0)
    stage = Representation(config, classes, choose_machine(config.engine))
    plain = Plain(copy.deepcopy(stage.network), config, classes)
    stage.begin_epoch(0)
    set_lr(stage.optimizer, config.optim.lr)  # that of the plain implementation, without warm-up
    stats = EpochStats(stage.machine.ranks, stage.machine.device)

    def ours(batch: Batch) -> torch.Tensor:
        losses = learn(stage, batch)
        stats.add(losses, batch.images, 0.0)
        return losses["loss"].detach()

    return ours, plain.step


class Plain:
    """A plain implementation of the paper's interpolative phase.

    Args:
        network: encoder, projection head and classifier.
        config: τ, m, ω_u, ω_it and the settings of SGD.
        classes: K.
    """

    def __init__(self, network: Any, config: Config, classes: int) -> None:
        self.network = network.to(memory_format=torch.contiguous_format).train()
        self.method, optim = config.method, config.optim
        self.centroids = torch.zeros(classes, config.method.embedding_dim)
        self.optimizer = torch.optim.SGD(
            network.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
        self.log: list[dict[str, float]] = []

    def step(self, batch: Batch) -> torch.Tensor:
        """Update the weights and the centroids and return the loss."""
        x_h, x_f = batch.x_h.contiguous(), batch.x_f.contiguous()
        with torch.set_grad_enabled(self.method.uniform_weight > 0):
            logits_h, z_h = self.network(x_h)
        logits_f, z_f = self.network(x_f)
        lam = batch.lam[0].item()
        ce = F.cross_entropy(logits_h, batch.y_h)
        ce_it = self._mixed_cross_entropy(logits_f, batch, lam)
        cc_it = self._mixed_cross_entropy(self._similarities(z_f), batch, lam)
        loss = self.method.uniform_weight * ce + self.method.interpolative_weight * (ce_it + cc_it)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._update_centroids(z_h.detach(), batch.y_h)
        self.log.append({"ce": ce.item(), "ce_it": ce_it.item(), "cc_it": cc_it.item(), "loss": loss.item()})
        return loss.detach()

    def _mixed_cross_entropy(self, logits: torch.Tensor, batch: Batch, lam: float) -> torch.Tensor:
        return lam * F.cross_entropy(logits, batch.y_h) + (1 - lam) * F.cross_entropy(logits, batch.y_t)

    def _similarities(self, z: torch.Tensor) -> torch.Tensor:
        columns = [(z * centroid).sum(dim=1) / self.method.temperature for centroid in self.centroids]
        return torch.stack(columns, dim=1)

    def _update_centroids(self, z: torch.Tensor, y: torch.Tensor) -> None:
        m = self.method.centroid_momentum
        for z_i, y_i in zip(z, y, strict=True):
            self.centroids[y_i] = m * self.centroids[y_i] + (1 - m) * z_i


def _seconds_per_step(step: Step, batches: list[Batch], steps: int) -> tuple[float, float]:
    """Return wall-clock and processor seconds per step. Processor time includes all threads."""
    start, used = time.perf_counter(), time.process_time()
    for done in range(steps):
        step(batches[done % len(batches)])
    return (time.perf_counter() - start) / steps, (time.process_time() - used) / steps


def _show(name: str, case: dict[str, Any]) -> None:
    for measured in ("pairs_per_second", "pairs_per_cpu_second"):
        rows = {**case[measured], "ours / plain": case["ours_divided_by_plain"][measured]}
        for which, row in rows.items():
            print(f"{name}   {measured:20}   {which:12}   {format_spread(row, 2)}", flush=True)


if __name__ == "__main__":
    main()
