"""The optimizer of a run and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from sbertlab.loss import checked_number

SCHEDULERS = {
    "ConstantLR": "constant",
    "WarmupConstant": "constant_with_warmup",
    "WarmupLinear": "linear",
    "WarmupCosine": "cosine",
    "WarmupCosineWithHardRestarts": "cosine_with_restarts",
}
"""The learning-rate schedules of the field, and what transformers calls them."""

NO_DECAY = ("bias", "LayerNorm.weight", "LayerNorm.bias")
"""Parameters whose name contains one of these are not decayed."""


def make_optimizer(
    model: nn.Module,
    losses: Iterable[nn.Module],
    optimizer_class: Callable[..., torch.optim.Optimizer],
    optimizer_params: Mapping[str, Any] | None,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make one optimizer over the encoder and the losses' own parameters, each once, in two groups: decayed and not.

    Raises:
        TypeError: `optimizer_class` is no class, or `optimizer_params` no dictionary.
        ValueError: nothing to train, float16 weights, or arguments that the optimizer does not take.
    """
    checked_number("weight_decay", weight_decay)
    if not callable(optimizer_class) or not isinstance(optimizer_params, Mapping | None):
        raise TypeError(
            "optimizer_class must be a class such as torch.optim.AdamW and optimizer_params a dictionary of its "
            f"arguments, got {optimizer_class!r:.80} and {optimizer_params!r:.80}"
        )
    named: dict[int, tuple[str, nn.Parameter]] = {}
    for module in (model, *losses):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                named.setdefault(id(parameter), (name, parameter))
    if not named:
        raise ValueError("nothing to train: no parameter of the model or of the losses requires a gradient")
    if any(parameter.dtype == torch.float16 for _, parameter in named.values()):
        raise ValueError(
            "float16 weights cannot be trained: small updates are lost in them; call model.float() and train with "
            'mixed_precision="bf16" or "fp16"'
        )
    decayed = [parameter for name, parameter in named.values() if not any(part in name for part in NO_DECAY)]
    plain = [parameter for name, parameter in named.values() if any(part in name for part in NO_DECAY)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    arguments = {"lr": 2e-5} if optimizer_params is None else dict(optimizer_params)
    if isinstance(arguments.get("lr"), float) and not math.isfinite(arguments["lr"]):
        raise ValueError(f"optimizer_params['lr'] must be a finite number, got {arguments['lr']}")
    if (
        optimizer_class in (torch.optim.AdamW, torch.optim.Adam)
        and not {"foreach", "differentiable"} & arguments.keys()
    ):
        # The fused kernel for CPUs is wrong for weights with gaps in memory, such as nn.Parameter(matrix[:, :128]).
        fits = all(parameter.is_contiguous() and parameter.is_floating_point() for _, parameter in named.values())
        arguments = {"fused": True, **arguments} if fits else arguments
    try:
        return optimizer_class([group for group in groups if group["params"]], **arguments)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{optimizer_class} does not take optimizer_params={optimizer_params!r}: {error}") from error


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total: int) -> Any:
    """Make the learning-rate schedule of that name, upper or lower case."""
    kinds = {known.lower(): kind for known, kind in SCHEDULERS.items()}
    if not isinstance(name, str) or name.lower() not in kinds:
        raise ValueError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    from transformers import get_scheduler  # imports much, so not before a run begins

    return get_scheduler(kinds[name.lower()], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
