"""What the processes of one run tell one another.

Whatever one of them decides and the others follow goes through `from_main`. All processes must call
these functions, in the same order; where there is one process, they do nothing.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from layermix.hardware.device import default_device
from layermix.launch import is_main, rank, world_size

T = TypeVar("T")


def share(items: Sequence[T]) -> Sequence[T]:
    """The part of some items that is this process's: every so many, one after another."""
    return items[rank() :: world_size()]


def share_on_machine(items: Sequence[T]) -> Sequence[T]:
    """The same, among the processes of this machine."""
    here, all_here = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
    return items[here :: max(1, all_here)]


def from_main(decide: Callable[[], T]) -> T:
    """What a function returns in the main process, which alone calls it; or raises what it raised.

    Args:
        decide: Its result, or its error, must be something that pickle knows.
    """
    if world_size() == 1:
        return decide()
    found: list[Any] = [None, None]
    if is_main():
        try:
            found[0] = decide()
        except Exception as raised:
            found[1] = raised
    default_device()  # connects the processes, if they are not yet
    distributed.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    answer: T = found[0]
    return answer


def gathered(value: T) -> list[T]:
    """The values of all processes, by their number."""
    if world_size() == 1:
        return [value]
    default_device()
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    return _reduced(tensor, distributed.ReduceOp.SUM)


def smallest(tensor: Tensor) -> Tensor:
    """The smallest of each number of a tensor over all processes."""
    return _reduced(tensor, distributed.ReduceOp.MIN)


def as_in_main(tensors: Sequence[Tensor]) -> None:
    """Copy the numbers of the main process's tensors into those of the others, in place."""
    if world_size() == 1:
        return
    device = default_device()
    with torch.no_grad():
        for tensor in tensors:
            sent = tensor.to(device)
            distributed.broadcast(sent, src=0)
            tensor.copy_(sent)


def disconnect() -> None:
    """End the connection, so that no process waits or complains."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _reduced(tensor: Tensor, operation: Any) -> Tensor:
    if world_size() == 1:
        return tensor
    default_device()
    total = tensor.detach().clone()
    distributed.all_reduce(total, operation)
    return total
