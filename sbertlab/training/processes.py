"""accelerate for one run: an Accelerator of its own, and what its processes tell each other."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, e.g. while the main one evaluates; one that died is noticed at once."""


class ProcessLostError(RuntimeError):
    """Another process of the run died, so this one cannot continue."""


@contextmanager
def isolated_accelerator(precision: str, device: torch.device, **settings: Any) -> Iterator[Accelerator]:
    """Give a run its own Accelerator and random states, and restore those of the process afterwards.

    accelerate keeps one state per process, which would tie a run to the precision and device of the run before it.
    """
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for state in shared:
                state.clear()
            settings["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=PATIENCE)]
            yield Accelerator(mixed_precision=precision, cpu=device.type == "cpu", **settings)
        finally:
            for state, saved in zip(shared, before, strict=True):
                state.clear()
                state.update(saved)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def sum_over_processes(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """Return a tensor summed over the processes, in place: accelerate's `reduce` without its copy.

    Raises:
        ProcessLostError: one of the processes died.
    """
    if accelerator.num_processes > 1:
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise ProcessLostError(
                f"process {accelerator.process_index} of {accelerator.num_processes} waited for another that died: "
                f"{error}. Look at what that one printed last; with checkpoint_path, start the same command again with "
                "resume=True to continue from the newest checkpoint"
            ) from error
    return tensor


def any_process(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Return for each flag whether any process raised it."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=accelerator.device)
    return [count > 0 for count in sum_over_processes(accelerator, counts).tolist()]


def from_main_process(accelerator: Accelerator, value: float) -> float:
    """Return the main process's number in every process."""
    if accelerator.num_processes == 1:
        return value
    sent = value if accelerator.is_main_process else 0.0
    return sum_over_processes(accelerator, torch.tensor(sent, dtype=torch.float64, device=accelerator.device)).item()


def add_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over the processes, in one exchange per dtype; one that any process has, all get."""
    parameters = list(parameters)
    reached = any_process(accelerator, *(parameter.grad is not None for parameter in parameters))
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter, found in zip(parameters, reached, strict=True):
        if found:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            groups.setdefault(parameter.dtype, []).append(parameter)
    for group in groups.values():
        flat = torch.cat([parameter.grad.flatten() for parameter in group])  # type: ignore[union-attr]
        parts = sum_over_processes(accelerator, flat).split([parameter.numel() for parameter in group])
        for parameter, part in zip(group, parts, strict=True):
            parameter.grad = part.view_as(parameter)
