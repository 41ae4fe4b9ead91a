"""A DALI pipeline that returns torch tensors and is safe to garbage-collect from any thread."""

import atexit
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from nvidia.dali import Pipeline
from nvidia.dali.backend import TensorGPU
from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

from fasticcl.data.dali.errors import DALI_ERRORS, explain


@dataclass(frozen=True)
class PipelineOptions:
    """The size and the resources of a pipeline."""

    batch_size: int
    """Largest number of images per stream in a batch."""
    threads: int
    """Threads that decode and augment."""
    prefetch: int
    """Number of batches prepared in advance."""
    gpu: int | None
    """Device number, or None for the CPU backend."""
    copy_outputs: bool = False
    """If True, outputs are copied into torch's memory instead of sharing DALI's. CUDA graphs need this: after
    torch has freed a shared output, a thread of DALI calls cudaDeviceSynchronize before it reuses the memory,
    which invalidates a graph that is being captured. Unproven: this has not run on a GPU yet."""


class GraphPipeline(Pipeline):
    """A DALI pipeline that never shuts down in one of its own threads.

    Shutting down waits for the pipeline's threads. DALI does it when the Python object is deleted, and the
    garbage collector may delete it in any thread that runs Python. A graph on a CPU has such threads,
    because it calls Python functions (`fasticcl.data.dali.per_image`). In one of them the shutdown would
    wait for itself forever, and block every other graph too, because DALI runs one Python function at a
    time. A pipeline that is deleted in a thread that has created no pipeline therefore shuts down when the
    next one is created, or at exit.

    Args:
        options: the size and the resources.
    """

    def __init__(self, options: PipelineOptions) -> None:
        _thread.creates_pipelines = True
        _shut_down_deleted()
        super().__init__(
            batch_size=options.batch_size,
            num_threads=options.threads,
            device_id=options.gpu,
            prefetch_queue_depth=options.prefetch,
        )
        self._gpu = options.gpu
        self._to_torch = _copied if options.copy_outputs else _shared

    def tensors(self) -> list[torch.Tensor]:
        """Run the graph and return its outputs with images as [B, 3, S, S].

        The outputs share DALI's memory unless the options say otherwise.

        Raises:
            BatchFailed: DALI cannot compute the batch, perhaps because of an image.
            TrainingFailed: memory, the GPU or a library is the cause.
            StopIteration: the source of the inputs is exhausted.
        """
        try:
            # On a GPU the outputs are ordered with torch's own work, instead of waiting for them here.
            outputs = self.run() if self._gpu is None else self.run(torch.cuda.current_stream(self._gpu))
            return [_channels_first(self._to_torch(output.as_tensor())) for output in outputs]
        except DALI_ERRORS as error:
            raise explain(error) from error

    def __del__(self) -> None:
        if not hasattr(_thread, "creates_pipelines") and not _set_aside(self):
            return
        super().__del__()


_thread = threading.local()
_deleted: list[Any] = []
_kept_alive: list[Any] = []


def _set_aside(pipeline: Pipeline) -> bool:
    """Move the native pipeline out of its Python object, which can then be deleted without a shutdown.

    This needs two private names of DALI, ``Pipeline._pipe`` and its method ``Shutdown``. They exist in DALI
    2.4. If a later version lacks them, the whole pipeline is kept alive until the process exits. This costs
    the memory of its batches, but it cannot deadlock.

    Returns:
        False if the pipeline has to be kept alive, in which case DALI must not shut it down.
    """
    native = getattr(pipeline, "_pipe", pipeline)  # the pipeline itself has no Shutdown
    if native is not None and not hasattr(native, "Shutdown"):
        _kept_alive.append(pipeline)
        return False
    if native is not None:  # None: not built yet
        _deleted.append(native)
        pipeline._pipe = None
    return True


def _shut_down_deleted() -> None:
    while True:
        try:
            native = _deleted.pop()
        except IndexError:
            return
        with suppress(RuntimeError):  # the device failed, and its other users get their own errors
            native.Shutdown()


atexit.register(_shut_down_deleted)


def _shared(output: Any) -> torch.Tensor:
    return torch.from_dlpack(output)


def _copied(output: Any) -> torch.Tensor:
    on_gpu = isinstance(output, TensorGPU)
    device = torch.device("cuda", output.device_id()) if on_gpu else torch.device("cpu")
    copy = torch.empty(output.shape(), dtype=to_torch_type[output.dtype], device=device)
    # The copy runs on torch's stream, and DALI makes its own stream wait for it before it reuses the output.
    return feed_ndarray(output, copy, cuda_stream=torch.cuda.current_stream(device) if on_gpu else None)


def _channels_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
