"""The section ``engine``: hardware, output and reproducibility."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Count, Device, Folder, FolderName, Interval, LoggerNames


class Engine(ConfigSection):
    """Hardware, output and reproducibility of a run."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of all random choices."""
    device: Device = "auto"
    """auto, cpu or gpu. auto: the GPU if there is one."""
    workers: Count | None = None
    """Threads that decode and augment images. None: one per available core, or up to 3 fewer with a GPU."""
    prefetch: Count = 3
    """Batches that the pipeline prepares in advance."""
    eval_batch_size: Count | None = None
    """Images per evaluation batch on each rank. None: as many as in training, or up to four times that on a
    GPU."""
    eval_every: Count = 1
    """Epochs between evaluations. The last epoch of a stage is always evaluated."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numeric precision. auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    compile: Literal["auto", "off", "on", "step", "cuda-graphs", "captured"] = "auto"
    """torch.compile. on: compile forward passes. step: also losses and centroids. cuda-graphs: as on, with
    CUDA graphs. captured: one CUDA graph for a whole step on small images, not proven on a GPU yet. auto: on
    a GPU, off for a short run, on for a longer one, else the fastest of off, on and step. On a CPU, off."""
    sync_bn: bool = False
    """Compute batch-normalisation statistics over all ranks instead of separately on each rank."""
    save_every: Interval = "15m"
    """Steps (500) or minutes (15m) between checkpoints, in addition to one at the end of each epoch."""
    log_every: Count = 20
    """Steps between lines of metrics.jsonl."""
    logger: LoggerNames = ()
    """Loggers that receive the scalars in addition to metrics.jsonl: tensorboard, wandb or both."""
    report: bool = True
    """Write report.html at the end of the run."""
    fast_dev_run: bool = False
    """Run a few steps of each phase to check that everything works."""
    project: Folder = Path("runs")
    """Folder of all runs."""
    name: FolderName | None = None
    """Name of the run and of its folder. None: the method and the next free number."""
