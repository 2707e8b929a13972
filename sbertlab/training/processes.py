"""accelerate for one run: an Accelerator of its own, and what its processes tell each other."""

import random
from collections.abc import Iterator, Sequence
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

PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=12))
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
            on_cpu = device.type == "cpu"
            yield Accelerator(mixed_precision=precision, cpu=on_cpu, kwargs_handlers=[PATIENCE], **settings)
        finally:
            for state, saved in zip(shared, before, strict=True):
                state.clear()
                state.update(saved)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def sum_over_processes(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """Return a tensor summed over the processes, in place; a ProcessLostError if one of them died."""
    if accelerator.num_processes > 1:
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            which = f"process {accelerator.process_index} of {accelerator.num_processes}"
            remedy = "Look at what that one printed last; resume=True continues from the newest checkpoint"
            raise ProcessLostError(f"{which} waited for another that died: {error}. {remedy}") from error
    return tensor


def any_process(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Return for each flag whether any process raised it."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32, device=accelerator.device)
    return (sum_over_processes(accelerator, raised) > 0).tolist()


def add_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over the processes; one that any process has, all get."""
    reached = any_process(accelerator, *(parameter.grad is not None for parameter in parameters))
    for parameter, found in zip(parameters, reached, strict=True):
        if found:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = sum_over_processes(accelerator, gradient.contiguous())
