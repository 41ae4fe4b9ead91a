"""Independent copies of nested tensors, taken without waiting for a GPU."""

import copy
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class Snapshot(Generic[T]):
    """A copy in host memory of nested dicts, lists and tuples of tensors and plain values.

    It shares nothing with the original. Tensors that share their memory, such as the encoder of a teacher and
    of its student, share it in the copy too, so a file contains them once.

    Tensors of a GPU are copied to pinned memory in the order of the current stream, so later kernels of that
    stream do not change the copy. The copies of a GPU have not been tested on one.

    Args:
        value: the value to copy.
    """

    def __init__(self, value: T) -> None:
        self._copies: dict[tuple[Any, ...], torch.Tensor] = {}
        self._device: torch.device | None = None
        self._value = self._copy(value)
        self._copied: torch.cuda.Event | None = None
        if self._device is not None:  # the copies are complete when the GPU has executed them
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(torch.cuda.current_stream(self._device))

    def value(self) -> T:
        """Wait until the copy is complete and return it. Any thread may call this."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value)
        if isinstance(value, dict):
            copied = copy.copy(value)  # keeps the metadata of a state dict
            copied.update({key: self._copy(item) for key, item in value.items()})
            return copied
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._copy, value))
        return copy.deepcopy(value)

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        layout = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        key = tensor.untyped_storage().data_ptr(), *layout
        if key not in self._copies:
            if _is_on_gpu(tensor):
                self._device = tensor.device
            # From a GPU, a non-blocking copy to the CPU allocates pinned memory.
            self._copies[key] = tensor.detach().to("cpu", non_blocking=True, copy=True)
        return self._copies[key]


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda
