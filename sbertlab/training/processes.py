"""The processes that train together: what each needs to know of the others, and what they add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ProcessLostError(RuntimeError):
    """Another process of the run is gone, so this one cannot go on."""


class Processes:
    """The processes of a run, started by `accelerate launch` or `torchrun`; mostly there is one.

    Args:
        device: where the tensors are that they exchange.

    Attributes:
        count: how many there are.
        rank: which of them this is, from 0.
    """

    def __init__(self, device: torch.device) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.count: int = dist.get_world_size() if together else 1
        self.rank: int = dist.get_rank() if together else 0
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this is the process that evaluates, saves and logs for all."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes.

        Raises:
            ProcessLostError: one of them is gone.
        """
        if self.count > 1:
            self._exchange(dist.all_reduce, tensor)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is raised in any process."""
        found = torch.tensor(flags, dtype=torch.int32, device=self.device)
        return [bool(count) for count in self.sum_(found).tolist()]

    def from_main(self, value: float) -> float:
        """Return the main process's number in all."""
        if self.count == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        self._exchange(dist.broadcast, number, src=0)
        return number.item()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sums over the processes, in one exchange a type of number.

        A parameter that has a gradient in one process alone gets it in all.
        """
        parameters = list(parameters)
        reached = self.any(*(parameter.grad is not None for parameter in parameters))
        groups: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter, found in zip(parameters, reached, strict=True):
            if found:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                groups.setdefault(parameter.dtype, []).append(parameter)
        for group in groups.values():
            total = self.sum_(torch.cat([parameter.grad.flatten() for parameter in group]))  # type: ignore[union-attr]
            for parameter, part in zip(group, total.split([parameter.numel() for parameter in group]), strict=True):
                parameter.grad = part.view_as(parameter)

    def _exchange(self, operation: Callable[..., Any], tensor: Tensor, **arguments: Any) -> None:
        try:
            operation(tensor, **arguments)
        except RuntimeError as error:
            raise ProcessLostError(
                f"process {self.rank} of {self.count} waited for another that is gone: {error}. Look at what that one "
                "printed last; with checkpoint_path, start the same command again with resume=True to go on from the "
                "newest checkpoint"
            ) from error
