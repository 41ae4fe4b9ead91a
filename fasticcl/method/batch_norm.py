"""Batch normalisation with statistics per stream or over all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with separate statistics for each of ``num_streams`` equal chunks of the batch.

    The chunks update the running statistics one after another, as separate forward passes would.
    """

    num_streams = 1

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return normalised activations of the same shape."""
        if not self.training or self.num_streams == 1:
            return super().forward(input)
        return torch.cat([nn.BatchNorm2d.forward(self, chunk) for chunk in input.chunk(self.num_streams)])


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the global batch over all ranks.

    ``torch.nn.SyncBatchNorm`` supports GPUs only, and the host waits for the device in each of its layers
    (torch issue 78656). This module has twice as many collective operations, but the host does not wait.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return normalised activations of the same shape."""
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        x = input.float()
        count = dist.get_world_size() * x.numel() / x.shape[1]
        mean = _all_reduce(x.sum(dim=(0, 2, 3))) / count
        centered = x - mean[:, None, None]
        variance = _all_reduce(centered.square().sum(dim=(0, 2, 3))) / count
        self._update_running_stats(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centered * scale[:, None, None]).to(input.dtype)
        scale = self.weight * scale
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # As in torch.nn.BatchNorm2d, momentum None means a cumulative average.
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance, factor)


class _AllReduce(torch.autograd.Function):
    """Sum of a tensor over all ranks. Its gradient is summed too. torch's own function is deprecated."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return _all_reduce(grads[0])


def _all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    return _AllReduce.apply(tensor)


def set_num_streams(module: nn.Module, num_streams: int) -> None:
    """Set the number of streams of each `SplitBatchNorm2d` in a module."""
    for child in module.modules():
        if isinstance(child, SplitBatchNorm2d):
            child.num_streams = num_streams


def train_batch_norm(module: nn.Module) -> None:
    """Set batch normalisation in a module to training mode and everything else to evaluation mode."""
    module.eval()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):  # the base class for all dimensions
            child.train()


def replace_batch_norm(
    module: nn.Module, replacement: type[SplitBatchNorm2d] | type[SyncBatchNorm2d]
) -> nn.Module:
    """Replace every ``torch.nn.BatchNorm2d`` in a module with another class, in place, and return the module.

    The new modules use the parameters and buffers of the old ones, so ``state_dict`` keys and the order of
    parameters stay the same. If ``module`` itself is a ``BatchNorm2d``, its replacement is returned.
    """
    if type(module) is nn.BatchNorm2d:
        return _rebuild(module, replacement)
    for name, child in module.named_children():
        setattr(module, name, replace_batch_norm(child, replacement))
    return module


def _rebuild(old: nn.BatchNorm2d, replacement: type[SplitBatchNorm2d] | type[SyncBatchNorm2d]) -> nn.Module:
    new = replacement(
        old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats, device="meta"
    )
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    return new.train(old.training)
