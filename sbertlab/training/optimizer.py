"""The optimizer of a run: what it trains, at which learning rates, and their schedule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
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

    Each learning rate has two groups, decayed and not. The rate of `optimizer_params` comes first, then the others
    from the highest down; a rate of 0 leaves its parameters out.
    """
    checked_number("weight_decay", weight_decay)
    if not callable(optimizer_class) or not isinstance(optimizer_params, Mapping | None):
        raise TypeError(
            "optimizer_class must be a class such as torch.optim.AdamW and optimizer_params a dictionary of its "
            f"arguments, got {optimizer_class!r:.80} and {optimizer_params!r:.80}"
        )
    by_name = parameter_rates(model, learning_rates)
    # By identity: a loss that holds the model names the model's parameters once more.
    rates = {id(parameter): by_name[name] for name, parameter in model.named_parameters() if name in by_name}
    named: dict[int, tuple[str, nn.Parameter]] = {}
    for module in (model, *losses):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and rates.get(id(parameter)) != 0:
                named.setdefault(id(parameter), (name, parameter))
    if not named:
        raise ValueError("nothing to train: no parameter requires a gradient and has a learning rate above 0")
    if any(parameter.dtype == torch.float16 for _, parameter in named.values()):
        raise ValueError(
            "float16 weights cannot be trained: small updates are lost in them; call model.float() and train with "
            'mixed_precision="bf16" or "fp16"'
        )
    groups: dict[tuple[float | None, bool], dict[str, Any]] = {}
    for key, (name, parameter) in named.items():
        rate, plain = rates.get(key), any(part in name for part in NO_DECAY)
        start = {"params": [], "weight_decay": 0.0 if plain else weight_decay} | ({} if rate is None else {"lr": rate})
        groups.setdefault((rate, plain), start)["params"].append(parameter)
    order = sorted(groups, key=lambda group: (-math.inf if group[0] is None else -group[0], group[1]))
    arguments = {"lr": 2e-5} if optimizer_params is None else dict(optimizer_params)
    arguments = {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}
    if isinstance(arguments.get("lr"), float):
        checked_number("optimizer_params['lr']", arguments["lr"])
    # The fused kernel for CPUs is wrong for weights with gaps in memory, such as nn.Parameter(matrix[:, :128]).
    fusible = all(parameter.is_contiguous() and parameter.is_floating_point() for _, parameter in named.values())
    chosen = {"foreach", "differentiable"} & arguments.keys()
    if optimizer_class in (torch.optim.AdamW, torch.optim.Adam) and fusible and not chosen:
        arguments = {"fused": True, **arguments}
    try:
        return optimizer_class([groups[key] for key in order], **arguments)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{optimizer_class} does not take optimizer_params={optimizer_params!r}: {error}") from error


def parameter_rates(model: nn.Module, learning_rates: Mapping[str, float] | None) -> dict[str, float]:
    """Return the learning rate of every parameter that a shell-style pattern matches; the first match wins.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    >>> parameter_rates(model, {"*.bias": 0, "0.*": 0.1})
    {'0.weight': 0.1, '0.bias': 0.0}
    """
    rates = {} if learning_rates is None else learning_rates
    if not isinstance(rates, Mapping) or not all(isinstance(key, str) for key in rates):
        raise TypeError(
            f'learning_rates must be a dictionary of rates by pattern, e.g. {{"*embeddings*": 0.0}}, got {rates!r:.80}'
        )
    names = [name for name, _ in model.named_parameters()]
    first = {name: next((key for key in rates if fnmatchcase(name, key)), None) for name in names}
    for pattern, rate in rates.items():
        checked_number(f"learning_rates[{pattern!r}]", rate)
        if pattern not in first.values():
            problem = f"no parameter of the model matches {pattern!r}, which must cover a whole name, as *part* does"
            hint = f"the nearest names are {', '.join(get_close_matches(pattern, names, n=3, cutoff=0.0))}"
            if any(fnmatchcase(name, pattern) for name in names):
                problem = f"{pattern!r} matches only parameters that a pattern before it matches, and the first wins"
                hint = "put the narrower pattern first"
            raise ValueError(f"learning_rates: {problem}; {hint}")
    return {name: float(rates[pattern]) for name, pattern in first.items() if pattern is not None}


@contextmanager
def frozen(model: nn.Module, learning_rates: Mapping[str, float] | None) -> Iterator[None]:
    """Switch off the gradient of parameters with a learning rate of 0, and restore each afterwards.

    Layers frozen from the bottom up then keep no graph, which saves time and memory.
    """
    rates = parameter_rates(model, learning_rates)
    before = {name: one.requires_grad for name, one in model.named_parameters() if rates.get(name) == 0}

    def require(gradients: Mapping[str, bool]) -> None:
        for name, parameter in model.named_parameters():  # by name: an embedding table may be replaced as it grows
            if name in gradients:
                parameter.requires_grad_(gradients[name])

    try:
        require(dict.fromkeys(before, False))
        yield
    finally:
        require(before)


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total: int) -> Any:
    """Make the learning-rate schedule of that name, upper or lower case; warn of a warm-up longer than the run."""
    checked_number("warmup_steps", warmup_steps, whole=True)
    kinds = {known.lower(): known for known in SCHEDULERS}
    known = kinds.get(str(name).lower(), name)
    check_choice("scheduler", known, SCHEDULERS)
    if warmup_steps >= total and known != "ConstantLR":
        warnings.warn(
            f"warmup_steps={warmup_steps} is not reached in {total} steps: the learning rate only rises and never "
            f"reaches its value; warmup_steps={max(1, total // 10)} would be a tenth of the run",
            stacklevel=3,
        )
    from transformers import get_scheduler  # imports much, so not before a run begins

    return get_scheduler(SCHEDULERS[known], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
