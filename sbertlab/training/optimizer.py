"""The optimizer of a run: what it trains, at which learning rates, and their schedule."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from sbertlab.checks import check_choice, checked_number

SCHEDULERS = {
    "ConstantLR": "constant",
    "WarmupConstant": "constant_with_warmup",
    "WarmupLinear": "linear",
    "WarmupCosine": "cosine",
    "WarmupCosineWithHardRestarts": "cosine_with_restarts",
}
"""The learning-rate schedules of the field, and their names in transformers."""

NO_DECAY = ("bias", "LayerNorm.weight", "LayerNorm.bias")
"""Parameters whose name contains one of these are not decayed."""


def make_optimizer(
    model: nn.Module,
    losses: Iterable[nn.Module],
    optimizer_class: Callable[..., torch.optim.Optimizer],
    optimizer_params: Mapping[str, Any] | None,
    weight_decay: float,
    learning_rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Make one optimizer over the encoder and the losses' own parameters, each once; the arguments are those of `fit`.

    Each learning rate above 0 has two groups, decayed and not: the rate of `optimizer_params`, then the highest first.
    """
    checked_number("weight_decay", weight_decay)
    rates = {f"0.{name}": rate for name, rate in parameter_rates(model, learning_rates).items()}
    every = nn.ModuleList([model, *losses]).named_parameters()  # each once, also where a loss holds the model
    named = {name: one for name, one in every if one.requires_grad and rates.get(name) != 0}
    if not named:
        raise ValueError("nothing to train: no parameter requires a gradient and has a learning rate above 0")
    precisions = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    if half := [parameter.dtype for parameter in named.values() if parameter.dtype in precisions]:
        remedy = f'call model.float() and use mixed_precision="{precisions[half[0]]}"'
        raise ValueError(f"updates smaller than the rounding of {half[0]} weights would be lost: {remedy}")
    groups: dict[tuple[float | None, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        rate, plain = rates.get(name), any(part in name for part in NO_DECAY)
        start = {"params": [], "weight_decay": 0.0 if plain else weight_decay} | ({} if rate is None else {"lr": rate})
        groups.setdefault((rate, plain), start)["params"].append(parameter)
    order = sorted(groups, key=lambda group: (-math.inf if group[0] is None else -group[0], group[1]))
    given = {"lr": 2e-5} if optimizer_params is None else optimizer_params
    arguments = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    # The fused kernel for CPUs is wrong for weights with gaps in memory, such as nn.Parameter(matrix[:, :128]).
    fusible = all(parameter.is_contiguous() and parameter.is_floating_point() for parameter in named.values())
    if optimizer_class in (torch.optim.AdamW, torch.optim.Adam) and fusible and "foreach" not in arguments:
        arguments = {"fused": True, **arguments}
    return optimizer_class([groups[key] for key in order], **arguments)


def parameter_rates(model: nn.Module, learning_rates: Mapping[str, float] | None) -> dict[str, float]:
    """Return the learning rate of every parameter that a shell-style pattern matches; the first match wins.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    >>> parameter_rates(model, {"*.bias": 0, "0.*": 0.1})
    {'0.weight': 0.1, '0.bias': 0.0}
    """
    rates = learning_rates or {}
    names = [name for name, _ in model.named_parameters()]
    first = {name: next((pattern for pattern in rates if fnmatchcase(name, pattern)), None) for name in names}
    for pattern, rate in rates.items():
        checked_number(f"learning_rates[{pattern!r}]", rate)
        if pattern not in first.values():
            raise ValueError(f"learning_rates: {pattern!r} decides no rate; patterns cover whole names, as *part* does")
    return {name: float(rates[pattern]) for name, pattern in first.items() if pattern is not None}


@contextmanager
def frozen(model: nn.Module, learning_rates: Mapping[str, float] | None) -> Iterator[None]:
    """Switch off the gradient of parameters with a learning rate of 0, and restore it afterwards.

    Layers frozen from the bottom up then keep no graph, which saves time and memory.
    """
    rates = parameter_rates(model, learning_rates)
    chosen = [one for name, one in model.named_parameters() if rates.get(name) == 0 and one.requires_grad]
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in chosen:
            parameter.requires_grad_(True)


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total: int) -> Any:
    """Make the learning-rate schedule of that name; warn of a warm-up longer than the run."""
    check_choice("scheduler", name, SCHEDULERS)
    checked_number("warmup_steps", warmup_steps, whole=True)
    if warmup_steps >= total and name != "ConstantLR":
        problem = f"warmup_steps={warmup_steps} is not reached in {total} steps: the learning rate only rises"
        warnings.warn(f"{problem}; warmup_steps={max(1, total // 10)} would be a tenth of the run", stacklevel=3)
    from transformers import get_scheduler  # imports much, so not before a run begins

    return get_scheduler(SCHEDULERS[name], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
