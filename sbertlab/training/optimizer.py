"""The optimizer of a run: what it trains, at which rates, and their schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from sbertlab.checks import checked_number
from sbertlab.encoder.lora import encoder_layers

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
    learning_rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Make one optimizer over the encoder and the losses' own parameters, each once.

    There are two groups a learning rate, decayed and not. Those at the rate of `optimizer_params` come first, then the
    others, the highest rate first.

    Args:
        model: the encoder.
        losses: those of the run; their own parameters train at the rate of `optimizer_params`.
        optimizer_class: an optimizer of torch.
        optimizer_params: its arguments; `{"lr": 2e-5}` when None.
        weight_decay: for all but biases and what is called LayerNorm.
        learning_rates: rates by pattern, as in `parameter_rates`; what is at 0 is left out.

    Raises:
        TypeError: `optimizer_class` is no class, or `optimizer_params` or `learning_rates` no dictionary.
        ValueError: nothing to train, float16 weights, arguments that the optimizer does not take, or patterns or rates
            that `parameter_rates` refuses.
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
        raise ValueError(
            "nothing to train: no parameter of the model or of the losses requires a gradient and has a learning rate "
            "above 0"
        )
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
        return optimizer_class([groups[key] for key in order], **arguments)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{optimizer_class} does not take optimizer_params={optimizer_params!r}: {error}") from error


def parameter_rates(model: nn.Module, learning_rates: Mapping[str, float] | None) -> dict[str, float]:
    """Return the learning rate of every parameter that a pattern names; the first pattern that matches wins.

    Args:
        model: whose parameters are meant.
        learning_rates: rates by shell-style pattern (`*`, `?`, `[0-2]`) over the names of `model.named_parameters()`,
            e.g. `{"0.auto_model.encoder.layer.[0-2].*": 0, "*embeddings*": 1e-6}`; 0 freezes.

    Raises:
        TypeError: no dictionary of patterns.
        ValueError: a rate that is negative or no finite number, a pattern that names nothing, or only what an earlier
            one has.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    >>> parameter_rates(model, {"*.bias": 0, "0.*": 0.1})
    {'0.weight': 0.1, '0.bias': 0.0}
    """
    if not isinstance(learning_rates, Mapping | None) or not all(isinstance(key, str) for key in learning_rates or {}):
        raise TypeError(
            'learning_rates must be a dictionary of rates by pattern, e.g. {"*embeddings*": 0.0}, got '
            f"{learning_rates!r:.80}"
        )
    learning_rates = learning_rates or {}
    names = [name for name, _ in model.named_parameters()]
    first = {name: next((key for key in learning_rates if fnmatchcase(name, key)), None) for name in names}
    for pattern, rate in learning_rates.items():
        checked_number(f"learning_rates[{pattern!r}]", rate)
        if pattern in first.values():
            continue
        earlier = {first[name] for name in names if fnmatchcase(name, pattern)}
        if earlier:
            raise ValueError(
                f"learning_rates: {pattern!r} names only parameters that {', '.join(map(repr, earlier))} before it "
                "names too, and the first wins; put the narrower pattern first"
            )
        nearest = ", ".join(get_close_matches(pattern, names, n=3, cutoff=0.0))
        raise ValueError(
            f"learning_rates: no parameter of the model matches {pattern!r}; the nearest names are {nearest}. A "
            "pattern covers the whole name, so a part of one is written *part*"
        )
    return {name: float(learning_rates[pattern]) for name, pattern in first.items() if pattern is not None}


@contextmanager
def frozen(model: nn.Module, learning_rates: Mapping[str, float] | None) -> Iterator[None]:
    """Let the parameters whose learning rate is 0 require no gradient; afterwards each is what it was before.

    No graph is kept for frozen layers that have nothing to train below them, so that freezing from the bottom up also
    saves time and memory.

    Raises:
        TypeError, ValueError: as `parameter_rates`.
    """
    rates = parameter_rates(model, learning_rates)
    before = {name: one.requires_grad for name, one in model.named_parameters() if rates.get(name) == 0}

    def let(required: Mapping[str, bool]) -> None:
        for name, parameter in model.named_parameters():
            if name in required:
                parameter.requires_grad_(required[name])

    try:
        let(dict.fromkeys(before, False))
        yield
    finally:
        let(before)  # by name: an embedding table that grew meanwhile is another parameter


def layer_wise(model: nn.Module, lr: float, decay: float) -> dict[str, float]:
    """Return learning rates that fall from the top layer down: `lr * decay ** (layers above it)`; embeddings lowest.

    For `learning_rates`. What lies behind the layers (a pooler, Dense blocks) trains at `lr`; tables that all layers
    share, such as relative positions, count as embeddings. The losses' own parameters keep the optimizer's rate.
    Source: Howard and Ruder, 2018, Universal Language Model Fine-tuning (arXiv:1801.06146), section 3.2; for BERT, Sun
    et al., 2019, How to Fine-Tune BERT for Text Classification? (arXiv:1905.05583), section 5.3.4.

    Args:
        model: an encoder that begins with a Transformer.
        lr: rate of the top layer.
        decay: factor from a layer to the one below it, above 0 and at most 1.

    Raises:
        ValueError: `lr` or `decay` out of range, or a model without layers.

    >>> block = nn.Module()
    >>> block.auto_model = nn.Module()
    >>> block.auto_model.embeddings = nn.Embedding(5, 2)
    >>> block.auto_model.layer = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    >>> layer_wise(nn.Sequential(block, nn.Linear(2, 1)), lr=0.8, decay=0.5)
    {'0.auto_model.layer.1.*': 0.8, '0.auto_model.layer.0.*': 0.4, '0.auto_model.embeddings.weight': 0.2, '*': 0.8}
    """
    checked_number("lr", lr, above=True)
    checked_number("decay", decay, high=1, above=True)
    rates: dict[str, float] = {}
    names = [name for name, _ in model.named_parameters()]
    tables = {name for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    for block, auto_model in model.named_modules():
        if block.rpartition(".")[2] != "auto_model":
            continue
        name, layers = encoder_layers(auto_model)
        within, depth = f"{block}.{name}.", len(layers)
        rates |= {f"{within}{place}.*": lr * decay ** (depth - 1 - place) for place in reversed(range(depth))}
        inside = [name for name in names if name.startswith(f"{block}.")]
        first = next(place for place, name in enumerate(inside) if name.startswith(within))
        shared = [name for name in inside if name.rpartition(".")[0] in tables and not name.startswith(within)]
        rates |= dict.fromkeys(inside[:first] + shared, lr * decay**depth)
    if not rates:
        raise ValueError("the model has no Transformer, and so no layers that could learn at different rates")
    named = parameter_rates(model, rates)
    return rates if len(named) == len(names) else {**rates, "*": lr}


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total: int) -> Any:
    """Make the learning-rate schedule of that name, upper or lower case."""
    kinds = {known.lower(): kind for known, kind in SCHEDULERS.items()}
    if not isinstance(name, str) or name.lower() not in kinds:
        raise ValueError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    from transformers import get_scheduler  # imports much, so not before a run begins

    return get_scheduler(kinds[name.lower()], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
