"""LoRA: train small matrices beside the frozen weights of a transformer.

A linear layer `W x` becomes `W x + (alpha / r) B A x`, with A `(r, in)` random and B `(out, r)` zero, by peft.
Source: Hu et al., 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv:2106.09685).
"""

from collections.abc import Sequence
from typing import Any

import torch

from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Transformer
from sbertlab.models.fast_cpu import use_fast_linear


def add_lora(
    model: SentenceTransformer,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
    seed: int = 0,
) -> SentenceTransformer:
    """Add adapters to the model's transformers, in place, and freeze their other weights; embeddings stay the same.

    The arguments are those of `peft.LoraConfig`; `seed` determines the matrices A. `save` writes merged weights.
    """
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"target_modules": target_modules, "exclude_modules": r"(.*\.)?pooler\..*"}
    for block in [block for block in model.modules() if isinstance(block, Transformer)]:
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, **settings)
        with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
            torch.default_generator.manual_seed(seed)
            adapted = get_peft_model(block.auto_model, config)
        block.auto_model = use_fast_linear(adapted).train(block.training)
    return model
