"""LoRA: starts at the model as it was, trains alone, merges, and is saved as a plain model that anyone reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from sbertlab.adapters import add_lora, has_adapters, merge
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.models.fast_cpu import FastLinear

Tiny = Callable[..., SentenceTransformer]
TEXTS = ["the cat sits on the red chair", "where is my parcel?", "a", "reset the password for my new e mail account"]
PAIRS = [
    InputExample(texts=["the cat sits", "a cat is on the chair"]),
    InputExample(texts=["red car", "a fast bike"]),
    InputExample(texts=["where is my parcel", "the delivery is late"]),
    InputExample(texts=["lost password", "reset the account"]),
]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def train(model: SentenceTransformer, lr: float = 1e-2, **arguments: Any) -> None:
    loader: Any = DataLoader(PAIRS, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    settings = {"epochs": 3, "warmup_steps": 0, "optimizer_params": {"lr": lr}, "show_progress_bar": False}
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))], **{**settings, **arguments})


def test_fresh_adapters_change_no_embedding_and_train_a_known_number_of_weights(tiny: Tiny) -> None:
    model = tiny()
    before = model.encode(TEXTS)
    assert add_lora(model, r=4) is model
    assert has_adapters(model)
    assert np.array_equal(model.encode(TEXTS), before)
    assert not any("pooler" in name for name, _ in model.named_parameters() if "lora" in name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))  # layers * r * (in + out) of 4 + 2 matrices
    linear = {type(part) for part in model[0].modules() if isinstance(part, nn.Linear)}
    assert linear == {FastLinear}


def test_adapters_go_where_the_names_say_and_follow_the_seed_alone(tiny: Tiny) -> None:
    states = []
    for seed in (3, 3, 4):
        model = tiny()
        before = torch.get_rng_state()
        states.append(state_of(add_lora(model, target_modules=["query"], seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    adapted = [name for name in states[0] if ".lora_A." in name]
    assert len(adapted) == 2
    assert all(".self.query." in name for name in adapted)
    assert torch.equal(states[0][adapted[0]], states[1][adapted[0]])
    assert not torch.equal(states[0][adapted[0]], states[2][adapted[0]])


def test_adapters_of_a_bfloat16_model_are_float32_and_its_weights_stay_bfloat16(tiny: Tiny) -> None:
    model = add_lora(tiny().bfloat16())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    train(model)
    assert {value.dtype for value in merge(model).state_dict().values()} == {torch.bfloat16}


def test_fit_moves_the_adapters_and_the_dense_block_behind_them_and_nothing_else(tiny: Tiny) -> None:
    model = add_lora(tiny(modules=[models.Dense(32, 16)], dropout=0.1), dropout=0.1)
    before = state_of(model)
    train(model)
    for name, value in model.state_dict().items():
        trained = "lora_" in name or name.startswith("2.linear.")
        assert torch.equal(value, before[name]) != trained, name


def test_a_run_with_adapters_resumes_from_its_checkpoint_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    whole, broken, other = (add_lora(tiny(dropout=0.1), dropout=0.1, seed=seed) for seed in (0, 0, 1))
    train(whole)
    arguments: dict[str, Any] = {"checkpoint_path": tmp_path, "checkpoint_save_steps": 3}
    train(broken, **arguments)
    shutil.rmtree(tmp_path / "6")
    train(other, resume=True, **arguments)
    assert_equal_states(other, state_of(whole))


def test_merged_embeddings_are_those_of_the_adapters_and_the_model_is_plain_again(tiny: Tiny) -> None:
    plain = tiny()
    model = add_lora(tiny())
    before = model.encode(TEXTS)
    train(model)
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - before).max() > 1e-2
    assert merge(model) is model
    np.testing.assert_allclose(model.encode(TEXTS), adapted, atol=1e-6, rtol=0)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    merged = model.encode(TEXTS)
    assert np.array_equal(add_lora(model, r=2).encode(TEXTS), merged)


def test_saving_writes_a_plain_merged_model_and_leaves_the_adapters_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    model = add_lora(tiny(modules=[models.Dense(32, 16)]))
    train(model)
    before, adapted = state_of(model), model.encode(TEXTS)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    model.save(tmp_path / "model")
    assert_equal_states(model, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    here = SentenceTransformer(tmp_path / "model", device="cpu")
    there = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(here.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(there.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    assert here.state_dict().keys() == tiny(modules=[models.Dense(32, 16)]).state_dict().keys()


def test_each_route_gets_adapters(tiny: Tiny) -> None:
    routes = {"query": [*tiny()], "document": [*tiny(seed=1)]}
    model = add_lora(SentenceTransformer(modules=[models.Router(routes, default_route="query")], device="cpu"))
    assert all(has_adapters(model[0].route(route)) for route in routes)


def test_models_that_cannot_be_adapted_are_refused(tiny: Tiny) -> None:
    static = SentenceTransformer(modules=[models.StaticEmbedding.from_transformer(tiny()[0])], device="cpu")
    with pytest.raises(ValueError, match="needs a model with a Transformer"):
        add_lora(static)
    with pytest.raises(ValueError, match="No modules were targeted"):
        add_lora(tiny(), target_modules=["q_lin"])
