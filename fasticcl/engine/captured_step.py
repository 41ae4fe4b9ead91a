"""A training step that replays as one CUDA graph, from the choice of the images to the update of the weights.

The kernels of a small network are so short that launching them takes longer than running them: for a step of
ResNet-32, a review estimates 5 to 7 ms on the host and 2 ms on the GPU. A graph is launched at once. Neither
the estimate nor the graph has been tested on a GPU yet.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from fasticcl.data.batch import TrainingBatch, tensors_of
from fasticcl.data.device_images import PackedBatch, obstacle
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.loader import Loader
from fasticcl.engine.stages.stage import Learn, Losses, TrainingStage, learn
from fasticcl.errors import UserError
from fasticcl.system.machine import Machine

_WARMUP = 3  # steps before the capture, in which libraries choose their kernels and allocate their workspaces

Prepare = Callable[..., TrainingBatch]
"""Computes the batch from the tensors that change from step to step."""


def captured_training(
    loader: Loader, machine: Machine, warn: Callable[[str], None]
) -> tuple[DeviceLoader, Learn]:
    """Return the loader and the training step of the mode ``captured``.

    On a CPU, the step is not captured, but its images are prepared in the same way.

    Args:
        loader: draws the batches.
        machine: device of the images and the network.
        warn: called with a message if a step cannot be captured.

    Raises:
        UserError: the images are not small, or their augmentation needs DALI.
    """
    if reason := obstacle(loader.plan.data, loader.shards, machine.gpu):
        raise UserError(f"engine.compile=captured cannot be used: {reason}. Use --set engine.compile=auto.")
    device_loader = DeviceLoader(loader)

    def prepare(values: torch.Tensor) -> TrainingBatch:
        return device_loader.images.batch(values)

    return device_loader, captured_step(prepare, machine, warn)


def captured_step(prepare: Prepare, machine: Machine, warn: Callable[[str], None]) -> Learn:
    """Return the training step of the mode ``captured``, which is not captured on a CPU.

    Args:
        prepare: computes the batch from the fields of a packed batch.
        machine: device of the network.
        warn: called with a message if a step cannot be captured.
    """
    if machine.gpu is None:
        return lambda stage, packed: learn(stage, prepare(*vars(packed).values()))
    return CapturedStep(prepare, machine.device, warn)


class Recorder(Protocol):
    """Records the kernels that a function launches, and launches them again."""

    def warm_up(self, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Call a function in the environment in which it will be recorded."""
        ...

    def record(self, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Record a function without executing its kernels, and return the tensor that `replay` writes."""
        ...

    def replay(self) -> None:
        """Execute the recorded kernels."""
        ...


class CudaGraph:
    """A CUDA graph, recorded on a stream of its own."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def warm_up(self, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Call a function on the stream on which it will be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Record a function without executing its kernels, and return the tensor that `replay` writes."""
        # The garbage collector must not shut down a pipeline of DALI during the capture, which would end it.
        gc.collect()
        # In the default mode "global", a CUDA call of another thread, such as DALI's, would end the capture.
        graph = torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")
        # After a failed capture, torch 2.11 leaves the recording stream as the current stream.
        with torch.cuda.stream(torch.cuda.current_stream()), graph:
            return function()

    def replay(self) -> None:
        """Execute the recorded kernels on the current stream."""
        self._graph.replay()


class CapturedStep:
    """Training steps that are captured once for each stage and shape of the batches, and then replayed.

    The first steps of a phase run without a graph. They are ordinary steps of the training. After a failed
    capture, all steps run without a graph, also those of later phases.

    Args:
        prepare: computes the batch from the fields of a packed batch, on the device. It is part of the graph.
        device: device of the network.
        warn: called with a message if a step cannot be captured.
        recorder: creates the graph of a phase.
    """

    def __init__(
        self,
        prepare: Prepare,
        device: torch.device,
        warn: Callable[[str], None],
        recorder: Callable[[], Recorder] = CudaGraph,
    ) -> None:
        self.prepare, self.device, self.warn = prepare, device, warn
        self.recorder: Callable[[], Recorder] | None = recorder
        """Creates the graph of a phase, or None after a failed capture."""
        self._phase: _Phase | None = None

    def __call__(self, stage: TrainingStage, batch: PackedBatch | TrainingBatch) -> Losses:
        """Take a training step and return its losses, without waiting for the device."""
        inputs = [*tensors_of(batch).values()]
        if self._phase is None or not self._phase.accepts(stage, inputs):
            self._phase = None  # frees the graph of the previous phase
            self._phase = _Phase(self, stage, inputs)
        return self._phase.step(inputs)


class _Phase:
    """The steps of one phase.

    Args:
        owner: its settings.
        stage: the stage.
        inputs: inputs of the shapes of this phase.
    """

    def __init__(self, owner: CapturedStep, stage: TrainingStage, inputs: list[torch.Tensor]) -> None:
        self.owner, self.stage = owner, stage
        self.inputs = [torch.empty_like(value, device=owner.device) for value in inputs]
        self.rates = [torch.zeros((), device=owner.device) for _ in stage.optimizer.param_groups]
        self.recorder: Recorder | None = owner.recorder() if owner.recorder else None
        self.steps = 0
        self.names: tuple[str, ...] = ()
        self.losses: torch.Tensor | None = None

    def accepts(self, stage: TrainingStage, inputs: list[torch.Tensor]) -> bool:
        return stage is self.stage and [each.shape for each in inputs] == [each.shape for each in self.inputs]

    def step(self, inputs: list[torch.Tensor]) -> Losses:
        for static, value in zip(self.inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        for rate, group in zip(self.rates, self.stage.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if self.recorder and self.steps == _WARMUP:
            self._record(self.recorder)
        self.steps += 1
        if self.recorder is None:
            losses = self._learn()
        elif self.losses is None:
            losses = self.recorder.warm_up(self._learn)
        else:
            self.recorder.replay()
            losses = self.losses.clone()  # the next step overwrites them
        return dict(zip(self.names, losses.unbind(), strict=True))

    def _record(self, recorder: Recorder) -> None:
        try:
            self.losses = recorder.record(self._learn)
        except RuntimeError as error:
            # Before torch 2.12, its allocator is unusable for another capture (pull request 180395).
            self.recorder = self.owner.recorder = None
            # The end of an invalid capture is an error, too, which only says that there was an earlier one.
            reason = str(error.__context__ or error).splitlines()[0]
            self.owner.warn(
                f"warning  the step could not be captured as a CUDA graph, so it runs eagerly: {reason}"
            )

    def _learn(self) -> torch.Tensor:
        """Take a step on the static inputs and return its losses as one tensor."""
        with self.stage.static_buffers(), _tensor_rates(self.stage.optimizer, self.rates):
            losses = learn(self.stage, self.owner.prepare(*self.inputs))
        self.names = (*losses,)
        return torch.stack([loss.detach() for loss in losses.values()])


@contextmanager
def _tensor_rates(optimizer: torch.optim.Optimizer, rates: Sequence[torch.Tensor]) -> Iterator[None]:
    """Use tensors as the learning rates of the groups, because a graph would repeat the value of a number."""
    numbers = [group["lr"] for group in optimizer.param_groups]
    _set_rates(optimizer, rates)
    try:
        yield
    finally:
        _set_rates(optimizer, numbers)


def _set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[torch.Tensor | float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
