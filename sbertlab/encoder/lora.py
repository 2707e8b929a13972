"""LoRA: train a few small matrices beside the frozen weights of a transformer, then fold them in.

A linear layer `W x` becomes `W x + (alpha / r) B A x`, with A `(r, in)` random and B `(out, r)` zero, so that training
starts at the model as it was. Only A and B get gradients and optimizer states. Source: Hu et al., 2021, LoRA: Low-Rank
Adaptation of Large Language Models (arXiv:2106.09685). The layers are peft's (`pip install "sbertlab[adapters]"`), put
into the model in place: it keeps its class, its configuration and the names of all but the adapted layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sbertlab.checks import checked_number
from sbertlab.encoder.save import adapted_layers, fold_adapters
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Transformer
from sbertlab.models.fast_cpu import use_fast_linear


def add_lora(
    model: SentenceTransformer,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    seed: int = 0,
) -> SentenceTransformer:
    """Put LoRA adapters into the model's transformer, in place, and freeze the rest of it; embeddings stay the same.

    Building blocks behind the transformer, such as Dense, train on as before. `save` writes the merged weights, which
    any program reads without peft, and leaves the adapters here as they are; a folder loads as a plain model.

    Args:
        model: an encoder with a Transformer; with one on every route, each gets adapters.
        r: rank of the adapters, `r * (in + out)` numbers a layer.
        alpha: their product is multiplied by `alpha / r`.
        dropout: share of the inputs of an adapter that are zeroed in training.
        target_modules: ends of the names of linear layers, e.g. `["query", "value"]`; None takes all those of the
            encoder's layers, which is worth more than a higher rank. Source: Dettmers et al., 2023, QLoRA
            (arXiv:2305.14314), section 4.
        seed: the matrices A follow from it; the random state of the process stays as it is.

    Returns:
        The same model.

    Raises:
        ImportError: peft is missing.
        ValueError: a setting out of range, no Transformer, a name that no linear layer has, or a model with adapters.
    """
    checked_number("r", r, 1, whole=True)
    checked_number("alpha", alpha, 1, whole=True)
    checked_number("dropout", dropout, high=1)
    checked_number("seed", seed, whole=True)
    blocks = [block for block in model.modules() if isinstance(block, Transformer)]
    if not blocks:
        raise ValueError("LoRA adapts the linear layers of a Transformer, and this model has none")
    if has_adapters(model):
        raise ValueError(
            "this model has adapters already; fold them in with adapters.merge(model) before adding others"
        )
    targets = [target_layers(block.auto_model, target_modules) for block in blocks]
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('LoRA adapters need peft: pip install "sbertlab[adapters]"') from error
    for block, names in zip(blocks, targets, strict=True):
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
        with torch.random.fork_rng(devices=[]):  # peft draws on the CPU, then moves what it drew
            torch.default_generator.manual_seed(seed)
            inject_adapter_in_model(config, block.auto_model)
        for parameter in block.auto_model.parameters():
            if parameter.requires_grad:  # small updates would be lost in the 16-bit type of the frozen weights
                parameter.data = parameter.data.float()
        use_fast_linear(block.auto_model).train(block.auto_model.training)  # what is new came in training mode
    return model


def merge(model: SentenceTransformer) -> SentenceTransformer:
    """Fold the adapters into the weights, `W + (alpha / r) B A`, in place: plain layers, all of which train again.

    Returns:
        The same model.

    Raises:
        ValueError: it has no adapters.
    """
    if not has_adapters(model):
        raise ValueError("this model has no adapters to fold in; adapters.add_lora(model) adds some")
    for block in model.modules():
        if isinstance(block, Transformer):
            block.auto_model = fold_adapters(block.auto_model).requires_grad_(True)
    return model


def has_adapters(model: nn.Module) -> bool:
    """Return whether a layer of the model has adapters, of LoRA or another kind of peft's."""
    return bool(adapted_layers(model))


def trainable_share(model: nn.Module) -> float:
    """Return the share of the model's numbers that training changes.

    >>> model = nn.Linear(3, 1)
    >>> _ = model.weight.requires_grad_(False)
    >>> trainable_share(model)
    0.25
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained) / max(1, sum(size for size, _ in sizes))


def encoder_layers(auto_model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the layers of a transformer, bottom first, and their name in it: the longest list of modules that it has.

    Lists inside other lists, such as the experts of a layer, do not count.

    Raises:
        ValueError: it has none.

    >>> name, layers = encoder_layers(nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])}))
    >>> name, len(layers)
    ('layer', 3)
    """
    lists: dict[str, nn.ModuleList] = {}
    for name, part in auto_model.named_modules():
        if isinstance(part, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = part
    if not lists:
        raise ValueError(f"{type(auto_model).__name__} has no list of layers")
    return max(lists.items(), key=lambda item: len(item[1]))


def target_layers(auto_model: nn.Module, ends: Sequence[str] | None) -> list[str]:
    """Return the names of the linear layers to adapt: those with these ends, or all in the encoder's layers.

    Raises:
        ValueError: there are none, or an end that no linear layer's name has.

    >>> target_layers(nn.ModuleDict({"query": nn.Linear(2, 2), "key": nn.Linear(2, 2)}), ["query"])
    ['query']
    """
    linear = [name for name, part in auto_model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(auto_model).__name__} has no linear layers that LoRA could adapt")
    if ends is None:
        return [name for name in linear if name.startswith(f"{encoder_layers(auto_model)[0]}.")]
    ends = [ends] if isinstance(ends, str) else list(ends)
    known = ", ".join(sorted({name.split(".")[-1] for name in linear}))
    for end in ends or [""]:
        if not any(f".{name}".endswith(f".{end}") for name in linear):
            raise ValueError(f"target_modules: no linear layer's name ends in {end!r}; they end in {known}")
    return [name for name in linear if any(f".{name}".endswith(f".{end}") for end in ends)]
